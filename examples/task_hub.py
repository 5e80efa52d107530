"""Tasks from the Hugging Face Hub: where each one lies, and its rows in the form that the local files have.

A data set of your own (`--dataset_name`) may have either the fields of the local files or those of the task's usual
data set. `datasets.load_dataset` also takes a local folder by name, which is how this is tested without a network.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import load_dataset
from task_prompts import Task


Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubSource:
    """Where a task lies on the Hub.

    Args:
        path: Id of the data set.
        name: Its configuration, if it has several.
        revision: Branch, where the main one holds a loading script, which `datasets` no longer runs.
        splits: The data set's split for each of ours. Where the test answers are kept back, the validation split is
            the test set, as in LLM-Adapters.
    """

    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"})


_PARQUET = "refs/convert/parquet"
_NO_TEST = {"train": "train", "test": "validation"}
HUB_SOURCES: dict[str, HubSource] = {
    "mawps": HubSource("MU-NLPC/Calc-mawps", "original-splits"),
    "svamp": HubSource("MU-NLPC/Calc-svamp", splits={"test": "test"}),
    "gsm8k": HubSource("openai/gsm8k", "main", splits={"train": "train", "test": "test"}),
    "aqua": HubSource("deepmind/aqua_rat", "raw"),
    "boolq": HubSource("google/boolq", splits=_NO_TEST),
    "openbookqa": HubSource("allenai/openbookqa", "main"),
    "arc_easy": HubSource("allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": HubSource("allenai/ai2_arc", "ARC-Challenge"),
    "piqa": HubSource("baber/piqa", revision=_PARQUET, splits=_NO_TEST),
    "social_iqa": HubSource("allenai/social_i_qa", revision=_PARQUET, splits=_NO_TEST),
    "winogrande": HubSource("allenai/winogrande", "winogrande_xl", splits=_NO_TEST),
    "hellaswag": HubSource("Rowan/hellaswag", splits=_NO_TEST),
}


def _worked_number(row: Row) -> dict[str, Any]:
    """GSM8K: the solution, with calculator notes, then `#### answer`."""
    solution, _, answer = row["answer"].rpartition("####")
    return {"rationale": re.sub(r"<<.*?>>", "", solution).strip(), "answer": answer.strip().replace(",", "")}


def _equation_number(row: Row) -> dict[str, Any]:
    return {"rationale": row.get("equation") or "", "answer": str(row["result"]).strip().replace(",", "")}


def _lettered(row: Row) -> dict[str, Any]:
    options = " ".join(re.sub(r"^([A-E])\)\s*", r"(\1) ", option) for option in row["options"])
    question = f"{row['question']} Answer Choices: {options}"
    return {"question": question, "stem": row["question"], "answer": row["correct"]}


def _truth(row: Row) -> dict[str, Any]:
    label = "true" if row["answer"] else "false"
    return {"question": row["question"].rstrip("?") + "?", "choices": ["true", "false"], "answer_label": label}


def _school(row: Row) -> dict[str, Any]:
    number = list(row["choices"]["label"]).index(row["answerKey"]) + 1
    question = row["question_stem"] if "question_stem" in row else row["question"]
    return {"question": question, "choices": list(row["choices"]["text"]), "answer_label": f"answer{number}"}


def _goal(row: Row) -> dict[str, Any]:
    number = int(row["label"]) + 1
    return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer_label": f"solution{number}"}


def _social(row: Row) -> dict[str, Any]:
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    question = f"{row['context']} {row['question']}"
    return {"question": question, "choices": choices, "answer_label": f"answer{row['label']}"}


def _blank(row: Row) -> dict[str, Any]:
    choices = [row["option1"], row["option2"]]
    return {"question": row["sentence"], "choices": choices, "answer_label": f"option{row['answer']}"}


def _ending(row: Row) -> dict[str, Any]:
    question = f"{row['activity_label']}: {row['ctx']}"
    return {"question": question, "choices": list(row["endings"]), "answer_label": f"ending{int(row['label']) + 1}"}


_CONVERTERS: dict[str, tuple[str, Callable[[Row], dict[str, Any]]]] = {
    # task: a field that only the Hub's form has, and the conversion
    "mawps": ("result", _equation_number),
    "svamp": ("result", _equation_number),
    "aqua": ("correct", _lettered),
    "openbookqa": ("answerKey", _school),
    "arc_easy": ("answerKey", _school),
    "arc_challenge": ("answerKey", _school),
    "piqa": ("goal", _goal),
    "social_iqa": ("answerA", _social),
    "winogrande": ("sentence", _blank),
    "hellaswag": ("endings", _ending),
}


def local_form(task: Task, row: Row) -> dict[str, Any]:
    """Give a row of the Hub the fields of the local files.

    Args:
        task: The row's task.
        row: A row of the task's usual data set, or one that has the local fields already.

    Returns:
        The row in the local form.
    """
    if task.name == "gsm8k" and "####" in str(row.get("answer", "")):
        return {**row, **_worked_number(row)}
    if task.name == "boolq" and isinstance(row.get("answer"), bool):
        return {**row, **_truth(row)}
    sign, convert = _CONVERTERS.get(task.name, ("", None))
    return {**row, **convert(row)} if convert is not None and sign in row else dict(row)


def load_hub_rows(task: Task, split: str, dataset_name: str | None = None) -> list[tuple[str, dict[str, Any]]] | None:
    """Load one of our splits of a task from the Hub.

    Args:
        task: The task.
        split: `train`, `dev` or `test`.
        dataset_name: Another data set's id, or a local folder that `datasets` can read, instead of the usual one;
            its splits are called train, validation (or dev) and test.

    Returns:
        For each row where it stands and its fields, or `None` where the data set has no such split.
    """
    source = HUB_SOURCES[task.name] if dataset_name is None else HubSource(dataset_name)
    parts = load_dataset(source.path, source.name, revision=source.revision)
    name = next((name for name in (source.splits.get(split), split) if name in parts), None)
    if name is None or (dataset_name is None and split not in source.splits):
        return None
    return [(f"{source.path}[{name}][{i}]", local_form(task, row)) for i, row in enumerate(parts[name])]
