"""What goes wrong between a pair and the Hub: a clear error, nothing lost there, and nothing half in the cache."""

import json
import os
import pickle
from pathlib import Path

import pytest
from safetensors.torch import load, save

from tests.conftest import TINY, build_pair, build_pilot
from tests.helpers.hub_fixtures import NO_NETWORK, Hub, run_in_process
from tests.helpers.hub_pairs import keep
from transformers_copilot.pair.provenance import with_fingerprint


PUSH = """
import os
from tests.conftest import TINY, build_pair, build_pilot

pair = build_pair(build_pilot(*TINY["llama"]), copilot={"num_hidden_layers": 2})
no_waiting()
errors = {}
for name in ["anonymous", "unknown", "reader", "conflict", "gone", "cut", "cut-commit"]:
    token = {"anonymous": False, "unknown": "hf_unknown", "reader": os.environ["READER"]}.get(name)
    pair.copilot.segments.data += 1.0  # weights that the Hub has not got yet
    errors[name] = error_of(pair.push_to_hub, f"{os.environ['HUB_USER']}/{name}", token=token, commit_message="broken")
errors["new"] = error_of(pair.push_to_hub, f"{os.environ['HUB_USER']}/new", token=os.environ["READER"])
report(errors=errors, moved=error_of(pair.push_to_hub, f"{os.environ['HUB_USER']}/older"))
"""


def test_a_push_that_fails_says_why_and_changes_nothing(hub: Hub, tmp_path: Path):
    names = ["anonymous", "unknown", "reader", "conflict", "gone", "cut", "cut-commit"]
    before = {name: hub.put(hub.repo(name), {"config.json": b"{}", "README.md": b"# Mine"}) for name in names}
    hub.put(hub.repo("older"), {"config.json": b"{}"})
    hub.move(hub.repo("older"), hub.repo("newer"))
    hub.fail("POST", f"{hub.repo('conflict')}/commit/", 409)
    hub.fail("POST", f"{hub.repo('gone')}/preupload/", 404, "RepoNotFound")
    hub.cut("PUT", f"{hub.repo('cut')}/lfs/", after=20_000)
    hub.cut("POST", f"{hub.repo('cut-commit')}/commit/", after=20_000)
    ran = run_in_process(PUSH, hub, tmp_path, HUB_USER=hub.user, READER=hub.read_token)
    errors = ran.values["errors"]
    for name, error in errors.items():
        assert "Nothing of this push is on the Hub" in error, (name, error)
    for name, words in {
        "anonymous": ("401", "hf auth login"),
        "unknown": ("401", "hf auth login"),
        "reader": ("403", "write role"),
        "new": ("403", "write role"),
        "conflict": ("409", "push again"),
        "gone": ("404", "revision="),
        "cut": ("model.safetensors", "Push again"),
        "cut-commit": ("Push again",),
    }.items():
        assert all(word in errors[name] for word in words), (name, errors[name])
    for name in names:
        assert hub.commits(hub.repo(name))[-1][0] == before[name]
        assert set(hub.files(hub.repo(name))) == {".gitattributes", "config.json", "README.md"}
    assert not hub.exists(hub.repo("new"))
    assert ran.values["moved"] is None and "model.safetensors" in hub.files(hub.repo("newer"))
    assert hub.token not in ran.output + str(errors) and hub.read_token not in ran.output + str(errors)


class Trap:
    """Unpickling it leaves a file, so that a test sees whether anything was unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


@pytest.fixture
def broken(hub: Hub, tmp_path: Path) -> dict[str, dict[str, bytes]]:
    """Repositories that something is wrong with, by name; the pair that they were made from is in `expected`."""
    pair = build_pair(build_pilot(*TINY["llama"]), copilot={"num_hidden_layers": 2})
    keep(pair, tmp_path / "expected.safetensors")
    pair.save_pretrained(tmp_path / "whole")
    pair.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    pair.pilot.save_pretrained(tmp_path / "pilot")
    whole, sharded, pilot = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("whole", "sharded", "pilot")
    )
    weights, index = load(whole["model.safetensors"]), json.loads(sharded["model.safetensors.index.json"])

    def part(prefix: str) -> dict[str, bytes]:
        kept = {name: tensor for name, tensor in weights.items() if name.startswith(prefix)}
        return {**whole, "model.safetensors": save(kept, metadata={"format": "pt"})}

    def pointing(name: str) -> dict[str, bytes]:
        shards = {**index["weight_map"], "copilot.segments": name}
        return {**sharded, "model.safetensors.index.json": json.dumps({**index, "weight_map": shards}).encode()}

    def configured(**fields: object) -> dict[str, bytes]:
        values = {**json.loads(whole["config.json"]), **fields}
        return {**whole, "config.json": with_fingerprint(json.dumps(values)).encode()}

    pickled = {name: data for name, data in whole.items() if name != "model.safetensors"}
    newer = {"transformers_copilot_version": "99.0"}
    repos = {
        "pilot-only": part("pilot."),
        "copilot-only": part("copilot."),
        "plain-pilot": pilot,
        "no-shard": {name: data for name, data in sharded.items() if "00002-of" not in name},
        "upwards": pointing("../../../../outside.safetensors"),
        "absolute": pointing(str(tmp_path / "whole" / "model.safetensors")),
        "unpickled": pointing("pytorch_model.bin"),
        "odd-index": {**sharded, "model.safetensors.index.json": b"[]"},
        "elsewhere": configured(transformers_weights="../outside.safetensors"),
        "pickled": {**pickled, "pytorch_model.bin": pickle.dumps(Trap(tmp_path / "sprung"))},
        "newer": configured(**newer, undreamt_of=1, copilot={**pair.config.copilot.to_dict(), "later": 2}),
        "newer-option": configured(**newer, fusion="telepathy"),
        "before": whole,
        "cut": whole,
        "gated": whole,
        "forbidden": whole,
    }
    for name, files in repos.items():
        hub.put(hub.repo(name), files)
        for file, data in files.items() if name not in ("before", "cut", "gated", "forbidden") else ():
            (tmp_path / "local" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "local" / name / file).write_bytes(data)
    hub.put(hub.repo("private"), whole, private=True)
    return repos


LOAD = """
import os
from tests.helpers.hub_pairs import difference
from transformers import AutoModelForCausalLM
from transformers_copilot import PilotCopilotForCausalLM

user, local, errors = os.environ["HUB_USER"], pathlib.Path(os.environ["LOCAL"]), {}
load = PilotCopilotForCausalLM.from_pretrained
for name in os.environ["BROKEN"].split():
    errors[name] = error_of(load, f"{user}/{name}")
    auto = error_of(AutoModelForCausalLM.from_pretrained, f"{user}/{name}")
    errors[f"{name} auto"] = errors[name] if name == "plain-pilot" else auto
    if (local / name).is_dir():
        errors[f"{name} local"] = error_of(load, local / name)
errors["no revision"] = error_of(load, f"{user}/cut", revision="absent")
errors["anonymous"] = error_of(load, f"{user}/private", token=False)
errors["asked for"] = error_of(load, f"{user}/newer", use_safetensors=False)
expected = os.environ["EXPECTED"]
errors["cut"] = error_of(load, f"{user}/cut")
snapshots = [str(p) for p in pathlib.Path("hf").rglob("*--cut/snapshots/*/model.safetensors")]
report(
    errors=errors, snapshots=snapshots, after_the_cut=difference(load(f"{user}/cut"), expected),
    newer=difference(load(f"{user}/newer"), expected), moved=difference(load(f"{user}/before"), expected),
)
"""


def test_a_checkpoint_that_is_not_a_whole_pair_is_refused(
    hub: Hub, tmp_path: Path, broken: dict[str, dict[str, bytes]]
):
    hub.move(hub.repo("before"), hub.repo("after"))
    for method in ("GET", "HEAD"):
        hub.fail(method, hub.repo("gated"), 403, "GatedRepo")
        hub.fail(method, hub.repo("forbidden"), 403)
    hub.cut("GET", f"{hub.repo('cut')}/resolve/.*model.safetensors", after=20_000, times=1)
    expected = {
        "pilot-only": "no whole Copilot",
        "copilot-only": "no whole Pilot",
        "plain-pilot": "'llama', not a pair",
        "no-shard": "model-00002-of",
        "upwards": "'../../../../outside.safetensors'",
        "absolute": "lies in the checkpoint itself",
        "unpickled": "'pytorch_model.bin'",
        "odd-index": "is no index of weights",
        "elsewhere": "'../outside.safetensors'",
        "pickled": "model.safetensors",
        "newer-option": "pip install --upgrade .`",
        "absent": "valid model identifier",
        "gated": "gated",
        "forbidden": "",
    }
    where = {"HUB_USER": hub.user, "LOCAL": str(tmp_path / "local"), "EXPECTED": str(tmp_path / "expected.safetensors")}
    ran = run_in_process(LOAD, hub, tmp_path / "load", BROKEN=" ".join(expected), **where)
    errors = ran.values["errors"]
    for name, words in expected.items():
        for kind in ("", " auto", " local"):
            error = errors.get(name + kind, words)
            assert error is not None and words in error, (name + kind, error)
    assert "The Hub answered 403" in errors["forbidden"]
    assert "absent" in errors["no revision"] and "token" in errors["anonymous"] and "unpickled" in errors["asked for"]
    assert errors["cut"] is not None and "load again" in errors["cut"]
    assert ran.values["snapshots"] == [] and ran.values["after_the_cut"] is None
    assert ran.values["moved"] is None and ran.values["newer"] is None
    assert "copilot.later" in ran.output and "undreamt_of" in ran.output and "pip install --upgrade" in ran.output
    assert not (tmp_path / "sprung").exists() and hub.requests("GET .*pytorch_model.bin") == []
    for name in ("upwards", "absolute", "unpickled", "elsewhere"):
        fetched = hub.requests(f"GET .*{hub.repo(name)}/resolve/.*safetensors$")
        assert fetched == [], "nothing is read before the index is known to be harmless"
    assert hub.token not in ran.output + str(errors)


def test_without_a_network_both_ways_say_so(hub: Hub, tmp_path: Path):
    code = """
from tests.conftest import TINY, build_pair, build_pilot
from transformers_copilot import PilotCopilotForCausalLM
no_waiting()
pair = build_pair(build_pilot(*TINY["llama"]))
report(push=error_of(pair.push_to_hub, "user/pair"))
report(load=error_of(PilotCopilotForCausalLM.from_pretrained, "user/pair"))
"""
    values = run_in_process(code, hub, tmp_path, endpoint=NO_NETWORK).values
    assert "Push again when the Hub can be reached" in values["push"]
    assert "couldn't connect" in values["load"] and "load again" in values["load"]
