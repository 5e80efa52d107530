"""Rows of a task from a local folder or the Hub, each with the place where it stands.

A local folder has `arithmetic/{task}/{train,dev,test}.jsonl`, the same under `commonsense/`, and
`recommendation/{task}.jsonl`. A data set on the Hub may have the fields of these files or those of the task's usual
data set. `datasets.load_dataset` also takes a local folder by name, which is how the Hub is tested without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import load_dataset

from ..data.reading import read_json_lines
from .base import QuestionTask
from .hub_source import HubSource
from .sequences import SequenceTask


# Of a task and one of our splits: its rows, or None where there is no such file or split.
Reader = Callable[[QuestionTask | SequenceTask, str], list[tuple[str, Any]] | None]


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a task's file of JSON lines.

    Args:
        path (`Path`): a UTF-8 file; blank lines are skipped.

    Yields:
        `tuple[str, dict]`: where the line stands (`"train.jsonl, line 3"`, with the folder), and its object.

    Raises:
        ValueError: a line is not UTF-8 or no JSON object; the message names file and line.
    """
    for row in read_json_lines(path, str(path)):
        if row.values is None:
            raise ValueError(f"{row.place}: {row.fault}. Mend or remove the line.")
        yield row.place, row.values


def local_file(data_dir: Path, task: QuestionTask | SequenceTask, split: str) -> Path:
    """The file of a task's split.

    Args:
        data_dir (`Path`): the folder that holds `arithmetic/`, `commonsense/` and `recommendation/`.
        split (`str`): `train`, `dev` or `test`; a recommendation task has one file for all.
    """
    if isinstance(task, SequenceTask):
        return data_dir / task.group / f"{task.name}.jsonl"
    return data_dir / task.group / task.name / f"{split}.jsonl"


def local_reader(data_dir: Path) -> Reader:
    """A reader of a local folder.

    Args:
        data_dir (`Path`): the folder that holds `arithmetic/`, `commonsense/` and `recommendation/`.

    Returns:
        `Callable`: of task and split to rows, or to `None` where the file does not exist.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}: give `data_dir` the folder with the tasks' files.")

    def read(task: QuestionTask | SequenceTask, split: str) -> list[tuple[str, Any]] | None:
        """The rows of a file, `None` where there is no such file."""
        path = local_file(data_dir, task, split)
        return list(read_rows(path)) if path.is_file() else None

    return read


def hub_reader(dataset_name: str | None = None) -> Reader:
    """A reader of the Hub.

    Args:
        dataset_name (`str`, *optional*): another data set's id, or a folder that `datasets` can read, instead of the
            task's usual one; its splits are called train, validation (or dev) and test.

    Returns:
        `Callable`: of task and split to rows, or to `None` where the data set has no such split. It raises
        `FileNotFoundError` where the data set cannot be had.
    """
    loaded: dict[str, Any] = {}

    def read(task: QuestionTask | SequenceTask, split: str) -> list[tuple[str, Any]] | None:
        """The rows of a split on the Hub, `None` where there is no such split."""
        source = task.hub if dataset_name is None else HubSource(dataset_name)
        if source is None:
            raise FileNotFoundError(
                f"{task.name} has no usual data set on the Hub: give `data_dir` a folder with {task.group}/"
                f"{task.name}.jsonl, or `dataset_name` a data set with the same fields."
            )
        if task.name not in loaded:
            loaded[task.name] = _load(task.name, source)
        parts = loaded[task.name]
        name = next((name for name in (source.splits.get(split), split) if name in parts), None)
        if name is None or (dataset_name is None and split not in source.splits):
            return None
        rows = ((f"{source.path}[{name}][{index}]", row) for index, row in enumerate(parts[name]))
        return [(where, _local_form(task, row, where)) for where, row in rows]

    return read


def _local_form(task: QuestionTask | SequenceTask, row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row with the local files' fields."""
    try:
        return {**row, **task.from_hub(row)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: not a row of {task.name} as its usual data set has them ({type(error).__name__}: {error}); its "
            f"fields are {', '.join(row)}."
        ) from error


def _load(name: str, source: HubSource) -> Any:
    """All splits of a data set; what goes wrong is said in terms of the task."""
    try:
        return load_dataset(source.path, source.name, revision=source.revision)
    except (OSError, ValueError) as error:  # no network, no such data set or configuration, offline mode
        raise FileNotFoundError(
            f"{name} is not to be had: no `data_dir` was given, and the data set {source.path!r} could not be loaded "
            f"from the Hub ({type(error).__name__}: {error}). Give `data_dir` a folder with the task's files."
        ) from error


__all__ = ["Reader", "hub_reader", "local_file", "local_reader", "read_rows"]
