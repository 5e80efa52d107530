"""The figures of `docs/results.md`, from the lines of results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from experiment_statistics import compare


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen first


def sizes_figure(experiments: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy against total weights, for Pilots alone and for pairs (the paper's Fig. 6).

    Args:
        experiments: The results of each size.
        path: The PNG file.
    """
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    made = sorted(
        (compare(lines, "pair") for lines in experiments.values()), key=lambda each: each.lines[0]["weights"]["pilot"]
    )
    for model, color, mark in (("pilot", "#4477aa", "o"), ("pair", "#ee6677", "s")):
        weights = [each.lines[0]["weights"][model] / 1e6 for each in made]
        means = [100 * each.mean(model) for each in made]
        title = "Pilot alone" if model == "pilot" else "Pilot with its Copilot"
        axes.plot(weights, means, color=color, marker=mark, label=title)
        for each, weight in zip(made, weights, strict=True):
            points = [100 * scores.mean() for scores in each.scores(model)]
            axes.scatter([weight] * len(points), points, color=color, marker=mark, s=12, alpha=0.5)
    axes.set_xscale("log")
    axes.set_xlabel("all weights, in millions")
    axes.set_ylabel("exact answers, %")
    axes.set_title("Small points: seeds. Lines: means.", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
