"""The commands' data: a task by its name, or one's own rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset

from .. import tasks
from ..data.chat import check_template, questions
from ..data.formats import Columns, PlainText, PromptTarget, RowError
from ..data.reading import Source, kind_of, open_source
from ..data.training_data import TextRows, count_or_raise, read_texts
from ..metrics import same_answer
from .models import check_place, load_tokenizer
from .train_options import DataArguments


@dataclass
class TextData:
    """Questions ready for a model.

    Attributes:
        name (`str`): what they are.
        train, dev (`Dataset` with `prompt` and `target`, or [`TextRows`], *optional*): texts to learn from.
        test (`Dataset`, *optional*): with `prompt`, `target` and `answer`.
        extract_answer (callable): reads an answer out of a reply.
        is_right (callable): whether an answer is right.
        max_new_tokens (`int`, *optional*, defaults to 64): room for a reply.
    """

    name: str
    train: Dataset | TextRows | None
    dev: Dataset | TextRows | None
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


def load_own_data(options: DataArguments, limit: int | None = None, streaming: bool = False) -> TextData:
    """The rows of `--dataset` to train on, and those for λ where a file or a split is named so.

    Args:
        limit (`int`, *optional*): read only the first so many.
        streaming (`bool`, *optional*, defaults to `False`): don't download the rest.

    Returns:
        [`TextData`] with [`TextRows`]

    Raises:
        ValueError: no data is named, or a row can't be used.
        FileNotFoundError: there is no such file.
    """
    source = _source(options, streaming)
    train = _read(options, source, "train", limit)
    dev = _read(options, source, "dev", limit) if "dev" in source.splits else None
    return TextData(_name(options), train, dev, None, **_reading(_stripped, _same_text, 64))


def load_test_data(options: DataArguments, tokenizer: str) -> tuple[TextData, Any]:
    """Questions to be answered.

    Args:
        tokenizer (`str`): id or folder of the pair's; it is loaded when the rows are there.

    Returns:
        `tuple`: [`TextData`] with `test`, and the tokenizer.

    Raises:
        ValueError: no data is named, a row can't be used, or there is nothing to ask.
        FileNotFoundError: there is no such file.
    """
    data = load_task_data(options)
    if data is not None:
        if data.test is None:
            raise ValueError(f"{data.name} has no test questions.")
        return data, load_tokenizer(tokenizer)
    rows = _read(options, _source(options, False), "test", options.max_test_examples)
    loaded = load_tokenizer(tokenizer)
    test = _asked(rows, loaded)
    return TextData(_name(options), None, None, test, **_reading(_stripped, _same_text, 64)), loaded


def _source(options: DataArguments, streaming: bool) -> Source:
    if options.dataset is None:
        raise ValueError("no data: give `--task` with `--data_dir`, or `--dataset` with a file, a folder, or an id.")
    if kind_of(Path(options.dataset)) is None:
        check_place(options.dataset, "data set")
    return open_source(options.dataset, options.dataset_config, streaming)


def _read(options: DataArguments, source: Source, split: str, limit: int | None) -> TextRows:
    columns = Columns(options.prompt_column, options.target_column, options.answer_column, options.separator)
    rows = islice(source.rows(split), limit)
    return read_texts(source.name, rows, columns, options.skip_bad_rows)


def _name(options: DataArguments) -> str:
    return Path(str(options.dataset)).stem


def _asked(rows: TextRows, tokenizer: Any) -> Dataset:
    """Rows as questions; a conversation is asked for its last turn."""
    found: dict[str, list[str]] = {name: [] for name in ("id", "question", "prompt", "target", "answer")}
    for place, text in rows.texts:
        if isinstance(text, PlainText):
            raise ValueError(f"{place}: plain text asks nothing; give prompts and targets, or conversations.")
        if not isinstance(text, PromptTarget):
            check_template(tokenizer)
            try:
                text = list(questions(tokenizer, text))[-1]
            except RowError as error:
                count_or_raise(place, error, rows.skip_bad_rows, rows.account)
                continue
        values = (str(len(found["id"])), text.prompt, text.prompt, text.target, text.answer)
        for column, value in zip(found.values(), values, strict=True):
            column.append(value)
    return Dataset.from_dict(found)


def first(rows: Any, count: int | None) -> Any:
    """The first rows.

    Args:
        rows (`Dataset` or [`TextRows`]): all of them.
        count (`int`, *optional*): how many; all by default.

    Returns:
        As `rows`.
    """
    if count is None:
        return rows
    few = range(min(count, len(rows)))
    return rows.chosen(few) if isinstance(rows, TextRows) else rows.select(few)


def parted(rows: Any, size: int, seed: int) -> tuple[Any, Any]:
    """Take some rows out.

    Args:
        rows (`Dataset` or [`TextRows`]): all of them.
        size (`int`): how many are taken out.
        seed (`int`): which.

    Returns:
        `tuple`: the rows that stay, and those that were taken out, both as `rows`.
    """
    if not isinstance(rows, TextRows):
        parts = rows.train_test_split(size, seed=seed)
        return parts["train"], parts["test"]
    parts = Dataset.from_dict({"place": range(len(rows))}).train_test_split(size, seed=seed)
    return rows.chosen(parts["train"]["place"]), rows.chosen(parts["test"]["place"])


def beside(options: DataArguments, dataset: str) -> DataArguments:
    """The same options for another data set.

    Args:
        dataset (`str`): the other one.

    Returns:
        [`DataArguments`]
    """
    return replace(options, task=None, dataset=dataset)


def _stripped(reply: str) -> str:
    return reply.strip()


def _same_text(answer: str | None, expected: str) -> bool:
    return same_answer(answer, expected.strip())


__all__ = [
    "DataArguments",
    "TextData",
    "beside",
    "first",
    "load_own_data",
    "load_task_data",
    "load_test_data",
    "parted",
]
