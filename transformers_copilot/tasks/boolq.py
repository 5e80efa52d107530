"""BoolQ: questions of yes and no, asked without their passages as LLM-Adapters does."""

from dataclasses import dataclass
from typing import Any

from .base import Question
from .commonsense import ChoiceTask
from .hub_source import TEST_IS_VALIDATION, HubSource, Row


def truth_from_hub(row: Row) -> dict[str, Any]:
    """A question without its mark and a truth value.

    Returns:
        `dict`: the local form's fields.
    """
    if not isinstance(row.get("answer"), bool):
        return {}
    label = "true" if row["answer"] else "false"
    return {"question": row["question"].rstrip("?") + "?", "choices": ["true", "false"], "answer_label": label}


@dataclass(frozen=True, kw_only=True)
class TruthTask(ChoiceTask):
    """A task whose answer is `true` or `false`."""

    lead: str = "Please answer the following question with true or false, question: "

    def labels(self, choices: int) -> list[str]:
        """True and false.

        Args:
            choices (`int`): not used: there are always two.
        """
        return ["true", "false"]

    def instruction_of(self, question: Question) -> str:
        """LLM-Adapters' instruction, which lists no choices."""
        return f"{self.lead}{question.question}\n\nAnswer format: true/false"

    def _label_pattern(self) -> str:
        return r"\b(?:true|false)\b"


TASK = TruthTask(
    name="boolq", max_new_tokens=12, hub=HubSource("google/boolq", splits=TEST_IS_VALIDATION), from_hub=truth_from_hub
)
