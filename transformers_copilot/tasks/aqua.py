"""AQuA: algebra with a rationale and five lettered choices."""

import re
from typing import Any

from .arithmetic import ArithmeticTask
from .hub_source import HubSource, Row


def options_from_hub(row: Row) -> dict[str, Any]:
    """Options as `A)21`, and the right one's letter.

    Returns:
        `dict`: the local form's fields.
    """
    if "correct" not in row:
        return {}
    options = " ".join(re.sub(r"^([A-E])\)\s*", r"(\1) ", option) for option in row["options"])
    question = f"{row['question']} Answer Choices: {options}"
    return {"question": question, "stem": row["question"], "answer": row["correct"]}


TASK = ArithmeticTask(
    name="aqua",
    max_new_tokens=256,
    hub=HubSource("deepmind/aqua_rat", "raw"),
    from_hub=options_from_hub,
    lettered=True,
)
