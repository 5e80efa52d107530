"""Which options win: every change against an ablation's first variant, and the defaults that follow (question A)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.experiments.spec import Experiment, Variant
from benchmarks.experiments.statistics import Gain, gain_of
from transformers_copilot import CopilotConfig, CopilotTrainingArguments, PilotCopilotConfig
from transformers_copilot.building.pair_building import DEFAULT_COPILOT_LAYERS, DEFAULT_FORM


Lines = list[dict[str, Any]]
# What a variant that starts from fresh weights changes; it is no field of a configuration.
COPIED = "weights"
# What buys a gain with training time: how much of that to spend is the user's to say, and the least is the default.
BUDGETS = ("copilot_steps_per_round",)


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
    if option == "form":
        return DEFAULT_FORM
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


def base_of(spec: Experiment, option: str) -> Any:
    """What an option is in an ablation's first variant.

    Args:
        spec: The ablation.
        option: The option.

    Returns:
        The value that the experiment gives it, else the package's default.
    """
    given = {**spec.training, **spec.pair, **spec.pair.get("copilot", {})}
    return given.get(option, default_of(option))


def winners(experiments: list[tuple[Experiment, Lines]]) -> dict[str, Any]:
    """The options that have to change by the ablations.

    Args:
        experiments: The ablations with their results.

    Returns:
        Option to value: a change of this option alone that wins on every task, its interval above zero; the one with
        the largest gain where there are several. Left out are [`BUDGETS`].
    """
    best: dict[str, tuple[float, Any]] = {}
    for variant in experiments[0][0].variants[1:]:
        changes = list(changes_of(variant))
        gains = [gain_over_base(lines, variant.name) for _, lines in experiments]
        found = [gain for gain in gains if gain is not None and gain.low > 0]
        option, value = changes[0]
        if len(changes) > 1 or len(found) < len(experiments) or option in BUDGETS:
            continue
        mean = float(np.mean([gain.mean for gain in found]))
        if option not in best or mean > best[option][0]:
            best[option] = (mean, value)
    return {option: value for option, (_, value) in best.items()}


def choices_table(experiments: list[tuple[Experiment, Lines]]) -> str:
    """All changes and what each brings on each task.

    Args:
        experiments: The ablations with their results.

    Returns:
        A table: nats a token over the first variant, with 95 % intervals; better where the number is positive.
    """
    variants = {variant.name: variant for spec, _ in experiments for variant in spec.variants[1:]}
    heads = " | ".join(spec.experiment.removeprefix("options_") for spec, _ in experiments)
    rows = [f"| option | compared with | instead | {heads} | default |", "| --- " * (4 + len(experiments)) + "|"]
    for name, variant in variants.items():
        changes = list(changes_of(variant))
        gains = [gain_over_base(lines, name) for _, lines in experiments]
        if not any(gains):
            continue
        options = ", ".join(f"`{option}`" for option, _ in changes)
        before = ", ".join(f"`{base_of(experiments[0][0], option)}`" for option, _ in changes)
        defaults = ", ".join(f"`{default_of(option)}`" for option, _ in changes)
        values = ", ".join(f"`{value}`" for _, value in changes)
        cells = " | ".join(_cell(gain) for gain in gains)
        rows.append(f"| {options} | {before} | {values} | {cells} | {defaults} |")
    return "\n".join(rows)


def _cell(gain: Gain | None) -> str:
    if gain is None:
        return ""
    text = f"{gain.mean:+.3f} [{gain.low:.3f}, {gain.high:.3f}]".replace("-", "−")
    return f"**{text}**" if gain.low > 0 else text
