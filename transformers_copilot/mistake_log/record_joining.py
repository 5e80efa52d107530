"""Folders that each hold some shards of a record, as one record: its header names the folders; nothing is copied."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from .record_header import RECORD_FILE, RecordHeader
from .record_shards import check_shard, missing_shards, named_shards, shard_path


def join_records(
    folders: Iterable[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    progress: bool | Callable[[int, int], None] = True,
) -> Path:
    """Make one record of folders that each hold some of its shards, as calls of [`record_mistakes`] with `shard` write
    them on machines with disks of their own.

    No number is copied: `output_dir` gets a `record.json` that says where the other folders are, seen from it. Each
    shard is read once, and one that is missing or broken is named. What `MistakeLog.open(output_dir)` then reads is
    what one call would have recorded. The folders have to stay where they are; or move them and `output_dir` together.

    Args:
        folders (iterable of `str` or `Path`): folders of the record, in the order in which a shard is looked for.
        output_dir (`str` or `Path`): the joined record's folder; made where it does not exist. It may hold shards of
            the record itself, and be one of `folders`: a shard there goes before all others.
        progress (`bool` or callable, *optional*, defaults to `True`): show how far it is. A function is called in the
            bar's place, with how many shards are checked and how many there are.

    Returns:
        `Path`: `output_dir`.

    Raises:
        TypeError: `folders` is one folder.
        ValueError: a folder holds no record, the folders' Pilot, tokenizer, data or options differ (all of it is named
            with both values), or shards are missing or broken. Nothing is written then.
    """
    target = Path(output_dir)
    given = _given(folders)
    if (target / RECORD_FILE).is_file():  # joined again, or some were recorded into it
        given = [target, *given]
    headers = [(folder, RecordHeader.read(folder)) for folder in given]
    first, header = headers[0]
    for folder, other in headers[1:]:
        _check_same(first, header, folder, other)
    joined = replace(
        header,
        tokenizer_hash=next((one.tokenizer_hash for _, one in headers if one.tokenizer_hash is not None), None),
        joined_from=_places(target, headers),
    )
    _check_shards(target, joined, given, progress)
    target.mkdir(parents=True, exist_ok=True)
    replace(joined, joined_from=_read_from(target, joined)).write(target)
    return target


def _given(folders: Iterable[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(folders, str | os.PathLike):
        raise TypeError(f"`folders` is {str(folders)!r}, one folder; give a list of those that hold the shards.")
    given = [Path(folder) for folder in folders]
    if not given:
        raise ValueError("`folders` is empty; give those that hold the record's shards.")
    return given


def _check_same(first: Path, header: RecordHeader, folder: Path, other: RecordHeader) -> None:
    if different := other.differences(header):
        named = "; ".join(
            f"{name} is {there!r} in {folder} and {here!r} in {first}" for name, (there, here) in different.items()
        )
        raise ValueError(
            f"{folder} and {first} hold shards of two records: {named}. Join only folders that were recorded with the "
            "same Pilot, tokenizer, data and options."
        )


def _places(target: Path, headers: Sequence[tuple[Path, RecordHeader]]) -> tuple[str, ...]:
    """All folders beside the target, seen from it; of a joined one those that it names, too."""
    own = os.path.realpath(target)
    found: dict[str, None] = {}  # in their order, each once
    for folder, header in headers:
        for place in (folder, *(folder / name for name in header.joined_from)):
            found[os.path.realpath(place)] = None
    return tuple(_seen_from(own, place) for place in found if place != own)


def _read_from(target: Path, header: RecordHeader) -> tuple[str, ...]:
    """Those of a header's folders that a shard is read from."""
    used = {shard_path(target, number, header).parent for number in range(header.shards)}
    return tuple(name for name in header.joined_from if Path(os.path.realpath(target / name)) in used)


def _seen_from(own: str, place: str) -> str:
    try:
        return Path(os.path.relpath(place, own)).as_posix()
    except ValueError:  # another drive
        return place


def _check_shards(
    target: Path, header: RecordHeader, given: Sequence[Path], progress: bool | Callable[[int, int], None]
) -> None:
    """Read every shard once, from where it will be read."""
    count, looked_in = header.shards, ", ".join(map(str, given))
    if missing := missing_shards(target, header):
        raise ValueError(
            f"{len(missing)} of {count} shards are in none of the folders {looked_in}: {named_shards(missing, count)}. "
            f"Record them: `transformers-copilot record --shard {missing[0]}/{count} --output_dir {given[-1]} …` with "
            f"the same options as before (`record_mistakes(…, shard=({missing[0]}, {count}))`) writes number "
            f"{missing[0]} alone. If another folder holds them, name it, too."
        )
    told = progress if callable(progress) else lambda done, total: None
    told(0, count)
    broken = []
    with tqdm(total=count, disable=progress is not True, desc="checking shards") as bar:
        for number in range(count):
            try:
                check_shard(target, number, header)
            except ValueError as error:
                broken.append((shard_path(target, number, header), error))
            bar.update()
            told(number + 1, count)
    if len(broken) == 1:
        raise broken[0][1]
    if broken:
        named = ", ".join(str(path) for path, _ in broken)
        raise ValueError(f"{len(broken)} of {count} shards can't be used: {named}. {broken[0][1]}") from broken[0][1]


__all__ = ["join_records"]
