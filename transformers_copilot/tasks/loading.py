"""Load a task: read its files or its data set, and keep training, validation and test questions apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value

from .base import Question, QuestionTask, letters_and_digits
from .catalogue import QUESTION_TASKS, SEQUENCE_TASKS, TASKS, check_names
from .reading import Reader, hub_reader, local_file, local_reader
from .sequences import SequenceTask
from .task import RecommendationTask, Task


Item = tuple[QuestionTask, Question]
COLUMNS = ("id", "task", "question", "prompt", "target", "answer")
MOST_DEV_FROM_TRAIN = 200


def load(
    name: str,
    data_dir: str | Path | None = None,
    dataset_name: str | None = None,
    train_tasks: Sequence[str] = (),
    dev_size: float = 0.1,
    seed: int = 42,
    max_history: int | None = 20,
    train_targets: str = "all",
) -> Task:
    """Load a task by its name.

    Args:
        name (`str`): the task to be tested on, one of `tasks.TASK_NAMES`.
        data_dir (`str` or `Path`, *optional*): a folder with the tasks' JSON lines, `{group}/{task}/{train,dev,test}.
            jsonl` or `recommendation/{task}.jsonl`. Without it the Hub is read.
        dataset_name (`str`, *optional*): a data set on the Hub, or a folder that `datasets` can read, instead of the
            task's usual one.
        train_tasks (`Sequence[str]`): tasks to train on, instead of the task itself. Not for recommendations.
        dev_size (`float`, defaults to 0.1): share of the training questions that serves as dev, 200 at most, where no
            task trained on has a dev set. Not for recommendations.
        seed (`int`, defaults to 42): seed of that choice.
        max_history (`int`, *optional*, defaults to 20): recommendations only: the most recent items that a prompt
            holds; `None` for all.
        train_targets (`str`, defaults to `"all"`): recommendations only: `"all"` makes a training example of every
            item but the user's first, `"last"` one a user.

    Returns:
        [`Task`], for recommendations a [`RecommendationTask`].

    Raises:
        ValueError: there is no such task, a row is malformed (the message names file and line), or a set is empty.
        FileNotFoundError: the task is neither in the folder nor on the Hub.
    """
    check_names([name, *train_tasks])
    if data_dir is not None and dataset_name is not None:
        raise ValueError("`data_dir` and `dataset_name` are both given: give the one to be read.")
    folder = None if data_dir is None else Path(data_dir)
    read = hub_reader(dataset_name) if folder is None else local_reader(folder)
    if name in SEQUENCE_TASKS:
        if train_tasks:
            raise ValueError(f"{name} is trained on its own users: `train_tasks` is for tasks of questions.")
        return load_sequences(SEQUENCE_TASKS[name], read, max_history, train_targets, _looked_for(folder, name))
    if any(source in SEQUENCE_TASKS for source in train_tasks):
        raise ValueError(f"{name} cannot be trained on recommendations: name tasks of questions in `train_tasks`.")
    if folder is not None and not local_file(folder, QUESTION_TASKS[name], "test").is_file():
        raise FileNotFoundError(_looked_for(folder, name))
    sources = [QUESTION_TASKS[source] for source in train_tasks] or [QUESTION_TASKS[name]]
    return load_questions(QUESTION_TASKS[name], read, sources, dev_size, seed)


def _looked_for(folder: Path | None, name: str) -> str:
    """What is said where a task's test questions are missing."""
    if folder is None:
        return f"The data set of {name} has no split with its test questions."
    path = local_file(folder, TASKS[name], "test")
    return f"No test questions for {name}: there is no file {path}. Without `data_dir` the Hub is read."


def load_questions(
    task: QuestionTask, read: Reader, sources: Sequence[QuestionTask], dev_size: float = 0.1, seed: int = 42
) -> Task:
    """Load a task of questions and keep its sets apart.

    Args:
        task ([`QuestionTask`]): the task to be tested on.
        read (`Callable`): gives the rows of a task's split, or `None` where there is no such split.
        sources (`Sequence[QuestionTask]`): the tasks to train on.
        dev_size (`float`, defaults to 0.1): share of the training questions that serves as dev where there is none.
        seed (`int`, defaults to 42): seed of that choice.

    Returns:
        [`Task`]: dev questions that stand in train are dropped, and test questions that stand in either.

    Raises:
        ValueError: there is no training or no test question, or every test question stands in train or dev.
    """
    test = _questions(task, read, "test")
    if not test:
        raise ValueError(f"No test questions for {task.name}: its folder or data set needs a test split.")
    train = [item for source in sources for item in _questions(source, read, "train")]
    if not train:
        names = ", ".join(source.name for source in sources)
        raise ValueError(f"No training questions for {names}: name tasks that have some in `train_tasks`.")
    dev = [item for source in sources for item in _questions(source, read, "dev")]
    dev_from_train = not dev
    if dev_from_train:
        train, dev = _split_off(train, dev_size, seed)
    train_keys, dev_keys = ({source.key_of(question) for source, question in items} for items in (train, dev))
    dev = [(source, question) for source, question in dev if source.key_of(question) not in train_keys]
    rows = {
        name: [source.row_of(question) for source, question in items]
        for name, items in (("train", train), ("dev", dev))
    }
    rows["test"] = [task.row_of(question) for _, question in test]
    dataset, left_out = _apart(rows, [task.key_of(question) for _, question in test], train_keys, dev_keys, task.name)
    return Task(task, dataset, len(test), left_out, dev_from_train)


def load_sequences(
    task: SequenceTask, read: Reader, max_history: int | None, train_targets: str, missing: str
) -> RecommendationTask:
    """Load a recommendation task, leave-one-out.

    Args:
        read (`Callable`): reader of splits; all users stand in train.
        max_history (`int`, *optional*): the most recent items that a prompt holds.
        train_targets (`str`): `"all"` makes a training example of every item but the user's first, `"last"` one a user.
        missing (`str`): what is said where there is no such file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is malformed, or no user has an item to train on.
    """
    found = read(task, "train")
    if found is None:
        raise FileNotFoundError(missing)
    users = task.read_users(found)
    rows = task.leave_one_out(users, max_history, train_targets)
    if not rows["train"]:
        raise ValueError(f"{task.name} has {len(users)} users, but none with an item to train on: 4 items are needed.")
    keys = {split: [letters_and_digits(row["prompt"]) for row in rows[split]] for split in rows}
    size = len(rows["test"])
    dataset, left_out = _apart(rows, keys["test"], set(keys["train"]), set(keys["dev"]), task.name)
    items = tuple(dict.fromkeys(item for user in users for item in user.items))
    return RecommendationTask(task, dataset, size, left_out, items=items)


def _questions(task: QuestionTask, read: Reader, split: str) -> list[Item]:
    """The questions of one split, none where there is no such split."""
    return [(task, task.question_from_row(row, where)) for where, row in read(task, split) or ()]


def _split_off(train: list[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Take a random part of the training questions for dev."""
    shuffled = random.Random(seed).sample(train, len(train))
    size = min(max(1, round(share * len(train))), MOST_DEV_FROM_TRAIN)
    if size >= len(train):
        raise ValueError(f"{len(train)} training questions leave none to train on beside {size} for dev.")
    return shuffled[size:], shuffled[:size]


def _apart(
    rows: dict[str, list[dict[str, str]]], test_keys: list[str], train_keys: set[str], dev_keys: set[str], name: str
) -> tuple[DatasetDict, dict[str, int]]:
    """Data sets, the test set without what stands in train or dev, and the counts of what was left out."""
    known = (("train", train_keys), ("dev", dev_keys), ("either", train_keys | dev_keys))
    left_out = {split: sum(key in keys for key in test_keys) for split, keys in known}
    kept = [row for row, key in zip(rows["test"], test_keys, strict=True) if key not in train_keys | dev_keys]
    if not kept:
        raise ValueError(f"All {len(test_keys)} test questions of {name} stand in the sets trained on or chosen by.")
    features: Any = Features({column: Value("string") for column in COLUMNS})
    parts = {"train": rows["train"], "dev": rows["dev"], "test": kept}
    return DatasetDict({split: Dataset.from_list(part, features=features) for split, part in parts.items()}), left_out


__all__ = ["COLUMNS", "load", "load_questions", "load_sequences"]
