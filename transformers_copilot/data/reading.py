"""Reading rows: files of text are read here, line by line, so that a broken row has a number; the rest by `datasets`.

Text files are not left to `datasets`, as it guesses types ("007" becomes 7), fills messages up with keys that others
have, and refuses a whole file for one line without saying which.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
# Not Python's own: fsspec would read such a file as if it weren't compressed.
_UNPACKED_BY = {".zst": "zstandard", ".lz4": "lz4"}
TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
TABLE_KINDS = {".parquet": "parquet", ".arrow": "arrow"}
# Words of a file's name, or of a split's, that say what it is for.
SPLIT_WORDS = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "validation", "val", "eval"),
    "test": ("test", "testing"),
}
ALL = "all"  # rows whose place says nothing of what they are for
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class RawRow:
    """A row as it was read.

    Attributes:
        place (`str`): where it stands, for messages: `"questions.jsonl, line 3"`.
        values (`dict`, *optional*): its columns.
        fault (`str`, *optional*): why it could not be read, in the place of values.
    """

    place: str
    values: dict[str, Any] | None
    fault: str | None = None


@dataclass
class Source:
    """Data that was found, not yet read.

    Attributes:
        name (`str`): what it is called in messages.
        splits (`dict`): for `"train"`, `"dev"`, `"test"` or `"all"`, a function that reads the rows.
    """

    name: str
    splits: dict[str, Callable[[], Iterator[RawRow]]] = field(default_factory=dict)

    def rows(self, split: str) -> Iterator[RawRow]:
        """The rows of a split; all of them where the data has no splits.

        Args:
            split (`str`): `"train"`, `"dev"` or `"test"`.

        Returns:
            Iterator of [`RawRow`]

        Raises:
            ValueError: the data has other splits only.
        """
        for name in (split, ALL):
            if name in self.splits:
                return self.splits[name]()
        raise ValueError(f"{self.name} has no rows for {split!r}, only for {', '.join(sorted(self.splits))}.")


def open_source(data: Any, config: str | None = None, streaming: bool = False) -> Source:
    """Find data.

    Args:
        data: a file, a folder, a data set's id on the Hub, a `datasets` object, or a sequence of `dict`.
        config (`str`, *optional*): which configuration of a data set on the Hub.
        streaming (`bool`, *optional*, defaults to `False`): read a data set on the Hub as it comes.

    Returns:
        [`Source`]

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the file is of a kind that isn't read, or the folder holds no data.
    """
    if not isinstance(data, str | Path):
        return _of_object(data)
    path = Path(data).expanduser()
    if path.is_file():
        if kind_of(path) is None:
            raise ValueError(f"{path} is no kind of file that is read here; give {_kinds()}.")
        return Source(path.name, {ALL: lambda: read_file(path)})
    if path.is_dir():
        return _of_folder(path)
    if kind_of(path) is not None or not _HUB_ID.fullmatch(str(data)) or str(data).startswith("."):
        raise FileNotFoundError(f"there is no file or folder {path}.")
    return _of_hub(str(data), config, streaming)


def kind_of(path: Path) -> str | None:
    """The kind of a file, by its name.

    Args:
        path (`Path`): `questions.jsonl.gz`, for one.

    Returns:
        Its ending without the compression's, such as `".jsonl"`; `None` for a kind that isn't read.
    """
    endings = [ending.lower() for ending in path.suffixes]
    compressed = bool(endings) and endings[-1] in COMPRESSED
    if compressed:
        endings.pop()
    kind = endings[-1] if endings else None
    return kind if kind in TEXT_KINDS or (kind in TABLE_KINDS and not compressed) else None


def read_file(path: Path) -> Iterator[RawRow]:
    """The rows of one file.

    Args:
        path (`Path`): a file of a kind that [`kind_of`] knows.

    Yields:
        [`RawRow`]

    Raises:
        ValueError: the file is empty or damaged as a whole.
    """
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    kind = kind_of(path)
    if kind in TABLE_KINDS:
        return _of_table(path, TABLE_KINDS[kind])
    readers = {".json": _of_json, ".csv": _of_csv, ".tsv": _of_csv, ".txt": _of_text}
    return readers.get(str(kind), read_json_lines)(path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file's bytes, uncompressed; what a damaged archive raises becomes one kind of error."""
    import lzma
    import zlib

    import fsspec
    from fsspec.utils import infer_compression

    package = _UNPACKED_BY.get(path.suffix.lower())
    if package is not None and infer_compression(path.name.lower()) is None:
        raise ImportError(f"{path} is compressed by a method that needs a package: `python -m pip install {package}`.")
    try:
        with fsspec.open(str(path), "rb", compression="infer") as file:
            yield file
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # the system's; gzip and bz2 raise others without one
            raise
        raise ValueError(f"{path} is damaged or not whole: {error}") from error


def _decoded(line: bytes, first: bool) -> tuple[str, str | None]:
    """A line as text, and what is wrong with it."""
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        return "", f"is no UTF-8 text (byte {error.start + 1}); save the file as UTF-8"
    return text, "holds NUL bytes, so the file is damaged or no UTF-8 text" if "\0" in text else None


def read_json_lines(path: Path, name: str | None = None) -> Iterator[RawRow]:
    """The rows of a file with a JSON object a line; blank lines are skipped.

    Args:
        path (`Path`): UTF-8 text, perhaps compressed.
        name (`str`, *optional*): what the file is called in a row's place; its name without the folder by default.

    Yields:
        [`RawRow`]
    """
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            text, fault = _decoded(line, number == 1)
            if fault is None and not text.strip():
                continue
            place = f"{name or path.name}, line {number}"
            yield RawRow(place, None, fault) if fault is not None else _of_json_line(place, text)


def _of_json_line(place: str, text: str) -> RawRow:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return RawRow(place, None, f"is no JSON ({error}): {_shown(text)}")
    return _of_value(place, value)


def _of_value(place: str, value: Any) -> RawRow:
    if isinstance(value, dict):
        return RawRow(place, value)
    return RawRow(place, None, f'is {_shown(json.dumps(value))}; expected an object, {{"column": …}}')


def _of_json(path: Path) -> Iterator[RawRow]:
    """A JSON file: a list of rows, rows under one name, columns, one row, or JSON lines in spite of its name."""
    with _opened(path) as file:
        content = file.read()
    text, fault = _decoded(content, True)
    if fault is not None:
        yield from read_json_lines(path)
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise ValueError(f"{path} is no JSON: {error}") from error
        yield from read_json_lines(path)
        return
    for number, row in enumerate(_rows_of_json(value), start=1):
        yield _of_value(f"{path.name}, row {number}", row)


def _rows_of_json(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or "messages" in value or "conversations" in value:
        return [value]
    lists = {name: cells for name, cells in value.items() if isinstance(cells, list)}
    rows = [cells for cells in lists.values() if cells and all(isinstance(cell, dict) for cell in cells)]
    if len(rows) == 1:
        return rows[0]
    if lists and len(lists) == len(value) and len({len(cells) for cells in lists.values()}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    return [value]


def _of_csv(path: Path) -> Iterator[RawRow]:
    with _opened(path) as file:
        lines = _text_lines(path, file)
        head = next(lines, "")
        delimiter = "\t" if kind_of(path) == ".tsv" else max(",;\t", key=head.count)
        names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
        reader, number = csv.reader(lines, delimiter=delimiter), 0
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RawRow(f"{path.name}, row {number}", None, f"can't be read: {error}")
                continue
            if cells:
                yield _of_cells(f"{path.name}, row {number}", names, cells)


def _of_cells(place: str, names: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(names):
        return RawRow(place, None, f"has {len(cells)} cells where the head has {len(names)}: {_shown(str(cells))}")
    return RawRow(place, dict(zip(names, cells, strict=True)))


def _text_lines(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    """Lines for the csv module; a damaged one can't be left out, as a cell may go over several."""
    for number, line in enumerate(file, start=1):
        text, fault = _decoded(line, number == 1)
        if fault is not None:
            raise ValueError(f"{path.name}, line {number} {fault}.")
        yield text


def _of_text(path: Path) -> Iterator[RawRow]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            text, fault = _decoded(line, number == 1)
            if fault is not None or text.strip():
                values = None if fault is not None else {"text": text.rstrip("\r\n")}
                yield RawRow(f"{path.name}, line {number}", values, fault)


def _of_table(path: Path, builder: str) -> Iterator[RawRow]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        rows = load_dataset(builder, data_files=str(path), split="train")
    except (DatasetGenerationError, ValueError) as error:  # pyarrow's own are of the second kind
        raise ValueError(f"{path} can't be read as {builder}: {error.__cause__ or error}") from error
    return _numbered(path.name, rows)


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[RawRow]:
    for number, values in enumerate(rows, start=1):
        yield _of_value(f"{name}, row {number}", dict(values) if isinstance(values, Mapping) else values)


def _of_object(data: Any) -> Source:
    """A `datasets` object, or rows in a sequence."""
    if isinstance(data, Mapping):
        return Source("the data", _by_split("the data", data))
    return Source("the data", {ALL: lambda: _numbered("the data", data)})


def _by_split(name: str, parts: Mapping[str, Any]) -> dict[str, Callable[[], Iterator[RawRow]]]:
    """Readers of a `DatasetDict`'s splits, under our names for them."""
    found: dict[str, Callable[[], Iterator[RawRow]]] = {}
    for key, rows in parts.items():
        kind = split_of(key)
        # Of "test" and "test_hard" the one that is called so.
        if kind not in found or key in SPLIT_WORDS.get(kind, ()):
            found[kind] = lambda key=key, rows=rows: _numbered(f"{name}, split {key}", rows)  # type: ignore[misc]
    return found


def split_of(name: str) -> str:
    """What a file or a split is for, by the words of its name.

    Args:
        name (`str`): such as `"train-00000-of-00002.parquet"`.

    Returns:
        `"train"`, `"dev"`, `"test"`, or `"all"` where it doesn't say.
    """
    words = re.split(r"[^a-z]+", name.lower())
    return next((kind for kind, known in SPLIT_WORDS.items() if set(words) & set(known)), ALL)


def _of_folder(path: Path) -> Source:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        from datasets import load_from_disk

        saved = load_from_disk(str(path))
        if isinstance(saved, Mapping):
            return Source(path.name, _by_split(path.name, saved))
        return Source(path.name, {ALL: lambda: _numbered(path.name, saved)})
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and kind_of(file) is not None]
    files = [file for file in files if file.name not in _NOT_DATA and not _hidden(file.relative_to(path))]
    # A licence or a list of words lies beside data often.
    files = [file for file in files if kind_of(file) != ".txt"] or files
    if not files:
        raise ValueError(f"the folder {path} holds no data that is read here; give {_kinds()}.")
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(split_of(str(file.relative_to(path))), []).append(file)
    if ALL in groups and "train" not in groups and len(groups) > 1:
        groups["train"] = groups.pop(ALL)
    return Source(path.name, {name: lambda group=group: _one_by_one(group) for name, group in groups.items()})  # type: ignore[misc]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _one_by_one(files: list[Path]) -> Iterator[RawRow]:
    for file in files:
        yield from read_file(file)


def _of_hub(name: str, config: str | None, streaming: bool) -> Source:
    from datasets import load_dataset

    parts = load_dataset(name, config, streaming=streaming)
    return Source(name, _by_split(name, parts))


def _kinds() -> str:
    return f"{', '.join([*TEXT_KINDS, *TABLE_KINDS])} (text files also as {', '.join(COMPRESSED)})"


def _shown(text: str, limit: int = 60) -> str:
    text = text.strip()
    return text if len(text) <= limit else f"{text[:limit]}…"


__all__ = ["ALL", "RawRow", "Source", "kind_of", "open_source", "read_file", "read_json_lines", "split_of"]
