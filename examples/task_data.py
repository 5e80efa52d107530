"""A task's training, validation and test questions, no question in two of them.

A local folder has `{arithmetic,commonsense}/{task}/{train,dev,test}.jsonl`. Where dev is missing a part of train
serves; where train is missing (SVAMP) other tasks are named to train on.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from task_hub import load_hub_rows
from task_prompts import TASKS, Question, Task
from task_rows import question_from_row, read_jsonl


Item = tuple[Task, Question]
SplitReader = Callable[[Task, str], list[Question] | None]


@dataclass
class TaskData:
    """What a run trains on, chooses λ on and is tested on.

    Args:
        train: Task and question, of one task or several.
        dev: The same, for λ.
        test: The tested task's questions that stand in no file used for training or for λ.
        test_size: Questions in the test file.
        left_out: How many test questions were left out for standing in `train` or in `dev`.
        dev_from_train: Whether dev was taken out of the training questions.
    """

    train: list[Item]
    dev: list[Item]
    test: list[Question]
    test_size: int
    left_out: dict[str, int] = field(default_factory=dict)
    dev_from_train: bool = False


def question_key(task: Task, question: Question) -> str:
    """What makes two items the same question: letters and digits, whatever their case, spacing and punctuation.

    Args:
        task: The task; PIQA, WinoGrande and HellaSwag count the choices in, since their questions alone repeat.
        question: The question.

    Returns:
        A key to compare.
    """
    text = question.stem or question.question.partition("Answer Choices:")[0]
    parts = [text, *(sorted(question.choices) if task.choices_in_key else ())]
    return "\n".join(re.sub(r"[\W_]+", "", part.lower()) for part in parts)


def local_reader(data_dir: Path) -> SplitReader:
    """A reader of splits in a local folder.

    Args:
        data_dir: The folder that holds `arithmetic/` and `commonsense/`.

    Returns:
        A function of task and split to questions, or to `None` where the file does not exist.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {data_dir}: give `--data_dir` the folder with the tasks' files.")

    def read(task: Task, split: str) -> list[Question] | None:
        path = data_dir / task.group / task.name / f"{split}.jsonl"
        if not path.is_file():
            return None
        return [question_from_row(task, row, where) for where, row in read_jsonl(path)]

    return read


def hub_reader(dataset_name: str | None = None) -> SplitReader:
    """A reader of splits on the Hub.

    Args:
        dataset_name: A data set's id or a folder instead of the task's usual data set.

    Returns:
        A function of task and split to questions, or to `None` where the data set has no such split.
    """

    def read(task: Task, split: str) -> list[Question] | None:
        rows = load_hub_rows(task, split, dataset_name)
        return None if rows is None else [question_from_row(task, row, where) for where, row in rows]

    return read


def load_task(
    task: Task, read: SplitReader, train_tasks: Sequence[str] = (), dev_size: float = 0.1, seed: int = 42
) -> TaskData:
    """Load a task and keep its sets apart.

    Args:
        task: The task to be tested on.
        read: Reader of splits.
        train_tasks: Names of the tasks to train on; the tested one if none is given.
        dev_size: Share of the training questions that serves as dev (200 at most) where no task has a dev file.
        seed: Seed of that choice.

    Returns:
        The sets. Dev questions that stand in train are dropped, and test questions that stand in either.

    Raises:
        ValueError: There is no training or no test question; the message says what was looked for.
    """
    sources = [TASKS[name] for name in train_tasks] or [task]
    train = [(source, question) for source in sources for question in read(source, "train") or ()]
    if not train:
        names = ", ".join(source.name for source in sources)
        raise ValueError(f"No training questions for {names}: name tasks that have some with `--train_tasks`.")
    test = read(task, "test")
    if not test:
        raise ValueError(f"No test questions for {task.name}: its folder or data set needs a test split.")
    dev = [(source, question) for source in sources for question in read(source, "dev") or ()]
    dev_from_train = not dev
    if dev_from_train:
        train, dev = _split_off(train, dev_size, seed)
    train_keys, dev_keys = (({question_key(*item) for item in items}) for items in (train, dev))
    kept = [question for question in test if question_key(task, question) not in train_keys | dev_keys]
    return TaskData(
        train=train,
        dev=[item for item in dev if question_key(*item) not in train_keys],
        test=kept,
        test_size=len(test),
        left_out={
            name: sum(question_key(task, question) in keys for question in test)
            for name, keys in (("train", train_keys), ("dev", dev_keys), ("either", train_keys | dev_keys))
        },
        dev_from_train=dev_from_train,
    )


def _split_off(train: list[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Take a random part of the training questions for dev."""
    shuffled = random.Random(seed).sample(train, len(train))
    size = min(max(1, round(share * len(train))), 200)
    if size >= len(train):
        raise ValueError(f"{len(train)} training questions leave none to train on beside {size} for dev.")
    return shuffled[size:], shuffled[:size]
