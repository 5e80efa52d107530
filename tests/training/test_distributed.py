"""Several processes under `accelerate launch`, by the files in examples/accelerate: what they learn, measure and write
is what one process does. The table of docs/distributed.md says which of it holds for which configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.distributed_program import STEPS, VARIANTS, main
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import largest_difference
from transformers_copilot import MistakeLog, PilotCopilotForCausalLM
from transformers_copilot.training.callback import log_file
from transformers_copilot.training.checkpoints import what_is_broken, what_rows_are_missing


@dataclass
class Configuration:
    """One of examples/accelerate, and how it is tried.

    `resized`: the number of processes that go on with its checkpoint.
    """

    file: str
    processes: int
    resized: int
    variants: tuple[str, ...] = tuple(VARIANTS)
    on_cpu: bool = True


CONFIGURATIONS = {
    "ddp": Configuration("ddp.yaml", 2, 4),
    "ddp_4": Configuration("ddp_4.yaml", 4, 1, ("branch", "twice")),
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


def launch(configuration: Configuration, *words: str | Path, processes: int | None = None, **kwargs: Any) -> Any:
    """`accelerate launch` with a file of examples/accelerate, as users type it."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "examples" / "accelerate" / configuration.file), "--main_process_port", "0"]
    command += ["--num_processes", str(processes or configuration.processes)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if not configuration.on_cpu:
        env["CPU_IS_ACCELERATOR"] = "1"
    return subprocess.run(
        [*command, *map(str, words)], env=env, capture_output=True, text=True, timeout=500, check=False, **kwargs
    )


def train(configuration: Configuration, folder: Path, job: dict[str, Any], processes: int | None = None) -> Run:
    """Run the program of tests/helpers, in this process where it is to be one without anything that shards."""
    folder.mkdir(exist_ok=True)
    processes = processes or configuration.processes
    if processes == 1 and configuration.on_cpu:
        main(folder, job)
    else:
        program = ROOT / "tests" / "helpers" / "distributed_program.py"
        done = launch(configuration, program, folder, json.dumps(job), processes=processes)
        assert done.returncode == 0, done.stdout + done.stderr
    return Run(folder, [torch.load(folder / f"found-{rank}.pt") for rank in range(processes)], configuration)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process, which accumulates gradients."""
    alone = Configuration("ddp.yaml", 1, 1)
    return train(alone, tmp_path_factory.mktemp("one"), {"variants": list(VARIANTS)})


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    configuration = CONFIGURATIONS[request.param]
    job = {"variants": list(configuration.variants), "resume": True}
    return train(configuration, tmp_path_factory.mktemp(request.param), job)


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
            assert len(found[name]) == STEPS
            assert found[name] == pytest.approx(alone[name], abs=1.01e-4), (variant, name)  # they are logged rounded
        assert largest_difference(found["state"], alone["state"]) < 1e-5, variant


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
