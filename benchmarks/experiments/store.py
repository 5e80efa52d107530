"""Results of runs: a JSON line each, safe against being killed and against a second runner."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock


# The Copilot's loss that a run was made with, as its line says. The results of different losses are never mixed.
LOSS = "whole vocabulary"
OLD_LOSS = "truncated"  # lines that say nothing: p̂'s likeliest tokens and some that were drawn from the rest


def loss_of(line: dict[str, Any]) -> str:
    """The Copilot's loss that a run was made with.

    Args:
        line: A line of results.

    Returns:
        [`LOSS`] or [`OLD_LOSS`].
    """
    return line.get("loss", OLD_LOSS)


def of_one_loss(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those lines that may stand in one table: the runs of today's loss, and where there are none, the old ones.

    Args:
        lines: Lines of results.

    Returns:
        Lines of one loss.
    """
    return [line for line in lines if loss_of(line) == LOSS] or lines


class ResultStore:
    """The results file of one experiment.

    Args:
        path: The file; made with the first result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(f"{path}.lock")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines. What a killed writer left of a line is not one."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line]

    def find(self, seed: int, name: str, loss: str = LOSS) -> dict[str, Any] | None:
        """The result of a run, or `None` where it has not been made with this loss."""
        wanted = (seed, name, loss)
        return next((line for line in self.read() if (line["seed"], line["name"], loss_of(line)) == wanted), None)

    def append(self, result: dict[str, Any]) -> None:
        """Add a run's result, unless another runner has added it meanwhile.

        Args:
            result: The line; `seed`, `name` and `loss` say which run it is.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if self.find(result["seed"], result["name"], loss_of(result)) is not None:
                return
            content = self.path.read_bytes() if self.path.is_file() else b""
            whole = content[: content.rfind(b"\n") + 1]
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_bytes(whole + json.dumps(result, ensure_ascii=False).encode() + b"\n")
            os.replace(partial, self.path)
