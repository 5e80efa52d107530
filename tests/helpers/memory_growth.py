"""How much memory a process takes the longer it runs: readings in a child process, their slope and its interval."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from tests.helpers.paths import ROOT


@dataclass
class Readings:
    """What a process held after so many steps.

    Attributes:
        steps (`list[int]`): after which step.
        memory (`list[float]`): bytes of its own memory; pages of mapped files are the kernel's and don't count.
        objects (`list[float]`): Python objects that the collector knows.
        tensors (`list[float]`): tensors among them.
    """

    steps: list[int] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    objects: list[float] = field(default_factory=list)
    tensors: list[float] = field(default_factory=list)

    def take(self, step: int) -> None:
        """Read once more, when what was freed has gone back to the kernel."""
        gc.collect()
        give_back_freed()
        alive = gc.get_objects()
        self.steps.append(step)
        self.memory.append(own_memory())
        self.objects.append(len(alive))
        self.tensors.append(sum(issubclass(type(one), torch.Tensor) for one in alive))


@dataclass
class Growth:
    """A slope by least squares, and its 95 % interval.

    Neighbouring readings resemble each other (an allocator keeps what it has), so they count for fewer: their number is
    lowered by the residuals' correlation from one to the next, as is usual for trends of series.
    """

    slope: float
    low: float
    high: float

    @classmethod
    def of(cls, steps: list[int], values: list[float]) -> Growth:
        x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
        x = x - x.mean()
        slope = float((x * y).sum() / (x * x).sum())
        rest = y - y.mean() - slope * x
        energy = float((rest * rest).sum())
        if energy == 0.0:
            return cls(slope, slope, slope)
        alike = min(max(float((rest[1:] * rest[:-1]).sum()) / energy, 0.0), 0.95)
        count = max(len(y) * (1 - alike) / (1 + alike), 4.0)
        error = math.sqrt(energy / (count - 2) / float((x * x).sum()))
        half = float(stats.t.ppf(0.975, count - 2)) * error
        return cls(slope, slope - half, slope + half)

    def __str__(self) -> str:
        return f"{self.slope:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def give_back_freed() -> None:
    """Let the C library hand over pages that it keeps for later (glibc); how many these are goes up and down."""
    ctypes.CDLL(None).malloc_trim(0)


def own_memory() -> int:
    """Bytes of memory that are this process's own (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


def in_child(module: str, *arguments: Any, timeout: float = 1500.0) -> dict[str, Any]:
    """What `module` prints last, as JSON, run as a program of its own."""
    # One arena: how many threads happened to allocate is no growth.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
