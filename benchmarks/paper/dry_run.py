"""A row without its checkpoints and data: its sizes, and three steps of its shape scaled down, by the runner itself."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from transformers import set_seed

from benchmarks.experiments.data import byte_pair_tokenizer
from benchmarks.experiments.paper_table import paper_table
from benchmarks.experiments.runs import Runner
from benchmarks.experiments.spec import Experiment, Variant
from benchmarks.experiments.store import ResultStore
from benchmarks.paper.shapes import new_model, pair_on_meta, sizes_of
from benchmarks.paper.toy_tasks import write_toy_tasks


STEPS, VOCABULARY = 3, 300


def check_sizes(spec: Experiment) -> list[str]:
    """Compare a row's numbers of weights with the published and the paper's.

    Args:
        spec: The row.

    Returns:
        What was found, a line each.

    Raises:
        ValueError: A number is further off than it may be, and no name says why; they are listed.
    """
    lines, wrong = [], []
    for variant in spec.variants:
        sizes = sizes_of(spec, variant)
        lines += [f"{spec.title}, {variant.name}:", *(size.line() for size in sizes)]
        wrong += [size.line() for size in sizes if not size.agrees and not size.remark]
    if wrong:
        raise ValueError("\n".join([f"{spec.experiment} does not have the paper's sizes:", *wrong]))
    return lines


def scaled_down(spec: Experiment, folder: Path) -> Experiment:
    """The row on made-up questions beside checkpoints of its shape, an eighth of the depth and a 32nd of the width.

    Args:
        spec: The row.
        folder: Where checkpoints and questions are written.

    Returns:
        The same experiment: its options are the row's, but for the paths, the lengths and the steps.
    """
    sources = spec.task_options.get("train_tasks") or []
    names = list(dict.fromkeys([spec.task, *sources, *spec.also_test]))
    tokenizer = byte_pair_tokenizer(write_toy_tasks(folder / "tasks", names), VOCABULARY)
    set_seed(0)
    paths: dict[str, str] = {}
    for model in [spec.pilot["path"], *(spec.copilot_of(variant)["path"] for variant in spec.variants)]:
        if model in paths:
            continue
        tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        tokens["decoder_start_token_id"] = tokenizer.pad_token_id
        paths[model] = str(folder / model.replace("/", "--"))
        new_model(model, scaled_down=True, **tokens).save_pretrained(paths[model])
        tokenizer.save_pretrained(paths[model])
    variants = [_beside(spec, variant, paths) for variant in spec.variants]
    training = {**spec.training, "max_steps": STEPS, "per_device_eval_batch_size": 4, "save_strategy": "no"}
    return replace(
        spec,
        pilot={**spec.pilot, "path": paths[spec.pilot["path"]]},
        variants=variants,
        seeds=spec.seeds[:1],
        limits={"dev": 12, "test": 2},
        max_length=1_000,
        max_new_tokens=None if spec.max_new_tokens is None else 4,
        training=training,
    )


def _beside(spec: Experiment, variant: Variant, paths: dict[str, str]) -> Variant:
    copilot = spec.copilot_of(variant)
    return replace(variant, pair={**variant.pair, "copilot": {**copilot, "path": paths[copilot["path"]]}})


def three_steps(spec: Experiment) -> list[str]:
    """Run a row scaled down, from its description to the table of its results.

    Args:
        spec: The row.

    Returns:
        What came of it, a line each, and the table.

    Raises:
        ValueError: A pair has not the weights that its shape has on the meta device, or has not made its steps.
    """
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = scaled_down(spec, folder)
        store = ResultStore(folder / f"{spec.experiment}.jsonl")
        runner = Runner(small, store, folder / "build", str(folder / "tasks"), gain_only=True)
        for seed, variant in small.runs():
            result = runner.run(seed, variant)
            expected = sum(p.numel() for p in pair_on_meta(spec, spec.variant(variant), scaled_down=True).parameters())
            made = result["weights"]["pair"]
            if made != expected or result["steps"] != STEPS:
                raise ValueError(
                    f"{variant} scaled down has {made:,} weights and made {result['steps']} steps; expected "
                    f"{expected:,} and {STEPS}."
                )
            loss = result["results"]["pair"]["tokens"]["loss"]
            lines.append(f"  {variant} scaled down: {made:,} weights, {STEPS} steps, loss {loss:.2f}, written and read")
        lines += ["", paper_table({spec.experiment: store.read()}, {spec.experiment: spec})]
    return lines
