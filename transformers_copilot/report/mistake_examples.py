"""Logged sequences to look at: whole replies of the first and the last rounds, and examples of single confusions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..mistake_log.export import MistakeSource, RowStream, read_rows, sequence_starts, whole_sequences
from .mistake_counters import RoundSpan


COLUMNS = [
    "round",
    "sequence",
    "position",
    "token_id",
    "true_token_id",
    "true_probability",
    "predicted_token_id",
    "predicted_probability",
    "supervised",
    "mistake_size",
]


@dataclass
class LoggedSequence:
    """One sequence of a round as the log has it.

    Attributes:
        rows (`DataFrame`): its rows by position, with the columns of [`MistakeLog.to_dataset`].
    """

    rows: pd.DataFrame

    @property
    def round(self) -> int:
        """Its round."""
        return int(self.rows["round"].iloc[0])

    @property
    def reply(self) -> pd.DataFrame:
        """The rows of the supervised tokens."""
        return self.rows[self.rows["supervised"]]

    @property
    def whole(self) -> bool:
        """Whether the rows hold every token: those of a Copilot that reads no mistakes lack the prompts."""
        position = self.rows["position"].to_numpy()
        return bool((position == np.arange(len(position))).all())

    def item(self) -> dict[str, list[int]]:
        """The sequence as a pair's `forward` takes it; a decoder-only Pilot's only, and a whole one.

        Returns:
            `dict` with `input_ids` and `labels`
        """
        true = self.rows["true_token_id"].tolist()
        labels = np.where(self.rows["supervised"], self.rows["true_token_id"], -100).tolist()
        return {"input_ids": [int(self.rows["token_id"].iloc[0]), *true], "labels": [-100, *labels]}


@dataclass
class MistakeInText:
    """One mistake, with the tokens before it.

    Attributes:
        round (`int`): the round in which it was made, from 0.
        before (list of `int`): the tokens before the true one, the nearest last.
        true (`int`): id of the token that truly came next.
        predicted (`int`): id of the Pilot's most probable one.
        true_probability (`float`): what the Pilot gave the true one.
        predicted_probability (`float`): what the Pilot gave the predicted one.
    """

    round: int
    before: list[int]
    true: int
    predicted: int
    true_probability: float
    predicted_probability: float


@dataclass
class LogExamples:
    """What [`collect_examples`] found.

    Attributes:
        first (list of [`LoggedSequence`]): of the first round.
        last (list of [`LoggedSequence`]): of the last rounds, the latest first.
        by_confusion (`dict`): true and predicted token to the latest examples of taking one for the other.
    """

    first: list[LoggedSequence] = field(default_factory=list)
    last: list[LoggedSequence] = field(default_factory=list)
    by_confusion: dict[tuple[int, int], list[MistakeInText]] = field(default_factory=dict)


def collect_examples(
    source: MistakeSource,
    confusions: pd.DataFrame,
    *,
    sequences: int = 12,
    per_confusion: int = 2,
    context: int = 48,
    batch_rows: int = 250_000,
) -> LogExamples:
    """Go through a log once more for examples.

    Args:
        source: the log's rows, as [`analyse_mistakes`] takes them.
        confusions (`DataFrame`): those wanted, `true_token_id` and `predicted_token_id`.
        sequences (`int`, *optional*, defaults to 12): sequences of the first round, and of the last ones.
        per_confusion (`int`, *optional*, defaults to 2): examples of each confusion.
        context (`int`, *optional*, defaults to 48): tokens before the mistake that an example shows.
        batch_rows (`int`, *optional*, defaults to 250,000): rows in memory at a time.
    """
    return read_rows(
        source, lambda streams: _look_for(streams, confusions, sequences, per_confusion, context, batch_rows)
    )


def _look_for(
    streams: list[RowStream],
    confusions: pd.DataFrame,
    sequences: int,
    per_confusion: int,
    context: int,
    batch_rows: int,
) -> LogExamples:
    first_round = RoundSpan.of(streams, batch_rows).first
    found = LogExamples()
    wanted = confusions[["true_token_id", "predicted_token_id"]].astype("int64")
    for stream in streams:
        for frame in whole_sequences(stream, COLUMNS, batch_rows):
            frame = frame.reset_index(drop=True)
            begins = np.append(np.flatnonzero(sequence_starts(frame)), len(frame))
            _take_mistakes(found, frame, begins, wanted, per_confusion, context)
            if len(found.first) < sequences and frame["round"].iloc[0] == first_round:
                upto = begins[: 1 + sequences - len(found.first)]
                found.first += [s for s in _cut(frame, upto) if s.round == first_round]
            found.last = (found.last + _cut(frame, begins[-1 - sequences :]))[-sequences:]
    found.last.sort(key=lambda sequence: -sequence.round)
    return found


def sequences_of(table: pa.Table, most: int) -> list[LoggedSequence]:
    """The first sequences of a table of rows that have a reply.

    Args:
        table (`pyarrow.Table`): rows in the log's order.
        most (`int`): no more than so many.
    """
    frame = table.to_pandas()
    if not len(frame):
        return []
    begins = np.append(np.flatnonzero(sequence_starts(frame)), len(frame))
    return _cut(frame, begins)[:most]


def _cut(frame: pd.DataFrame, begins: np.ndarray) -> list[LoggedSequence]:
    """The sequences between consecutive beginnings that have a reply."""
    pairs = zip(begins[:-1], begins[1:], strict=True)
    cut = [LoggedSequence(frame.iloc[begin:end].reset_index(drop=True)) for begin, end in pairs]
    return [sequence for sequence in cut if len(sequence.reply)]


def _take_mistakes(
    found: LogExamples,
    frame: pd.DataFrame,
    begins: np.ndarray,
    wanted: pd.DataFrame,
    per_confusion: int,
    context: int,
) -> None:
    keys = ["true_token_id", "predicted_token_id"]
    wrong = frame[frame["supervised"] & (frame["true_token_id"] != frame["predicted_token_id"])]
    wrong = wrong.reset_index().merge(wanted, on=keys)
    for row in wrong.sort_values("index").groupby(keys).tail(per_confusion).itertuples():
        at = int(row.index)
        begin = int(begins[np.searchsorted(begins, at, side="right") - 1])
        example = _example(row, frame["token_id"].iloc[max(begin, at + 1 - context) : at + 1].tolist())
        kept = found.by_confusion.setdefault((example.true, example.predicted), [])
        kept.append(example)
        del kept[:-per_confusion]


def _example(row: Any, before: list[int]) -> MistakeInText:
    return MistakeInText(
        round=int(row.round),
        before=[int(token) for token in before],
        true=int(row.true_token_id),
        predicted=int(row.predicted_token_id),
        true_probability=float(row.true_probability),
        predicted_probability=float(row.predicted_probability),
    )


__all__ = ["LogExamples", "LoggedSequence", "MistakeInText", "collect_examples", "sequences_of"]
