"""The texts that a report looks at the pair's work on: a user's own, or those of the log, which training has read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..mistake_log.export import MistakeSource, row_streams, sequence_starts, whole_sequences
from ..mistake_log.log import MistakeLog
from .mistake_examples import LoggedSequence


@dataclass
class LookAt:
    """Texts on which the report shows what the Copilot changes.

    Args:
        name (`str`): what they are, as it stands after their number: `"test questions of mawps"`.
        items (list of `dict`): tokenised texts with `input_ids` and `labels`.
    """

    name: str
    items: list[dict[str, list[int]]]


def logged_items(sequences: list[LoggedSequence], logs: list[Path]) -> list[dict[str, list[int]]]:
    """Whole texts of the log, the latest first, as a decoder-only pair's `forward` takes them.

    The rows of a Copilot that reads no mistakes lack the prompts. The log's file in a checkpoint has every token, so
    the texts are taken from there.

    Args:
        sequences (list of [`LoggedSequence`]): of the last rounds, the latest first.
        logs (list of `Path`): files that [`MistakeLog.save`] wrote.

    Returns:
        list of `dict` with `input_ids` and `labels`; empty where the texts are nowhere whole.
    """
    if sequences and all(sequence.whole for sequence in sequences):
        return [sequence.item() for sequence in sequences]
    return items_of_files(logs)


def items_of_files(logs: list[Path]) -> list[dict[str, list[int]]]:
    """All texts that logs keep in their files, the latest first.

    Args:
        logs (list of `Path`): files that [`MistakeLog.save`] wrote.

    Returns:
        list of `dict` with `input_ids` and `labels`
    """
    items = []
    for path in logs:
        for record in reversed(list(MistakeLog.load(path, max_bytes=2**62, max_rounds=2**62))):
            ends = np.cumsum(record.lengths.numpy())
            for end, length in zip(ends, record.lengths.tolist(), strict=True):
                ids, following = (part[end - length : end].tolist() for part in (record.token_ids, record.labels))
                items.append({"input_ids": ids, "labels": [-100, *following[:-1]]})
    return [item for item in items if max(item["labels"]) >= 0]


def count_read(items: list[dict[str, list[int]]], source: MistakeSource, logs: list[Path]) -> int | None:
    """How many of some texts training has read, as far as its rows and the log's files tell.

    Args:
        items (list of `dict`): a decoder-only Pilot's texts.
        source: the log's rows, as [`analyse_mistakes`] takes them.
        logs (list of `Path`): files that [`MistakeLog.save`] wrote; they keep the last rounds.

    Returns:
        `int`, or `None` where there is no file and the rows lack the prompts
    """
    read = {tuple(item["input_ids"]) for item in items_of_files(logs)}
    lengths, whole = {len(item["input_ids"]) - 1 for item in items}, False
    for stream in row_streams(source):
        for frame in whole_sequences(stream, ["round", "sequence", "position", "token_id", "true_token_id"], 250_000):
            begins, places = np.flatnonzero(sequence_starts(frame)), frame["position"].to_numpy()
            for begin, end in zip(begins, [*begins[1:], len(frame)], strict=True):
                known = places[end - 1] == end - begin - 1
                whole |= bool(known)
                if known and end - begin in lengths:  # the last token is nobody's input
                    rows = frame.iloc[begin:end]
                    read.add((*rows["token_id"].tolist(), int(rows["true_token_id"].iloc[-1])))
    return sum(tuple(item["input_ids"]) in read for item in items) if logs or whole else None


__all__ = ["LookAt", "count_read", "items_of_files", "logged_items"]
