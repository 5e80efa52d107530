"""Every task by its name."""

from __future__ import annotations

from . import (
    aqua,
    arc_challenge,
    arc_easy,
    beauty,
    boolq,
    gsm8k,
    hellaswag,
    lastfm,
    mawps,
    openbookqa,
    piqa,
    social_iqa,
    svamp,
    winogrande,
)
from .base import QuestionTask
from .sequences import SequenceTask


QUESTION_TASKS: dict[str, QuestionTask] = {
    module.TASK.name: module.TASK
    for module in (
        mawps,
        svamp,
        gsm8k,
        aqua,
        boolq,
        openbookqa,
        arc_easy,
        arc_challenge,
        piqa,
        social_iqa,
        winogrande,
        hellaswag,
    )
}
SEQUENCE_TASKS: dict[str, SequenceTask] = {module.TASK.name: module.TASK for module in (beauty, lastfm)}
TASKS: dict[str, QuestionTask | SequenceTask] = {**QUESTION_TASKS, **SEQUENCE_TASKS}
TASK_NAMES: tuple[str, ...] = tuple(TASKS)


def check_names(names: tuple[str, ...] | list[str]) -> None:
    """Refuse names that no task has.

    Raises:
        ValueError: one is unknown; the message lists the tasks.
    """
    unknown = [name for name in names if name not in TASK_NAMES]
    if unknown:
        raise ValueError(f"There is no task {', '.join(map(repr, unknown))}: the tasks are {', '.join(TASK_NAMES)}.")


__all__ = ["QUESTION_TASKS", "SEQUENCE_TASKS", "TASKS", "TASK_NAMES", "check_names"]
