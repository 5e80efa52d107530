"""The benchmark runs and prints every row, and what it says bounds the ratios is what the models do."""

import argparse
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from benchmarks.cost import room
from benchmarks.cost.models import all_kinds, kind_named, llama31_8b_shape, make_pair, smollm2_shape, tiny_shape
from benchmarks.cost.options import FORMS
from benchmarks.cost.speed import main, parse_arguments
from benchmarks.cost.work import count_parameters
from tests.helpers.paths import ROOT
from transformers_copilot import PilotCopilotConfig, PilotCopilotForCausalLM
from transformers_copilot.building.pair_building import copilot_config_for


LENGTH, SUPERVISED = 12, 4
QUICK = {
    "forms": ["linear", "branch"],  # each kind costs two processes
    "branch_layers": 1,
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
QUICK_KINDS = ["linear", "branch of 1"]
KINDS = [
    *QUICK_KINDS,
    "decoder of 2, token, pilot head",
    "decoder of 2, token, own head",
    "decoder of 2, observed, pilot head",
    "decoder of 2, observed, own head",
]
TIMED = [
    "training step, 2 × 12 tokens, 4 supervised",
    "training step, frozen Pilot",
    "Mistake Log's own work in a step",
    "Mistake Log of 128 such rounds",
    "prefill, batch 2",
    "generation, batch 1",
    "generation, batch 2",
]
ROWS = [(kind, name) for kind in QUICK_KINDS for name in TIMED]
ROWS += [("any, at λ = 0", name) for name in TIMED[4:]]
ROWS += [(kind, f"peak memory, {case}") for case in ("training", "generation") for kind in QUICK_KINDS]


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_shape()).eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("benchmark")
    small_llama().save_pretrained(folder / "pilot")
    command = [sys.executable, "-m", "benchmarks.cost.speed", "--pilot", str(folder / "pilot")]
    command += ["--json", str(folder / "results" / "speed.json")]
    for name, value in QUICK.items():
        command += [f"--{name}", *(str(part) for part in (value if isinstance(value, list) else [value]))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "results" / "speed.json").read_text(encoding="utf-8"))


def tables(page: str) -> list[list[list[str]]]:
    """The cells of every table, without heads and rules."""
    found = []
    for block in page.split("\n\n"):
        lines = [line.strip("|\n").split("|") for line in block.splitlines() if line.startswith("|")]
        if lines:
            found.append([[cell.strip() for cell in line] for line in lines[2:]])
    return found


def test_table_has_every_row(run: tuple[str, dict]) -> None:
    overview, cells = tables(run[0])
    assert [(row[0], row[1]) for row in cells] == ROWS
    own = {"Mistake Log's own work in a step": "%", "Mistake Log of 128 such rounds": "MB"}
    for row in cells:
        number = float(row[3].removesuffix(own.get(row[1], "")))
        assert math.isfinite(number) and number > 0, row
    assert [row[0] for row in overview] == [*QUICK_KINDS, "any, at λ = 0"]
    ratios = {(row[0], row[1]): f"{float(row[3]):.2f}" for row in cells if row[1] not in own}
    for line in overview[:-1]:
        names = [name for name in TIMED if name not in own] + ["peak memory, training", "peak memory, generation"]
        measured = [cell.partition(" (")[0] for cell in line[1:]]
        assert [float(value) for value in measured] == [
            pytest.approx(float(ratios[line[0], name]), abs=0.011) for name in names
        ]


def test_all_kinds_are_measured() -> None:
    kinds = all_kinds(argparse.Namespace(forms=FORMS, branch_layers=[1], copilot_layers=2))
    assert [kind.name for kind in kinds] == KINDS


def test_json_has_what_the_table_has(run: tuple[str, dict]) -> None:
    rows = {(row["kind"], row["name"]): row for row in run[1]["rows"]}
    assert list(rows) == ROWS
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values())
    assert rows["any, at λ = 0", "prefill, batch 2"]["bound"] == 1.0
    assert rows["linear", "generation, batch 1"]["bound"] > 1.0
    assert rows["branch of 1", "generation, batch 1"]["bound"] > rows["linear", "generation, batch 1"]["bound"]


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


@pytest.mark.parametrize("name", KINDS)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    pilot = small_llama()
    ids = torch.randint(3, 300, (2, LENGTH))
    labels = ids.clone()
    labels[:, : LENGTH - SUPERVISED] = -100
    with torch.no_grad(), FlopCounterMode(display=False) as reading_alone:
        pilot(input_ids=ids, logits_to_keep=1)
    with FlopCounterMode(display=False) as training_alone:
        pilot(input_ids=ids, labels=labels).loss.backward()
    kind = kind_named(name, argparse.Namespace(forms=FORMS, branch_layers=[1], copilot_layers=2))
    pair = make_pair(pilot, kind)
    pair(input_ids=ids)  # what is found out at a pair's first pass is found out
    with torch.no_grad(), FlopCounterMode(display=False) as reading:
        pair(input_ids=ids, logits_to_keep=1)
    pair.train()
    with FlopCounterMode(display=False) as training:
        pair(input_ids=ids, labels=labels).loss.backward()
    pair.freeze_pilot()
    with FlopCounterMode(display=False) as teaching:
        pair(input_ids=ids, labels=labels).loss.backward()
    work = count_parameters(pair)
    alone = products(training_alone)
    assert products(reading) / products(reading_alone) == pytest.approx(work.prefill(LENGTH), rel=0.02)
    assert products(training) / alone == pytest.approx(work.training(LENGTH, SUPERVISED), rel=0.03)
    assert products(teaching) / alone == pytest.approx(work.teaching(LENGTH, SUPERVISED), rel=0.05)


@pytest.mark.parametrize("name", KINDS)
def test_generating_takes_the_operations_that_are_counted(name: str) -> None:
    pilot, ids = small_llama(), torch.randint(3, 300, (2, LENGTH))
    kind = kind_named(name, argparse.Namespace(forms=FORMS, branch_layers=[1], copilot_layers=2))
    pair, given = make_pair(pilot, kind), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given |= {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    pair.generate(**given)
    with FlopCounterMode(display=False) as alone:
        pilot.generate(**given)
    with FlopCounterMode(display=False) as together:
        pair.generate(**given)
    expected = count_parameters(pair).generation(LENGTH, 4)
    assert products(together) / products(alone) == pytest.approx(expected, rel=0.03)


def test_smollm2_shape_has_its_number_of_weights() -> None:
    with torch.device("meta"):
        assert LlamaForCausalLM(smollm2_shape()).num_parameters() == 134_515_008


# ---- memory: what is needed is known before a model is made ----


def of_shape(*more: str) -> argparse.Namespace:
    return parse_arguments(["--autocast", "none", *more])


def test_weights_are_counted_before_a_pair_is_made() -> None:
    options, pilot = of_shape("--shape", "tiny"), LlamaForCausalLM(tiny_shape())
    for kind in all_kinds(options):
        assert room.count_weights(options, kind) == count_parameters(make_pair(pilot, kind)).stored, kind.name


def test_the_larger_shape_is_8b_beside_1b(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: None)
    options = of_shape("--shape", "llama31-8b", "--dtype", "bfloat16")
    counts = {kind.name: room.count_weights(options, kind) for kind in all_kinds(options)}
    assert {pilot for pilot, _ in counts.values()} == {8_030_261_248}
    assert counts["branch of 5"][1] == pytest.approx(1.09e9, rel=0.01)
    needed = room.needed_bytes(*counts["branch of 5"], llama31_8b_shape().vocab_size, options)
    assert sum(needed.values()) == pytest.approx(98e9, rel=0.02)


def test_a_pair_of_8b_and_1b_is_built_and_read_on_the_meta_device() -> None:
    options = argparse.Namespace(forms=["decoder"], branch_layers=[], copilot_layers=4)
    with torch.device("meta"):
        pilot = LlamaForCausalLM(llama31_8b_shape())
        copilot, _ = copilot_config_for(AutoModelForCausalLM, pilot, dict(all_kinds(options)[0].copilot), None, {})
        pair = PilotCopilotForCausalLM(PilotCopilotConfig(pilot=pilot.config, copilot=copilot), pilot).eval()
        logits = pair(input_ids=torch.ones(2, 16, dtype=torch.long)).logits
    assert logits.is_meta and logits.shape == (2, 16, 128_256)
    work = count_parameters(pair)
    assert work.stored[0] == 8_030_261_248 and work.stored[1] == pytest.approx(0.906e9, rel=0.01)


@pytest.mark.parametrize("more", [[], ["--no_training"]])
def test_too_little_memory_is_an_error_that_says_what_to_lower(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 16_000_000_000)
    with pytest.raises(SystemExit) as stopped:
        of_shape("--shape", "llama31-8b", "--dtype", "bfloat16", *more)
    said = " ".join(capsys.readouterr().err.partition("error:")[2].split())
    assert stopped.value.code == 2 and "16.0 GB are free" in said and "--branch_layers" in said
    assert ("--batch" in said) == ("gradients" in said) == (not more)
    assert "--dtype" not in said  # it is narrow already


def test_a_run_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    options = of_shape("--shape", "tiny")
    needed = [
        sum(room.needed_bytes(*room.count_weights(options, kind), tiny_shape().vocab_size, options).values())
        for kind in all_kinds(options)
    ]
    monkeypatch.setattr(room, "free_bytes", lambda device: max(needed))
    room.check_room(options)
    monkeypatch.setattr(room, "free_bytes", lambda device: max(needed) - 1)
    with pytest.raises(ValueError, match="needs about"):
        room.check_room(options)


def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parse_arguments(["--device", "cuda"])
    assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.slow
def test_reading_and_writing_are_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--length", "12", "--supervised", "4", "--new_tokens", "4", "--rows", "2", "--repeats", "2"]
    main(["--shape", "tiny", "--no_training", "--forms", "linear", "--threads", "1", *sizes, "--autocast", "none"])
    page = capsys.readouterr().out
    _, cells = tables(page)
    names = [name for name in TIMED if "training" not in name and "Log" not in name]
    assert [row[1] for row in cells] == [*names, *names, "peak memory, generation"]
    assert "random weights of a tiny shape" in page
