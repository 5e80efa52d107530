"""A shard of a record: one safetensors file with some sequences of the data set, in its order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..pair.mistake_batch import LESSON_FIELDS
from ..pair.saved_files import digest_of, opened_weights, sum_of_words, sums_of_rows
from .record import MistakeRecord
from .record_header import RECORD_FILE, RecordHeader


# What says where sequences are; all else has a sum for each sequence beside it.
_COUNTS = ("lengths", "lesson_counts", "question_lengths")
_SUM = "sum."
_MOST_NAMED = 8


class ShardIndex(NamedTuple):
    """Where a shard's sequences begin and end.

    Attributes:
        tokens (`torch.LongTensor` of shape `(sequences + 1,)`): first token of each, and the end.
        lessons (`torch.LongTensor` of shape `(sequences + 1,)`): the same of its lessons.
        questions (`torch.LongTensor` of shape `(sequences + 1,)`, *optional*): the same of an encoder's positions.
        sums (`dict`, *optional*): each tensor's sums of words, one a sequence; `None` in a shard of a version before
            0.2.
    """

    tokens: Tensor
    lessons: Tensor
    questions: Tensor | None
    sums: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0] - 1


def shard_name(number: int, count: int) -> str:
    """A shard's file name.

    Args:
        number (`int`): which one, from 0.
        count (`int`): how many there are.
    """
    return f"record-{number:05d}-of-{count:05d}.safetensors"


def shard_path(folder: Path, number: int, header: RecordHeader) -> Path:
    """Where a shard lies: in the record's folder, or else in one that was joined to it.

    Args:
        folder (`Path`): the record's.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): the record's; it says how many shards there are, and which folders were joined.

    Returns:
        `Path`: in the record's own folder where the shard is nowhere.
    """
    name = shard_name(number, header.shards)
    if not (folder / name).is_file():
        for place in header.joined_from:
            path = Path(os.path.realpath(folder / place)) / name
            if path.is_file():
                return path
    return folder / name


def missing_shards(folder: Path, header: RecordHeader) -> list[int]:
    """The shards that aren't there.

    Args:
        folder (`Path`): the record's.
        header ([`RecordHeader`]): the record's; it says how many shards there are, and which folders were joined.

    Returns:
        list of `int`: their numbers.
    """
    return [number for number in range(header.shards) if not shard_path(folder, number, header).is_file()]


def named_shards(numbers: list[int], count: int) -> str:
    """File names of some shards, for messages.

    Args:
        numbers (list of `int`): the shards, from 0.
        count (`int`): how many the record has.
    """
    names = ", ".join(shard_name(number, count) for number in numbers[:_MOST_NAMED])
    return f"{names} and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else names


def rationale_name(column: int | str) -> str:
    """The name of a rationale's part in a shard: each is a tensor of its own, so that only those are read that a
    Copilot reads.

    Args:
        column (`int` or `str`): a layer's number, or `"mean"`.
    """
    return f"rationale.{column}"


def write_shard(folder: Path, number: int, record: MistakeRecord, header: RecordHeader) -> None:
    """Write a shard, whole or not at all.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        record ([`MistakeRecord`]): the shard's sequences, in the data set's order.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.

    Raises:
        OSError: the disk is full, or the folder can't be written; nothing is left of the shard.
    """
    path = folder / shard_name(number, header.shards)
    # A folder of its own: safetensors writes to a temporary file of any name first, and a killed process leaves it.
    partial = clear_partial(folder, number, header)
    try:
        partial.mkdir()
        tensors = _stored_tensors(record, header)
        save_file(tensors, partial / path.name, metadata=_metadata(header, number, tensors))
        (partial / path.name).chmod((folder / RECORD_FILE).stat().st_mode)  # or none but this user could read it
        os.replace(partial / path.name, path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} could not be written ({error})") from error
    finally:
        clear_partial(folder, number, header)


def clear_partial(folder: Path, number: int, header: RecordHeader) -> Path:
    """Remove what a process that was killed may have left of a shard.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.

    Returns:
        `Path`: where the shard is written before it is whole.
    """
    partial = folder / f"{shard_name(number, header.shards)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _stored_tensors(record: MistakeRecord, header: RecordHeader) -> dict[str, Tensor]:
    tensors = record.tensors()
    rationale = tensors.pop("rationale", None)
    if rationale is not None:
        columns = [rationale] if len(header.rationale) == 1 else rationale.unbind(dim=1)
        parts = zip(header.rationale, columns, strict=True)
        tensors |= {rationale_name(column): states for column, states in parts}
    marks = record.lessons.split(record.lengths.tolist())
    tensors["lesson_counts"] = torch.stack([mark.sum() for mark in marks]).to(torch.int32)
    stored = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    counts = {name: stored[name].tolist() for name in _COUNTS if name in stored}
    sums = {f"{_SUM}{name}": sums_of_rows(stored[name], _parts_of(name, counts)) for name in stored.keys() - {*_COUNTS}}
    return {**stored, **sums}


def _parts_of(name: str, counts: dict[str, list[int]]) -> list[int]:
    """How many rows each sequence has of a tensor."""
    if name in LESSON_FIELDS:
        return counts["lesson_counts"]
    return counts.get("question_lengths", counts["lengths"]) if name == "question" else counts["lengths"]


def _metadata(header: RecordHeader, number: int, tensors: dict[str, Tensor] | None = None) -> dict[str, str]:
    # One entry: several would be written in an order of chance, and equal records are to be equal files.
    about = f"{_about(header, number)}, data {header.data}"
    return {"record": about if tensors is None else f"{about}, index {_index_digest(tensors)}"}


def _about(header: RecordHeader, number: int) -> str:
    return f"{header.identity}, shard {number} of {header.shards}"


def _check_about(path: Path, header: RecordHeader, number: int, about: str) -> None:
    """Refuse a shard that says that it belongs elsewhere. One of a version before 0.2 says nothing of its data."""
    record, _, data = about.partition(", index ")[0].partition(", data ")
    if record != _about(header, number):
        raise _broken(path, "it belongs to another record than the folder's record.json")
    if data not in ("", str(header.data)):
        raise _broken(path, f"it was recorded of other data: data is {data!r}, and {header.data!r} in record.json")


def _index_digest(tensors: dict[str, Tensor]) -> str:
    index = {name: tensor for name, tensor in tensors.items() if name in _COUNTS or name.startswith(_SUM)}
    return digest_of(index.items())


def read_index(folder: Path, number: int, header: RecordHeader) -> ShardIndex:
    """Check a shard, and read where its sequences are; its states are not read.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.

    Raises:
        ValueError: it is cut off, broken, or of another record; the message names the file.
    """
    path = shard_path(folder, number, header)
    first = number * header.sequences_per_shard
    wanted = min(header.sequences_per_shard, header.sequences - first)
    try:
        with opened_weights(path, path.name) as file:
            names = set(file.keys())
            sums = {name for name in names if name.startswith(_SUM)}
            index = {name: file.get_tensor(name) for name in sorted(sums | (names & {*_COUNTS}))}
            found = file.metadata() or {}
    except ValueError as error:
        raise _broken(path, f"it is cut off or broken: {error}") from error
    about = found.get("record", "")
    _check_about(path, header, number, about if found.keys() == {"record"} else "")
    if ", index " in about:
        kept = {name.removeprefix(_SUM) for name in sums}
        if about.partition(", index ")[2] != _index_digest(index) or names != sums | kept | index.keys():
            raise _broken(path, "it is not the file that was written")
    if not {"lengths", "lesson_counts"} <= index.keys():
        raise _broken(path, "it does not say where its sequences are")
    lengths, lessons, questions = index["lengths"], index["lesson_counts"], index.get("question_lengths")
    if len(lengths) != wanted:
        raise _broken(path, f"it has {len(lengths)} sequences, not {wanted}")
    return ShardIndex(
        _edges(lengths),
        _edges(lessons),
        None if questions is None else _edges(questions),
        {name.removeprefix(_SUM): index[name] for name in sums} if sums else None,
    )


def check_rows(path: Path, index: ShardIndex, name: str, sequences: slice, rows: Tensor) -> Tensor:
    """What was read of a shard, if it is what was written.

    Args:
        path (`Path`): the shard.
        index ([`ShardIndex`]): the shard's, with its sums.
        name (`str`): the tensor.
        sequences (`slice`): whose rows they are.
        rows (`torch.Tensor`): those of the tensor that belong to the sequences.

    Raises:
        ValueError: they hold other numbers; shard and tensor are named.
    """
    if index.sums is not None and name in index.sums and int(index.sums[name][sequences].sum()) != sum_of_words(rows):
        raise _broken(path, f"`{name}` of its sequences from {sequences.start} holds other numbers than were written")
    return rows


def is_whole(folder: Path, number: int, header: RecordHeader) -> bool:
    """Whether a shard is there and whole.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.
    """
    if not shard_path(folder, number, header).is_file():
        return False
    try:
        check_shard(folder, number, header)
    except ValueError:
        return False
    return True


def check_shard(folder: Path, number: int, header: RecordHeader) -> None:
    """Read all of a shard.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.

    Raises:
        ValueError: it is cut off, broken, of another record, or holds other numbers; the message names the file.
    """
    index, path = read_index(folder, number, header), shard_path(folder, number, header)
    with opened_weights(path, path.name) as file:
        for name in index.sums or ():
            check_rows(path, index, name, slice(0, len(index)), file.get_tensor(name))


def _edges(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.long().cumsum(dim=0), (1, 0))


def _broken(path: Path, why: str) -> ValueError:
    number, count = (int(word) for word in path.stem.split("-")[1::2])
    return ValueError(
        f"{path} cannot be used ({why}). Run `record_mistakes(pair, dataset, {str(path.parent)!r})` or "
        f"`transformers-copilot record --output_dir {path.parent} …` again with the same options: it writes this shard "
        f"anew and leaves whole ones as they are. With `shard=({number}, {count})` or `--shard {number}/{count}` it "
        "writes no other one."
    )


__all__ = [
    "ShardIndex",
    "check_rows",
    "check_shard",
    "clear_partial",
    "is_whole",
    "missing_shards",
    "named_shards",
    "rationale_name",
    "read_index",
    "shard_name",
    "shard_path",
    "write_shard",
]
