"""Timing variants side by side, what a row of the table holds, and what machine it was measured on."""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Row:
    """One row of the table: the pair against its Pilot alone.

    Args:
        kind: Which pair.
        name: What is measured.
        pilot: The Pilot alone, in `unit`; None where there is nothing to compare.
        value: The pair over the Pilot, or a plain number where `unit` is a size or a share.
        low: Lower quartile of the rounds' ratios.
        high: Upper quartile of the rounds' ratios.
        unit: Unit of `pilot`, or of `value` where `pilot` is None.
        bound: What the ratio would be if only the counted work took time; None where nothing is counted.
        bound_by: What was counted.
        target: The most that `value` may be, for SmolLM2's shape; None without a target.
        least: The pair's fastest round over the Pilot's, which other programs disturb less; None where none is timed.
    """

    kind: str
    name: str
    pilot: float | None
    value: float
    low: float
    high: float
    unit: str = "s"
    bound: float | None = None
    bound_by: str = ""
    target: float | None = None
    least: float | None = None

    def cells(self) -> list[str]:
        """The row's cells as Markdown."""
        pilot = "" if self.pilot is None else f"{_short(self.pilot)} {self.unit}"
        value = f"{self.value:.3f}" if self.pilot is not None else f"{_short(self.value)} {self.unit}"
        spread = "" if self.low == self.high else f"{self.low:.3f} to {self.high:.3f}"
        least = "" if self.least is None else f"{self.least:.3f}"
        bound = "" if self.bound is None else f"{self.bound:.3f} ({self.bound_by})"
        target = "" if self.target is None else f"{self.target:g}"
        return [self.kind, self.name, pilot, value, spread, least, bound, target]


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def time_now(clock: str, device: str) -> float:
    """What a clock shows when the device has done all that it was given.

    Args:
        clock: "wall" or "cpu".
        device: `cpu` or `cuda`, which works on after a call has returned.

    Returns:
        Seconds.
    """
    if device == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[clock]()


def time_interleaved(
    variants: dict[str, Callable[[], Any]], repeats: int, clock: str, device: str, warmups: int = 1
) -> dict[str, list[float]]:
    """Run all variants in turn, round after round, so that whatever else the machine does hits all alike.

    Args:
        variants: What to run, by name.
        repeats: Rounds that count.
        clock: "wall", or "cpu": this process's processor time, for a machine that has other work too.
        device: What they run on.
        warmups: Rounds before them that do not count.

    Returns:
        Seconds of every counted round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for round_number in range(warmups + repeats):
        turn = round_number % len(names)  # every variant takes every place in the order
        for name in names[turn:] + names[:turn]:
            started = time_now(clock, device)
            variants[name]()
            taken = time_now(clock, device) - started
            if round_number >= warmups:
                seconds[name].append(taken)
    return seconds


def compare(kind: str, name: str, pilot: list[float], pair: list[float], **about: Any) -> Row:
    """A row of ratios, each of two measurements of the same round.

    Args:
        kind: Which pair.
        name: What was measured.
        pilot: The Pilot alone, a number a round.
        pair: The pair, as many numbers.
        **about: Other fields of the row.

    Returns:
        The row, with the median of the ratios, their quartiles, and the ratio of the fastest.
    """
    ratios = [of_pair / of_pilot for of_pilot, of_pair in zip(pilot, pair, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    middle, least = statistics.median(ratios), min(pair) / min(pilot)
    return Row(kind, name, statistics.median(pilot), middle, low, high, least=least, **about)


def announce(row: Row) -> Row:
    """Tell on standard error that a row is done, for a run that takes minutes.

    Args:
        row: The row.

    Returns:
        The row.
    """
    print(" | ".join(cell for cell in row.cells() if cell), file=sys.stderr, flush=True)
    return row


def describe_machine(threads: int, device: str) -> dict[str, str]:
    """The processor, the GPU where it was measured, and the versions, for the table's caption.

    Args:
        threads: Threads that torch uses.
        device: What was measured on.

    Returns:
        Facts by name.
    """
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = {"GPU": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        **gpu,
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(len(models) or "?"),
        "threads": str(threads),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table.

    Args:
        rows: The rows.

    Returns:
        The table.
    """
    head = ["pair", "", "Pilot alone", "pair / Pilot", "middle half of rounds", "fastest rounds", "bound", "target"]
    body = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in body)


def overview(rows: list[Row]) -> str:
    """The ratios as a Markdown table, a line a kind of pair, each with what bounds it in brackets.

    Args:
        rows: The rows.

    Returns:
        The table.
    """
    names = list(dict.fromkeys(row.name for row in rows if row.pilot is not None and row.bound is not None))
    cells = {(row.kind, row.name): f"{row.value:.2f} ({row.bound:.2f})" for row in rows if row.bound is not None}
    head = ["pair", *names]
    body = [[kind, *(cells.get((kind, name), "") for name in names)] for kind in dict.fromkeys(r.kind for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows as plain dictionaries.

    Args:
        rows: The rows.
    """
    return [asdict(row) for row in rows]
