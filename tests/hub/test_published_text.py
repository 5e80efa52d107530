"""Texts that leave this machine: no folder, no secret, and in a card no markup."""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from tests.helpers.training_helpers import collate, make_pair, reversal_rows
from transformers_copilot import CardFacts, CardResult, PilotCopilotForCausalLM, fit_copilot_weight
from transformers_copilot.hub.model_card import make_card
from transformers_copilot.pair.published_text import as_plain_text, publishable


TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("dev sums", "dev sums"),
        ("user/dataset", "user/dataset"),
        ("dev.jsonl", "dev.jsonl"),
        ("/home/anna/data/dev.jsonl", "dev.jsonl"),
        ("/home/anna/my data/dev set.jsonl.gz", "dev set.jsonl.gz"),
        (r"C:\Users\anna\dev.csv", "dev.csv"),
        (r"\\server\anna\dev.csv", "dev.csv"),
        ("file:///home/anna/dev.csv", "dev.csv"),
        ("~/dev.parquet", "dev.parquet"),
        ("~anna/dev.parquet", "dev.parquet"),
        ("../anna/dev.txt", "dev.txt"),
        ("/home/anna.smith", None),
        ("/home/anna/run-3", None),
        ("~", None),
        ("./x", None),
        ("../x", None),
        ("", None),
        (None, None),
        ("read from /home/anna/data/dev.jsonl, twice", "read from dev.jsonl, twice"),
        ("read from (C:\\Users\\anna\\dev.csv)", "read from (dev.csv)"),
        ("written to /home/anna/run-3 and ~/run-4/x", "written to [folder] and [folder]"),
        ("see file:///home/anna/dev.csv", "see dev.csv"),
        ("see https://example.org/sets/dev.csv", "see https://example.org/sets/dev.csv"),
        ("1/2 and/or 3 km/h/s", "1/2 and/or 3 km/h/s"),
        (f"with {TOKEN}", "with [removed]"),
    ],
)
def test_folders_and_tokens_stay_out_of_a_text(given, wanted):
    assert publishable(given) == wanted


def test_secrets_of_the_environment_stay_out_of_a_text(monkeypatch):
    for name, value in {"HF_TOKEN": "no-usual-shape", "MY_API_KEY": "another-secret", "SHORT_TOKEN": "1"}.items():
        monkeypatch.setenv(name, value)
    assert publishable("no-usual-shape, another-secret and 1") == "[removed], [removed] and 1"


def test_a_folder_that_is_there_stays_out_of_a_text(tmp_path, monkeypatch):
    """A relative path looks like a data set's id, and a bare name says nothing of where it lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "dev").mkdir()
    (tmp_path / "anna" / "dev.jsonl").touch()
    assert [publishable(one) for one in ("anna/dev", "anna/dev.jsonl", "anna")] == [None, "dev.jsonl", "anna"]


def test_the_name_of_a_validation_set_is_kept_without_its_folder(tmp_path):
    """Wherever it stands: in the fit, the configuration, the pair's file, a Copilot's own, and the card."""
    pair, path = make_pair(head="pilot"), tmp_path / "rows of anna.jsonl"
    rows = reversal_rows(6)
    fit = fit_copilot_weight(pair, rows, data_collator=collate, set_name=str(path), progress=False, grid=(0.5,))
    assert fit.set_name == pair.config.copilot_weight_fit["set_name"] == path.name
    pair.config.copilot_weight_fit["set_name"] = str(path)  # as a pair of an earlier version may have it
    pair.save_pretrained(tmp_path / "pair")
    pair.save_copilot(tmp_path / "copilot")
    texts = [(tmp_path / "pair" / "config.json").read_text(), (tmp_path / "copilot" / "pairing.json").read_text()]
    texts.append(make_card(pair).content)
    assert all(path.name in text and str(tmp_path) not in text for text in texts)
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair")
    assert again.config.copilot_weight_fit["set_name"] == path.name


# ---- names in a card ----

EVIL = "x | y\n\n# Title <script>alert(1)</script> [click](https://evil.example) `code` ![i](u) *b* \u202e"


def test_names_are_text_in_a_card():
    """Markup, HTML and line breaks of a name stay letters, in the card's body and in its metadata."""
    pair = make_pair(head="pilot")
    pair.config.pilot_name_or_path, pair.config.pilot_revision = "user/pilot", f"`{EVIL}`"
    pair.config.copilot_weight_fit = {"set_name": EVIL, "set_size": EVIL, "criterion": EVIL, "method": EVIL}
    result = CardResult(EVIL, EVIL, 3, 0.1, 0.2, dataset_config=EVIL, dataset_split=EVIL)
    yaml_end = f"{EVIL}\n---\nlicense: stolen\n---\n"
    facts = {"language": "en", "license": "mit", "tags": [yaml_end], "model_name": yaml_end}
    pair.card_facts = CardFacts([result], {EVIL: EVIL}, **facts)
    card = make_card(pair, "user/pair")
    body = ModelCard(card.content).text
    assert "<script" not in body and "\u202e" not in body and "[click](" not in body and "://evil" not in body
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings[1:] == [
        *("## Use", "## Training", "## Results", "## Limits", "## Citation"),
    ], "no heading but the card's own"
    assert headings[0].startswith("# x \\| y # Title &lt;script&gt;")
    for line in body.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            assert cells in (3, 8), line  # of the tables of two and of seven columns
    assert "revision" not in body, "what is no commit, branch or tag is no line of code"
    values = yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n"))
    assert values["license"] == "mit" and yaml_end.replace("\u202e", "") in [
        t.replace("\u202e", "") for t in values["tags"]
    ]
    assert ModelCard(card.content).data.to_dict() == card.data.to_dict()


def test_a_plain_name_is_not_changed_in_a_card():
    for name in (
        "MAWPS",
        "eval_pilot_loss",
        "sums (dev), 3 of 4",
        "Größe",
        "每日",
        "user/data-set.v2",
        "C# & more"[:2],
    ):
        assert as_plain_text(name) == name
    assert as_plain_text("a & b < c") == "a &amp; b &lt; c"
    assert len(as_plain_text("x" * 10_000)) == 200


# ---- what names the Pilot ----


@pytest.fixture
def saved(tmp_path) -> Path:
    make_pair(head="pilot").save_copilot(tmp_path / "copilot", pilot="user/pilot")
    return tmp_path / "copilot"


def name_pilot(saved: Path, name: str) -> None:
    """As one could who wrote the checkpoint."""
    file = saved / "pairing.json"
    values = {**json.loads(file.read_text()), "pilot_name_or_path": name}
    values.pop("fields_fingerprint", None)
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("kind", ["absolute", "relative", "above", "home", "like an id"])
def test_a_folder_that_a_checkpoint_names_is_not_followed(saved, tmp_path, monkeypatch, kind):
    pair = make_pair(head="pilot")
    pair.pilot.save_pretrained(tmp_path / "user" / "pilot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {
        **{"absolute": str(tmp_path / "user" / "pilot"), "relative": "./user/pilot", "above": "../pilot"},
        **{"home": "~/user/pilot", "like an id": "user/pilot"},
    }
    name_pilot(saved, names[kind])
    with pytest.raises(ValueError, match=r"names .* as its Pilot.*not followed; give the Pilot yourself.*from_pilot\("):
        PilotCopilotForCausalLM.from_copilot(str(saved))
    given = PilotCopilotForCausalLM.from_pilot(str(tmp_path / "user" / "pilot"), copilot=str(saved))
    assert type(given) is PilotCopilotForCausalLM, "what the caller names is taken"


@pytest.mark.parametrize("push", [False, True], ids=["saved", "pushed"])
def test_a_folder_given_as_the_pilots_id_is_refused(tmp_path, push):
    pair = make_pair(head="pilot")
    call = (
        partial(pair.push_copilot_to_hub, "user/copilot") if push else partial(pair.save_copilot, tmp_path / "copilot")
    )
    for name in (str(tmp_path), "~/pilot", "a/b/c"):
        with pytest.raises(ValueError, match=r"`pilot` is .*, which is no id on the Hub.*leave `pilot` out"):
            call(pilot=name)
    assert not (tmp_path / "copilot").exists(), "refused before anything is written"
