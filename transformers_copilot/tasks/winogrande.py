"""WinoGrande: a sentence with a blank and two words for it. Sentences come in pairs, so choices count in the key."""

from typing import Any

from .commonsense import ChoiceTask
from .hub_source import TEST_IS_VALIDATION, HubSource, Row


def blank_from_hub(row: Row) -> dict[str, Any]:
    """A sentence, two options, and the right one's number from 1.

    Returns:
        `dict`: the local form's fields.
    """
    if "sentence" not in row:
        return {}
    choices = [row["option1"], row["option2"]]
    return {"question": row["sentence"], "choices": choices, "answer_label": f"option{row['answer']}"}


TASK = ChoiceTask(
    name="winogrande",
    max_new_tokens=12,
    hub=HubSource("allenai/winogrande", "winogrande_xl", splits=TEST_IS_VALIDATION),
    from_hub=blank_from_hub,
    word="option",
    lead="Please choose the correct answer to fill in the blank to complete the given sentence: ",
    before_format=" ",
    choices_in_key=True,
)
