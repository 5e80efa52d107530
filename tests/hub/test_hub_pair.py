"""A pair as one repository: pushed, listed, and loaded in fresh processes, with the package and without."""

import json
import re
from pathlib import Path

import pytest

import transformers_copilot
from tests.helpers.hub_fixtures import Hub, Ran, run_in_process


PUSH = """
import os, torch
from tests.conftest import TINY, build_pair, build_pilot, make_tokenizer, shake
from tests.helpers.hub_pairs import keep
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM

user, words = os.environ["HUB_USER"], make_tokenizer()
build_pilot(*TINY["llama"]).push_to_hub(f"{user}/pilot")
pair = shake(PilotCopilotForCausalLM.from_pilot(f"{user}/pilot", {"num_hidden_layers": 2}, head="pilot")).eval()
pair.generation_config.repetition_penalty = 1.25
info = pair.push_to_hub(f"{user}/pair", tokenizer=words, private=True, max_shard_size="30KB")
keep(pair, "pair.safetensors")
pair.config.copilot_weight, pair.config.error_feedback = 0.5, "predicted"
pair.push_to_hub(f"{user}/pair", revision="half", commit_message="λ = 0.5")
keep(pair, "half.safetensors")
pair.save_pretrained("folder", push_to_hub=True, repo_id=f"{user}/saved")
seq2seq = build_pair(build_pilot(*TINY["t5"]), fusion="probability")
seq2seq.push_to_hub(f"{user}/seq2seq", tags=["ours"])
keep(seq2seq, "seq2seq.safetensors")
for form, fields in {"linear": {}, "branch": {"num_hidden_layers": 1}}.items():
    other = build_pair(build_pilot(*TINY["llama"]), copilot={"form": form, **fields})
    other.push_to_hub(f"{user}/{form}")
    keep(other, f"{form}.safetensors")
report(commit=info.oid, pilot=[pair.config.pilot_name_or_path, pair.config.pilot_revision])
"""

LOAD = """
import os, torch
from tests.helpers.hub_pairs import difference
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

user, folder = os.environ["HUB_USER"], os.environ["PUSHED"]
more = {}
if WITH_PACKAGE:
    import transformers_copilot
    trusted = AutoModelForCausalLM.from_pretrained(f"{user}/pair", trust_remote_code=True)
    report(trusted=type(trusted).__module__, fetched=[str(p) for p in pathlib.Path("hf").rglob("*.py")])
else:
    more["trust_remote_code"] = True
    kinds = (AutoModel, AutoModelForCausalLM, AutoConfig)
    refusals = [error_of(kind.from_pretrained, f"{user}/pair") for kind in kinds]
    refusals += [error_of(AutoModel.from_pretrained, f"{user}/pair", trust_remote_code=False)]
    report(refusals=refusals, fetched=[str(p) for p in pathlib.Path("hf").rglob("*.py")])
differences = {}
for name, kind, options in [
    ("pair", AutoModelForCausalLM, {}), ("pair", AutoModel, {}),
    ("half", AutoModelForCausalLM, {"revision": "half"}), ("seq2seq", AutoModelForSeq2SeqLM, {}),
    ("seq2seq", AutoModel, {}), ("pair", AutoModelForCausalLM, {"revision": os.environ["COMMIT"]}),
    ("linear", AutoModelForCausalLM, {}), ("branch", AutoModelForCausalLM, {}),
]:
    repo = f"{user}/{'pair' if name == 'half' else name}"
    loaded = kind.from_pretrained(repo, **options, **more)
    differences[f"{name} {kind.__name__} {options}"] = difference(loaded, f"{folder}/{name}.safetensors")
    if name == "pair":
        pair = loaded
config = AutoConfig.from_pretrained(f"{user}/pair", **more)
words = AutoTokenizer.from_pretrained(f"{user}/pair")
ids = words("w5 w9 w7", return_tensors="pt")
answer = words.decode(pair.generate(**ids, max_new_tokens=4, do_sample=False)[0], skip_special_tokens=True)
writer = pipeline("text-generation", f"{user}/pair", **more)
pair.save_pretrained("again")
again = AutoModelForCausalLM.from_pretrained("again", **more)
report(
    differences=differences, module=type(pair).__module__, penalty=pair.generation_config.repetition_penalty,
    version=config.transformers_copilot_version, answer=answer,
    written=writer("w5 w9 w7", max_new_tokens=4, do_sample=False)[0]["generated_text"],
    again=difference(again, f"{folder}/pair.safetensors"),
    saved=sorted(p.name for p in pathlib.Path("again").iterdir()),
    build=error_of(type(pair).from_pilot, pair.pilot, {"num_hidden_layers": 2}),
    half_files=[str(p) for p in pathlib.Path("hf").rglob("*.incomplete")],
)
"""


@pytest.fixture(scope="module")
def pushed(hub_server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, Path, Ran]:
    """A pair and its sequence-to-sequence twin, pushed once for every test here."""
    hub, home = Hub(hub_server, "shared"), tmp_path_factory.mktemp("push")
    return hub, home, run_in_process(PUSH, hub, home, HUB_USER=hub.user)


def load(pushed: tuple[Hub, Path, Ran], home: Path, with_package: bool) -> Ran:
    hub, folder, ran = pushed
    where = {"HUB_USER": hub.user, "PUSHED": str(folder), "COMMIT": ran.values["commit"]}
    return run_in_process(LOAD, hub, home, with_package=with_package, **where)


@pytest.mark.parametrize("with_package", [True, False], ids=["with the package", "without it"])
def test_a_pushed_pair_answers_as_it_did(pushed: tuple[Hub, Path, Ran], tmp_path: Path, with_package: bool):
    found = load(pushed, tmp_path, with_package).values
    assert set(found["differences"].values()) == {None}, found["differences"]
    assert len(found["differences"]) == 8
    assert found["module"].split(".")[0] == ("transformers_copilot" if with_package else "transformers_modules")
    assert found["penalty"] == 1.25 and found["version"] == transformers_copilot.__version__
    assert found["written"].replace(" ", "") == found["answer"].replace(" ", "")
    assert found["again"] is None and "modeling_pilot_copilot.py" in found["saved"]
    assert found["half_files"] == []
    assert found["fetched"] == [], "no code is fetched, let alone run, without trust or beside the package's own"
    if with_package:
        assert found["trusted"] == "transformers_copilot.pair.modeling_pilot_copilot"
    else:
        assert all("trust_remote_code=True" in refusal for refusal in found["refusals"]), found["refusals"]
        assert "pip install .` in a clone" in found["build"]


NOT_IMPORTED = """
import os
from transformers import AutoModelForCausalLM

pair = AutoModelForCausalLM.from_pretrained(f"{os.environ['HUB_USER']}/pair", trust_remote_code=True)
asked = {
    "from_pilot": lambda: type(pair).from_pilot("anything"),
    "from_copilot": lambda: type(pair).from_copilot("anything"),
    "push_to_hub": lambda: pair.push_to_hub("anything"),
    "save_copilot": lambda: pair.save_copilot("folder"),
    "merge_copilot": lambda: pair.merge_copilot(),
}
report(errors={name: error_of(call) for name, call in asked.items()})
if WITH_PACKAGE:
    from peft import LoraConfig
    from transformers_copilot import CopilotTrainer, CopilotTrainingArguments

    name = f"{os.environ['HUB_USER']}/pair"
    args, lora = CopilotTrainingArguments("run", report_to=[]), LoraConfig(target_modules=["q_proj"])
    again = type(pair).from_pretrained(name)  # the class of before stays what it is
    trainers = {
        "trainer": error_of(CopilotTrainer, pair, args),
        "trainer with peft_config": error_of(CopilotTrainer, pair, args, peft_config=lora),
        "another of its class": error_of(CopilotTrainer, again, args),
    }
    mended = CopilotTrainer(AutoModelForCausalLM.from_pretrained(name), args)
    report(trainers=trainers, mended=type(mended.pair).__module__)
"""


@pytest.mark.parametrize("with_package", [True, False], ids=["installed, not imported", "not installed"])
def test_a_checkpoints_code_says_what_only_the_package_does(
    pushed: tuple[Hub, Path, Ran], tmp_path: Path, with_package: bool
):
    hub = pushed[0]
    found = run_in_process(NOT_IMPORTED, hub, tmp_path, with_package=with_package, HUB_USER=hub.user).values
    errors = found["errors"]
    advice = "`import transformers_copilot` before the pair is loaded" if with_package else "pip install .` in a clone"
    assert len(errors) == 5 and all(error.startswith("ImportError") and advice in error for error in errors.values())
    if with_package:
        for error in found["trainers"].values():
            for text in (
                "PilotCopilotForCausalLM of its checkpoint's own code",
                "`import transformers_copilot` first, and load the pair again with the package's class",
                "`transformers_copilot.PilotCopilotForCausalLM.from_pretrained(...)`",
            ):
                assert text in error, (error, text)
        assert found["mended"] == "transformers_copilot.pair.modeling_pilot_copilot"


def test_what_a_push_uploads(pushed: tuple[Hub, Path, Ran]):
    hub, home, ran = pushed
    files = hub.files(hub.repo("pair"))
    code = {name: data for name, data in files.items() if name.endswith(".py")}
    package = Path(transformers_copilot.__file__).parent
    own = {file.name: file.read_bytes() for file in (package / "pair").glob("*.py")}
    of_seq2seq = {name for name in hub.files(hub.repo("seq2seq")) if name.endswith(".py")}
    assert all(data == own[name] for name, data in code.items()), "the package's own modules"
    assert {*code, *of_seq2seq} == set(own) - {"__init__.py"}, "pair/ holds what travels, and nothing else"
    page = (package.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"modules that loading and generating need \((\d+) kB\)", page)
    assert 0.9 * int(stated) <= sum(map(len, code.values())) / 1000 <= int(stated)
    weights = {name for name in files if name.endswith(".safetensors")}
    assert len(weights) > 2 and hub.lfs_files(hub.repo("pair")) == weights
    rest = set(files) - set(code) - weights
    assert rest == {
        *(".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert hub.store.repos["models", hub.repo("pair")].private
    assert not hub.store.repos["models", hub.repo("seq2seq")].private
    assert set(hub.files(hub.repo("saved"))) >= {*code, "config.json", "model.safetensors"}, "transformers' other way"
    for name in ("pair", "saved"):
        assert "copilot" in json.loads(hub.files(hub.repo(name))["config.json"])["checksums"], name
    assert b"ours" in hub.files(hub.repo("seq2seq"))["README.md"]
    assert [message for _, message in hub.commits(hub.repo("pair"))] == ["initial commit", "Upload pair", "λ = 0.5"]


def test_a_branch_has_no_weights_of_another_push(pushed: tuple[Hub, Path, Ran]):
    hub, _, _ = pushed
    half = set(hub.files(hub.repo("pair"), "half"))
    assert {name for name in half if ".safetensors" in name} == {"model.safetensors"}
    assert "tokenizer.json" in half, "what else lies in the repository stays"


def test_the_configuration_names_the_pilot_and_its_commit_and_no_folder(pushed: tuple[Hub, Path, Ran]):
    hub, home, ran = pushed
    config = json.loads(hub.files(hub.repo("pair"))["config.json"])
    commit = hub.commits(hub.repo("pilot"))[-1][0]
    assert (
        [config["pilot_name_or_path"], config["pilot_revision"]] == [hub.repo("pilot"), commit] == ran.values["pilot"]
    )
    for repo in ("pair", "seq2seq"):
        for name, data in hub.files(hub.repo(repo)).items():
            for secret in (str(home), hub.token, str(Path.home())):
                assert secret.encode() not in data, (repo, name, secret)
    assert hub.token not in ran.output
