"""Data sets on the Hub: splits by their names, configurations, streaming, files of a kind that others write there."""

import json

from datasets import Dataset

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.hub_fixtures import Hub, hub, hub_server, run_in_process  # noqa: F401


CHAT = [{"messages": [{"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": f"{n + 1}"}]}
        for n in range(5)]  # fmt: skip
ALPACA = [{"instruction": f"Add 1 to {n}.", "input": "", "output": f"{n + 1}"} for n in range(5)]
CARD = "---\nconfigs:\n- config_name: chat\n  data_files:\n  - {split: train, path: chat/train-*}\n"
CARD += "  - {split: validation, path: chat/validation-*}\n- config_name: other\n  data_files: other/*\n---\n"

CODE = """
from transformers import AutoTokenizer
from transformers_copilot import load_training_data
from transformers_copilot.data.training_data import marked

tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})
def learnt(name="{user}/sums", **options):
    items = load_training_data(name, tokenizer, chat_template="plain", **options)
    return [marked(tokenizer, item).replace("\\n", "|") for item in items]

report(
    train=learnt(config="chat"),
    dev=learnt(config="chat", split="dev", max_rows=1),
    alpaca=[text[-21:] for text in learnt("{user}/alpaca", max_rows=2)],
    streamed=learnt(config="chat", streaming=True, max_rows=2),
    missing=error_of(load_training_data, "{user}/nothing", tokenizer),
)
"""


def test_a_data_set_on_the_hub(hub: Hub, tmp_path):  # noqa: F811
    files = {"README.md": CARD.encode()}
    for name, rows in (("train", CHAT[:3]), ("validation", CHAT[3:])):
        Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
        files[f"chat/{name}-00000-of-00001.parquet"] = (tmp_path / "rows.parquet").read_bytes()
    files["other/train.parquet"] = files["chat/train-00000-of-00001.parquet"]
    hub.put(hub.repo("sums"), files, kind="datasets")
    hub.put(hub.repo("alpaca"), {"alpaca.json": json.dumps(ALPACA).encode()}, kind="datasets")
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    code = CODE.format(tokenizer=str(tmp_path / "tokenizer"), user=hub.user)
    done = run_in_process(code, hub, tmp_path / "home").values
    written = [f"User: {n}+1?|Assistant:⟦ {n + 1}</s>⟧|" for n in range(5)]
    assert done["train"] == written[:3] and done["dev"] == written[3:4] and done["streamed"] == written[:2]
    assert done["alpaca"] == ["### Response:|⟦1</s>⟧", "### Response:|⟦2</s>⟧"]
    assert f"{hub.user}/nothing" in done["missing"] and "Traceback" not in done["missing"]
