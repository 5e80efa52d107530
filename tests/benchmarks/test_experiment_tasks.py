"""Experiments that are tested on several tasks, and the marks that one pass over a target gives."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.experiments import render, run
from benchmarks.experiments.data import load_data, some_of
from benchmarks.experiments.judges import choice_judge
from benchmarks.experiments.measure import measure
from benchmarks.experiments.models import build_pair
from benchmarks.experiments.spec import Variant, read_experiment
from benchmarks.experiments.store import ResultStore


LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "max_position_embeddings": 256}
SPEC = {
    "experiment": "choices",
    "section": "B",
    "task": "openbookqa",
    "measure": "choices",
    "seeds": [0],
    "task_options": {"train_tasks": ["openbookqa", "boolq"]},
    "also_test": ["boolq"],
    "limits": {"train": 16, "dev": 4, "test": 6},
    "pilot": {"config": LLAMA, "tokenizer": 300},
    "training": {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "num_train_epochs": 1},
    "pair": {"copilot": {"num_hidden_layers": 2}},
    "variants": {"pair": None},
    "controls": ["longer"],
}


@pytest.fixture
def spec_path(tmp_path: Path) -> Path:
    """An experiment on two tasks of choices, whose questions lie beside it."""
    for name, choices, labels in (
        ("openbookqa", ["red", "blue", "green"], ["answer1", "answer2", "answer3"]),
        ("boolq", ["true", "false"], ["true", "false"]),
    ):
        folder = tmp_path / "commonsense" / name
        folder.mkdir(parents=True)
        for split, first, count in (("train", 0, 40), ("test", 100, 9)):
            rows = [
                {"id": f"{split}{n}", "question": f"{name} {n}?", "choices": choices, "answer_label": labels[n % 2]}
                for n in range(first, first + count)
            ]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "choices.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


def test_a_run_is_tested_on_every_task(spec_path: Path, tmp_path: Path) -> None:
    options = ["--results", str(tmp_path), "--build", str(tmp_path / "build"), "--threads", "1"]
    run.main([str(spec_path), "--data_dir", str(tmp_path), *options])
    pair, longer = ResultStore(tmp_path / "choices.jsonl").read()
    other = pair["other_tests"]["boolq"]["results"]
    assert len(other["pair"]["questions"]) == len(other["pilot"]["likelihoods"]) == 6
    assert len(longer["other_tests"]["boolq"]["results"]["control"]["questions"]) == 6
    assert pair["data"]["train_questions"] == 16 and not pair["replayed"]

    results = render.read_results(tmp_path)
    assert list(results) == ["choices", "choices_boolq"]
    assert [line["task"] for line in results["choices_boolq"]] == ["boolq", "boolq"]
    (tmp_path / "results.md").write_text("<!-- table: finish choices* -->\n<!-- /table -->\n")
    render.main(["--results", str(tmp_path), "--docs", str(tmp_path)])
    first, _, second, likelihood = json.loads((tmp_path / "summary.json").read_text())
    assert (first["task"], second["task"], second["experiment"]) == ("openbookqa", "boolq", "choices_boolq")
    assert likelihood["experiment"] == "choices_boolq:likelihood" and likelihood["measure"] == "tokens"
    assert second["pair_score"] == other["pair"]["questions"].count("1") / 6
    assert set(second["controls"]) == {"longer"} and second["generate_ratio"] > 0
    page = (tmp_path / "results.md").read_text()
    assert all(page.count(f"{task}{unit} (1 seed)") == 1 for task in ("openbookqa", "boolq") for unit in ("", ", %"))


@torch.no_grad()
def test_a_choice_is_right_where_greedy_decoding_over_the_labels_finds_it(spec_path: Path, tmp_path: Path) -> None:
    spec = read_experiment(spec_path)
    data = load_data(spec, str(tmp_path), 0)
    pair = build_pair(spec, Variant("pair"), data, 0).eval()
    torch.nn.init.normal_(pair.copilot.correction_head.weight)
    for own in (data, data.others["boolq"]):
        questions = measure(spec, own, pair).questions
        for row, mark in zip(own.test, questions, strict=True):
            labels = row["prompt"].partition("Answer format: ")[2].partition("\n")[0].split("/")
            before = row["target"].removesuffix(row["answer"])
            written = list(data.tokenizer(row["prompt"]).input_ids)
            left = {label: data.tokenizer(before + label).input_ids for label in labels}
            while len(left) > 1:  # one token after the other, of those only that some label goes on with
                logits = pair(torch.tensor([written])).logits[0, -1]
                best = max({tokens[0] for tokens in left.values()}, key=lambda token: float(logits[token]))
                left = {label: tokens[1:] for label, tokens in left.items() if tokens[0] == best}
                written.append(best)
            assert mark == float(next(iter(left)) == row["answer"])
    assert 0.0 < sum(questions) < len(questions)


def test_labels_that_cannot_be_told_apart_are_refused(spec_path: Path, tmp_path: Path) -> None:
    data = load_data(read_experiment(spec_path), str(tmp_path), 0)
    row = {**data.test[0], "prompt": "Answer format: answer1/answer12\nAnswer:"}
    with pytest.raises(ValueError, match="differ in their first token"):
        choice_judge(replace(data, test=[{**row, "answer": "answer2"}]))


def test_equal_shares_of_several_tasks() -> None:
    rows = [{"task": "large", "id": n} for n in range(50)] + [{"task": "small", "id": n} for n in range(8)]
    chosen = some_of(rows, 12)
    assert [sum(row["task"] == name for row in chosen) for name in ("large", "small")] == [6, 6]
    assert chosen == some_of(rows, 12) and len(some_of(rows[:50], 100)) == 50


def test_a_task_that_ranks_has_no_further_tests(spec_path: Path) -> None:
    spec_path.write_text(yaml.safe_dump({**SPEC, "measure": "ranking"}))
    with pytest.raises(ValueError, match="also_test.*ranks its own items"):
        read_experiment(spec_path)


def run_all(spec_path: Path, folder: Path, **changes: object) -> list[dict]:
    """The lines of an experiment that differs from the file's in some fields."""
    spec_path.write_text(yaml.safe_dump({**SPEC, **changes}))
    options = ["--results", str(folder), "--build", str(folder / "build"), "--threads", "1"]
    run.main([str(spec_path), "--data_dir", str(folder), *options])
    return ResultStore(folder / "choices.jsonl").read()


def test_a_copilot_that_settles_reads_on_beside_the_same_pilot(spec_path: Path, tmp_path: Path) -> None:
    limits = {**SPEC["limits"], "read": 8}
    variants = {"pair": None, "settled": {"settle": {"num_train_epochs": 2}}}
    joint, settled = run_all(spec_path, tmp_path, limits=limits, variants=variants, replay=True, controls=[])
    pilots = [line["results"]["pilot"]["tokens"]["loss"] for line in (joint, settled)]
    assert pilots[0] == pytest.approx(pilots[1], rel=1e-4)
    losses = [line["results"]["pair"]["tokens"]["loss"] for line in (joint, settled)]
    assert abs(losses[0] - losses[1]) > 1e-4
    assert settled["replayed"] and settled["seconds"]["training"] > settled["seconds"]["pilot_alone"]
    data = load_data(read_experiment(spec_path), str(tmp_path), 0)
    chosen, read = ({(row["task"], row["id"]) for row in rows} for rows in (data.train, data.read))
    assert len(read) == 8 and not chosen & read


# PEFT 0.21 asks transformers by the old name of `is_activation_checkpointing`.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_rivals_of_a_frozen_pilot_train_it(spec_path: Path, tmp_path: Path) -> None:
    training = {**SPEC["training"], "freeze_pilot": True}
    controls = {"controls": ["full", "lora"], "rival_training": {"num_train_epochs": 2}}
    pair, full, lora = run_all(spec_path, tmp_path, training=training, **controls)
    untouched = pair["results"]["pilot"]["tokens"]["loss"]
    assert full["weights"]["control"] == pair["weights"]["pilot"] < lora["weights"]["control"]
    for line in (full, lora):
        assert abs(line["results"]["control"]["tokens"]["loss"] - untouched) > 1e-4
