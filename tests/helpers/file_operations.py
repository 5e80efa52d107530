"""Counts and names what a process does to the files of a folder, and kills it at one of these operations."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import safetensors.torch
import torch
from transformers import PreTrainedTokenizerFast


_TOKENIZER = "tokenizer.json"


@dataclass
class FileOperations:
    """The operations of this process on a folder's files, in their order.

    Python's own come from its audit events. Those that other languages make (safetensors, torch, Parquet, tokenizers)
    are seen where Python hands over to them.

    Attributes:
        folder: what is watched.
        die_at: number of the operation at which the process kills itself; `None` for never.
        die_name: what that operation is called; the process fails if it is another one. Without a number, the first
            one of that name is meant.
        manner: `"before"` the operation; `"after"` it, when nothing else has happened yet; or `"half"`, when half of
            the file that it writes is on disk.
        names: what was done so far, such as `write checkpoint-2/config.json`.
    """

    folder: Path
    die_at: int | None = None
    die_name: str = ""
    manner: str = "before"
    names: list[str] = field(default_factory=list)
    _last: Path | None = None
    _inside: bool = False

    def watch(self) -> None:
        """Begin; it lasts as long as the process."""
        self.folder = self.folder.resolve()
        sys.addaudithook(self._audited)
        self._see(safetensors.torch, "serialize_file", lambda tensors, path, *_, **__: path)
        self._see(torch, "save", lambda content, path, *_, **__: path)
        self._see(pyarrow.parquet, "write_table", lambda table, path, *_, **__: path)
        self._see(
            PreTrainedTokenizerFast,
            "_save_pretrained",
            lambda *_, save_directory, **__: f"{save_directory}/{_TOKENIZER}",
        )

    def end(self) -> None:
        """The process is done: what it would die after may have been its last operation."""
        self._count("end", None)

    def _see(self, owner: Any, name: str, path_of: Callable[..., Any]) -> None:
        function = getattr(owner, name)

        def seen(*args: Any, **kwargs: Any) -> Any:
            path = path_of(*args, **kwargs)
            if not isinstance(path, (str, os.PathLike)):
                return function(*args, **kwargs)
            self._count("write", Path(path))
            self._inside = True
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False

        setattr(owner, name, seen)

    def _audited(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, os.PathLike)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._count("write", Path(path))
        elif event in ("os.rename", "os.link"):
            self._count(event.removeprefix("os."), Path(args[1]))
        elif event in ("os.remove", "os.mkdir", "os.rmdir"):
            folder = args[-1]
            parent = Path() if folder == -1 else Path(os.readlink(f"/proc/self/fd/{folder}"))
            self._count(event.removeprefix("os."), parent / os.fsdecode(args[0]))

    def _count(self, verb: str, path: Path | None) -> None:
        if self._inside:
            return
        if path is not None:
            path = Path(os.path.abspath(path))
            if not path.is_relative_to(self.folder):
                return
        name = verb if path is None else f"{verb} {path.relative_to(self.folder).as_posix()}"
        name = re.sub(r"\.\d+-\d+\.partial$", ".partial", name)  # some files have process and thread in their names
        number = len(self.names)
        if self.die_at is None and name == self.die_name:
            self.die_at = number
        if number == self.die_at and name != self.die_name:
            raise RuntimeError(f"operation {number} is {name!r}, not {self.die_name!r}: two runs differ")
        if self.die_at is not None and number == self.die_at + (self.manner != "before"):
            if self.manner == "half" and self._last is not None and self._last.is_file():
                os.truncate(self._last, self._last.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)
        self._last = path
