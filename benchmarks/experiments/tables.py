"""The tables of `docs/results.md`, as Markdown, from the lines of results alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.statistics import Comparison, Gain, compare


Lines = list[dict[str, Any]]
CONTROL_NAMES = {
    "longer": "the Pilot alone, trained for the pair's time on the same questions",
    "blocks": "a Pilot alone with as many more decoder blocks as the Copilot has weights",
    "head": "a linear correction of the Pilot's last hidden state",
    "temperature": "the Pilot alone, its logits divided by a number that dev chooses",
    "full": "the Pilot alone, all of its weights trained once on the same questions",
    "lora": "the Pilot alone, with adapters (LoRA, rank 32) trained once on the same questions",
}


def by_variant(lines: Lines) -> dict[str, Comparison]:
    """Each variant of an experiment, in the order of the results."""
    names = list(dict.fromkeys(line["name"] for line in lines if not line["name"].startswith("control:")))
    return {name: compare(lines, name) for name in names}


def percent(value: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * value:.1f}"


def gain_text(gain: Gain, scale: float = 100.0, digits: int = 1) -> str:
    """A gain with its interval.

    Args:
        gain: The gain.
        scale: What it is multiplied by.
        digits: Decimals; one more where an end of the interval would read as zero and then no longer does.

    Returns:
        Mean and interval.
    """
    values = [scale * value for value in (gain.mean, gain.low, gain.high)]
    if any(0.05 * 10**-digits <= abs(value) < 0.5 * 10**-digits for value in values[1:]):
        digits += 1
    mean, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{'' if mean.startswith('-') else '+'}{mean} [{low}, {high}]".replace("-", "−")


def scale_of(lines: Lines) -> tuple[float, int]:
    """Factor and decimals that scores are shown with: percent, or plain for log-likelihoods."""
    return (1.0, 3) if lines[0]["measure"] == "tokens" else (100.0, 1)


def score_text(value: float, lines: Lines) -> str:
    """A score as the tables show it."""
    scale, digits = scale_of(lines)
    return f"{scale * value:.{digits}f}".replace("-", "−")


def comparison_table(lines: Lines) -> str:
    """Pilot, pair and rivals of an experiment's first variant: score, gain over each, weights, cost.

    Args:
        lines: The experiment's results.

    Returns:
        A table. The memory is the most that a training held, over the seeds that say it.
    """
    best = next(iter(by_variant(lines).values()))
    rows = [
        "| model | weights | score | the pair's gain over it | p | training time | training memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    weights, alone = best.lines[0]["weights"], score_text(best.mean("pilot"), lines)
    rows.append(f"| Pilot alone | {millions(weights['pilot'])} | {alone} | {_gain_cells(best.gain(), lines)} | 1 | |")
    together, ratio = score_text(best.mean("pair"), lines), best.ratio("training", "pilot_alone")
    rows.append(
        f"| **Pilot + Copilot** | {millions(weights['pair'])} | {together} | | | {ratio:.2f} | {_memory(best.lines)} |"
    )
    for name, controls in best.controls.items():
        seeds = {line["seed"] for line in controls}
        step_time = sum(line["seconds"]["pilot_alone"] for line in best.lines if line["seed"] in seeds)
        time = sum(line["seconds"]["training"] for line in controls) / step_time
        mean = float(np.mean([scores.mean() for scores in best.control_scores(name)]))
        size, gain = millions(controls[0]["weights"]["control"]), _gain_cells(best.gain_over(name), lines)
        cost = f"{time:.2f} | {_memory(controls)}"
        rows.append(f"| {CONTROL_NAMES[name]} | {size} | {score_text(mean, lines)} | {gain} | {cost} |")
    return "\n".join(rows)


def _memory(lines: Lines) -> str:
    """The most memory of trainings in GB, where it was recorded."""
    held = [line["training_memory_bytes"] for line in lines if line.get("training_memory_bytes")]
    return f"{max(held) / 1e9:.1f} GB" if held else ""


def _gain_cells(gain: Gain, lines: Lines) -> str:
    """A gain with its interval, and its p-value where there is one."""
    p_value = "" if gain.p_value is None else f"{gain.p_value:.2g}"
    return f"{gain_text(gain, *scale_of(lines))} | {p_value}"


def millions(weights: int) -> str:
    """A number of weights in millions."""
    return f"{weights / 1e6:.2f} M" if weights < 10_000_000 else f"{weights / 1e6:.0f} M"
