"""Pictures of a Mistake Log: the heat map of mistakes in replies, and mistakes over rounds and places.

Every function draws one picture in one theme and returns a PNG file, so that a report can hold both themes and a
tracker can be given the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..mistake_log.token_text import TOKEN_CLASSES, TokenTexts
from .mistake_counters import FEWEST
from .mistake_examples import LoggedSequence
from .picture_style import LIGHT, MARKERS, Theme, drawn, legend_above, png


if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLACES = 64  # as `analyse_mistakes` counts them by default
MOST_SIZE = 2.0  # ‖p − p̂‖² of a Pilot that is sure of a wrong token
CELL = 7  # characters of a token's name that a cell of the heat map has room for


def mistake_heat_map(
    sequences: list[LoggedSequence], tokens: TokenTexts, theme: Theme = LIGHT, places: int = 18
) -> bytes:
    """Replies as rows, their tokens as cells: the stronger the colour, the larger the Pilot's mistake there.

    Args:
        sequences (list of [`LoggedSequence`]): the sequences; at least one with a reply.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.
        places (`int`, *optional*, defaults to 18): tokens of a reply that are shown.

    Returns:
        `bytes`: a PNG. A cell names the true token; where the Pilot held another one likeliest, its name stands below
        in brackets and the cell has a frame.
    """
    replies = [sequence.reply.head(places) for sequence in sequences]
    width = max(len(reply) for reply in replies)
    sizes = np.full((len(replies), width), np.nan)
    for row, reply in enumerate(replies):
        sizes[row, : len(reply)] = reply["mistake_size"]
    with drawn(theme, max(4.5, 0.66 * width + 1.7), max(2.0, 0.5 * len(replies) + 1.2)) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(sizes, cmap=theme.heat, vmin=0.0, vmax=MOST_SIZE, aspect="auto")
        for row, reply in enumerate(replies):
            for place, token in enumerate(reply.itertuples()):
                _cell(axes, row, place, token, tokens, ink_on(image.to_rgba(token.mistake_size)))
        axes.set_yticks(range(len(replies)), [f"reply {row + 1}" for row in range(len(replies))])
        axes.set_xticks(range(width), [str(place + 1) for place in range(width)])
        axes.set_xlabel("token of the reply")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1, 2], aspect=12)
        bar.ax.set_yticklabels(["0: sure and right", "1", "2: sure and wrong"], fontsize=8)
        bar.outline.set_visible(False)
        return png(figure, 130)


def _cell(axes: Axes, row: int, place: int, token: object, tokens: TokenTexts, ink: str) -> None:
    from matplotlib.patches import Rectangle

    true, predicted = int(token.true_token_id), int(token.predicted_token_id)  # type: ignore[attr-defined]
    if true == predicted:
        axes.text(place, row, short_name(tokens, true), ha="center", va="center", fontsize=8, color=ink)
        return
    axes.add_patch(Rectangle((place - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=ink, linewidth=1.2))
    axes.text(place, row - 0.18, short_name(tokens, true), ha="center", va="center", fontsize=8, color=ink)
    wrong = f"({short_name(tokens, predicted)})"
    axes.text(place, row + 0.2, wrong, ha="center", va="center", fontsize=7, color=ink)


def ink_on(colour: Sequence[float] | np.ndarray) -> str:
    """Black or white, whichever is read more easily on a colour.

    Args:
        colour (sequence of `float`): red, green and blue, 0 to 1.

    Returns:
        `str`: a colour.
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if luminance < 0.18 else "#000000"


def short_name(tokens: TokenTexts, token_id: int, most: int = CELL) -> str:
    """A token's name that fits into a cell.

    Args:
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        most (`int`, *optional*, defaults to 7): longest name, in characters.

    Returns:
        `str`: `"⟨end⟩"` for a token that ends the text.
    """
    if tokens.class_of(token_id) == "end":
        return "⟨end⟩"
    name = tokens.name(token_id)
    return name if len(name) <= most else name[: most - 1] + "…"


def sizes_over_rounds(by_round: pd.DataFrame, theme: Theme = LIGHT) -> bytes:
    """Mean mistake size over training, a line a kind of token; stretches with fewer than five of a kind are left out.

    Args:
        by_round (`DataFrame`): the table of that name in [`MistakeAnalysis`].
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG.
    """
    from matplotlib.ticker import MaxNLocator

    shown = by_round[by_round["tokens"] >= FEWEST]
    with drawn(theme, height=3.6) as figure:
        axes = figure.add_subplot()
        for kind, colour, marker in zip(TOKEN_CLASSES, theme.series, MARKERS, strict=True):
            line = shown[shown["token_class"] == kind].sort_values("first_round")
            if len(line):
                axes.plot(
                    line["first_round"] + 1,
                    line["mean_size"],
                    color=colour,
                    marker=marker,
                    markevery=max(1, len(line) // 12),
                    markersize=4,
                    label=kind,
                    clip_on=False,
                )
        axes.set(xlabel="round of training", ylabel="mean size of the mistake", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(axis="y", linewidth=0.6)
        legend_above(figure)
        return png(figure)


def places_in_reply(by_position: pd.DataFrame, theme: Theme = LIGHT) -> bytes:
    """Share of wrong tokens by their place in the reply.

    Args:
        by_position (`DataFrame`): the table of that name in [`MistakeAnalysis`].
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG; places that fewer than one in twenty replies reach, or fewer than five, are left out.
    """
    reached = by_position["tokens"] >= max(FEWEST, 0.05 * by_position["tokens"].max())
    # The last place gathers all later ones, so it is none of its own.
    shown = by_position[reached & ((by_position["place"] < PLACES - 1) | (by_position["place"] == 0))]
    with drawn(theme, height=3.0) as figure:
        axes = figure.add_subplot()
        axes.bar(shown["place"] + 1, 100 * shown["wrong_share"], color=theme.series[0], width=0.8)
        axes.set(xlabel="token of the reply", ylabel="wrong tokens, %", ylim=(0, None), xlim=(0.4, None))
        axes.grid(axis="y", linewidth=0.6)
        axes.set_axisbelow(True)
        return png(figure)


def after_first_wrong(table: pd.DataFrame, theme: Theme = LIGHT) -> bytes:
    """What follows a reply's first wrong token: the share of wrong tokens, and the mistakes added up.

    Args:
        table (`DataFrame`): the table `after_first_wrong` of [`MistakeAnalysis`].
        theme ([`Theme`], *optional*): colours for a light or for a dark page; light by default.

    Returns:
        `bytes`: a PNG; distances that fewer than five replies reach are left out.
    """
    table = table[table["tokens"] >= FEWEST]
    with drawn(theme, height=4.4) as figure:
        upper, lower = figure.subplots(2, sharex=True)
        upper.bar(table["distance"], 100 * table["wrong_share"], color=theme.series[0], width=0.8)
        upper.set(ylabel="wrong tokens, %", ylim=(0, 105))
        lower.plot(table["distance"], table["mean_total"], color=theme.series[1], marker="s", markersize=3)
        lower.set(ylabel="mistakes so far,\nadded up", xlabel="tokens after the first wrong one", ylim=(0, None))
        for axes in (upper, lower):
            axes.grid(axis="y", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.axvline(0, color=theme.ink, linewidth=0.8, linestyle=":")
        return png(figure)


__all__ = ["after_first_wrong", "ink_on", "mistake_heat_map", "places_in_reply", "short_name", "sizes_over_rounds"]
