"""The benchmark runs and prints every row, and what it says bounds the ratios is what the models do."""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from transformers_copilot import PilotCopilotForCausalLM


ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
LENGTH, SUPERVISED = 12, 4
QUICK = {
    "copilot_layers": 2,
    "batch": 2,
    "rows": 2,
    "length": LENGTH,
    "supervised": SUPERVISED,
    "new_tokens": 4,
    "threads": 1,
    "repeats": 2,
    "training_blocks": 1,
    "block_steps": 1,
}
ROWS = [
    "training step, 2 x 12 tokens, 4 supervised",
    "training step, Mistake Log off",
    "Mistake Log's own work in a step",
    "Mistake Log of 128 such rounds",
    "generation, batch 1",
    "generation, batch 2",
    "prefill, batch 2",
    "λ = 0: generation, batch 1",
    "λ = 0: generation, batch 2",
    "λ = 0: prefill, batch 2",
    "peak memory, training",
    "peak memory, generation",
]


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("benchmark")
    small_llama().save_pretrained(folder / "pilot")
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--pilot", str(folder / "pilot")]
    command += ["--json", str(folder / "results" / "speed.json")]
    command += [part for name, value in QUICK.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "results" / "speed.json").read_text(encoding="utf-8"))


def test_table_has_every_row(run: tuple[str, dict]) -> None:
    table = [line.strip("| \n").split("|") for line in run[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in table[2:]]
    assert [row[0] for row in cells] == ROWS
    ratios = {row[0]: row[2] for row in cells}
    own = {"Mistake Log's own work in a step": "%", "Mistake Log of 128 such rounds": "MB"}
    for name, ratio in ratios.items():
        number = float(ratio.removesuffix(own.get(name, "")))
        assert math.isfinite(number) and number > 0, name


def test_json_has_what_the_table_has(run: tuple[str, dict]) -> None:
    rows = {row["name"]: row for row in run[1]["rows"]}
    assert list(rows) == ROWS
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert rows["λ = 0: prefill, batch 2"]["bound"] == 1.0
    assert rows["generation, batch 1"]["bound"] > 1.0


def test_machine_and_models_are_named(run: tuple[str, dict]) -> None:
    assert f"torch {torch.__version__}" in run[0] and "threads 1" in run[0]
    assert "random weights" not in run[0]  # a Pilot was given
    assert {"processor", "cores", "threads", "transformers"} <= set(run[1]["machine"])


def test_targets_are_for_smollm2_only(run: tuple[str, dict]) -> None:
    assert all(row["target"] is None for row in run[1]["rows"])


def products(counter: FlopCounterMode) -> int:
    """Operations of matrix products, without attention scores."""
    counts = counter.get_flop_counts()["Global"]
    return sum(count for operation, count in counts.items() if "attention" not in str(operation))


@pytest.mark.usefixtures("benchmark_modules")
@pytest.mark.parametrize("head", ["pilot", "own"])
def test_operations_are_those_that_torch_counts(head: str) -> None:
    from work import count_parameters

    pilot = small_llama()
    ids = torch.randint(3, 300, (2, LENGTH))
    labels = ids.clone()
    labels[:, : LENGTH - SUPERVISED] = -100
    with torch.no_grad(), FlopCounterMode(display=False) as reading_alone:
        pilot(input_ids=ids, logits_to_keep=1)
    with FlopCounterMode(display=False) as training_alone:
        pilot(input_ids=ids, labels=labels).loss.backward()
    pair = PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}, head=head).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as reading:
        pair(input_ids=ids, logits_to_keep=1)
    pair.train()
    with FlopCounterMode(display=False) as training:
        pair(input_ids=ids, labels=labels).loss.backward()
    work = count_parameters(pair)
    assert products(reading) / products(reading_alone) == pytest.approx(work.prefill(LENGTH), rel=0.02)
    assert products(training) / products(training_alone) == pytest.approx(work.training(LENGTH, SUPERVISED), rel=0.03)


@pytest.mark.usefixtures("benchmark_modules")
def test_smollm2_shape_has_its_number_of_weights() -> None:
    from models import smollm2_shape

    with torch.device("meta"):
        assert LlamaForCausalLM(smollm2_shape()).num_parameters() == 134_515_008


@pytest.mark.usefixtures("benchmark_modules")
def test_shared_options_reach_another_process() -> None:
    from options import add_options, command_line

    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--pilot", "somewhere", "--rows", "3"])
    assert parser.parse_args(command_line(options)) == options
