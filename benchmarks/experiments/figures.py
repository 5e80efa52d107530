"""The figure of `docs/results.md`, from the lines of results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.experiments.statistics import Comparison, with_likelihoods
from benchmarks.experiments.tables import by_variant


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend is chosen first


PAIR, RIVAL = "#ee6677", "#4477aa"
NAMES = {
    "everything": "Pilot, all questions",
    "everything_longer": "Pilot, all questions, longer",
    "further": "Pilot, trained on",
    "further_in_time": "Pilot, in the Copilot's time",
    "further_lora": "LoRA",
    "further_last_layers": "last layers",
    "finished_temperature": "temperature",
}


def cost_figure(experiments: dict[str, list[dict[str, Any]]], titles: dict[str, str], path: Path) -> None:
    """Gain over the finished Pilot against all training time, for Copilots and rivals, a panel an experiment.

    Args:
        experiments: Results of Copilots that learn after their Pilots, by experiment; those without a rival are left
            out.
        titles: What each panel is called.
        path: The PNG file.
    """
    experiments = {name: lines for name, lines in experiments.items() if any("control" in x["results"] for x in lines)}
    columns = min(2, len(experiments))
    rows = -(-len(experiments) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(7.5 * columns, 4.4 * rows), layout="constrained", squeeze=False)
    for panel in axes.flat[len(experiments) :]:
        panel.set_axis_off()
    for panel, (name, lines) in zip(axes.flat, experiments.items(), strict=False):
        shown = sorted(points(with_likelihoods(lines)[-1]), key=lambda point: point[2])
        for place, (label, minutes, gain, color) in enumerate(shown):
            panel.scatter(minutes, gain, color=color, s=28, zorder=3)
            # Neighbours in height have their names on either side.
            beside = {"xytext": (5, -3), "ha": "left"} if place % 2 else {"xytext": (-5, -3), "ha": "right"}
            panel.annotate(label, (minutes, gain), textcoords="offset points", fontsize=8, **beside)
        panel.axhline(0.0, color="#888888", linewidth=0.8)
        panel.margins(x=0.6, y=0.15)
        panel.set_title(titles[name], fontsize=9)
        panel.set_xlabel("all training, processor minutes a seed")
        panel.grid(alpha=0.3)
    for panel in axes[:, 0]:
        panel.set_ylabel("gain over the finished Pilot, nats a token")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def points(lines: list[dict[str, Any]]) -> list[tuple[str, float, float, str]]:
    """What the figure shows of an experiment.

    Args:
        lines: Its results, log-likelihoods for scores.

    Returns:
        Label, minutes of training, gain over the finished Pilot, and color: of each variant and each rival.
    """
    made = by_variant(lines)
    first = next(iter(made.values()))
    finished = {line["seed"]: _score(line, "pilot") for line in first.lines}
    found = [(name, _minutes(each.lines), _gain(each.lines, "pair", finished), PAIR) for name, each in made.items()]
    return found + _rivals(first, finished)


def _rivals(first: Comparison, finished: dict[int, float]) -> list[tuple[str, float, float, str]]:
    return [
        (NAMES[name], _minutes(lines), _gain(lines, "control", finished), RIVAL)
        for name, lines in first.controls.items()
        if name in NAMES
    ]


def _score(line: dict[str, Any], model: str) -> float:
    return float(np.mean(line["results"][model]["questions"]))


def _gain(lines: list[dict[str, Any]], model: str, finished: dict[int, float]) -> float:
    return float(np.mean([_score(line, model) - finished[line["seed"]] for line in lines if line["seed"] in finished]))


def _minutes(lines: list[dict[str, Any]]) -> float:
    return float(np.mean([line["seconds"]["training"] for line in lines])) / 60
