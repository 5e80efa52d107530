"""The mistakes of a whole run on disk: Parquet files in the run's folder, written as training goes and read in pieces.

The [`MistakeLog`] keeps the latest rounds only. These rows have no hidden states, take some 20 bytes each, and let the
start of training be compared with its end.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers.utils import logging

from ..pair.options import check_positive
from .record import MistakeRecord
from .table import mistake_table


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

ROWS_FOLDER = "mistake_rows"
_STRIDE = b"transformers_copilot.stride"
_FILE = re.compile(r"rounds-(\d+)-(\d+)\.parquet")

# What rows can be read from, see `row_streams`.
MistakeSource: TypeAlias = "Dataset | list[Dataset] | str | os.PathLike[str]"


class MistakeRowsWriter:
    """Appends each round's rows to Parquet files in `{folder}/mistake_rows/rank-00000/`.

    The rows are bounded: when there would be more than `max_rows`, every second round is dropped, and only every
    second one is written from then on; so the kept rounds are spread evenly over the whole run however long it is.

    Args:
        folder (`str` or `Path`): the run's folder, such as the Trainer's `output_dir`.
        max_rows (`int`): rows that are kept at most.
        rank (`int`, *optional*, defaults to 0): this process's number; each writes files of its own.
        rounds_per_file (`int`, *optional*, defaults to 64): rounds that are collected before a file is written; a
            crash loses those that were not written yet.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(self, folder: str | os.PathLike[str], max_rows: int, rank: int = 0, rounds_per_file: int = 64) -> None:
        check_positive("max_rows", max_rows)
        check_positive("rounds_per_file", rounds_per_file)
        self.folder = Path(folder) / ROWS_FOLDER / f"rank-{rank:05d}"
        self.max_rows = max_rows
        self.rounds_per_file = rounds_per_file
        self.stride = 1
        self.rows = 0
        self._waiting: list[tuple[int, pa.Table]] = []

    def start(self, next_round: int) -> None:
        """Make ready for a run, or for going on with one: rows of rounds that will come again are dropped.

        Args:
            next_round (`int`): number of the first round to come; 0 for a new run.
        """
        self._waiting, self.stride, self.rows = [], 1, 0
        for path in _files(self.folder):
            table = pq.read_table(path)
            self.stride = max(self.stride, int((table.schema.metadata or {}).get(_STRIDE, b"1")))
            kept = table.filter(pc.less(table["round"], next_round))
            if len(kept) < len(table):
                self._replace(path, kept)
            self.rows += len(kept)

    def add(self, number: int, record: MistakeRecord) -> None:
        """Take one round.

        Args:
            number (`int`): the round's number in the run, from 0.
            record ([`MistakeRecord`]): the mistakes of one step of training, on the CPU.
        """
        if number % self.stride:
            return
        table = mistake_table([(number, record)])
        self._waiting.append((number, table))
        self.rows += len(table)
        while self.rows > self.max_rows and self.stride < 2**40:
            self._thin()
        if len(self._waiting) >= self.rounds_per_file:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._waiting:
            self._write(pa.concat_tables([table for _, table in self._waiting]))
            self._waiting = []

    def _thin(self) -> None:
        """Keep every second of the kept rounds."""
        self.flush()
        self.stride *= 2
        self.rows = 0
        for path in _files(self.folder):
            table = pq.read_table(path)
            kept = table.filter(pa.array(table["round"].to_numpy() % self.stride == 0))
            self._replace(path, kept)
            self.rows += len(kept)

    def _replace(self, path: Path, kept: pa.Table) -> None:
        written = self._write(kept)
        if written != path:
            path.unlink()

    def _write(self, table: pa.Table) -> Path | None:
        """One file, whole or not at all; none without rows."""
        if not len(table):
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        bounds = pc.min_max(table["round"]).as_py()
        path = self.folder / f"rounds-{bounds['min']:09d}-{bounds['max']:09d}.parquet"
        partial = path.with_suffix(".partial")
        metadata = {**(table.schema.metadata or {}), _STRIDE: str(self.stride).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd")
        os.replace(partial, path)
        return path


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if _FILE.fullmatch(path.name))


def row_streams(source: MistakeSource) -> list[Dataset | Path]:
    """The streams of rows that a source is made of; within each the rows are in the log's order.

    Args:
        source (`datasets.Dataset`, a list of them, or a path): rows in memory or mapped from disk, a Parquet file, a
            folder of Parquet files, a run's folder, or a folder that `Dataset.save_to_disk` wrote.

    Returns:
        list of `Dataset` and `Path`

    Raises:
        FileNotFoundError: there is no such file or no Parquet file in the folder.
    """
    if isinstance(source, list):
        return list(source)
    if not isinstance(source, (str, os.PathLike)):
        return [source]
    path = Path(source)
    if path.is_file():
        return [path]
    if (path / "dataset_info.json").is_file():
        from datasets import load_from_disk

        return [load_from_disk(str(path))]
    if (path / ROWS_FOLDER).is_dir():
        path = path / ROWS_FOLDER
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{source} is no Parquet file and holds none, so there are no rows of mistakes to read."
        )
    return list(files)


def row_tables(source: Dataset | Path, columns: list[str], batch_rows: int) -> Iterator[pa.Table]:
    """One stream's rows, some at a time.

    Args:
        source (`datasets.Dataset` or `Path`): one of the streams that [`row_streams`] gives.
        columns (list of `str`): the columns that are wanted.
        batch_rows (`int`): rows at a time.

    Raises:
        ValueError: the source lacks a column.
    """
    if isinstance(source, Path):
        with pq.ParquetFile(source) as file:
            _check_columns(str(source), columns, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=batch_rows, columns=columns):
                yield pa.Table.from_batches([batch])
        return
    _check_columns("the dataset", columns, source.column_names)
    yield from source.select_columns(columns).with_format("arrow").iter(batch_size=batch_rows)


def whole_sequences(source: Dataset | Path, columns: list[str], batch_rows: int) -> Iterator[pd.DataFrame]:
    """One stream's rows, some at a time, and never a part of a sequence.

    Args:
        source (`datasets.Dataset` or `Path`): one of the streams that [`row_streams`] gives.
        columns (list of `str`): the columns that are wanted, `round`, `sequence` and `position` among them.
        batch_rows (`int`): rows at a time; more where a sequence is longer.
    """
    rest = pd.DataFrame()
    for table in row_tables(source, columns, batch_rows):
        frame = table.to_pandas()
        frame = pd.concat([rest, frame], ignore_index=True) if len(rest) else frame
        if not len(frame):
            continue
        cut = int(np.flatnonzero(sequence_starts(frame))[-1])
        rest = frame.iloc[cut:]
        if cut:
            yield frame.iloc[:cut]
    if len(rest):
        yield rest.reset_index(drop=True)


def sequence_starts(frame: pd.DataFrame) -> np.ndarray:
    """Where a sequence begins: another round or sequence than the row before, or no later position.

    Args:
        frame (`DataFrame`): rows in the log's order.

    Returns:
        `numpy.ndarray` of `bool`, one a row
    """
    values = frame[["round", "sequence", "position"]].to_numpy()
    starts = np.ones(len(values), dtype=bool)
    same = (values[1:, :2] == values[:-1, :2]).all(axis=1)
    starts[1:] = ~same | (values[1:, 2] <= values[:-1, 2])
    return starts


def _check_columns(name: str, wanted: list[str], found: Iterable[str]) -> None:
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(missing)}, only {json.dumps(sorted(found))}; give rows of a Mistake Log "
            "(`MistakeLog.to_dataset()`, or the Parquet files of a run's mistake_rows folder)."
        )


__all__ = [
    "ROWS_FOLDER",
    "MistakeRowsWriter",
    "MistakeSource",
    "row_streams",
    "row_tables",
    "sequence_starts",
    "whole_sequences",
]
