"""One run owns its folder, or its part of a folder: a second one in it is refused."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import gcd
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Pushes of a folder leave out what begins with "_".
LOCK_NAME, OWNER_NAME = "_run.lock", "_run_owner.json"
_WHOLE = (0, 1)
# Seconds in which a run that only looks whether a killed one's lock is held has given it up again.
_PATIENCE = 0.5


@contextmanager
def own_folder(
    folder: str | os.PathLike[str], is_main_process: bool = True, part: tuple[int, int] = _WHOLE
) -> Iterator[None]:
    """Own a run's folder while it is written to.

    The lock is the operating system's: a process that was killed holds none, whatever files it left. They are removed
    at the end, and at the end of the next run after a kill. So is the folder where nothing was written to it.

    Args:
        folder (`str` or `Path`): the run's, made where it does not exist.
        is_main_process (`bool`, *optional*, defaults to `True`): of several processes one owns the folder for all.
        part (`tuple[int, int]`, *optional*, defaults to `(0, 1)`): `(i, n)`: own only those of its numbered files whose
            number divided by n leaves i. Runs that share no file own a folder side by side.

    Yields:
        Nothing.

    Raises:
        RuntimeError: another run owns the folder, or a file of this part.
    """
    if not is_main_process:
        yield
        return
    folder = Path(folder)
    is_new = not folder.exists()
    lock_name, owner_name = _names(part)
    lock = FileLock(folder / lock_name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise _taken(folder, part) from error
    except (OSError, NotImplementedError) as error:  # NotImplementedError: filelock's, where there is no flock
        logger.warning(f"{folder} can't be locked ({error}); another run in it would go unnoticed.")
        yield
        return
    try:
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        (folder / owner_name).write_text(json.dumps(about), encoding="utf-8")
        # Only now: of two runs that begin at once each sees the other one's lock.
        _refuse_overlapping(folder, part)
        yield
    finally:
        # Before it is given up: what comes after it makes files of its own.
        for name in (owner_name, lock_name):
            (folder / name).unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):  # something was written
                folder.rmdir()


def _names(part: tuple[int, int]) -> tuple[str, str]:
    """The files of a part's lock and of its owner."""
    if part == _WHOLE:
        return LOCK_NAME, OWNER_NAME
    about = f"{part[0]}-of-{part[1]}"
    return f"_run-{about}.lock", f"_run_owner-{about}.json"


def _refuse_overlapping(folder: Path, part: tuple[int, int]) -> None:
    """Other parts' locks, of those that share a file with this part."""
    for path in folder.glob("_run*.lock"):
        numbers = re.fullmatch(r"_run-(\d+)-of-(\d+)\.lock", path.name)
        other = (int(numbers[1]), int(numbers[2])) if numbers else _WHOLE
        if other == part or not other[1] or (other[0] - part[0]) % gcd(other[1], part[1]):
            continue
        lock = FileLock(path)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise _taken(folder, other) from error
        for name in _names(other):  # a killed run's
            (folder / name).unlink(missing_ok=True)
        lock.release()


def _taken(folder: Path, part: tuple[int, int]) -> RuntimeError:
    owner = _owner(folder / _names(part)[1])
    if part == _WHOLE:
        return RuntimeError(
            f"{folder} belongs to another run, {owner}: the two would write over each other's files. "
            "Give this run an `output_dir` of its own, or wait until that one has ended, or stop it."
        )
    return RuntimeError(
        f"shard {part[0]}/{part[1]} of {folder} belongs to another call, {owner}: the two would write over each "
        "other's files. Give this call another `shard` or an `output_dir` of its own, or wait until that one has "
        "ended, or stop it."
    )


def _owner(file: Path) -> str:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it begins or ends at this moment
        return "of another process"


__all__ = ["LOCK_NAME", "OWNER_NAME", "own_folder"]
