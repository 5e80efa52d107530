"""The rows: one experiment's description each, in `examples/paper/`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from benchmarks.experiments.spec import Experiment, read_experiment


ROWS = Path(__file__).parents[2] / "examples" / "paper"


def row_names() -> list[str]:
    """All rows, in the order of their names."""
    return sorted(path.stem for path in ROWS.glob("*.yaml"))


def row_path(name: str) -> Path:
    """A row's description.

    Args:
        name: Its name, such as `llama32-1b-commonsense`.

    Returns:
        The file.

    Raises:
        ValueError: There is no such row; the message names the nearest.
    """
    names = row_names()
    if name not in names:
        near = get_close_matches(name.lower().replace("_", "-").replace(".", ""), names, 1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}."
        raise ValueError(f"there is no row {name!r}: {hint}")
    return ROWS / f"{name}.yaml"


def read_row(name: str) -> Experiment:
    """A row as an experiment.

    Args:
        name: Its name.

    Returns:
        The experiment.
    """
    return read_experiment(row_path(name))


def list_of_rows() -> str:
    """All rows with their Pilots, Copilots and tasks, a line each."""
    lines = []
    for name in row_names():
        spec = read_row(name)
        tested = [spec.task, *spec.also_test]
        copilots = ", ".join(variant.name.removeprefix("copilot_") for variant in spec.variants)
        lines.append(f"  {name:26} {spec.title} with a Copilot of {copilots}: {', '.join(tested)}")
    return "\n".join(lines)
