"""Recorded rounds as a data set for training: read from disk, a sequence at a time."""

from __future__ import annotations

import copy
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils import logging

from ..pair.mistake_batch import LESSON_FIELDS
from .record import TOKEN_FIELDS, MistakeRecord
from .record_header import RecordHeader
from .record_shards import (
    ShardIndex,
    check_rows,
    missing_shards,
    named_shards,
    rationale_name,
    read_index,
    shard_path,
)


if TYPE_CHECKING:
    from datasets import Dataset as Rows

logger = logging.get_logger(__name__)

_OPEN_FILES = 256

_STATES = ("head_states", "lesson_logits")


class RecordedMistakes(Dataset):
    """The sequences that [`record_mistakes`] wrote, a [`MistakeRecord`] each. [`MistakeLog.open`] makes it.

    Opening reads where each sequence begins; states are read, through memory-mapped files, when a sequence is asked
    for. A shard that isn't there is named in a warning, and the others are used.

    Args:
        folder (`str` or `Path`): the `output_dir` that [`record_mistakes`] was given.

    Raises:
        ValueError: it holds no record, no shard is there, or a file is broken; the message names it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.header = RecordHeader.read(self.folder)
        self.rationale: tuple[int | str, ...] = self.header.rationale
        self._left_out: frozenset[str] = frozenset()
        count, missing = self.header.shards, missing_shards(self.folder, self.header)
        if missing:
            self._tell_missing(missing)
        there = sorted(set(range(count)).difference(missing))
        self._shards: list[tuple[int, ShardIndex]] = [
            (number, read_index(self.folder, number, self.header)) for number in there
        ]
        self._paths = [shard_path(self.folder, number, self.header) for number in there]
        self._ends = list(accumulate(len(index) for _, index in self._shards))
        self._files: OrderedDict[int, _MappedTensors] = OrderedDict()
        self._process = os.getpid()

    def _tell_missing(self, missing: list[int]) -> None:
        count, one = self.header.shards, missing[0]
        go_on = (
            f"`record_mistakes(pair, dataset, {str(self.folder)!r})` or `transformers-copilot record --output_dir "
            f"{self.folder} …` with the same options as before goes on with it."
        )
        if self.header.joined_from:
            go_on = f"They are not in the folders {', '.join(self.header.joined_from)} beside it either. {go_on}"
        if len(missing) == count:
            raise ValueError(f"{self.folder} holds none of its {count} shards yet: {go_on}")
        logger.warning(
            f"{self.folder} holds {count - len(missing)} of {count} shards; they are used as they are. It lacks "
            f"{named_shards(missing, count)}. {go_on} With `shard=({one}, {count})` or `--shard {one}/{count}` it "
            f"writes number {one} alone."
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> MistakeRecord:
        """One sequence.

        Args:
            index (`int`): which one of those that are there.

        Raises:
            IndexError: there is no such sequence.
        """
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        shard = bisect_right(self._ends, place)
        row = place - (self._ends[shard - 1] if shard else 0)
        return self._read(shard, row, row + 1, self._left_out)

    def __iter__(self) -> Iterator[MistakeRecord]:
        return (self[place] for place in range(len(self)))

    def reading(self, rationale: tuple[int | str, ...], left_out: tuple[str, ...] = ()) -> RecordedMistakes:
        """The same record, of which less is read.

        Args:
            rationale (`tuple`): the parts of the rationale, in the order that the Copilot reads them in.
            left_out (tuple of `str`): fields that aren't read.

        Returns:
            [`RecordedMistakes`]
        """
        view = copy.copy(self)
        view._files, view.rationale, view._left_out = OrderedDict(), tuple(rationale), frozenset(left_out)
        return view

    def to_dataset(self) -> Rows:
        """The record as rows, a row a token whose successor is known; see [`MistakeLog.to_dataset`].

        Returns:
            `datasets.Dataset`; `round` is the number of the shard.
        """
        from datasets import Dataset as Rows

        from .table import mistake_table

        return Rows(mistake_table(self.rounds()))

    def rounds(self) -> Iterator[tuple[int, MistakeRecord]]:
        """The shards one after the other, without the states.

        Yields:
            The shard's number and [`MistakeRecord`].
        """
        light = self.reading((), (*_STATES, "question", "question_lengths"))
        for place, (number, index) in enumerate(self._shards):
            yield number, light._read(place, 0, len(index), light._left_out)

    def _read(self, shard: int, first: int, end: int, left_out: frozenset[str]) -> MistakeRecord:
        """Some sequences of a shard, one after the other."""
        index, stored = self._shards[shard][1], self._stored(shard)
        tokens = slice(int(index.tokens[first]), int(index.tokens[end]))
        lessons = slice(int(index.lessons[first]), int(index.lessons[end]))
        ranges = dict.fromkeys(TOKEN_FIELDS, tokens) | dict.fromkeys(LESSON_FIELDS, lessons)
        ranges["lengths"] = slice(first, end)
        if index.questions is not None:
            ranges["question"] = slice(int(index.questions[first]), int(index.questions[end]))
            ranges["question_lengths"] = slice(first, end)
        path = self._paths[shard]

        def rows(name: str, part: slice) -> Tensor:
            """A part of one tensor, as it was saved, in memory of its own."""
            return check_rows(path, index, name, slice(first, end), stored[name][part].clone())

        values: dict[str, Tensor] = {
            name: rows(name, part) for name, part in ranges.items() if name in stored.names - left_out
        }
        if self.rationale:
            states = [rows(rationale_name(column), tokens) for column in self.rationale]
            values["rationale"] = states[0] if len(states) == 1 else torch.stack(states, dim=1)
        return MistakeRecord(**values)

    def _stored(self, shard: int) -> _MappedTensors:
        """A shard's tensors on disk, to be read in part; its file is opened when this process first reads it, and the
        latest ones stay open."""
        if self._process != os.getpid():
            self._files, self._process = OrderedDict(), os.getpid()
        stored = self._files.pop(shard, None)
        if stored is None:
            if len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)
            stored = _MappedTensors(safe_open(self._paths[shard], framework="pt"))
        self._files[shard] = stored
        return stored

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


class _MappedTensors(dict[str, Tensor]):
    """A file's tensors by name, each mapped when it is first asked for; a page is read when it is used.

    Each is asked for once. A `get_slice` for every sequence would leave some 64 bytes behind for good (safetensors
    0.8), gigabytes over a long training.
    """

    def __init__(self, file: Any) -> None:
        super().__init__()
        self.names = frozenset(file.keys())
        self._file = file

    def __missing__(self, name: str) -> Tensor:
        self[name] = tensor = self._file.get_tensor(name)
        return tensor


class RecordCollator:
    """Batches of recorded sequences as tensors by name; all other examples go to another collator.

    Args:
        collator (callable): makes batches of all other examples, such as an evaluation set's.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, features: list[Any]) -> Any:
        """Make a batch.

        Args:
            features (`list`): [`MistakeRecord`]s only, or else examples for the other collator.

        Returns:
            `dict` of tensors, the fields of a [`MistakeRecord`]; or the other collator's batch.
        """
        if all(isinstance(feature, MistakeRecord) for feature in features):
            return MistakeRecord.join(features).tensors()
        return self.collator(features)


__all__ = ["RecordCollator", "RecordedMistakes"]
