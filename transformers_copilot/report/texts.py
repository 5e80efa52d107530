"""The texts that a report looks at the pair's work on: a user's own, or those of the log, which training has read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def count_read(items: list[dict[str, list[int]]], logs: list[Path]) -> int:
    """How many of some texts training has read, as far as the log's files tell: they keep the last rounds.

    Args:
        items (list of `dict`): a decoder-only Pilot's texts.
        logs (list of `Path`): files that [`MistakeLog.save`] wrote.
    """
    read = {tuple(item["input_ids"]) for item in items_of_files(logs)}
    return sum(tuple(item["input_ids"]) in read for item in items)


__all__ = ["LookAt", "count_read", "items_of_files", "logged_items"]
