"""GSM8K: word problems of two to eight steps with human solutions."""

import re
from typing import Any

from .arithmetic import ANSWER_MARK, ArithmeticTask
from .hub_source import HubSource, Row


def solution_from_hub(row: Row) -> dict[str, Any]:
    """The solution, with calculator notes, then `#### answer`.

    Returns:
        `dict`: the local form's fields.
    """
    solution, mark, answer = str(row.get("answer", "")).rpartition(ANSWER_MARK)
    if not mark:
        return {}
    return {"rationale": re.sub(r"<<.*?>>", "", solution).strip(), "answer": answer.strip().replace(",", "")}


TASK = ArithmeticTask(
    name="gsm8k",
    max_new_tokens=256,
    hub=HubSource("openai/gsm8k", "main", splits={"train": "train", "test": "test"}),
    from_hub=solution_from_hub,
)
