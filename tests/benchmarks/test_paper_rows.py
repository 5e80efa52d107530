"""The rows of the paper's tables: their options, their sizes, and three steps of each shape."""

import json
from pathlib import Path

import pytest

from benchmarks.experiments import render
from benchmarks.experiments.paper_table import HEAD
from benchmarks.experiments.spec import Experiment
from benchmarks.paper import run, shapes
from benchmarks.paper.dry_run import check_sizes
from benchmarks.paper.expectation import Machine, expect
from benchmarks.paper.rows import read_row, row_names
from transformers_copilot.adapters.adapters import PAPER_LORA


QUICK = ["llama32-1b-arithmetic", "t5-small-lastfm"]
REASONING = {"commonsense": 6, "arithmetic": 4}


def group_of(spec: Experiment) -> str:
    """What a row is tested on."""
    return "recommendation" if spec.measure == "ranking" else "commonsense" if spec.task == "piqa" else "arithmetic"


def test_there_is_a_row_for_every_line_of_the_tables() -> None:
    pilots = ("flan-t5-small", "flan-t5-base", "llama32-1b", "llama32-3b", "llama31-8b", "qwen25-3b", "qwen25-7b")
    expected = {f"{pilot}-{group}" for pilot in pilots for group in REASONING}
    expected |= {f"{pilot}-{task}" for pilot in ("t5-small", "llama32-1b") for task in ("beauty", "lastfm")}
    assert set(row_names()) == expected
    for name in row_names():
        spec = read_row(name)
        assert set(spec.reported) == {"pilot", *(variant.name for variant in spec.variants)}, name
        assert spec.experiment == f"paper_{name.replace('-', '_')}" and len(spec.seeds) == 3
        tests = 1 + len(spec.also_test)
        assert tests == REASONING.get(group_of(spec), 1), name


@pytest.mark.parametrize("name", row_names())
def test_a_rows_options_are_the_papers(name: str) -> None:
    spec = read_row(name)
    group, given = group_of(spec), spec.training
    seq2seq, large = "t5" in name, name.startswith(("llama31-8b", "qwen25-7b"))
    assert (spec.max_length, given["per_device_train_batch_size"], given["lr_scheduler_type"]) == (256, 16, "cosine")
    assert (given["mistake_log_rounds"], given["mistake_log_draw"]) == (128, "uniform")
    assert spec.pair["fusion"] == "probability" and spec.pair["objective"] == "rmse"
    assert spec.pair["error_feedback"] == "predicted" and spec.weight_grid == [0.1, 0.3, 0.5, 0.8, 1.0]
    rates = given["learning_rate"], given["copilot_learning_rate"]
    if seq2seq:
        assert given["num_train_epochs"] == (20 if group == "recommendation" else 12) and not spec.lora
        assert rates == (1e-3, 1e-3 if group == "recommendation" else 3e-3)
        assert (given["warmup_steps"], given["weight_decay"]) == (0.05, 0.01)
        assert all(spec.copilot_of(variant)["dropout"] == 0.1 for variant in spec.variants)
    else:
        assert given["num_train_epochs"] == 3 and given["weight_decay"] == 0 and given["warmup_steps"] in (100, 200)
        assert rates == ((1e-4 if large else 2e-4, 3e-4) if group == "arithmetic" else (3e-4, 5e-4))
        ranks = {"r": 16, "lora_alpha": 16} if group == "recommendation" else {}
        assert spec.lora == {part: {**PAPER_LORA[part], **ranks} for part in ("pilot", "copilot")}
    if group == "recommendation":
        assert spec.generation == {"num_beams": 20}
    else:
        drawn = {"num_beams": 4, "do_sample": True, "temperature": 0.1, "top_p": 0.95, "top_k": 40}
        assert spec.generation == drawn and spec.max_new_tokens == (256 if group == "arithmetic" else 64)


def test_every_row_has_the_published_and_the_papers_sizes() -> None:
    for name in row_names():
        spec = read_row(name)
        lines = check_sizes(spec)
        assert sum("published" in line and line.endswith("agrees") for line in lines) == 2 * len(spec.variants), name
        assert sum("the decoder layers of" in line and line.endswith("agrees") for line in lines) == len(spec.variants)
        for line in lines:  # a size that differs is rounded in its name, which stands in a list
            assert "differs" not in line or any(rounded in line for rounded in shapes.ROUNDED.values()), line


def test_every_checkpoint_has_exactly_the_published_number_of_weights() -> None:
    for model, about in shapes.all_models().items():
        assert shapes.weights_of(model)[0] == about["weights"], model


def test_a_shape_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    models = shapes.all_models()
    models["meta-llama/Llama-3.2-1B"]["config"]["intermediate_size"] = 9000
    monkeypatch.setattr(shapes, "all_models", lambda: models)
    shapes.weights_of.cache_clear()
    with pytest.raises(
        ValueError, match=r"(?s)paper_llama32_1b_lastfm does not have .*published 1,235,814,400 .*DIFFERS"
    ):
        check_sizes(read_row("llama32-1b-lastfm"))
    shapes.weights_of.cache_clear()


def test_what_a_row_takes_grows_with_its_size_and_is_counted_from_it() -> None:
    machine = Machine()
    small, large = (read_row(f"{name}-commonsense") for name in ("llama32-1b", "llama31-8b"))
    few, many = (expect(spec, spec.variants[0], machine) for spec in (small, large))
    assert many.bytes > few.bytes > few.fixed_bytes > 0 and many.training_hours > few.training_hours > 0
    assert many.answering_hours > few.answering_hours > 0
    # 1.24 billion weights of 2 bytes, a Copilot of 1.5 billion and what learns besides of 4.
    assert few.memory["weights"] == pytest.approx(2 * 1_235_814_400 + 4 * (2_779_394_048 - 1_235_814_400))
    questions = 16113 + 40398 + 39905 + 9427 + 33410 + 4957
    assert few.steps == 3 * -(-questions // 16)
    faster = expect(small, small.variants[0], Machine(tflops=1e6, layer_milliseconds=0.01))
    assert faster.training_hours < few.training_hours and faster.training_operations == few.training_operations
    assert any("assumed: 150 TFLOP/s" in line for line in few.lines())


def test_a_device_that_is_too_small_is_told_before_the_start(capsys: pytest.CaptureFixture) -> None:
    spec = read_row("llama31-8b-arithmetic")
    expected = expect(spec, spec.variants[0], Machine())
    with pytest.raises(ValueError, match=r"the device has 16\.0 GB left, and weights, .* alone take 3\d\.\d GB"):
        run.check_memory(spec, expected, 16e9)
    run.check_memory(spec, expected, expected.bytes - 1e9)
    assert "lower `per_device_train_batch_size` (16)" in capsys.readouterr().out
    run.check_memory(spec, expected, 1e12)
    assert not capsys.readouterr().out


def test_rows_are_listed_and_a_mistyped_one_is_answered_with_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert run.main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in row_names())
    for typed, meant in (
        ("llama32-1b-comonsense", "llama32-1b-commonsense"),
        ("Qwen2.5-7B-arithmetic", "qwen25-7b-arithmetic"),
    ):
        assert run.main([typed]) == 2
        assert f"there is no row {typed!r}: did you mean {meant}?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.main([row_names()[0], "--device", "cuda"])
    assert "sees no GPU" in capsys.readouterr().err


def test_without_the_hub_a_row_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    places = ["--results", str(tmp_path), "--build", str(tmp_path), "--data_dir", str(tmp_path / "none")]
    assert run.main(["t5-small-lastfm", *places]) == 1
    assert "There is no folder" in (said := capsys.readouterr().err) and "Traceback" not in said


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in row_names()]
)
def test_a_row_makes_three_steps_scaled_down(name: str, capsys: pytest.CaptureFixture) -> None:
    spec = read_row(name)
    assert run.main([name, "--dry_run"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert printed.count("3 steps, loss") == len(spec.variants)
    table = printed[printed.index(HEAD) :].splitlines()[2:]
    assert [line.split(" | ")[0] for line in table] == [
        f"| {spec.title} + {variant.name.removeprefix('copilot_')}, {spec.task}"
        + (f" and {len(spec.also_test)} more" if spec.also_test else "")
        for variant in spec.variants
    ]


def test_the_table_has_averages_over_the_tests_beside_the_papers(tmp_path: Path) -> None:
    made = {"pilot": {"questions": "1100"}, "pair": {"questions": "1110"}}
    none = {"pilot": {"questions": "00"}, "pair": {"questions": "01"}}
    line = {"measure": "answers", "loss": "whole vocabulary", "name": "copilot_1b", "results": made}
    lines = [{**line, "seed": seed, "other_tests": {"mawps": {"results": none}}} for seed in (0, 1)]
    page = "<!-- table: paper * -->\n<!-- /table -->\n"
    filled = render.fill_tables(page, {"paper_llama31_8b_arithmetic": lines})
    assert "| LLaMA-3.1-8B + 1b, gsm8k and 3 more | 2 | 25.0 | 62.5 | +37.5 | 65.9 | 67.8 | +1.9 |" in filled
    known = json.loads((render.ROOT / "benchmarks" / "results" / "summary.json").read_text())
    if not any(entry["experiment"].startswith("paper_") for entry in known):
        assert "None of the rows has been run yet." in render.fill_tables(page, {})
