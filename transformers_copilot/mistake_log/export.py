"""The mistakes of a whole run on disk: Parquet files in the run's folder, written as training goes and read in pieces.

The [`MistakeLog`] keeps the latest rounds only. These rows have no hidden states, take some 20 bytes each, and let the
start of training be compared with its end.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

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
_PARTIAL, _BROKEN = ".partial", ".broken"
# A reader that a training overtakes begins again, after so many seconds more each time: thinning is rare and short.
_TRIES, _WAIT = 12, 0.1
T = TypeVar("T")

# What rows can be read from, see `row_streams`.
MistakeSource: TypeAlias = "Dataset | list[Dataset] | str | os.PathLike[str]"


@dataclass(frozen=True)
class RowsFile:
    """A Parquet file of rows, as it was when the folder was looked through.

    Attributes:
        path (`Path`): the file.
        stride (`int`, *optional*, defaults to 1): the folder's; rows of rounds between its multiples are no longer of
            the set.
        stamp (`tuple`, *optional*): tells whether the file has been replaced since.
    """

    path: Path
    stride: int = 1
    stamp: tuple[int, int, int] | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_changed(self) -> bool:
        """Whether another file, or none, has its name by now."""
        return self.stamp is not None and self.stamp != _stamp(self.path)


RowStream: TypeAlias = "Dataset | RowsFile"


class MistakeRowsWriter:
    """Appends each round's rows to Parquet files in `{folder}/mistake_rows/rank-00000/`.

    The rows are bounded: when there would be more than `max_rows`, every second round is dropped, and only every
    second one is written from then on; so the kept rounds are spread evenly over the whole run however long it is.

    A process may be killed anywhere. Each file is replaced as a whole and keeps its name, and says which rounds were
    dropped when it was written: the largest *stride* of a folder holds for all its files, so a set that was thinned by
    half is one that is thinned.

    Args:
        folder (`str` or `Path`): the run's folder, such as the Trainer's `output_dir`.
        max_rows (`int`): rows that are kept at most.
        rank (`int`, *optional*, defaults to 0): this process's number; each writes files of its own.
        rounds_per_file (`int`, *optional*, defaults to 64): rounds that are collected before a file is written. Those
            of a checkpoint are written with it.
        world_size (`int`, *optional*, defaults to 1): how many processes there are. Rows of an earlier part of the run
            that had more are cared for by the first ones.

    Raises:
        ValueError: a number is below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_rows: int,
        rank: int = 0,
        rounds_per_file: int = 64,
        world_size: int = 1,
    ) -> None:
        check_positive("max_rows", max_rows)
        check_positive("rounds_per_file", rounds_per_file)
        self.folder = Path(folder) / ROWS_FOLDER / f"rank-{rank:05d}"
        self.rank, self.world_size = rank, world_size
        self.max_rows = max_rows
        self.rounds_per_file = rounds_per_file
        self.stride = 1
        self.rows = 0
        self._waiting: list[tuple[int, pa.Table]] = []
        self._written: Counter[int] = Counter()

    @property
    def rows_on_disk(self) -> dict[str, int]:
        """What [`count_rows`] would give of this process's files, without reading them."""
        return _as_counts(self._written)

    def start(self, next_round: int) -> None:
        """Make ready for a run, or for going on with one: rows of rounds that will come again are dropped.

        Args:
            next_round (`int`): number of the first round to come; 0 for a new run.
        """
        self._waiting = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in self.folder.parent.glob("rank-" + "[0-9]" * 5):
            rank = int(folder.name.removeprefix("rank-"))
            if rank >= self.world_size and rank % self.world_size == self.rank:
                _keep(folder, next_round)
        self.stride, self._written = _keep(self.folder, next_round)
        self.rows = self._written.total()

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
        table = pa.concat_tables([table for _, table in self._waiting]) if self._waiting else None
        if table is not None and len(table):
            bounds = pc.min_max(table["round"]).as_py()
            _write(self.folder / f"rounds-{bounds['min']:09d}-{bounds['max']:09d}.parquet", table, self.stride)
            for number, rows in self._waiting:
                self._written[_twos(number)] += len(rows)
        self._waiting = []

    def _thin(self) -> None:
        """Keep every second of the kept rounds."""
        self.flush()
        self.stride *= 2
        _, self._written = _keep(self.folder, stride=self.stride)
        self.rows = self._written.total()


def _keep(folder: Path, below: int | None = None, stride: int = 1) -> tuple[int, Counter[int]]:
    """Keep a folder's rows of rounds below a number that the stride leaves. Done once more it changes nothing, so it
    may be cut short anywhere.

    Returns:
        The stride, which is the largest that a file names, and how many rows are kept, as [`count_rows`] counts them.
    """
    for partial in folder.glob(f"*{_PARTIAL}"):
        partial.unlink()
    files: list[Path] = []
    for path in reversed(_files(folder)):  # from the last on: what is left is the run's beginning at any time
        if below is not None and _first_round(path) >= below:
            path.unlink()
        elif (problem := _what_is_unreadable(path, pages=True)) is not None:
            logger.warning(f"{path} can't be read ({problem}), so its rows are gone; it is now {path.stem}{_BROKEN}.")
            os.replace(path, path.with_suffix(_BROKEN))
        else:
            files.insert(0, path)
    stride = max([stride, *(_stride_of(path) for path in files)])
    counts: Counter[int] = Counter()
    last, emptied = -1, []
    for path in files:
        table = pq.read_table(path)
        numbers = table["round"].to_numpy()
        wanted = (numbers % stride == 0) & (numbers > last)  # a former version may have left a round in two files
        if below is not None:
            wanted &= numbers < below
        kept = table if wanted.all() else table.filter(pa.array(wanted))
        if not len(kept):
            emptied.append(path)
            continue
        if len(kept) < len(table) or _stride_of(path) < stride:
            _write(path, kept, stride)
        counts += _count_rounds(numbers[wanted])
        last = int(numbers[wanted].max())
    for path in emptied:  # last: the files that stay say by now that these rounds are none of the set
        path.unlink()
    return stride, counts


def _write(path: Path, table: pa.Table, stride: int) -> None:
    """One file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(_PARTIAL)
    metadata = {**(table.schema.metadata or {}), _STRIDE: str(stride).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd", write_page_checksum=True)
    os.replace(partial, path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if _FILE.fullmatch(path.name))


def _first_round(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    return int(match.group(1)) if match else 0


# What pyarrow raises of a damaged file.
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)


def _what_is_unreadable(path: Path, pages: bool = False) -> str | None:
    try:
        pq.read_metadata(path)
        if pages:
            pq.read_table(path, page_checksum_verification=True)
    except _DAMAGE as error:
        return str(error)
    return None


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} can't be read: it was cut off or damaged ({error}). Delete it, or copy it again.")


def _stride_of(path: Path) -> int:
    try:
        return int((pq.read_schema(path).metadata or {}).get(_STRIDE, b"1"))
    except FileNotFoundError:  # replaced while it was looked for; who asks looks again
        raise
    except (*_DAMAGE, ValueError) as error:
        raise _damaged(path, error) from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def count_rows(folder: str | os.PathLike[str], below: int) -> dict[str, int]:
    """How many rows of a run lie on disk, in a form that thinning does not change for the rows that it leaves.

    Args:
        folder (`str` or `Path`): one process's, such as `mistake_rows/rank-00000`.
        below (`int`): only rounds below this number count.

    Returns:
        `dict`: by how often 2 divides a round's number, as text, the number of rows; round 0 counts as 63. With a
        stride of 2ⁿ, the numbers of n and more are left.

    Raises:
        ValueError: a file can't be read; it is named.
    """
    counts: Counter[int] = Counter()
    for path in _files_below(folder, below):
        if (problem := _what_is_unreadable(path)) is not None:
            raise ValueError(f"{ROWS_FOLDER}/{path.parent.name}/{path.name}: {problem}")
        numbers = pq.read_table(path, columns=["round"])["round"].to_numpy()
        counts += _count_rounds(numbers[numbers < below])
    return _as_counts(counts)


def _files_below(folder: str | os.PathLike[str], below: int) -> list[Path]:
    return [path for path in _files(Path(folder)) if _first_round(path) < below]


def _count_rounds(numbers: np.ndarray) -> Counter[int]:
    """Rows by how often 2 divides their round's number."""
    counts: Counter[int] = Counter()
    for number, rows in zip(*np.unique(numbers, return_counts=True), strict=True):
        counts[_twos(int(number))] += int(rows)
    return counts


def _as_counts(counts: Counter[int]) -> dict[str, int]:
    return {str(twos): counts[twos] for twos in sorted(counts)}


def missing_rows(folder: str | os.PathLike[str], below: int, expected: dict[str, int]) -> int:
    """How many rows are gone of those that a checkpoint was written with; thinned ones are not missing.

    Args:
        folder (`str` or `Path`): one process's, as of [`count_rows`].
        below (`int`): the checkpoint's step.
        expected (`dict`): what [`count_rows`] gave then.

    Raises:
        ValueError: a file can't be read; it is named.
    """
    found = count_rows(folder, below)
    stride = max((_stride_of(path) for path in _files_below(folder, below)), default=1)
    kept = {twos: rows for twos, rows in expected.items() if int(twos) >= _twos(stride)}
    return sum(max(0, rows - found.get(twos, 0)) for twos, rows in kept.items())


def _twos(number: int) -> int:
    """How often 2 divides a number."""
    return (number & -number).bit_length() - 1 if number else 63


def set_rows_aside(folder: str | os.PathLike[str]) -> Path | None:
    """Give the rows of an earlier run another name, for a new run in its folder. Pushes leave that name out.

    Args:
        folder (`str` or `Path`): the run's.

    Returns:
        `Path`: where they are now; `None` where there were none.
    """
    rows = Path(folder) / ROWS_FOLDER
    if not any(rows.rglob("*.parquet")):
        return None
    taken = {path.name for path in Path(folder).glob(f"_{ROWS_FOLDER}-*")}
    aside = next(rows.with_name(name) for n in count(1) if (name := f"_{ROWS_FOLDER}-{n}") not in taken)
    try:
        os.rename(rows, aside)
    except FileNotFoundError:  # another node's first process has done it
        return None
    return aside


def row_streams(source: MistakeSource) -> list[RowStream]:
    """The streams of rows that a source is made of; within each the rows are in the log's order.

    Args:
        source (`datasets.Dataset`, a list of them, or a path): rows in memory or mapped from disk, a Parquet file, a
            folder of Parquet files, a run's folder, or a folder that `Dataset.save_to_disk` wrote.

    Returns:
        list of `Dataset` and [`RowsFile`]

    Raises:
        FileNotFoundError: there is no such file or no Parquet file in the folder.
    """
    if isinstance(source, list):
        return list(source)
    if not isinstance(source, (str, os.PathLike)):
        return [source]
    path = Path(source)
    if path.is_file():
        return [RowsFile(path)]
    if (path / "dataset_info.json").is_file():
        from datasets import load_from_disk

        return [load_from_disk(str(path))]
    if (path / ROWS_FOLDER).is_dir():
        path = path / ROWS_FOLDER
    found = _look_through(path)
    if not found:
        raise FileNotFoundError(
            f"{source} is no Parquet file and holds none, so there are no rows of mistakes to read."
        )
    return found


def _look_through(folder: Path) -> list[RowStream]:
    """A folder's files, with the stride that holds for those of each process."""
    found: list[tuple[Path, tuple[int, int, int] | None, int]] = []
    for path in sorted(folder.rglob("*.parquet")):
        stamp = _stamp(path)
        try:
            found.append((path, stamp, _stride_of(path)))
        except FileNotFoundError:  # a training has dropped its rows just now
            continue
    strides: dict[Path, int] = {}
    for path, _, stride in found:
        strides[path.parent] = max(stride, strides.get(path.parent, 1))
    return [RowsFile(path, strides[path.parent], stamp) for path, stamp, _ in found]


def read_rows(source: MistakeSource, read: Callable[[list[RowStream]], T]) -> T:
    """Read rows as they were at one moment, though a training may be writing or thinning them meanwhile.

    Args:
        source (`datasets.Dataset`, a list of them, or a path): as [`row_streams`] takes it.
        read (callable): reads the streams, as often as it likes. It is called again where files were replaced
            meanwhile.

    Returns:
        What `read` returns.

    Raises:
        FileNotFoundError: there are no rows.
        OSError: the files were replaced each time.
    """
    for number in range(_TRIES):
        time.sleep(_WAIT * number)
        streams = row_streams(source)
        try:
            result = read(streams)
        except FileNotFoundError:
            if not _are_changed(streams):
                raise
            continue
        if not _are_changed(streams):
            return result
    raise OSError(f"the rows of {source} were replaced {_TRIES} times while they were read; try again in a while.")


def _are_changed(streams: list[RowStream]) -> bool:
    return any(isinstance(stream, RowsFile) and stream.is_changed for stream in streams)


def row_tables(source: RowStream, columns: list[str], batch_rows: int) -> Iterator[pa.Table]:
    """One stream's rows, some at a time.

    Args:
        source (`datasets.Dataset` or [`RowsFile`]): one of the streams that [`row_streams`] gives.
        columns (list of `str`): the columns that are wanted.
        batch_rows (`int`): rows at a time.

    Raises:
        ValueError: the source lacks a column.
    """
    if isinstance(source, RowsFile):
        yield from _tables_of_file(source, columns, batch_rows)
        return
    _check_columns("the dataset", columns, source.column_names)
    yield from source.select_columns(columns).with_format("arrow").iter(batch_size=batch_rows)


def _tables_of_file(source: RowsFile, columns: list[str], batch_rows: int) -> Iterator[pa.Table]:
    """As [`row_tables`]; an error of the file's names it, one of who reads the rows passes."""
    names: list[str] = []
    read = columns if source.stride == 1 else list({*columns, "round"})
    try:
        with pq.ParquetFile(source.path, page_checksum_verification=True) as file:
            names += file.schema_arrow.names
            for batch in file.iter_batches(batch_size=batch_rows, columns=read) if set(read) <= set(names) else ():
                table = pa.Table.from_batches([batch])
                if source.stride > 1:
                    table = table.filter(pa.array(table["round"].to_numpy() % source.stride == 0))
                yield table.select(columns)
    except FileNotFoundError:  # as in `_stride_of`
        raise
    except _DAMAGE as error:
        raise _damaged(source.path, error) from error
    _check_columns(str(source), read, names)


def whole_sequences(source: RowStream, columns: list[str], batch_rows: int) -> Iterator[pd.DataFrame]:
    """One stream's rows, some at a time, and never a part of a sequence.

    Args:
        source (`datasets.Dataset` or [`RowsFile`]): one of the streams that [`row_streams`] gives.
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
    "RowStream",
    "RowsFile",
    "count_rows",
    "missing_rows",
    "read_rows",
    "row_streams",
    "row_tables",
    "sequence_starts",
    "set_rows_aside",
    "whole_sequences",
]
