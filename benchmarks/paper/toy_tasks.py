"""A few made-up questions in a task's own form, for a row that is tried without its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers_copilot.tasks.catalogue import SEQUENCE_TASKS, TASKS
from transformers_copilot.tasks.commonsense import ChoiceTask


SIZES = {"train": 20, "dev": 4, "test": 3}
_USERS, _ITEMS = 16, 12


def write_toy_tasks(folder: Path, names: list[str]) -> list[str]:
    """Write the files of some tasks as `tasks.load` reads them.

    Args:
        folder: Where to.
        names: The tasks.

    Returns:
        All texts in them, to make a vocabulary of.
    """
    texts = []
    for name in names:
        group = folder / TASKS[name].group
        if name in SEQUENCE_TASKS:
            rows = [_user(number) for number in range(1, _USERS + 1)]
            _write(group / f"{name}.jsonl", rows)
            sets = SEQUENCE_TASKS[name].leave_one_out(SEQUENCE_TASKS[name].read_users((name, row) for row in rows))
            texts += [row["prompt"] + row["target"] for rows in sets.values() for row in rows]
            continue
        first = 0
        for split, size in SIZES.items():
            rows = [_question(name, first + number) for number in range(size)]
            first += size
            _write(group / name / f"{split}.jsonl", rows)
            task = TASKS[name]
            questions = [task.question_from_row(row, split) for row in rows]
            texts += [task.prompt_of(question) + task.target_of(question) for question in questions]
    return texts


def _question(name: str, number: int) -> dict[str, Any]:
    """A question that no other number has."""
    task, one, other = TASKS[name], 3 + number, 1 + number % 7
    row: dict[str, Any] = {"id": f"{name}-{number}", "question": f"Which of these is {one} and {other} more?"}
    if isinstance(task, ChoiceTask):
        labels = task.labels(2)
        choices = [f"the number {one + other}", f"the number {one}"]
        return {**row, "choices": choices if number % 2 else choices[::-1], "answer_label": labels[(number + 1) % 2]}
    row["question"] = f"A box has {one} pens, and {other} more are put into it. How many pens does it have?"
    if getattr(task, "lettered", False):
        stem, choices = row["question"], f"(A) {one} (B) {one + other} (C) {other} (D) 0 (E) 1"
        return {**row, "stem": stem, "question": f"{stem} Answer Choices: {choices}", "answer": "B", "rationale": stem}
    return {**row, "answer": str(one + other), "rationale": f"X=({one}.0+{other}.0)"}


def _user(number: int) -> dict[str, Any]:
    return {"user": number, "items": [1 + (number * 5 + place * 7) % _ITEMS for place in range(6)]}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
