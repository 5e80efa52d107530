"""Pictures of what the Copilot does: the share of corrected logits, λ, how far probabilities can be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..metrics.calibration import expected_calibration_error
from ..mistake_log.token_text import TOKEN_CLASSES, TokenTexts
from .mistake_counters import FEWEST
from .pair_inspection import PairInspection
from .picture_style import LIGHT, SMALL, Theme, drawn, legend_above, png


BINS = 10


def corrected_by_class(inspection: PairInspection, tokens: TokenTexts) -> pd.DataFrame:
    """How many noticeable logits the Copilot moved towards the truth, and how many away, by kind of true token.

    Kinds with fewer than five tokens are left out.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        tokens ([`TokenTexts`]): tells the kind of each true token.

    Returns:
        `DataFrame`: `token_class`, `tokens`, `noticeable`, `corrected`, `harmed`, `corrected_share`, `harmed_share`
    """
    frame = inspection.tokens.assign(token_class=tokens.classes(inspection.tokens["true_token_id"]))
    table = frame.groupby("token_class", observed=True).agg(
        tokens=("corrected", "size"),
        noticeable=("noticeable", "sum"),
        corrected=("corrected", "sum"),
        harmed=("harmed", "sum"),
    )
    shares = {f"{name}_share": table[name] / table["noticeable"] for name in ("corrected", "harmed")}
    shown = [kind for kind in TOKEN_CLASSES if kind in table.index and table.loc[kind, "tokens"] >= FEWEST]
    return table.assign(**shares).reindex(shown).reset_index()


def share_of_corrected(table: pd.DataFrame, theme: Theme = LIGHT) -> bytes:
    """Bars to the right: logits moved towards the truth; to the left: away from it.

    Args:
        table (`DataFrame`): what [`corrected_by_class`] gave, a row for each kind of token.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG.
    """
    with drawn(theme, height=0.5 * len(table) + 1.4) as figure:
        axes = figure.add_subplot()
        better, worse = 100 * table["corrected_share"], -100 * table["harmed_share"]
        axes.barh(table["token_class"], better, color=theme.series[0], label="towards the truth")
        axes.barh(table["token_class"], worse, color=theme.series[1], hatch="//", label="away from it")
        for row, (right, left) in enumerate(zip(better, worse, strict=True)):
            axes.text(right, row, f" {right:.0f} %", va="center", fontsize=SMALL)
            axes.text(left, row, f"{-left:.0f} % ", va="center", ha="right", fontsize=SMALL)
        axes.axvline(0, color=theme.ink, linewidth=0.8)
        axes.set(xlabel="share of the noticeable entries, %", xlim=(-135, 135))
        axes.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
        axes.invert_yaxis()
        legend_above(figure)
        return png(figure)


def effect_of_weight(by_weight: pd.DataFrame, chosen: float, theme: Theme = LIGHT) -> bytes:
    """λ against the share of right tokens and against the loss, by which λ is chosen.

    Args:
        by_weight (`DataFrame`): the table of that name in [`PairInspection`].
        chosen (`float`): the pair's λ, which is marked.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG.
    """
    with drawn(theme, height=4.4) as figure:
        upper, lower = figure.subplots(2, sharex=True)
        table = by_weight.sort_values("weight")
        upper.plot(table["weight"], 100 * table["token_accuracy"], color=theme.series[0], marker="o", markersize=4)
        upper.set(ylabel="right tokens, %")
        lower.plot(table["weight"], table["loss"], color=theme.series[1], marker="s", markersize=4)
        lower.set(ylabel="loss (low is good)", xlabel="λ (0: the Pilot alone)")
        for axes in (upper, lower):
            axes.grid(linewidth=0.6)
            axes.axvline(chosen, color=theme.ink, linewidth=1.2, linestyle=":")
            axes.margins(y=0.15)
        figure.suptitle(f"dotted line: the pair's λ, {chosen:g}", fontsize=SMALL, x=0.98, ha="right")
        return png(figure)


def reliability_table(inspection: PairInspection, bins: int = BINS) -> pd.DataFrame:
    """How often tokens are right that were held likely, by how likely they were held.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        bins (`int`, *optional*, defaults to 10): groups of confidence of equal width.

    Returns:
        `DataFrame`: `model` (`"Pilot"` or `"pair"`), `bin`, `tokens`, `confidence` (mean) and `right_share`
    """
    parts = []
    for model in ("pilot", "pair"):
        tokens = inspection.tokens
        confidence = tokens[f"{model}_confidence"]
        frame = pd.DataFrame(
            {
                "bin": np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1),
                "confidence": confidence,
                "right": tokens[f"{model}_token_id"] == tokens["true_token_id"],
            }
        )
        table = frame.groupby("bin").agg(
            tokens=("right", "size"), confidence=("confidence", "mean"), right_share=("right", "mean")
        )
        parts.append(table.reset_index().assign(model="Pilot" if model == "pilot" else "pair"))
    return pd.concat(parts, ignore_index=True)


def reliability(inspection: PairInspection, theme: Theme = LIGHT) -> bytes:
    """How likely tokens were held, against how often they were right, for the Pilot and for the pair.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG.
    """
    table, tokens = reliability_table(inspection), inspection.tokens
    with drawn(theme, height=4.4) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=theme.ink, linewidth=0.9, linestyle=":", label="as sure as right")
        for place, (model, name, marker) in enumerate((("Pilot", "pilot", "o"), ("pair", "pair", "s"))):
            right = tokens[f"{name}_token_id"] == tokens["true_token_id"]
            error = expected_calibration_error(tokens[f"{name}_confidence"].clip(0, 1), right, BINS)
            line = table[(table["model"] == model) & (table["tokens"] >= FEWEST)]
            label = f"{model} (off by {100 * error:.1f} points)"
            colour = theme.series[place]
            axes.plot(100 * line["confidence"], 100 * line["right_share"], color=colour, marker=marker, label=label)
        axes.set(xlabel="how likely its token was to the model, %", ylabel="how often it was right, %")
        axes.set(xlim=(0, 102), ylim=(0, 102))
        axes.grid(linewidth=0.6)
        legend_above(figure, columns=1)
        return png(figure)


__all__ = [
    "corrected_by_class",
    "effect_of_weight",
    "reliability",
    "reliability_table",
    "share_of_corrected",
]
