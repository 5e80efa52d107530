"""The main table: every task with its Pilot, its pair and all rivals in one line (questions B, C and F)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from experiment_statistics import Comparison, Gain, compare, with_likelihoods
from experiment_tables import gain_text, millions, scale_of, score_text


Lines = list[dict[str, Any]]
CONTROLS = ("longer", "blocks", "head", "temperature")
MEASURES = {"answers": "right answers, %", "choices": "right choices, %", "ranking": "Hit@10, %"}
MEASURES |= {"tokens": "nats a token"}


def main_table(experiments: dict[str, Lines]) -> str:
    """One line a task and measure.

    Args:
        experiments: Results by experiment; of each the first variant is shown.

    Returns:
        A table. A gain, over the Pilot or over a rival, is bold where its 95 % interval does not hold zero.
    """
    heads = ["task", "measured in", "Pilot alone", "with its Copilot", "gain", "p"]
    heads += ["gain over `longer`", *(f"over `{control}`" for control in CONTROLS[1:]), "training", "answering"]
    rows = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for lines in experiments.values():
        for shown in with_likelihoods(lines):
            rows.append(_row(shown))
    return "\n".join(rows)


def short_table(experiments: dict[str, Lines], titles: dict[str, str]) -> str:
    """One line a task, in nats a token of the right answer: the gain over the Pilot alone and over each rival.

    Args:
        experiments: Results by experiment; of each the first variant is shown.
        titles: What each experiment's models are called.

    Returns:
        A table. A gain is bold where its 95 % interval does not hold zero.
    """
    heads = ["Pilot: tested on", "gain over the Pilot alone", *(f"over `{control}`" for control in CONTROLS)]
    rows = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for name, lines in experiments.items():
        shown = with_likelihoods(lines)[-1]
        made = _first(shown)
        gains = [made.gain(), *(made.gain_over(each) if each in made.controls else None for each in CONTROLS)]
        cells = ["" if gain is None else _bold(gain_text(gain, *scale_of(shown)), gain) for gain in gains]
        rows.append("| " + " | ".join([f"{titles[name]}: {shown[0]['task']}", *cells]) + " |")
    return "\n".join(rows)


def _row(lines: Lines) -> str:
    """A task's line."""
    made = _first(lines)
    seeds = len(made.lines)
    weights = made.lines[0]["weights"]
    gain = made.gain()
    p_value = "" if gain.p_value is None else f"{gain.p_value:.2g}"
    cells = [
        f"{lines[0]['task']} ({seeds} seed{'s' if seeds > 1 else ''}, {len(made.scores('pair')[0])} questions)",
        MEASURES[lines[0]["measure"]],
        f"{score_text(made.mean('pilot'), lines)} ({millions(weights['pilot'])})",
        f"{score_text(made.mean('pair'), lines)} ({millions(weights['pair'])})",
        _bold(gain_text(gain, *scale_of(lines)), gain),
        p_value,
    ]
    for control in CONTROLS:
        if control not in made.controls:
            cells.append("")
            continue
        over = made.gain_over(control)
        score = score_text(float(np.mean([values.mean() for values in made.control_scores(control)])), lines)
        cells.append(f"{_bold(gain_text(over, *scale_of(lines)), over)} ({score})")
    cells += [f"{made.ratio('training', 'pilot_alone'):.2f}", f"{made.ratio('pair_answers', 'pilot_answers'):.2f}"]
    return "| " + " | ".join(cells) + " |"


def _first(lines: Lines) -> Comparison:
    """The first variant, with those rivals only that were run beside all of its seeds."""
    made = compare(lines, next(line["name"] for line in lines if not line["name"].startswith("control:")))
    whole = {name: own for name, own in made.controls.items() if len(own) == len(made.lines)}
    return replace(made, controls=whole)


def _bold(text: str, gain: Gain) -> str:
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text
