"""Nothing of the user is in what is saved or pushed: no folder, no name of his or of his machine, no token.

One process writes everything, as a user whose home, name, host and token can be told; every file of every kind
is searched for them.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.hub_fixtures import Hub, Ran, run_in_process


USER, HOST, ENVIRONMENT_SECRET = "anna-privacy", "annas-laptop-7", "sk-a-secret-of-the-environment"

# The working folder is inside a folder with the user's name, so any folder of this machine gives the user away.
WRITE = """
import os, socket
from dataclasses import dataclass
from pathlib import Path

socket.gethostname = lambda: os.environ["HOST_NAME"]
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer
from tests.conftest import TINY, build_pilot, make_tokenizer, shake, some_ids
from transformers_copilot import (
    CardFacts, CardResult, CopilotTrainer, CopilotTrainerMixin, CopilotTrainingArguments, PilotCopilotForCausalLM,
    fit_copilot_weight, record_mistakes,
)
from transformers_copilot.training.arguments import CopilotArguments
from transformers_copilot.report.page import write_report

hub_user, here = os.environ["HUB_USER"], Path.cwd()
build_pilot(*TINY["llama"]).save_pretrained(here / "pilot of anna")
make_tokenizer().save_pretrained(here / "pilot of anna")
tokenizer = AutoTokenizer.from_pretrained(here / "pilot of anna")
rows = [{"input_ids": row, "labels": row} for row in some_ids(8, 6).tolist()]
out = here / "out"

def new_pair(**copilot):
    copilot = copilot or {"num_hidden_layers": 2}
    pair = shake(PilotCopilotForCausalLM.from_pilot(str(here / "pilot of anna"), copilot, head="pilot"))
    fit_copilot_weight(pair, rows, set_name=str(here / "dev.jsonl"), grid=(0.5,), progress=False)
    secret = f"{here} {os.environ['HF_TOKEN']} {os.environ['MY_API_KEY']} {Path.home()}/notes"
    pair.card_facts = CardFacts(
        [CardResult(str(here / "test.jsonl"), "accuracy", 3, 0.1, 0.2, dataset=str(here))],
        {"output_dir": str(here), "note": secret}, [str(here)], tags=[secret], model_name=str(here), limits=secret,
    )
    return pair

pair = new_pair()
pair.save_pretrained(out / "pair")
tokenizer.save_pretrained(out / "pair")
pair.generation_config.save_pretrained(out / "generation")
pair.save_copilot(out / "copilot", tokenizer=tokenizer)
record_mistakes(pair, rows, out / "record", tokenizer=tokenizer, progress=False)
branch = new_pair(form="branch", num_hidden_layers=1)
branch.config.copilot_weight = 1.0
branch.merge_copilot().save_pretrained(out / "merged")
adapted = new_pair()
adapted.add_adapters(pilot=LoraConfig(r=2, target_modules=["q_proj"]), copilot=LoraConfig(r=2))
adapted.save_adapters(out / "adapters", tokenizer=tokenizer)
adapted.save_pretrained(out / "adapted")
again = PilotCopilotForCausalLM.from_pretrained(str(out / "pair"))  # what was loaded is saved again
again.save_pretrained(out / "again")

def train(name, pair, base=CopilotTrainer, kind=CopilotTrainingArguments, **arguments):
    given = dict(
        max_steps=4, save_steps=2, eval_steps=2, eval_strategy="steps", load_best_model_at_end=True, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, mistake_log_export_rows=1000,
    )
    args = kind(str(here / name), **{**given, **arguments})
    data = Dataset.from_list(rows)
    trainer = base(model=pair, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(str(here / name))
    trainer.save_state()
    return trainer

local = train("out/run", new_pair())
class Tuner(CopilotTrainerMixin, SFTTrainer):
    pass

@dataclass
class TunerArguments(CopilotArguments, SFTConfig):
    pass

train("out/sft", new_pair(), Tuner, TunerArguments, bf16=False)
write_report(local.args.output_dir, out / "report.html", progress=False)
local.mistake_log.save(out / "log.safetensors")
local.mistake_log.to_dataset().to_parquet(str(out / "log.parquet"))

pair.push_to_hub(f"{hub_user}/pair", tokenizer=tokenizer)
pair.push_copilot_to_hub(f"{hub_user}/copilot", tokenizer=tokenizer)
adapted.push_copilot_to_hub(f"{hub_user}/adapters")
adapted.push_to_hub(f"{hub_user}/adapted")
token = os.environ["HF_TOKEN"]
for strategy in ("checkpoint", "all_checkpoints", "end"):
    tracked = here / "pushing" / strategy / "runs" / f"May30_{socket.gethostname()}"  # as TensorBoard's folders
    tracked.mkdir(parents=True)
    (tracked / "events").write_text(str(here))
    trainer = train(
        f"pushing/{strategy}", new_pair(), hub_strategy=strategy, push_to_hub=True, hub_token=token,
        hub_model_id=f"{hub_user}/{strategy}", hub_always_push=True,
    )
    trainer.push_to_hub(dataset=str(here / "rows.jsonl"), finetuned_from=str(here / "pilot of anna"))
report(rows_here=sorted(p.parts[-3] for p in here.rglob("*.parquet") if "pushing" in p.parts))
"""
# What transformers' Trainer writes for going on with a training on this machine, and no push uploads.
OF_THIS_MACHINE = {"training_args.bin", "trainer_state.json"}


@pytest.fixture(scope="module")
def written(hub_server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, Path, Ran]:
    """All that there is to write, written and pushed once."""
    hub, home = Hub(hub_server, "privacy"), tmp_path_factory.mktemp("home") / USER
    identity = {"USER": USER, "LOGNAME": USER, "USERNAME": USER, "HOME": str(home), "HOST_NAME": HOST}
    secrets = {"MY_API_KEY": ENVIRONMENT_SECRET}
    return hub, home, run_in_process(WRITE, hub, home, HUB_USER=hub.user, **identity, **secrets)


def readings(name: str, data: bytes) -> Iterator[bytes]:
    """A file's bytes, and what they hold packed."""
    yield data
    if name.endswith(".parquet"):
        with pq.ParquetFile(io.BytesIO(data)) as file:
            yield repr((file.schema_arrow, file.metadata.metadata, file.read().to_pylist())).encode()
    if name.endswith(".json"):
        yield json.dumps(json.loads(data), ensure_ascii=False).encode()


def given_away(name: str, data: bytes, token: str) -> list[str]:
    """What of the user a file tells, by its name or its content."""
    marks = (USER, HOST, token, ENVIRONMENT_SECRET, "pilot of anna")
    texts = [name.encode(), *readings(name, data)]
    return [mark for mark in marks if any(mark.encode() in text for text in texts)]


def test_no_saved_file_tells_of_the_user(written: tuple[Hub, Path, Ran]):
    hub, home, _ = written
    out = home / "out"
    files = {file.relative_to(out).as_posix(): file for file in out.rglob("*") if file.is_file()}
    kinds = {Path(name).name for name in files}
    assert {
        *("model.safetensors", "config.json", "generation_config.json", "modeling_pilot_copilot.py", "tokenizer.json"),
        *("copilot.safetensors", "pairing.json", "adapter_config.json", "adapter_model.safetensors"),
        *("record.json", "mistake_log.safetensors", "log.safetensors", "log.parquet", "report.html"),
        *("optimizer.pt", "scheduler.pt", "rng_state.pth", *OF_THIS_MACHINE),
    } <= kinds
    assert any(name.startswith("run/mistake_rows/") for name in files)
    found = {name: given_away(name, file.read_bytes(), hub.token) for name, file in files.items()}
    telling = {name: marks for name, marks in found.items() if marks and Path(name).name not in OF_THIS_MACHINE}
    assert telling == {}
    of_trainer = {Path(name).name for name, marks in found.items() if marks}
    assert of_trainer == OF_THIS_MACHINE, "what SECURITY.md says of a Trainer's checkpoint"


def test_no_pushed_file_tells_of_the_user(written: tuple[Hub, Path, Ran]):
    hub, _, ran = written
    repos = ("pair", "copilot", "adapters", "adapted", "checkpoint", "all_checkpoints", "end")
    for repo in map(hub.repo, repos):
        for commit, message in hub.commits(repo):
            assert USER not in message and HOST not in message
            for name, data in hub.files(repo, commit).items():
                assert given_away(name, data, hub.token) == [], (repo, name)
                assert not name.endswith("training_args.bin"), repo
    assert hub.token not in ran.output and ENVIRONMENT_SECRET not in ran.output


def test_a_push_leaves_training_texts_and_trackers_here(written: tuple[Hub, Path, Ran]):
    """The end of a training is a pair to be used. What resuming needs goes up where its strategy says so, only."""
    hub, home, ran = written
    assert ran.values["rows_here"], "rows were exported"
    for repo in ("checkpoint", "all_checkpoints", "end"):
        names = set(hub.files(hub.repo(repo)))
        outside = {name for name in names if not name.startswith(("checkpoint-", "last-checkpoint/"))}
        assert not {name.split("/")[0] for name in outside} & {"mistake_rows", "runs", "trainer_state.json"}
        assert not [name for name in names if name.endswith(".parquet")]
        assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= outside
        assert (repo == "end") == (names == outside)
