"""One run owns its folder: a second one in it is refused."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Pushes of a folder leave out what begins with "_".
LOCK_NAME, OWNER_NAME = "_run.lock", "_run_owner.json"


@contextmanager
def own_folder(folder: str | os.PathLike[str], is_main_process: bool = True) -> Iterator[None]:
    """Own a run's folder while it is written to.

    The lock is the operating system's: a process that was killed holds none, whatever files it left. They are removed
    at the end, and at the end of the next run after a kill.

    Args:
        folder (`str` or `Path`): the run's, made where it does not exist.
        is_main_process (`bool`, *optional*, defaults to `True`): of several processes one owns the folder for all.

    Yields:
        Nothing.

    Raises:
        RuntimeError: another run owns the folder.
    """
    if not is_main_process:
        yield
        return
    folder = Path(folder)
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RuntimeError(
            f"{folder} belongs to another run, {_owner(folder)}: the two would write over each other's files. "
            "Give this run an `output_dir` of its own, or wait until that one has ended, or stop it."
        ) from error
    except (OSError, NotImplementedError) as error:  # NotImplementedError: filelock's, where there is no flock
        logger.warning(f"{folder} can't be locked ({error}); another run in it would go unnoticed.")
        yield
        return
    try:
        about = {"host": socket.gethostname(), "pid": os.getpid()}
        (folder / OWNER_NAME).write_text(json.dumps(about), encoding="utf-8")
        yield
    finally:
        # Before it is given up: what comes after it makes files of its own.
        for name in (OWNER_NAME, LOCK_NAME):
            (folder / name).unlink(missing_ok=True)
        lock.release()


def _owner(folder: Path) -> str:
    try:
        about = json.loads((folder / OWNER_NAME).read_text(encoding="utf-8"))
        return f"process {about['pid']} on {about['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it begins or ends at this moment
        return "of another process"


__all__ = ["LOCK_NAME", "OWNER_NAME", "own_folder"]
