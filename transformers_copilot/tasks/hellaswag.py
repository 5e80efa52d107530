"""HellaSwag: how a described scene goes on, with four endings. Beginnings repeat, so endings count in the key."""

from typing import Any

from .commonsense import ChoiceTask
from .hub_source import TEST_IS_VALIDATION, HubSource, Row


def ending_from_hub(row: Row) -> dict[str, Any]:
    """An activity, a context, endings, and the right one's number from 0.

    Returns:
        `dict`: the local form's fields.
    """
    if "endings" not in row:
        return {}
    question = f"{row['activity_label']}: {row['ctx']}"
    return {"question": question, "choices": list(row["endings"]), "answer_label": f"ending{int(row['label']) + 1}"}


TASK = ChoiceTask(
    name="hellaswag",
    max_new_tokens=12,
    hub=HubSource("Rowan/hellaswag", splits=TEST_IS_VALIDATION),
    from_hub=ending_from_hub,
    word="ending",
    lead="Please choose the correct ending to complete the given sentence: ",
    choices_in_key=True,
)
