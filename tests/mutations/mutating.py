"""Ways to change a file: fields of JSON and YAML taken out, retyped and made huge; bytes flipped, files cut."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


REMOVED = object()
# What a field becomes: another type, another sign, far too large, not finite, far too long or deep.
VALUES: dict[str, Any] = {
    "removed": REMOVED,
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -1,
    "half": 0.5,
    "text": "x",
    "no text": "",
    "list": [1],
    "empty list": [],
    "object": {"a": 1},
    "empty object": {},
    "10**9": 10**9,
    "10**18": 10**18,
    "1e308": 1e308,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
    "long text": "x" * 100_000,
    "2,000 lists": None,  # written as text: the json module itself can't
    "other number": None,  # half of what it is, or one more: a value of the right type
}
_DEPTH = 2_000
_DEEP = "deep-list-goes-here"
_JSON, _LINES, _YAML = (".json",), (".jsonl",), (".yaml", ".yml")


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        file: Path inside the folder.
        what: What is done, in words.
        keys: Names of fields, of which an error has to name one; none where it is the file as a whole.
        apply: Makes the change; the file is there, as it was saved.
    """

    file: str
    what: str
    keys: tuple[str, ...]
    apply: Callable[[Path], None]

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.keys)} {self.what}"


def mutations_of(folder: Path, seed: Callable[[str], int]) -> list[Mutation]:
    """Every mutation of every file of a folder but its Python code and its card.

    Args:
        folder: What was saved.
        seed: A number for a text, from which places inside binary files are drawn.
    """
    found: list[Mutation] = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or path.suffix in (".py", ".md"):
            continue
        found += _of_any(name, path.stat().st_size)
        if path.suffix in (*_JSON, *_LINES, *_YAML):
            found += _of_fields(name, path.read_text(encoding="utf-8"))
            found += _of_bytes(name, path.read_bytes(), 12, seed)
        else:
            found += _of_bytes(name, path.read_bytes(), 40, seed)
    return found


def _of_any(name: str, size: int) -> Iterator[Mutation]:
    def written(content: bytes) -> Callable[[Path], None]:
        return lambda path: path.write_bytes(content) and None

    def as_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    yield Mutation(name, "removed", (), Path.unlink)
    yield Mutation(name, "a folder", (), as_folder)
    yield Mutation(name, "emptied", (), written(b""))
    yield Mutation(name, "zeros", (), written(b"\0" * size))
    yield Mutation(name, "garbage", (), written(b"\xff\xfe garbage \x80" * 9))
    for share in (0.02, 0.3, 0.6, 0.9):
        yield Mutation(name, f"cut at {share:.0%}", (), _cut(int(size * share)))
    for count in (1, 2, 8):
        yield Mutation(name, f"cut by {count}", (), _cut(size - count))
    yield Mutation(
        name, "something after its end", (), lambda path: path.write_bytes(path.read_bytes() + b"more") and None
    )


def _cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: max(size, 0)]) and None


def _of_bytes(name: str, content: bytes, places: int, seed: Callable[[str], int]) -> Iterator[Mutation]:
    """One byte another one. Of a safetensors file half of the places are in its head, and each tensor has one."""
    drawn = [seed(f"{name} {number}") for number in range(places)]
    if name.endswith(".safetensors"):
        head = 8 + int.from_bytes(content[:8], "little")
        spots = [(place % head, "") for place in drawn] + [(place, "") for place in range(8)]
        spots += _spots_of_tensors(content, head)
    else:
        spots = [(place % len(content), "") for place in drawn]
    for number, (place, tensor) in enumerate(spots):
        bits = (0x01, 0x80, 0x10, 0xFF)[number % 4]
        yield Mutation(name, f"byte {place} ^ {bits:#x} {tensor}".rstrip(), (), _flip(place, bits))


def _spots_of_tensors(content: bytes, head: int) -> Iterator[tuple[int, str]]:
    entries = json.loads(content[8:head])
    for number, (tensor, about) in enumerate(sorted(entries.items())):
        if tensor == "__metadata__" or about["data_offsets"][0] == about["data_offsets"][1]:
            continue
        first, end = about["data_offsets"]
        yield head + (first, end - 1, (first + end) // 2)[number % 3], f"in {tensor}"


def _flip(place: int, bits: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= bits
        path.write_bytes(content)

    return apply


def _of_fields(name: str, text: str) -> Iterator[Mutation]:
    if name.endswith(_LINES):
        lines = text.splitlines()
        for number in range(min(2, len(lines))):
            content = json.loads(lines[number])
            for path in _paths(content):
                for what in VALUES:
                    yield from _field(name, path, what, content, _line_writer(lines, number))
        return
    if name.endswith(_YAML):
        content = yaml.safe_load(text)
        writer: Callable[[Path, Any], None] = lambda path, value: path.write_text(yaml.safe_dump(value)) and None  # noqa: E731
    else:
        content, writer = json.loads(text), _json_writer
    for path in [(), *_paths(content)]:
        for what in VALUES:
            yield from _field(name, path, what, content, writer)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field at any depth, and the first entry of every list."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, inner in entries:
        yield (*path, name)
        yield from _paths(inner, (*path, name))


def _field(
    name: str, path: tuple[Any, ...], what: str, content: Any, write: Callable[[Path, Any], None]
) -> Iterator[Mutation]:
    old = content
    for part in path:
        old = old[part]
    new = VALUES[what]
    if what == "2,000 lists":
        new = _DEEP
    elif what == "other number":
        if isinstance(old, bool) or not isinstance(old, int | float):
            return
        new = old // 2 if isinstance(old, int) and old > 1 else old + 1
    elif (new is REMOVED and not path) or (new is not REMOVED and type(new) is type(old) and new == old):
        return

    def apply(file: Path) -> None:
        changed = copy.deepcopy(content)
        if not path:
            write(file, new)
            return
        inner = changed
        for part in path[:-1]:
            inner = inner[part]
        if new is REMOVED:
            del inner[path[-1]]
        else:
            inner[path[-1]] = new
        write(file, changed)

    # What is too deep for the json module is no field's fault: the file can't be read.
    keys = () if what == "2,000 lists" and not name.endswith(_YAML) else path
    yield Mutation(name, what, tuple(str(part) for part in keys if not isinstance(part, int)), apply)


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent).replace(f'"{_DEEP}"', "[" * _DEPTH + "]" * _DEPTH)


def _json_writer(path: Path, value: Any) -> None:
    path.write_text(_as_json(value, 2), encoding="utf-8")


def _line_writer(lines: list[str], number: int) -> Callable[[Path, Any], None]:
    def write(path: Path, value: Any) -> None:
        path.write_text("\n".join([*lines[:number], _as_json(value), *lines[number + 1 :]]) + "\n", encoding="utf-8")

    return write


def restore(folder: Path, saved: Path, file: str) -> None:
    """Put a file back as it was saved.

    Args:
        folder: Where it was changed.
        saved: The folder that it is a copy of.
        file: Path inside both.
    """
    path = folder / file
    if path.is_dir():
        shutil.rmtree(path)
    shutil.copyfile(saved / file, path)


__all__ = ["Mutation", "mutations_of", "restore"]
