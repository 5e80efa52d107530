"""What a Mistake Log says: which mistakes cost most, whether they come back, where a reply goes wrong and what follows.

Everything is counted in one pass over the rows, some at a time, so a log of any length needs little memory. A row is a
supervised token; it is *wrong* where the Pilot's most probable token is not the true one, and its *size* is ‖p − p̂‖².
A *confusion* is a pair of a true and another, predicted token; what it *costs* is the sum of its sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..mistake_log.export import MistakeSource, RowStream, read_rows, whole_sequences
from ..mistake_log.token_text import TokenTexts
from ..pair.options import check_positive
from .mistake_counters import TENTHS, ConfusionCounter, GroupCounter, RoundSpan
from .mistake_replies import ReplyCounter


COLUMNS = [
    "round",
    "sequence",
    "position",
    "true_token_id",
    "predicted_token_id",
    "supervised",
    "mistake_size",
]


@dataclass
class MistakeAnalysis:
    """A Mistake Log in figures, as [`analyse_mistakes`] counts them.

    Attributes:
        totals (`dict`): `rows`, `tokens` (supervised ones, which the rest is about), `wrong`, `wrong_share`,
            `mean_size`, `cost`, `replies`, `replies_all_right`, `first_round`, `last_round`, `confusions` (different
            ones) and
            `dropped_confusions` (rare ones that were let go to bound the memory; 0 means all counts are exact).
        confusions (`DataFrame`): the most costly, `true_token_id`, `predicted_token_id`, `count`, `cost`, `mean_size`,
            `first_tenth` and `last_tenth` (counts in those parts of training), `trend` (times per 1,000 tokens in the
            second half of training less in the first; below 0: it becomes rarer) and `tenths` (list of ten counts).
        by_class (`DataFrame`): per kind of true token: `token_class`, `tokens`, `wrong`, `wrong_share`, `mean_size`,
            `cost`, `cost_share`.
        by_position (`DataFrame`): per place in the reply, from 0; the last one gathers all later ones: `place`,
            `tokens`, `wrong`, `wrong_share`, `mean_size`.
        by_round (`DataFrame`): per stretch of rounds and kind: `first_round`, `token_class`, `tokens`, `wrong`,
            `mean_size`, `wrong_share`.
        first_wrong (`DataFrame`): `place` of the first wrong token and the number of `replies`; replies without one
            are `totals["replies_all_right"]`.
        after_first_wrong (`DataFrame`): by `distance` to a reply's first wrong token (below 0: before it): `tokens`,
            `wrong_share`, `mean_size`, and `mean_total`, the mean of a reply's added-up sizes so far.
        recurrence (`dict`): `first_tenth` and `last_tenth` (wrong tokens there), `came_back` (those of the last tenth
            whose confusion was in the first too), `came_back_share`, `cured` (confusions of the first tenth that the
            last lacks), `kinds_first` and `kinds_last` (different confusions).
    """

    totals: dict[str, Any]
    confusions: pd.DataFrame
    by_class: pd.DataFrame
    by_position: pd.DataFrame
    by_round: pd.DataFrame
    first_wrong: pd.DataFrame
    after_first_wrong: pd.DataFrame
    recurrence: dict[str, Any]


def analyse_mistakes(
    source: MistakeSource,
    tokens: TokenTexts | None = None,
    *,
    top: int = 50,
    round_bins: int = 40,
    places: int = 64,
    batch_rows: int = 250_000,
    max_confusions: int = 500_000,
) -> MistakeAnalysis:
    """Count a log's mistakes. A training may be writing them meanwhile: they are counted as they were at one moment.

    Args:
        source (`datasets.Dataset`, a list of them, or a path): rows in the log's order: [`MistakeLog.to_dataset`]'s, a
            run's folder with its `mistake_rows`, a Parquet file, or a folder that `save_to_disk` wrote.
        tokens ([`TokenTexts`], *optional*): tells the kinds of tokens; without it all but ends are `"other"`.
        top (`int`, *optional*, defaults to 50): confusions that are given, the most costly first.
        round_bins (`int`, *optional*, defaults to 40): stretches that the rounds are put together in.
        places (`int`, *optional*, defaults to 64): places of a reply that are counted one by one.
        batch_rows (`int`, *optional*, defaults to 250,000): rows in memory at a time.
        max_confusions (`int`, *optional*, defaults to 500,000): different confusions that are followed; with more,
            the cheapest are let go.

    Returns:
        [`MistakeAnalysis`]

    Raises:
        FileNotFoundError: there are no rows at the path.
        ValueError: there is no supervised token, a column is missing, or the rows are not in the log's order.
    """
    given = {"top": top, "round_bins": round_bins, "places": places, "batch_rows": batch_rows}
    for name, value in {**given, "max_confusions": max_confusions}.items():
        check_positive(name, value)
    tokens = TokenTexts() if tokens is None else tokens
    return read_rows(
        source, lambda streams: _count(streams, tokens, top, round_bins, places, batch_rows, max_confusions)
    )


def _count(
    streams: list[RowStream],
    tokens: TokenTexts,
    top: int,
    round_bins: int,
    places: int,
    batch_rows: int,
    max_confusions: int,
) -> MistakeAnalysis:
    span = RoundSpan.of(streams, batch_rows)
    confusions = ConfusionCounter(max_confusions)
    by_class, by_round = GroupCounter(["token_class"]), GroupCounter(["stretch", "token_class"])
    replies = ReplyCounter(places)
    for stream in streams:
        for frame in whole_sequences(stream, COLUMNS, batch_rows):
            frame = frame[frame["supervised"]]
            frame = frame.assign(
                wrong=frame["true_token_id"] != frame["predicted_token_id"],
                token_class=tokens.classes(frame["true_token_id"]),
                stretch=span.part_of(frame["round"], min(round_bins, span.length)),
                tenth=span.part_of(frame["round"], TENTHS),
            )
            confusions.add(frame)
            by_class.add(frame)
            by_round.add(frame)
            replies.add(frame)
    return _result(span, confusions, by_class, by_round, replies, top, min(round_bins, span.length))


def _result(
    span: RoundSpan,
    confusions: ConfusionCounter,
    by_class: GroupCounter,
    by_round: GroupCounter,
    replies: ReplyCounter,
    top: int,
    round_bins: int,
) -> MistakeAnalysis:
    classes, rounds = by_class.result(), by_round.result()
    count, wrong, cost = (classes[name].sum() for name in ("tokens", "wrong", "cost"))
    if not count:
        raise ValueError(
            "the log has no supervised token, so there is no mistake to look at. Train with labels, or give a log "
            "that has rounds."
        )
    rounds["first_round"] = span.first - (-rounds["stretch"] * span.length // round_bins)
    totals = {
        "rows": span.rows,
        "tokens": int(count),
        "wrong": int(wrong),
        "wrong_share": float(wrong / count),
        "mean_size": float(cost / count),
        "cost": float(cost),
        "replies": replies.replies,
        "replies_all_right": replies.replies - int(replies.first_wrong.sum()),
        "first_round": span.first,
        "last_round": span.last,
        "confusions": confusions.different,
        "dropped_confusions": confusions.dropped,
    }
    return MistakeAnalysis(
        totals=totals,
        confusions=confusions.most_costly(top),
        by_class=classes.assign(cost_share=classes["cost"] / cost if cost else 0.0),
        by_position=replies.by_place(),
        by_round=rounds.drop(columns=["stretch", "cost"]),
        first_wrong=replies.first_wrong_table(),
        after_first_wrong=replies.after_first_wrong(),
        recurrence=confusions.recurrence(),
    )


__all__ = ["MistakeAnalysis", "analyse_mistakes"]
