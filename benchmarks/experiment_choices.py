"""Which options win: every change of the ablation against the package's default, as a table (question A)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from experiment_spec import Experiment, Variant
from experiment_statistics import Gain, gain_of

from transformers_copilot import CopilotConfig, CopilotTrainingArguments, PilotCopilotConfig
from transformers_copilot.pair_building import DEFAULT_COPILOT_LAYERS


Lines = list[dict[str, Any]]
# What a variant that starts from fresh weights changes; it is no field of a configuration.
COPIED = "weights"


def changes_of(variant: Variant) -> Iterator[tuple[str, Any]]:
    """What a variant changes.

    Args:
        variant: The variant.

    Yields:
        Option and value, as they are written in Python.
    """
    for name, value in variant.pair.items():
        yield from value.items() if name == "copilot" else [(name, value)]
    yield from variant.training.items()
    if variant.random_weights:
        yield COPIED, "random"


def default_of(option: str) -> Any:
    """The package's default of an option, read from its classes.

    Args:
        option: A field of the pair's or the Copilot's configuration or of the training arguments.

    Returns:
        The default.
    """
    if option == COPIED:
        return "copied"
    if option == "num_hidden_layers":
        return DEFAULT_COPILOT_LAYERS
    fields = CopilotTrainingArguments.__dataclass_fields__
    if option in PilotCopilotConfig.__dataclass_fields__:
        return getattr(PilotCopilotConfig(), option)
    return fields[option].default if option in fields else getattr(CopilotConfig(), option)


def likelihoods(lines: Lines, name: str) -> dict[int, np.ndarray]:
    """Each seed's mean log-likelihoods of the questions' targets under a variant's pair."""
    found = {}
    for line in lines:
        if line["name"] == name:
            made = line["results"]["pair"]
            found[line["seed"]] = np.array(made.get("likelihoods", made["questions"]), dtype=float)
    return found


def gain_over_base(lines: Lines, name: str) -> Gain | None:
    """How much likelier a variant makes the right answers than the first variant, per token.

    Args:
        lines: The experiment's results.
        name: The variant.

    Returns:
        The gain, over the seeds that both have; `None` without one.
    """
    base, own = likelihoods(lines, lines[0]["name"]), likelihoods(lines, name)
    seeds = sorted(set(base) & set(own))
    return gain_of([base[seed] for seed in seeds], [own[seed] for seed in seeds]) if seeds else None


def choices_table(experiments: list[tuple[Experiment, Lines]]) -> str:
    """All changes and what each brings on each task.

    Args:
        experiments: The ablations with their results. Each one's first variant has the package's defaults.

    Returns:
        A table: nats a token, with 95 % intervals; better than the default where the number is positive.
    """
    variants = {variant.name: variant for spec, _ in experiments for variant in spec.variants[1:]}
    heads = " | ".join(spec.experiment.removeprefix("ablation_") for spec, _ in experiments)
    rows = [f"| option | default | instead | {heads} |", "| --- " * (3 + len(experiments)) + "|"]
    for name, variant in variants.items():
        changes = list(changes_of(variant))
        gains = [gain_over_base(lines, name) for _, lines in experiments]
        if not any(gains):
            continue
        options = ", ".join(f"`{option}`" for option, _ in changes)
        defaults = ", ".join(f"`{default_of(option)}`" for option, _ in changes)
        values = ", ".join(f"`{value}`" for _, value in changes)
        rows.append(f"| {options} | {defaults} | {values} | {' | '.join(_cell(gain) for gain in gains)} |")
    return "\n".join(rows)


def _cell(gain: Gain | None) -> str:
    if gain is None:
        return ""
    text = f"{gain.mean:+.3f} [{gain.low:.3f}, {gain.high:.3f}]".replace("-", "−")
    return f"**{text}**" if gain.low > 0 else text
