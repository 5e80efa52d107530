"""The table of Copilots that learn after their Pilots, beside what the same questions and time buy otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.experiments.spec import FURTHER_CONTROLS
from benchmarks.experiments.statistics import Comparison, Gain, with_likelihoods
from benchmarks.experiments.tables import by_variant, gain_text, scale_of, score_text


Lines = list[dict[str, Any]]
HEADS = {
    "everything": "over the Pilot trained on all questions",
    "everything_longer": "for the time of `same`",
    "further": "over the finished Pilot trained on",
    "further_in_time": "no longer than the Copilot",
    "further_lora": "by LoRA",
    "further_last_layers": "in its last layers alone",
    "finished_temperature": "over a temperature",
}


def finish_table(experiments: dict[str, Lines], titles: dict[str, str]) -> str:
    """Each experiment's pairs, their gain over their own Pilot and over each rival, and what they cost.

    Args:
        experiments: Results by experiment.
        titles: What each experiment's models are called.

    Returns:
        A table in nats a token of the right answer, and, where answers were marked, rows in percent after it. A gain is
        bold where its 95 % interval does not hold zero. Time is that of all training over the finished Pilot's. Rivals
        that no experiment has are left out.
    """
    made_of = {line["name"].removeprefix("control:") for lines in experiments.values() for line in lines}
    rivals = [name for name in FURTHER_CONTROLS if name in made_of]
    heads = ["Pilot: task", "Copilot", "Pilot alone", "gain over it", *(HEADS[name] for name in rivals)]
    rows = ["| " + " | ".join([*heads, "time"]) + " |", "| --- " * (len(heads) + 1) + "|"]
    for name, lines in experiments.items():
        for shown in reversed(with_likelihoods(lines)):
            rows += [_row(titles[name], variant, made, shown, rivals) for variant, made in by_variant(shown).items()]
    return "\n".join(rows)


def _row(title: str, variant: str, made: Comparison, lines: Lines, rivals: list[str]) -> str:
    """A variant's line, with a cell for each rival; empty where not every seed has it."""
    seeds = len(made.lines)
    unit = "" if lines[0]["measure"] == "tokens" else ", %"
    cells = [
        f"{title}: {lines[0]['task']}{unit} ({seeds} seed{'s' if seeds > 1 else ''})",
        variant,
        score_text(made.mean("pilot"), lines),
        _cell(made.gain(), lines),
    ]
    for name in rivals:
        cells.append(_cell(made.gain_over(name), lines) if len(made.controls.get(name, [])) == seeds else "")
    cells.append(f"{np.mean([_time(line) for line in made.lines]):.2f}")
    return "| " + " | ".join(cells) + " |"


def _cell(gain: Gain, lines: Lines) -> str:
    text = gain_text(gain, *scale_of(lines))
    return f"**{text}**" if gain.low > 0 or gain.high < 0 else text


def _time(line: dict[str, Any]) -> float:
    return line["seconds"]["training"] / line["seconds"]["pilot_alone"]
