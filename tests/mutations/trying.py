"""Trying mutations, each within 20 s and 8 GB, in processes that are forked from one in which all is imported."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .mutating import Mutation, restore


SECONDS, BYTES = 20.0, 8 * 2**30
# What may come of a mutation. "taken": the file says something else now, and that is what is read.
ALLOWED = ("same", "named", "taken")


@dataclass(frozen=True)
class Kind:
    """Something that is saved, and how it is read.

    Attributes:
        name: In words.
        folder: Where it lies.
        read: Reads a folder like it, and returns what was read in a form that can be compared.
        may_differ: Whether a mutation is one that its reader can't or need not tell from what a user meant.
        only: The one file that is changed; all by default.
        names_fields: Whether an error has to name the field, beside the file.
    """

    name: str
    folder: Path
    read: Callable[[Path], Any]
    may_differ: Callable[[Mutation], bool] = lambda mutation: False
    only: str | None = None
    names_fields: bool = True


@dataclass(frozen=True)
class Result:
    """What came of a mutation.

    Attributes:
        kind: Of what.
        mutation: In words.
        outcome: `"same"`, `"named"`, `"taken"`, or one of those that must not be: `"other"`, another model, log or row
            in silence; `"bare"`, an error of Python's; `"unnamed"`, an error without file or field; `"memory"`,
            `"hang"`, `"crash"`.
        text: The error's.
    """

    kind: str
    mutation: str
    outcome: str
    text: str


def try_all(kind: Kind, mutations: list[Mutation]) -> list[Result]:
    """What comes of each mutation of a kind.

    Args:
        kind: What is mutated.
        mutations: Of its files.
    """
    expected = kind.read(kind.folder)  # here, so that all that it imports is there for every fork
    results: list[Result] = []
    while len(results) < len(mutations):
        results += _from_one_fork(kind, mutations, len(results), expected)
    return results


def _from_one_fork(kind: Kind, mutations: list[Mutation], start: int, expected: Any) -> list[Result]:
    """Results up to the end, or up to a mutation that the process did not survive."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        _work(kind, mutations, start, expected, writing)
    os.close(writing)
    results: list[Result] = []
    rest = b""
    ended = ""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while start + len(results) < len(mutations):
            ready, _, _ = select.select([pipe], [], [], SECONDS)
            new = pipe.read(2**16) if ready else b""
            if not new:
                ended = "crash" if ready else "hang"
                break
            *lines, rest = (rest + new).split(b"\n")
            for line in lines:
                outcome, text = json.loads(line)
                results.append(Result(kind.name, str(mutations[start + len(results)]), outcome, text))
    if ended == "hang":  # else it ends by itself, and may have something left to write, such as coverage
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if ended:
        results.append(Result(kind.name, str(mutations[start + len(results)]), ended, f"status {status}"))
    return results


def _work(kind: Kind, mutations: list[Mutation], start: int, expected: Any, pipe: int) -> None:
    """In the fork: try one after the other, and tell what came of it."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "changed"
            shutil.copytree(kind.folder, folder)
            for mutation in mutations[start:]:
                mutation.apply(folder / mutation.file)
                outcome, text = _outcome(kind, mutation, folder, expected)
                os.write(pipe, json.dumps([outcome, text[:400]]).encode() + b"\n")
                restore(folder, kind.folder, mutation.file)
        code = 0
    finally:
        os._exit(code)


def _outcome(kind: Kind, mutation: Mutation, folder: Path, expected: Any) -> tuple[str, str]:
    try:
        found = kind.read(folder)
    except (ValueError, TypeError, OSError) as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        # Of a file that isn't there, its folder may be all that is known.
        gone = mutation.what in ("removed", "a folder")
        named = Path(mutation.file).name in text or (gone and str(folder) in text)
        if kind.names_fields and mutation.keys:
            named = named and any(key in text for key in mutation.keys)
        return ("named" if named else "unnamed"), f"{type(error).__name__}: {text}"
    except MemoryError as error:
        return "memory", str(error)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is counted
        kind_of_error = "memory" if "allocate memory" in str(error) else "bare"
        return kind_of_error, f"{type(error).__name__}: {error}"
    if found == expected:
        return "same", ""
    return ("taken" if kind.may_differ(mutation) else "other"), ""


__all__ = ["ALLOWED", "Kind", "Result", "try_all"]
