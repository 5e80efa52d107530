"""Social IQa: what people feel, want or do next, with three choices."""

from typing import Any

from .commonsense import ChoiceTask
from .hub_source import PARQUET_BRANCH, TEST_IS_VALIDATION, HubSource, Row


def situation_from_hub(row: Row) -> dict[str, Any]:
    """A context, a question, three answers, and the right one's number from 1.

    Returns:
        `dict`: the local form's fields.
    """
    if "answerA" not in row:
        return {}
    choices = [row["answerA"], row["answerB"], row["answerC"]]
    question = f"{row['context']} {row['question']}"
    return {"question": question, "choices": choices, "answer_label": f"answer{str(row['label']).strip()}"}


TASK = ChoiceTask(
    name="social_iqa",
    max_new_tokens=12,
    hub=HubSource("allenai/social_i_qa", revision=PARQUET_BRANCH, splits=TEST_IS_VALIDATION),
    from_hub=situation_from_hub,
)
