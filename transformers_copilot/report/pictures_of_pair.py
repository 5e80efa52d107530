"""Pictures of what the Copilot does: the share of corrected logits, λ, how far probabilities can be trusted, layers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..metrics.calibration import expected_calibration_error
from ..mistake_log.token_text import TOKEN_CLASSES, TokenTexts
from .pair_inspection import LayerView, PairInspection
from .picture_style import LIGHT, Theme, drawn, png
from .pictures import ink_on, short_name


BINS = 10


def corrected_by_class(inspection: PairInspection, tokens: TokenTexts) -> pd.DataFrame:
    """How many noticeable logits the Copilot moved towards the truth, and how many away, by kind of true token.

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
    return table.assign(**shares).reindex([kind for kind in TOKEN_CLASSES if kind in table.index]).reset_index()


def share_of_corrected(table: pd.DataFrame, theme: Theme = LIGHT) -> bytes:
    """Bars to the right: logits moved towards the truth; to the left: away from it.

    Args:
        table (`DataFrame`): what [`corrected_by_class`] gave, a row for each kind of token.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG.
    """
    with drawn(theme, height=0.5 * len(table) + 1.5) as figure:
        axes = figure.add_subplot()
        better, worse = 100 * table["corrected_share"], -100 * table["harmed_share"]
        axes.barh(table["token_class"], better, color=theme.series[0], label="towards the truth")
        axes.barh(table["token_class"], worse, color=theme.series[1], hatch="//", label="away from it")
        for row, (right, left) in enumerate(zip(better, worse, strict=True)):
            axes.text(right, row, f" {right:.0f} %", va="center", fontsize=8)
            axes.text(left, row, f"{-left:.0f} % ", va="center", ha="right", fontsize=8)
        axes.axvline(0, color=theme.ink, linewidth=0.8)
        axes.set(xlabel="share of the noticeable logits, %", xlim=(-118, 118))
        axes.set_xticks([-100, -50, 0, 50, 100], ["100", "50", "0", "50", "100"])
        axes.invert_yaxis()
        figure.legend(fontsize=8, loc="outside upper center", ncols=2, frameon=False)
        return png(figure)


def effect_of_weight(by_weight: pd.DataFrame, chosen: float, theme: Theme = LIGHT) -> bytes:
    """λ against the share of right tokens and against the mean mistake.

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
        lower.plot(table["weight"], table["mistake_size"], color=theme.series[1], marker="s", markersize=4)
        lower.set(ylabel="mean mistake", xlabel="λ, how much of the correction is used (0: the Pilot alone)")
        for axes in (upper, lower):
            axes.grid(linewidth=0.6)
            axes.axvline(chosen, color=theme.ink, linewidth=1, linestyle=":")
            axes.margins(y=0.15)
        note = f"the pair's λ: {chosen:g}"
        upper.annotate(note, (chosen, 1.0), xycoords=("data", "axes fraction"), fontsize=8, va="bottom")
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
    with drawn(theme, width=4.8, height=4.2) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=theme.ink, linewidth=0.9, linestyle=":", label="as sure as right")
        for place, (model, name, marker) in enumerate((("Pilot", "pilot", "o"), ("pair", "pair", "s"))):
            right = tokens[f"{name}_token_id"] == tokens["true_token_id"]
            error = expected_calibration_error(tokens[f"{name}_confidence"].clip(0, 1), right, BINS)
            line = table[(table["model"] == model) & (table["tokens"] >= 5)]
            label = f"{model} (off by {100 * error:.1f} points)"
            colour = theme.series[place]
            axes.plot(100 * line["confidence"], 100 * line["right_share"], color=colour, marker=marker, label=label)
        axes.set(xlabel="how likely its token was to the model, %", ylabel="how often it was right, %")
        axes.set(xlim=(0, 101), ylim=(0, 101))
        axes.grid(linewidth=0.6)
        axes.legend(fontsize=8, loc="upper left")
        return png(figure)


def layers_of_token(view: LayerView, tokens: TokenTexts, theme: Theme = LIGHT, most_layers: int = 12) -> bytes:
    """The likeliest tokens after each layer, then the Pilot's, then the pair's.

    Args:
        view ([`LayerView`]): one position's most probable tokens, as [`layer_view`] reads them.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.
        most_layers (`int`, *optional*, defaults to 12): layers that are shown; the last ones of more, with some before.

    Returns:
        `bytes`: a PNG. The true token has a frame.
    """
    from matplotlib.patches import Rectangle

    rows = _shown(view.rows, most_layers)
    width = max(len(row) for _, row in rows)
    heat = np.array([[probability for _, probability in row] for _, row in rows])
    with drawn(theme, 1.15 * width + 1.8, 0.34 * len(rows) + 0.9) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(heat, cmap="Blues" if theme.name == "light" else "bone", vmin=0, vmax=1, aspect="auto")
        for row, (_, likeliest) in enumerate(rows):
            for place, (token, probability) in enumerate(likeliest):
                label = f"{short_name(tokens, token, 10)}  {100 * probability:.0f}%"
                ink = ink_on(image.to_rgba(np.asarray(probability)))
                axes.text(place, row, label, ha="center", va="center", fontsize=8, color=ink)
                if token == view.true:
                    frame = Rectangle((place - 0.47, row - 0.42), 0.94, 0.84, fill=False, linewidth=2)
                    frame.set_edgecolor(theme.series[1])
                    axes.add_patch(frame)
        axes.axhline(len(rows) - 1.5, color=theme.background, linewidth=3, zorder=1)
        axes.axhline(len(rows) - 2.5, color=theme.background, linewidth=3, zorder=1)
        names = [label for label, _ in rows]
        axes.set_yticks(range(len(rows)), [*names[:-1], f"{names[-1]}, λ = {view.weight:g}"])
        axes.set_xticks(range(width), ["likeliest", "second", "third", "fourth", *map(str, range(5, 99))][:width])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return png(figure)


def _shown(rows: list[tuple[str, list[tuple[int, float]]]], most: int) -> list[tuple[str, list[tuple[int, float]]]]:
    """The last two rows and some layers before them: half of those the last, half spread over the others."""
    layers, ends = rows[:-2], rows[-2:]
    if len(layers) > most:
        late = most * 2 // 3
        early = np.linspace(0, len(layers) - late - 1, most - late).round().astype(int)
        layers = [layers[index] for index in early] + layers[-late:]
    return layers + ends


__all__ = [
    "corrected_by_class",
    "effect_of_weight",
    "layers_of_token",
    "reliability",
    "reliability_table",
    "share_of_corrected",
]
