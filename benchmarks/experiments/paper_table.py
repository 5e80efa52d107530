"""The table of the paper's rows: what was measured beside what the paper reports."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.spec import Experiment
from benchmarks.experiments.statistics import scores_of


Lines = list[dict[str, Any]]
HEAD = "| row | seeds | Pilot | + Copilot | gain | the paper: Pilot | + Copilot | gain |"


def paper_table(results: dict[str, Lines], specs: dict[str, Experiment]) -> str:
    """Rows of the paper's tables.

    Args:
        results: Lines of results by experiment. What is none of the paper's rows is left out.
        specs: All experiments' descriptions by name.

    Returns:
        A table with a line for each Copilot of each row that was run: the mean over seeds of the average over the row's
        tests, in per cent (Hit@10 of recommendations). Where no row was run, a sentence that says so.
    """
    rows = []
    for name, lines in results.items():
        spec = specs.get(name)
        if spec is None or not spec.reported:
            continue
        for variant in spec.variants:
            made = [line for line in lines if line["name"] == variant.name]
            if not made:
                continue
            pilot, pair = (
                100 * float(np.mean([_average(line, model) for line in made])) for model in ("pilot", "pair")
            )
            before, after = spec.reported["pilot"], spec.reported[variant.name]
            label = (
                f"{spec.title} + {variant.name.removeprefix('copilot_')}, {spec.task} and {len(spec.also_test)} more"
            )
            label = label if spec.also_test else label.rpartition(" and ")[0]
            rows.append(f"| {label} | {len(made)} | {_scores(pilot, pair)} | {_scores(before, after)} |")
    return "\n".join([HEAD, "| --- |" + " --- |" * 7, *rows]) if rows else "None of the rows has been run yet."


def _average(line: dict[str, Any], model: str) -> float:
    """The mean of a run's scores over its tests."""
    made = [line, *line.get("other_tests", {}).values()]
    return float(np.mean([scores_of(line["measure"], each["results"][model]["questions"]).mean() for each in made]))


def _scores(pilot: float, pair: float) -> str:
    return f"{pilot:.1f} | {pair:.1f} | {pair - pilot:+.1f}".replace("-", "−")
