"""Several processes under `accelerate launch`, by the files in examples/accelerate: what they learn, measure and write
is what one process does. The table of docs/distributed.md says which of it holds for which configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.distributed_program import STEPS, VARIANTS, main
from tests.helpers.paths import ROOT
from tests.helpers.recordings import write_pilot_and_texts
from tests.helpers.training_helpers import largest_difference
from transformers_copilot import MistakeLog, PilotCopilotForCausalLM
from transformers_copilot.commands.main import main as command
from transformers_copilot.training.callback import log_file
from transformers_copilot.training.checkpoints import what_is_broken, what_rows_are_missing


@dataclass
class Configuration:
    """One of examples/accelerate, and how it is tried.

    `resized`: the number of processes that go on with its checkpoint. `on_cpu`: accelerate itself does this on a CPU.
    """

    file: str
    processes: int
    resized: int
    variants: tuple[str, ...] = tuple(VARIANTS)
    on_cpu: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


# Under bfloat16 autocast the order of a sum tells; and where weights are spread, accelerate casts them instead.
TOLERANCES = {"bf16": 1e-4}
SPREAD = tuple(name for name in VARIANTS if name != "bf16")


def zero(stage: int) -> Configuration:
    variants = tuple(name for name in SPREAD if name != "twice")
    return Configuration(f"zero{stage}.yaml", 2, 1, variants, arguments={"max_grad_norm": 0.0})


CONFIGURATIONS = {
    "ddp": Configuration("ddp.yaml", 2, 4, on_cpu=True),
    "ddp_4": Configuration("ddp_4.yaml", 4, 1, ("branch", "twice"), on_cpu=True),
    "fsdp2": Configuration("fsdp2.yaml", 2, 4, tuple(name for name in SPREAD if name != "encoder-decoder")),
    "fsdp2_full_state": Configuration("fsdp2_full_state.yaml", 2, 1, ("branch", "linear", "twice")),
    "fsdp2_offload": Configuration("fsdp2_offload.yaml", 2, 1, ("branch", "twice")),
    "zero1": zero(1),
    "zero2": zero(2),
    "zero3": zero(3),
}


@dataclass
class Run:
    """What each process of a run found, and where."""

    folder: Path
    found: list[dict[str, Any]]
    configuration: Configuration

    @property
    def first(self) -> dict[str, Any]:
        return self.found[0]["branch"]


def launch(configuration: Configuration, *words: Any, processes: int | None = None, **kwargs: Any) -> Any:
    """`accelerate launch` with a file of examples/accelerate, as users type it."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", ROOT / "examples" / "accelerate" / configuration.file, "--main_process_port", "0"]
    command += ["--num_processes", processes or configuration.processes, *words]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if not configuration.on_cpu:
        env["CPU_IS_ACCELERATOR"] = "1"
    given = {"env": env, "capture_output": True, "text": True, "timeout": 500, "check": False, **kwargs}
    return subprocess.run([str(word) for word in command], **given)


def program(configuration: Configuration, folder: Path, job: dict[str, Any], processes: int | None = None) -> Any:
    """The program of tests/helpers in launched processes."""
    file = ROOT / "tests" / "helpers" / "distributed_program.py"
    return launch(configuration, file, folder, json.dumps(job), processes=processes)


def train(configuration: Configuration, folder: Path, job: dict[str, Any], processes: int | None = None) -> Run:
    """Run the program, in this process where it is to be one without anything that shards."""
    folder.mkdir(exist_ok=True)
    processes = processes or configuration.processes
    if processes == 1 and configuration.on_cpu:
        main(folder, job)
    else:
        done = program(configuration, folder, job, processes)
        assert done.returncode == 0, done.stdout + done.stderr
    return Run(folder, [torch.load(folder / f"found-{rank}.pt") for rank in range(processes)], configuration)


def _alone(folder: Path, arguments: dict[str, Any]) -> Run:
    alone = Configuration("ddp.yaml", 1, 1, on_cpu=True)
    return train(alone, folder, {"variants": list(VARIANTS), "arguments": arguments})


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _alone(tmp_path_factory.mktemp("one"), {})


@pytest.fixture(scope="module")
def unclipped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _alone(tmp_path_factory.mktemp("unclipped"), {"max_grad_norm": 0.0})


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = CONFIGURATIONS[request.param]
    if request.param.startswith("zero"):
        pytest.importorskip("deepspeed")
    job = {"variants": list(configuration.variants), "resume": True, "arguments": configuration.arguments}
    return train(configuration, tmp_path_factory.mktemp(request.param), job)


@pytest.fixture(scope="module")
def one(run: Run, request: pytest.FixtureRequest) -> Run:
    """One process, which accumulates gradients."""
    return request.getfixturevalue("unclipped" if run.configuration.arguments else "clipped")


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """A run's exported rows, whatever process wrote them."""
    tables = [pq.read_table(path).to_pylist() for path in (folder / "mistake_rows").rglob("*.parquet")]
    return sorted((row["round"], row["token_id"], row["true_token_id"], row["position"]) for t in tables for row in t)


@pytest.mark.slow
def test_losses_and_weights_are_those_of_one_process(run: Run, one: Run):
    for variant in run.configuration.variants:
        found, alone = run.found[0][variant], one.found[0][variant]
        assert found["about"]["processes"] == run.configuration.processes
        for name in ("losses", "copilot_losses"):
            of_pilot_from_record = variant == "from a record" and name == "losses"  # it doesn't run
            assert len(found[name]) == len(alone[name]) == (0 if of_pilot_from_record else STEPS)
            rounded = 1.01e-4 + TOLERANCES.get(variant, 0.0)  # they are logged rounded
            assert found[name] == pytest.approx(alone[name], abs=rounded), (variant, name)
        assert largest_difference(found["state"], alone["state"]) < TOLERANCES.get(variant, 1e-5), variant


@pytest.mark.slow
def test_what_a_configuration_says_is_what_happens(run: Run):
    """accelerate falls back to DDP in places, without a word."""
    abouts = [process["branch"]["about"] for process in run.found]
    numbers = sum(tensor.numel() for tensor in run.first["state"].values())
    name = run.configuration.file.removesuffix(".yaml").partition("_")[0]
    for about in abouts:
        if name == "ddp":
            assert about["wrapper"] == "DistributedDataParallel"
        elif name == "fsdp2":
            assert about["kinds"] == ["DTensor"]
            assert {"FSDPLlamaDecoderLayer", "FSDPPilotCopilotForCausalLM"} <= set(about["sharded"])
        else:
            assert (about["wrapper"], about["stage"]) == ("DeepSpeedEngine", int(name[-1]))
    here = sum(about["numbers_here"] for about in abouts)
    assert here <= numbers if name in ("fsdp2", "zero3") else here == numbers * len(abouts)
    if "decoder" in run.configuration.variants and name == "fsdp2":
        assert "FSDPCopilotLayer" in run.found[0]["decoder"]["about"]["sharded"]


@pytest.mark.slow
def test_what_is_saved_is_what_was_trained(run: Run):
    loaded = PilotCopilotForCausalLM.from_pretrained(run.folder / "branch" / "pair")
    assert largest_difference(loaded.state_dict(), run.first["state"]) == 0.0
    assert type(loaded).__name__ == "PilotCopilotForCausalLM"
    assert json.loads((run.folder / "branch" / "pair" / "config.json").read_text())["architectures"] == [
        "PilotCopilotForCausalLM"
    ]


@pytest.mark.slow
def test_a_checkpoint_is_whole_and_gone_on_with(run: Run):
    for step in (10, 20):
        checkpoint = run.folder / "branch" / f"checkpoint-{step}"
        assert what_is_broken(checkpoint) is None and what_rows_are_missing(checkpoint) is None
    assert largest_difference(run.first["resumed"], run.first["state"]) < 1e-7  # Gloo may add up in another order


@pytest.mark.slow
def test_another_number_of_processes_goes_on(run: Run, one: Run, tmp_path: Path):
    shutil.copytree(run.folder / "branch", tmp_path / "branch")
    job = {"variants": ["branch"], "from": str(tmp_path / "branch" / "checkpoint-10")}
    job |= {"arguments": run.configuration.arguments}
    if run.configuration.file.startswith("zero"):
        done = program(run.configuration, tmp_path, job, run.configuration.resized)
        assert done.returncode and "was written by 2 processes of DeepSpeed, and this run has 1" in done.stderr
        return
    other = train(run.configuration, tmp_path, job, run.configuration.resized)
    assert largest_difference(other.first["state"], one.first["state"]) < 1e-5
    assert other.first["losses"][-10:] == pytest.approx(one.first["losses"][-10:], abs=1.01e-4)
    assert rows(tmp_path / "branch") == rows(one.folder / "branch")
    logs = [MistakeLog.load(log_file(tmp_path / "branch" / "checkpoint-20", rank)) for rank in range(len(other.found))]
    assert [log.round_numbers for log in logs] == [list(range(STEPS))] * len(logs)
    assert {sum(len(log[place].lengths) for log in logs) for place in range(STEPS)} == {4}


@pytest.mark.slow
def test_evaluation_and_fit_on_uneven_data_are_those_of_one_process(run: Run, one: Run):
    names = ("pilot_loss", "rectified_loss", "pilot_mistake_size", "mistake_size", "mistake_removed")
    for found in (process["branch"] for process in run.found):
        for name in names:
            assert found["metrics"][f"eval_{name}"] == pytest.approx(one.first["metrics"][f"eval_{name}"], abs=1e-5)
        assert found["λ"] == one.first["λ"]
        assert found["scores"] == pytest.approx(one.first["scores"], abs=1e-5)


@pytest.mark.slow
def test_rows_and_logs_are_complete_and_the_lock_is_given_back(run: Run, one: Run):
    own, alone = run.folder / "branch", one.folder / "branch"
    assert rows(own) == rows(alone) and len(rows(own)) > STEPS * 4
    logged = [process["branch"]["log"] for process in run.found]
    assert [[number for number, _ in log] for log in logged] == [list(range(STEPS))] * len(run.found)
    assert {sum(log[place][1] for log in logged) for place in range(STEPS)} == {4}
    assert not list(own.glob("_run*"))


# ---- what goes wrong ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_a_process_that_dies_ends_the_run_and_leaves_whole_checkpoints(name: str, clipped: Run, tmp_path: Path):
    configuration = CONFIGURATIONS[name]
    job: dict[str, Any] = {"variants": ["branch"]}
    done = program(configuration, tmp_path, {**job, "dies": {"rank": 1, "step": 13}})
    assert done.returncode != 0
    assert "rank      : 1 (local_rank: 1)" in done.stderr and "exitcode  : -9" in done.stderr
    checkpoint = tmp_path / "branch" / "checkpoint-10"
    assert what_is_broken(checkpoint) is None and what_rows_are_missing(checkpoint) is None
    assert not (tmp_path / "branch" / "checkpoint-20").exists()
    again = train(configuration, tmp_path, {**job, "from": True})
    assert largest_difference(again.first["state"], clipped.first["state"]) < 1e-5
    assert rows(tmp_path / "branch") == rows(clipped.folder / "branch")


@pytest.mark.slow
def test_what_accelerate_cannot_spread_is_said(tmp_path: Path):
    """Neither can it a T5 alone: one matrix in three modules."""
    done = program(CONFIGURATIONS["fsdp2"], tmp_path, {"variants": ["encoder-decoder"]})
    assert done.returncode and "shared.weight" in done.stderr
    assert "accelerate's FSDP2 can't spread" in done.stderr and "ddp.yaml" in done.stderr


# ---- the command ----


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Pilot and data."""
    folder = tmp_path_factory.mktemp("texts")
    write_pilot_and_texts(folder)
    return folder


def words_of(texts: Path, folder: str, accumulated: int) -> list[str]:
    given = {"pilot": "pilot", "dataset": "train.jsonl", "output_dir": folder, "form": "branch", "copilot_layers": 1}
    given |= {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulated}
    given |= {"learning_rate": 2e-3, "adam_epsilon": 1e-6, "dev_size": 0.2, "save_strategy": "no"}
    places = ("pilot", "dataset", "output_dir")
    pairs = [(f"--{name}", str(texts / value) if name in places else str(value)) for name, value in given.items()]
    return ["train", *(word for pair in pairs for word in pair)]


@pytest.fixture(scope="module")
def taught_alone(texts: Path) -> Path:
    assert command(words_of(texts, "alone", 2)) == 0
    return texts / "alone"


def check_taught(done: Any, folder: Path, alone: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("The pair is in") == done.stdout.count("chosen on 8 texts") == 1
    pairs = [PilotCopilotForCausalLM.from_pretrained(one) for one in (folder, alone)]
    assert largest_difference(*(pair.state_dict() for pair in pairs)) < 1e-5
    assert pairs[0].config.copilot_weight == pairs[1].config.copilot_weight
    assert rows(folder) == rows(alone)


@pytest.mark.slow
def test_the_command_as_users_type_it(texts: Path, taught_alone: Path):
    """On a machine without an accelerator nobody has to say that it is the CPU."""
    done = launch(CONFIGURATIONS["ddp"], "-m", "transformers_copilot", *words_of(texts, "ddp", 1))
    check_taught(done, texts / "ddp", taught_alone)


@pytest.mark.slow
@pytest.mark.parametrize("efficient", ["false", "true"])
def test_the_command_with_weights_spread(texts: Path, taught_alone: Path, efficient: str):
    """Its checkpoints are in shards; the pair at the end is whole."""
    flag = ("--fsdp_cpu_ram_efficient_loading", efficient)
    job = {"command": words_of(texts, f"fsdp2-{efficient}", 1)}
    file = ROOT / "tests" / "helpers" / "distributed_program.py"
    done = launch(CONFIGURATIONS["fsdp2"], *flag, file, texts, json.dumps(job))
    check_taught(done, texts / f"fsdp2-{efficient}", taught_alone)
