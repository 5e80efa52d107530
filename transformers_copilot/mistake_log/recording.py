"""Record once, teach often: the Pilot is read once over a data set, and what a Copilot learns from is kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import DataCollatorForSeq2Seq
from transformers.utils import logging

from ..pair.mistake_batch import MistakeBatch
from ..pair.options import TRAINING_VALUES, check_option, check_positive
from ..pair.pilot import parameters_of
from .device_memory import memory_explained, pilot_logits, weight_bytes
from .record import MistakeRecord
from .record_header import RECORD_FILE, RecordHeader
from .record_processes import RecordingProcesses, shard_of
from .record_shards import clear_partial, is_whole, shard_path, write_shard
from .record_size import RecordSize, estimate_size
from .run_lock import own_folder


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

logger = logging.get_logger(__name__)

_COMPARED_ROWS = 64
_LABELS = ("label", "label_ids", "labels")
_LOWER = "Lower `batch_size`, or record shorter texts. Shards that are whole stay: make the call again."


def record_mistakes(
    pair: PilotCopilotPreTrainedModel,
    dataset: Any,
    output_dir: str | os.PathLike[str],
    *,
    data_collator: Any = None,
    batch_size: int = 16,
    tokenizer: Any = None,
    sequences_per_shard: int = 256,
    dtype: str = "bfloat16",
    layers: Iterable[int | str] = (),
    shard: tuple[int, int] | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> Path:
    """Read the Pilot over a data set, and write its mistakes and what its Copilot learns from into a folder.

    A Copilot is then taught by `CopilotTrainer(model=pair, train_dataset=MistakeLog.open(output_dir))` with
    `freeze_pilot=True`, for any number of epochs and as often as wanted, without the Pilot's layers. What it costs on
    disk is told before the start. A call that was stopped, even killed, is made again to go on: shards that are whole
    stay. Several processes (`torchrun`, `accelerate launch`), or calls with `shard`, share the work; calls that write
    into folders of their own are put together by [`join_records`]. All of it is what one call writes, byte for byte on
    machines that compute alike.

    Args:
        pair: the pair; its Copilot says what is kept, and need not have learnt anything. It is put into evaluation mode
            meanwhile.
        dataset (map-style dataset): as a Trainer takes it, with `labels`.
        output_dir (`str` or `Path`): the folder; made where it does not exist.
        data_collator (callable, *optional*): as a Trainer takes it; pads on the right by default.
        batch_size (`int`, *optional*, defaults to 16): sequences that the Pilot reads at once. What is stored depends
            on it by rounding only.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the Pilot's; a record of another one's is then refused.
        sequences_per_shard (`int`, *optional*, defaults to 256): sequences of a file; one file is held in memory.
        dtype (`str`, *optional*, defaults to `"bfloat16"`): type of the states, `"bfloat16"` or `"float32"`.
        layers (iterable of `int` or `"mean"`, *optional*): outputs of these decoder layers, from 0, or the mean of all,
            are kept beside those that the pair's Copilot reads, for Copilots of other kinds.
        shard (`tuple[int, int]`, *optional*): `(i, n)`: write only those shards whose number divided by n leaves i.
            With n as the record's count of shards it is shard i alone.
        progress (`bool` or callable, *optional*, defaults to `True`): tell what it takes, and show how far it is. A
            function is called in the bar's place, with how many sequences are done and how many there are to do.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the data or an option can't be used, the Pilot's logits hold NaN, the folder holds a record that
            was begun with other options, or processes were given different data or options.
        OSError: it does not fit on the disk, or the disk is full; shards that are whole stay usable.
        RuntimeError: another call writes the same shards at this moment; or the device's memory is full, and a note
            says what to lower.
    """
    with own_record(output_dir, shard) as together:
        recording = Recording(
            pair,
            dataset,
            output_dir,
            data_collator=data_collator,
            batch_size=batch_size,
            tokenizer=tokenizer,
            sequences_per_shard=sequences_per_shard,
            dtype=dtype,
            layers=layers,
            shard=shard,
            together=together,
        )
        told = f"Recording into {recording.folder}: {recording.size.describe()}"
        if progress and together.is_first:
            tqdm.write(told, file=sys.stderr)
        else:
            logger.info(told)
        return recording.run(progress)


@contextmanager
def own_record(output_dir: str | os.PathLike[str], shard: tuple[int, int] | None) -> Iterator[RecordingProcesses]:
    """Own what a call is to write of a record, before anything is loaded for it.

    Args:
        output_dir (`str` or `Path`): the record's folder.
        shard (`tuple[int, int]`, *optional*): as [`record_mistakes`] takes it.

    Yields:
        [`RecordingProcesses`]: the call's processes, of which one owns it for all.

    Raises:
        ValueError: there is no such part.
        RuntimeError: another call writes the same shards at this moment.
    """
    part, together = shard_of(shard), RecordingProcesses()
    try:
        with own_folder(output_dir, together.is_first, part):
            yield together
    finally:
        together.close()


class Recording:
    """A call of [`record_mistakes`], checked and ready to be run.

    Args:
        pair, dataset, output_dir, data_collator, batch_size, tokenizer, sequences_per_shard, dtype, layers, shard: as
            [`record_mistakes`] takes them.
        together ([`RecordingProcesses`]): the call's processes, as [`own_record`] gave them.

    Attributes:
        size ([`RecordSize`]): what it takes on disk.

    Raises:
        ValueError: the data or an option can't be used, or differs among the processes.
        OSError: it does not fit on the disk.
    """

    def __init__(
        self,
        pair: PilotCopilotPreTrainedModel,
        dataset: Any,
        output_dir: str | os.PathLike[str],
        *,
        data_collator: Any,
        batch_size: int,
        tokenizer: Any,
        sequences_per_shard: int,
        dtype: str,
        layers: Iterable[int | str],
        shard: tuple[int, int] | None,
        together: RecordingProcesses,
    ) -> None:
        check_positive("batch_size", batch_size)
        check_positive("sequences_per_shard", sequences_per_shard)
        check_option("dtype", dtype, TRAINING_VALUES["mistake_log_dtype"])
        _check_dataset(dataset)
        self.pair, self.dataset, self.folder, self.batch_size = pair, dataset, Path(output_dir), batch_size
        self._collate = data_collator or _default_collator(pair, tokenizer)
        self._together = together
        stored = {"sequences": len(dataset), "sequences_per_shard": sequences_per_shard, "dtype": dtype}
        with _reading(pair):
            header = RecordHeader.of_pair(pair, layers, tokenizer, data=data_digest(dataset), **stored)
        self.header = header
        if (self.folder / RECORD_FILE).is_file():
            self.header = RecordHeader.read(self.folder)
            header.check_same(self.header, self.folder)
        part = shard_of(shard)
        numbers = range(part[0], header.shards, part[1])
        self._batch_shape: tuple[int, ...] = ()  # of the latest batch
        self._whole = self._whole_here(numbers)
        missing = sorted(set(numbers).difference(*self._agreed(header, self._whole)))
        self._own = together.own(missing)
        self.size: RecordSize = estimate_size(pair, self.header, dataset, self._batch, len(missing), self.folder)
        self.size.check_fits(self.folder)

    def _whole_here(self, numbers: range) -> set[int]:
        """Shards that are whole on this machine, of those that this process is to look at."""
        there = [number for number in numbers if shard_path(self.folder, number, self.header).is_file()]
        looked_at = self._together.own_on_machine(there)
        return {number for number in looked_at if is_whole(self.folder, number, self.header)}

    def _agreed(self, header: RecordHeader, whole: set[int]) -> list[set[int]]:
        """What all processes found whole, once it is known that they record the same."""
        told = self._together.gather((header, whole))
        for index, (other, _) in enumerate(told):
            if different := other.differences(told[0][0]):
                named = "; ".join(
                    f"{name} is {there!r} in process {index} and {first!r} in process 0"
                    for name, (there, first) in different.items()
                )
                raise ValueError(
                    f"the processes that record into {self.folder} don't record the same: {named}. Give all of them "
                    "the same Pilot, tokenizer, data and options."
                )
        return [found for _, found in told]

    def run(self, progress: bool | Callable[[int, int], None] = False) -> Path:
        """Write the shards that are missing.

        Args:
            progress (`bool` or callable, *optional*, defaults to `False`): show how far it is; a function is called
                with how many sequences are done and how many there are to do.

        Returns:
            `Path`: the folder.

        Raises:
            ValueError: the Pilot's logits hold NaN, rows can't be used, or another call has begun the record with
                other options meanwhile.
            OSError: the disk is full.
            RuntimeError: the device's memory is full; a note says what to lower.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with memory_explained(self.pair.device, "Recording", self._needed_memory, _LOWER):
            self._write_missing(progress)
        self._together.gather(None)
        return self.folder

    def _needed_memory(self) -> dict[str, int]:
        logits = pilot_logits(self.pair, self._batch_shape, learnt=False)
        return {"weights": weight_bytes(self.pair.parameters()), **logits}

    def _write_missing(self, progress: bool | Callable[[int, int], None]) -> None:
        self.header = self.header.begin(self.folder)
        for number in (*self._own, *self._whole):
            clear_partial(self.folder, number, self.header)
        rows = sum(len(self._rows_of(number)) for number in self._own)
        shown, done = progress is True and self._together.is_first, 0
        told = progress if callable(progress) and self._together.is_first else lambda done, total: None
        told(0, rows)
        with _reading(self.pair), tqdm(total=rows, disable=not shown, desc="recording") as bar:

            def advance(count: int) -> None:
                """So many more sequences are read."""
                nonlocal done
                done += count
                bar.update(count)
                told(done, rows)

            for number in self._own:
                record = self._read_shard(number, advance)
                self._write(number, record)

    def _rows_of(self, number: int) -> range:
        first = number * self.header.sequences_per_shard
        return range(first, min(first + self.header.sequences_per_shard, self.header.sequences))

    def _write(self, number: int, record: MistakeRecord) -> None:
        try:
            write_shard(self.folder, number, record, self.header)
        except OSError as error:
            count = self.header.shards
            whole = sum(is_whole(self.folder, each, self.header) for each in range(count))
            raise OSError(
                f"{error}. {whole} of {count} shards in {self.folder} are whole and stay usable: "
                f"`MistakeLog.open({str(self.folder)!r})` reads them. One more takes about "
                f"{record.nbytes / 1e6:,.1f} MB: free some room and make the same call again; it goes on from there."
            ) from error

    def _read_shard(self, number: int, advance: Callable[[int], None]) -> MistakeRecord:
        """A shard's sequences in the data set's order; the Pilot reads those of similar length together."""
        rows = self._rows_of(number)
        examples = [self.dataset[row] for row in rows]
        order = sorted(range(len(rows)), key=lambda place: _length(examples[place]))
        found: list[MistakeRecord | None] = [None] * len(rows)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            try:
                sequences = self._read_batch([examples[place] for place in places])
            except ValueError as error:
                named = ", ".join(str(rows[place]) for place in places)
                raise ValueError(f"sequences {named} of the data set, in this order: {error}") from error
            for place, sequence in zip(places, sequences, strict=True):
                found[place] = sequence
            advance(len(places))
        return MistakeRecord.join([sequence for sequence in found if sequence is not None])

    def _read_batch(self, examples: Sequence[Any]) -> list[MistakeRecord]:
        batch = {
            name: value.to(self.pair.device) if isinstance(value, Tensor) else value
            for name, value in self._batch(examples).items()
        }
        columns = self.header.rationale or None
        self._batch_shape = tuple(batch["labels"].shape)
        mistakes: MistakeBatch = self.pair(**batch, return_mistakes=True, recorded_layers=columns).mistakes
        if not self.header.question:
            mistakes = replace(mistakes, question=None, question_mask=None)
        dtype = getattr(torch, self.header.dtype)
        sequences = MistakeRecord.from_batch(mistakes, dtype, keep_question=False).sequences()
        if len(sequences) != len(examples):
            raise ValueError(
                f"{len(examples)} examples are {len(sequences)} sequences: packed rows can't be recorded. Give each "
                "document as an example of its own; `packing=False`."
            )
        for sequence in sequences:
            if sequence.next_probabilities is not None:  # after the last token comes the batch's padding, or nothing
                sequence.next_probabilities[-1:] = 0.0
        return sequences

    def _batch(self, examples: Sequence[Any]) -> dict[str, Any]:
        """A batch as a Trainer makes it: without the columns that the pair does not take."""
        if isinstance(examples[0], Mapping):
            known = {*parameters_of(self.pair), *_LABELS}
            if known.intersection(examples[0]):
                examples = [{name: row[name] for name in row if name in known} for row in examples]
        batch = self._collate(examples)
        if "labels" not in batch:
            raise ValueError(
                f"a batch has no `labels`, only {sorted(batch)}: without the true tokens there is no mistake. Let the "
                "data or its collator give them, -100 where nothing is supervised."
            )
        return {name: value for name, value in batch.items() if name != "held_out"}


def _check_dataset(dataset: Any) -> None:
    numbered = all(callable(getattr(dataset, name, None)) for name in ("__getitem__", "__len__"))
    if isinstance(dataset, torch.utils.data.IterableDataset) or not numbered:
        raise ValueError(
            f"`dataset` is a {type(dataset).__name__}, whose sequences have no numbers: a record is written in shards, "
            "and a later call goes on with them. Load it without streaming, or give `list(dataset)`."
        )
    if not len(dataset):
        raise ValueError("`dataset` has no example, so there is nothing to record.")


@contextmanager
def _reading(pair: PilotCopilotPreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients, and each part's own mode again afterwards."""
    modes = [(module, module.training) for module in pair.modules()]
    pair.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _default_collator(pair: PilotCopilotPreTrainedModel, tokenizer: Any) -> Any:
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        return DataCollatorForSeq2Seq(tokenizer, padding=True)
    padding = pair.pilot.config.get_text_config(decoder=True).pad_token_id or 0

    def collate(rows: Sequence[Any]) -> dict[str, Tensor]:
        """Rows padded on the right; -100 where a label is padding."""
        columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in rows[0]}
        columns.setdefault("attention_mask", [torch.ones_like(ids) for ids in columns.get("input_ids", [])])
        fill = {"input_ids": padding, "labels": -100}
        return {
            name: pad_sequence(values, batch_first=True, padding_value=fill.get(name, 0))
            for name, values in columns.items()
        }

    return collate


def _length(example: Any) -> int:
    ids = example.get("input_ids") if isinstance(example, Mapping) else None
    return 0 if ids is None else len(ids)


def data_digest(dataset: Any) -> str | None:
    """One short number for some of a data set's rows.

    Args:
        dataset (map-style dataset): as a Trainer takes it.

    Returns:
        `str`, or `None` where the rows are no tokens; nothing is compared then.
    """
    digest = hashlib.sha256()
    for row in range(0, len(dataset), max(1, len(dataset) // _COMPARED_ROWS)):
        example = dataset[row]
        if not isinstance(example, Mapping) or "input_ids" not in example:
            return None
        parts = [torch.as_tensor(example[name]).tolist() for name in ("input_ids", "labels") if name in example]
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()[:16]


__all__ = ["Recording", "data_digest", "own_record", "record_mistakes"]
