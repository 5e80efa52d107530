"""PIQA: two ways to reach a practical goal. Goals repeat, so two items are the same only with the same solutions."""

from typing import Any

from .commonsense import ChoiceTask
from .hub_source import PARQUET_BRANCH, TEST_IS_VALIDATION, HubSource, Row


def goal_from_hub(row: Row) -> dict[str, Any]:
    """A goal, two solutions, and the right one's number from 0.

    Returns:
        `dict`: the local form's fields.
    """
    if "goal" not in row:
        return {}
    label = f"solution{int(row['label']) + 1}"
    return {"question": row["goal"], "choices": [row["sol1"], row["sol2"]], "answer_label": label}


TASK = ChoiceTask(
    name="piqa",
    max_new_tokens=12,
    hub=HubSource("baber/piqa", revision=PARQUET_BRANCH, splits=TEST_IS_VALIDATION),
    from_hub=goal_from_hub,
    word="solution",
    lead="Please choose the correct solution to the question: ",
    between="\n\n",
    choices_in_key=True,
)
