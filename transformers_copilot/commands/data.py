"""The commands' data: a task by its name, or one's own prompts and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from .. import tasks
from ..metrics import same_answer


@dataclass
class DataArguments:
    """Which questions are read; `--task`, or `--dataset` with the names of its columns."""

    task: str | None = field(default=None, metadata={"help": f"A task: {', '.join(tasks.TASK_NAMES)}."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with the tasks' JSON lines; without it the Hub is read."}
    )
    dataset: str | None = field(
        default=None, metadata={"help": "Your own data in the place of a task: a JSON lines file, or an id on the Hub."}
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column of --dataset with the model's input."})
    target_column: str = field(
        default="target",
        metadata={"help": "Column of --dataset with what is to be written; a space in front keeps the words apart."},
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "Column of --dataset with the right answer; the target without one."}
    )
    max_test_examples: int | None = field(default=None, metadata={"help": "Answer the first so many only."})


@dataclass
class TextData:
    """Questions ready for a model.

    Attributes:
        name (`str`): what they are.
        train, dev, test (`Dataset`, *optional*): with `prompt`, `target` and `answer`.
        extract_answer (callable): reads an answer out of a reply.
        is_right (callable): whether an answer is right.
        max_new_tokens (`int`, *optional*, defaults to 64): room for a reply.
    """

    name: str
    train: Dataset | None
    dev: Dataset | None
    test: Dataset | None
    extract_answer: Callable[[str], str | None]
    is_right: Callable[[str | None, str], bool]
    max_new_tokens: int = 64


def load_task_data(options: DataArguments, seed: int = 42) -> TextData | None:
    """The questions of `--task`.

    Args:
        seed (`int`, *optional*, defaults to 42): seed of the choice of dev questions where there is no dev file.

    Returns:
        [`TextData`], or `None` without `--task`.

    Raises:
        ValueError: both `--task` and `--dataset` are given, or the task is one of recommendations.
    """
    if options.task is None:
        return None
    if options.dataset is not None:
        raise ValueError("`--task` and `--dataset` are both given: give the one to be read.")
    task = tasks.load(options.task, options.data_dir, seed=seed)
    metric: Any = task.metric
    if isinstance(task, tasks.RecommendationTask):
        raise ValueError(f"{options.task} ranks items, which this command does not; use `transformers_copilot.tasks`.")
    sets = {split: task.dataset[split] for split in ("train", "dev", "test")}
    sets["test"] = first(sets["test"], options.max_test_examples)
    return TextData(options.task, **sets, **_reading(task.extract_answer, metric.is_right, task.max_new_tokens))


def _reading(extract: Any, is_right: Any, max_new_tokens: int) -> dict[str, Any]:
    return {"extract_answer": extract, "is_right": is_right, "max_new_tokens": max_new_tokens}


def load_own_data(options: DataArguments, split: str) -> TextData:
    """The rows of `--dataset`.

    Args:
        split (`str`): `"train"` or `"test"`: where the rows go, and which split of a data set on the Hub is read.

    Returns:
        [`TextData`]

    Raises:
        ValueError: no data is named, a column is missing, or a cell is no text.
        FileNotFoundError: there is no such file.
    """
    if options.dataset is None:
        raise ValueError("no data: give `--task` with `--data_dir`, or `--dataset` with a JSON lines file.")
    rows = read_rows(options.dataset, split)
    answer = options.answer_column or options.target_column
    columns = {"prompt": options.prompt_column, "target": options.target_column, "answer": answer}
    missing = sorted({column for column in columns.values() if column not in rows.column_names})
    if missing:
        raise ValueError(
            f"{options.dataset} has no column {', '.join(missing)}, only {', '.join(rows.column_names)}. Name them "
            "with `--prompt_column`, `--target_column` and `--answer_column`."
        )
    for place, row in enumerate(rows.select_columns(sorted(set(columns.values())))):
        empty = [column for column, value in row.items() if not isinstance(value, str) or not value.strip()]
        if empty:
            raise ValueError(f"{options.dataset}, row {place + 1}: {empty[0]} is {row[empty[0]]!r}; give some text.")
    data = {name: rows[column][:] for name, column in columns.items()}
    data["question"] = data["prompt"]
    data["id"] = [str(number) for number in range(len(rows))]
    made = first(Dataset.from_dict(data), options.max_test_examples if split == "test" else None)
    reading = _reading(_stripped, _same_text, 64)
    name = Path(options.dataset).stem
    return TextData(name, made if split == "train" else None, None, made if split == "test" else None, **reading)


def read_rows(name_or_path: str, split: str) -> Dataset:
    """Rows of a JSON lines file, or of a data set on the Hub.

    Args:
        name_or_path (`str`): the file, or the id.
        split (`str`): the split that is read of a data set.

    Returns:
        `datasets.Dataset`

    Raises:
        FileNotFoundError: it looks like a file, and there is none.
        ValueError: there is no row.
    """
    path = Path(name_or_path)
    if path.suffix in (".json", ".jsonl", ".parquet", ".csv"):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}.")
        kind = {".jsonl": "json"}.get(path.suffix, path.suffix[1:])
        rows = load_dataset(kind, data_files=str(path), split="train")
    else:
        rows = load_dataset(name_or_path, split=split)
    if not len(rows):
        raise ValueError(f"{name_or_path} has no row.")
    return rows


def first(rows: Dataset, count: int | None) -> Dataset:
    """The first rows.

    Args:
        count (`int`, *optional*): how many; all by default.

    Returns:
        `Dataset`
    """
    return rows if count is None else rows.take(min(count, len(rows)))


def _stripped(reply: str) -> str:
    return reply.strip()


def _same_text(answer: str | None, expected: str) -> bool:
    return same_answer(answer, expected.strip())


__all__ = ["DataArguments", "TextData", "first", "load_own_data", "load_task_data", "read_rows"]
