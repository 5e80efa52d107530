"""A shard of a record: one safetensors file with some sequences of the data set, in its order."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .record import MistakeRecord
from .record_header import RECORD_FILE, RecordHeader


class ShardIndex(NamedTuple):
    """Where a shard's sequences begin and end.

    Attributes:
        tokens (`torch.LongTensor` of shape `(sequences + 1,)`): first token of each, and the end.
        lessons (`torch.LongTensor` of shape `(sequences + 1,)`): the same of its lessons.
        questions (`torch.LongTensor` of shape `(sequences + 1,)`, *optional*): the same of an encoder's positions.
    """

    tokens: Tensor
    lessons: Tensor
    questions: Tensor | None

    def __len__(self) -> int:
        return self.tokens.shape[0] - 1


def shard_name(number: int, count: int) -> str:
    """A shard's file name.

    Args:
        number (`int`): which one, from 0.
        count (`int`): how many there are.
    """
    return f"record-{number:05d}-of-{count:05d}.safetensors"


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
        save_file(_stored_tensors(record, header), partial / path.name, metadata=_metadata(header, number))
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
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _metadata(header: RecordHeader, number: int) -> dict[str, str]:
    # One entry: several would be written in an order of chance, and equal records are to be equal files.
    return {"record": f"{header.identity}, shard {number} of {header.shards}"}


def read_index(folder: Path, number: int, header: RecordHeader) -> ShardIndex:
    """Check a shard, and read where its sequences are; its states are not read.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.

    Raises:
        ValueError: it is cut off, broken, or of another record; the message names the file.
    """
    path = folder / shard_name(number, header.shards)
    first = number * header.sequences_per_shard
    wanted = min(header.sequences_per_shard, header.sequences - first)
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}) != _metadata(header, number):
                raise _broken(path, f"it belongs to another record than {folder}/record.json")
            counts: list[Any] = [file.get_tensor(name) for name in ("lengths", "lesson_counts")]
            encoded = "question_lengths" in file.keys()  # noqa: SIM118 - a safetensors file is no mapping
            counts.append(file.get_tensor("question_lengths") if encoded else None)
    except (SafetensorError, OSError) as error:
        raise _broken(path, f"it is cut off or broken: {error}") from error
    if len(counts[0]) != wanted:
        raise _broken(path, f"it has {len(counts[0])} sequences, not {wanted}")
    return ShardIndex(*(None if count is None else _edges(count) for count in counts))  # type: ignore[arg-type]


def is_whole(folder: Path, number: int, header: RecordHeader) -> bool:
    """Whether a shard is there and whole.

    Args:
        folder (`Path`): where the record's shards lie.
        number (`int`): the shard, from 0.
        header ([`RecordHeader`]): what a sequence of this record keeps, and of which Pilot.
    """
    if not (folder / shard_name(number, header.shards)).is_file():
        return False
    try:
        read_index(folder, number, header)
    except ValueError:
        return False
    return True


def _edges(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.long().cumsum(dim=0), (1, 0))


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} cannot be used ({why}). Run `record_mistakes(pair, dataset, {str(path.parent)!r})` or "
        f"`transformers-copilot record --output_dir {path.parent} …` again with the same options: it writes this shard "
        "anew and leaves whole ones as they are."
    )


__all__ = ["ShardIndex", "clear_partial", "is_whole", "rationale_name", "read_index", "shard_name", "write_shard"]
