"""Runs in pieces: a runner that is stopped in time goes on where it was, and comes to the same."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.experiments import pieces, run
from benchmarks.experiments.data import byte_pair_tokenizer
from benchmarks.experiments.inputs import DESCRIPTIONS
from benchmarks.experiments.runs import about_run
from benchmarks.experiments.spec import read_experiment
from benchmarks.experiments.store import ResultStore
from benchmarks.paper.toy_tasks import write_toy_tasks
from tests.benchmarks.test_experiments import LLAMA, SPEC, write_spec


CHANGES = {
    "replay": False,
    "limits": {**SPEC["limits"], "train": 32, "read": 32},
    "pair": {},
    "variants": {
        "linear": {"finish": {"num_train_epochs": 2, "copilot_learning_rate": 3e-3}},
        "together": {"everything": True},
        "same": {"everything": True, "finish": {"num_train_epochs": 2}},
        "settled": {"everything": True, "settle": {"num_train_epochs": 1}},
    },
    "controls": ["everything_longer", "further_in_time", "further", "finished_temperature", "blocks"],
    "rival_training": {"further": {"rates": [1e-3, 1e-2]}},
}


class StepsLeft:
    """A deadline that passes after so many looks at it, on any machine."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def passed(self) -> bool:
        """Whether the looks are used up."""
        self.looks -= 1
        return self.looks < 0

    check = pieces.Deadline.check


def finish_in_pieces(
    spec: Path,
    folder: Path,
    looks: int,
    runs: int,
    monkeypatch: pytest.MonkeyPatch,
    experiment: str = "tiny",
    more: Sequence[str] = (),
) -> int:
    """Start the runner until nothing is left; how often that was."""
    monkeypatch.setattr(run, "Deadline", lambda minutes: StepsLeft(looks))
    options = [str(spec), "--results", str(folder), "--build", str(folder / "build"), "--threads", "1", *more]
    store = ResultStore(folder / f"{experiment}.jsonl")
    for started in range(1, 200):
        run.main([*options, "--stop_after_minutes", "8"])
        if len(store.read()) == runs:
            return started
    raise AssertionError(f"never done: {[line['name'] for line in store.read()]}")


def check_pieces(
    changes: dict, looks: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> int:
    """Make an experiment in one go and in pieces, which has to come to the same; how many pieces there were."""
    spec = write_spec(folder, **changes)
    run.main([str(spec), "--results", str(folder), "--build", str(folder / "build"), "--threads", "1"])
    whole = {line["name"]: line for line in ResultStore(folder / "tiny.jsonl").read()}
    capsys.readouterr()
    started = finish_in_pieces(spec, folder / "pieces", looks, len(whole), monkeypatch)
    printed = capsys.readouterr().out
    assert printed.count("left: the same command goes on") >= started - 1
    lines = {line["name"]: line for line in ResultStore(folder / "pieces" / "tiny.jsonl").read()}
    assert list(lines) == list(whole)
    for name, line in lines.items():
        if name not in ("control:everything_longer", "control:further_in_time"):  # as long as another run took
            assert line["results"] == whole[name]["results"], name
        assert line["seconds"].keys() == whole[name]["seconds"].keys()
        assert all(value > 0 for value in line["seconds"].values())
    left = [path.name for path in (folder / "pieces" / "build" / "tiny").iterdir() if path.is_dir()]
    assert all(name.startswith(("finished-", "record-")) for name in left)
    return started


def test_a_runner_that_is_stopped_in_time_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    few = {"variants": {"together": {"everything": True}}, "controls": ["further"]}
    rivals = {"rival_training": {"further": {"rates": [1e-3]}}}
    assert check_pieces({**CHANGES, **few, **rivals}, 4, tmp_path, monkeypatch, capsys) > 3


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_corrected_head_comes_to_its_end_in_pieces(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pilot = {"config": {**LLAMA, "tie_word_embeddings": tied}}
    changes = {"replay": False, "variants": {"pair": None}, "controls": ["head"], "pilot": pilot}
    assert check_pieces(changes, 4, tmp_path, monkeypatch, capsys) > 2


@pytest.mark.slow
def test_a_runner_that_is_stopped_everywhere_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert check_pieces(CHANGES, 4, tmp_path, monkeypatch, capsys) > 15


def test_the_first_seed_of_all_experiments_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []
    monkeypatch.setattr(run, "run_once", lambda runner, seed, name: made.append((runner.spec.experiment, seed)))
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(str(write_spec(tmp_path / name, experiment=name, seeds=[3, 1], controls=[], replay=False)))
    run.main([*paths, "--results", str(tmp_path), "--only", "pair", "--by_seed"])
    assert made == [("one", 3), ("two", 3), ("one", 1), ("two", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in DESCRIPTIONS.glob("*.yaml")))
def test_the_descriptions_for_a_gpu_come_to_their_end_in_pieces(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On a processor, with a tiny Pilot and few questions; everything else is the description's own."""
    described = yaml.safe_load((DESCRIPTIONS / f"{name}.yaml").read_text())
    tokenizer = byte_pair_tokenizer(write_toy_tasks(tmp_path / "tasks", [described["task"], "svamp"]), 300)
    config = {**LLAMA, "num_hidden_layers": 12, "vocab_size": 300, "max_position_embeddings": 512, "eos_token_id": 1}
    LlamaForCausalLM(LlamaConfig(**config, pad_token_id=0, bos_token_id=None)).save_pretrained(tmp_path / "pilot")
    tokenizer.save_pretrained(tmp_path / "pilot")
    few = {"dev": 4, "test": 2} | ({"train": 8, "read": 20_000} if "limits" in described else {})
    described |= {"pilot": {"path": str(tmp_path / "pilot")}, "limits": few, "seeds": [0], "max_length": 512}
    described["training"] |= {"per_device_train_batch_size": 4, "num_train_epochs": 1}
    if "max_new_tokens" in described:
        described["max_new_tokens"] = 4
    if "test_from_train" in described:
        described["test_from_train"] = 4
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    data = ["--data_dir", str(tmp_path / "tasks")]
    runs = len(described["variants"]) + len(described["controls"])
    often = finish_in_pieces(tmp_path / "small.yaml", tmp_path, 12, runs, monkeypatch, name, data)
    printed = capsys.readouterr().out
    assert often > 2 and "left: the same command goes on" in printed
    lines = ResultStore(tmp_path / f"{name}.jsonl").read()
    assert [line["name"] for line in lines] == [
        *described["variants"],
        *(f"control:{name}" for name in described["controls"]),
    ]
    assert all(math.isfinite(made["tokens"]["loss"]) for line in lines for made in line["results"].values())


def test_a_run_whose_description_was_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    specs = [
        read_experiment(write_spec(tmp_path, title=name, seeds=seeds)) for name, seeds in (("a", [0]), ("b", [0, 1]))
    ]
    for spec in specs:  # neither a title nor further seeds make another run
        pieces.check_same(tmp_path / "run", about_run(spec, "pair"))
    changed = read_experiment(write_spec(tmp_path, training={**SPEC["training"], "learning_rate": 2e-2}))
    with pytest.raises(ValueError, match="description was another one. Delete the folder"):
        pieces.check_same(tmp_path / "run", about_run(changed, "pair"))
