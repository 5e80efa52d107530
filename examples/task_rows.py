"""Rows of JSON lines, and the questions made of them, every row checked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scoring import as_number
from task_prompts import Question, Task


def read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    """Read JSON lines.

    Args:
        path: A UTF-8 file; blank lines are skipped.

    Yields:
        Where the line stands (`file:line`), and its value.

    Raises:
        ValueError: A line is not UTF-8 or not JSON; the message names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                text = line.decode("utf-8").strip()
                row = json.loads(text) if text else None
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise ValueError(f"{where}: not a line of JSON in UTF-8 ({error}). Mend or remove the line.") from error
            if text:
                yield where, row


def question_from_row(task: Task, row: Any, where: str) -> Question:
    """Make a question of one row.

    Args:
        task: The row's task.
        row: The fields as the local files have them: `question` and `answer` (arithmetic), or `question`, `choices`
            and `answer_label` (commonsense); `id`, `rationale` and `stem` where there are any.
        where: Where the row stands, for messages.

    Returns:
        The question.

    Raises:
        ValueError: The row is not an object, a field is missing, or the answer is none that the task can have.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with the fields of {task.name}, got {type(row).__name__}.")
    needed = ("question", "answer") if task.group == "arithmetic" else ("question", "choices", "answer_label")
    missing = [name for name in needed if row.get(name) in (None, "", [])]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing or empty; {task.name} needs {', '.join(needed)}.")
    choices = tuple(str(choice) for choice in row.get("choices") or ())
    answer = str(row[needed[-1]]).strip()
    _check_answer(task, answer, len(choices), where)
    return Question(
        id=str(row.get("id", where)),
        question=str(row["question"]).strip(),
        answer=answer,
        rationale=str(row.get("rationale") or ""),
        choices=choices,
        stem=str(row.get("stem") or ""),
    )


def _check_answer(task: Task, answer: str, choices: int, where: str) -> None:
    """Refuse an answer that the task cannot have."""
    if task.label == "number":
        if as_number(answer) is None:
            raise ValueError(f"{where}: the answer is {answer!r}, but {task.name} needs a plain decimal number.")
        return
    if task.label == "letter":
        allowed = list("ABCDE")
    elif task.label == "truth":
        allowed = ["true", "false"]
    else:
        allowed = [f"{task.label}{number}" for number in range(1, choices + 1)]
    if answer not in allowed:
        raise ValueError(f"{where}: the answer is {answer!r}, but {task.name} needs one of {', '.join(allowed)}.")
