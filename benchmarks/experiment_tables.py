"""The tables of `docs/results.md`, as Markdown, from the lines of results alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from experiment_statistics import Comparison, Gain, compare, ndcg_of, with_likelihoods


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


def ranking_table(lines: Lines) -> str:
    """Hit@K and NDCG@K of Pilot, pair and rivals at K = 5, 10, 20, 100 (the paper's Tables 13 and 14).

    Args:
        lines: Results of an experiment that ranks.

    Returns:
        A table, in percent.
    """
    best = next(iter(by_variant(lines).values()))
    cutoffs = (5, 10, 20, 100)
    heads = [f"{metric}@{cutoff}" for metric in ("Hit", "NDCG") for cutoff in cutoffs]
    rows = ["| model | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    models = [("Pilot alone", "pilot", best.lines), ("**Pilot + Copilot**", "pair", best.lines)]
    models += [(CONTROL_NAMES[name], "control", controls) for name, controls in best.controls.items()]
    for title, key, own in models:
        ranks = [np.array(line["results"][key]["questions"], dtype=float) for line in own]
        hits = [np.mean([(values <= cutoff).mean() for values in ranks]) for cutoff in cutoffs]
        gains = [np.mean([ndcg_of(values, cutoff).mean() for values in ranks]) for cutoff in cutoffs]
        rows.append(f"| {title} | " + " | ".join(percent(float(value)) for value in (*hits, *gains)) + " |")
    return "\n".join(rows)


def ablation_table(lines: Lines) -> str:
    """All variants of an experiment: score, gain, loss and mistake removed, best first.

    Args:
        lines: The experiment's results.

    Returns:
        A table; of an experiment that ranks with log-likelihoods as scores.
    """
    if lines[0]["measure"] == "ranking":
        lines = with_likelihoods(lines)[-1]
    scale, digits = scale_of(lines)
    rows = [
        "| variant | score | gain over the Pilot | mistake removed | loss of the pair | λ | Copilot's weights |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    ordered = sorted(by_variant(lines).items(), key=lambda entry: entry[1].tokens("pair", "loss"))
    for name, made in ordered:
        removed = 1.0 - made.tokens("pair", "mistake_size") / made.tokens("pilot", "mistake_size")
        weights = made.lines[0]["weights"]
        weight = ", ".join(f"{line['copilot_weight']:g}" for line in made.lines)
        rows.append(
            f"| {name} | {score_text(made.mean('pair'), lines)} | {gain_text(made.gain(), scale, digits)} | "
            f"{percent(removed)} | {made.tokens('pair', 'loss'):.3f} | {weight} | "
            f"{millions(weights['pair'] - weights['pilot'])} |".replace("| -", "| −")
        )
    pilot = next(iter(by_variant(lines).values()))
    rows.append(
        f"| the Pilot alone | {score_text(pilot.mean('pilot'), lines)} | | | {pilot.tokens('pilot', 'loss'):.3f} | | |"
    )
    return "\n".join(rows)


def sizes_table(experiments: dict[str, Lines]) -> str:
    """Pilots of several sizes, each alone and in a pair, by total weights (the paper's Fig. 6).

    Args:
        experiments: The results of each size.

    Returns:
        A table, smallest first.
    """
    rows = ["| Pilot | alone | with its Copilot | weights of the pair | gain |", "| --- | --- | --- | --- | --- |"]
    made = sorted((compare(lines, "pair") for lines in experiments.values()), key=_pilot_weights)
    for each in made:
        weights = each.lines[0]["weights"]
        rows.append(
            f"| {millions(weights['pilot'])} | {percent(each.mean('pilot'))} | {percent(each.mean('pair'))} | "
            f"{millions(weights['pair'])} | {gain_text(each.gain())} |"
        )
    return "\n".join(rows)


def _pilot_weights(made: Comparison) -> int:
    return int(made.lines[0]["weights"]["pilot"])


def weights_table(lines: Lines) -> str:
    """Loss and mistake size at several λ on the test tokens (question E).

    Args:
        lines: The experiment's results.

    Returns:
        A table: means over seeds, and the fitted λ of each seed.
    """
    first = next(iter(by_variant(lines).values()))
    weights = list(first.lines[0]["tokens_by_weight"])
    rows = ["| λ | " + " | ".join(["0", *weights]) + " | fitted |", "| --- " * (len(weights) + 3) + "|"]
    fitted = ", ".join(f"{line['copilot_weight']:g}" for line in first.lines)
    for name, title in (("loss", "loss"), ("mistake_size", "E‖p − p̃‖²")):
        means = [float(np.mean([line["tokens_by_weight"][weight][name] for line in first.lines])) for weight in weights]
        values = " | ".join(f"{value:.4f}" for value in (first.tokens("pilot", name), *means))
        rows.append(f"| {title} | {values} | {fitted} |")
    return "\n".join(rows)


def dimensions_table(lines: Lines) -> str:
    """Where Theorem 4.1's conditions and its claim hold (question E).

    Args:
        lines: The experiment's results.

    Returns:
        A table, a row a seed: shares of the vocabulary's dimensions, by how often each is the true token.
    """
    first = next(iter(by_variant(lines).values()))
    heads = ["seed", "dimensions", "conditions hold", "smaller at λ = 0.1", "smaller where the conditions hold"]
    rows = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for line in first.lines:
        made = line["dimensions"]
        shares = " | ".join(f"{100 * made[name]:.1f} %" for name in ("conditions", "claim", "claim_of_conditions"))
        rows.append(f"| {line['seed']} | {made['dimensions']} | {shares} |")
    return "\n".join(rows)
