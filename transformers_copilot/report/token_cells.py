"""Tokens of the report that are shown in colour: replies with the size of each mistake, and one token layer by layer.

They are text and no pictures, so that they wrap on a narrow screen and can be searched, copied and read aloud.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..mistake_log.token_text import TokenTexts
from .mistake_examples import LoggedSequence
from .pair_inspection import LayerView
from .pictures import MOST_SIZE, short_name


@dataclass
class TokenCell:
    """A token in colour.

    Attributes:
        name (`str`): the token.
        heat (`int`): how strong the colour is, in per cent.
        note (`str`): what the colour stands for, in words.
        wrong (`str`, *optional*): what the Pilot would have written, where that is another token.
        marked (`bool`): whether it is the true token, in a table of guesses.
    """

    name: str
    heat: int
    note: str
    wrong: str | None = None
    marked: bool = False


@dataclass
class ReplyLine:
    """A reply of the log.

    Attributes:
        cells (list of [`TokenCell`]): its first tokens.
        left_out (`int`): tokens after them.
    """

    cells: list[TokenCell]
    left_out: int


def reply_lines(sequences: list[LoggedSequence], tokens: TokenTexts, places: int = 24) -> list[ReplyLine]:
    """Replies, with the size of the Pilot's mistake at each of their tokens.

    Args:
        sequences (list of [`LoggedSequence`]): those to show.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        places (`int`, *optional*, defaults to 24): tokens of a reply that are shown.
    """
    lines = []
    for sequence in sequences:
        cells = []
        for row in sequence.reply.head(places).itertuples():
            true, predicted, size = int(row.true_token_id), int(row.predicted_token_id), float(row.mistake_size)
            cells.append(
                TokenCell(
                    name=short_name(tokens, true, 16),
                    heat=_heat(size / MOST_SIZE),
                    note=f"mistake {size:.2f}",
                    wrong=None if true == predicted else short_name(tokens, predicted, 16),
                )
            )
        lines.append(ReplyLine(cells, max(0, len(sequence.reply) - places)))
    return lines


def layer_lines(view: LayerView, tokens: TokenTexts, most_layers: int = 12) -> list[tuple[str, list[TokenCell]]]:
    """The likeliest tokens after each layer, then the Pilot's, then the pair's.

    Args:
        view ([`LayerView`]): one position's most probable tokens, as [`layer_view`] reads them.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        most_layers (`int`, *optional*, defaults to 12): layers that are shown; the last ones of more, with some before.

    Returns:
        list of `(str, list)`: what it is, and its tokens, the likeliest first
    """
    rows = _shown(view.rows, most_layers)
    labels = [label for label, _ in rows]
    labels[-1] += f", λ = {view.weight:g}"
    return [
        (
            label,
            [
                TokenCell(
                    short_name(tokens, token, 16), _heat(share), f"{100 * share:.0f} %", marked=token == view.true
                )
                for token, share in likeliest
            ],
        )
        for label, (_, likeliest) in zip(labels, rows, strict=True)
    ]


def _heat(share: float) -> int:
    return int(round(100 * min(1.0, max(0.0, share))))


def _shown(rows: list[tuple[str, list[tuple[int, float]]]], most: int) -> list[tuple[str, list[tuple[int, float]]]]:
    """The last two rows and some layers before them: half of those the last, half spread over the others."""
    layers, ends = rows[:-2], rows[-2:]
    if len(layers) > most:
        late = most * 2 // 3
        early = np.linspace(0, len(layers) - late - 1, most - late).round().astype(int)
        layers = [layers[index] for index in early] + layers[-late:]
    return layers + ends


__all__ = ["ReplyLine", "TokenCell", "layer_lines", "reply_lines"]
