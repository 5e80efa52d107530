"""What the commonsense tasks share: numbered choices and the target `the correct answer is …`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..metrics import ChoiceAccuracy, OfflineMetric
from .base import Question, QuestionTask, letters_and_digits
from .hub_source import Row


ASK_ANSWER = "Please choose the correct answer to the question: "


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(QuestionTask):
    """A task whose answer is the label of a choice, such as `answer2`.

    Args:
        word (`str`, defaults to `"answer"`): word that choices are numbered with.
        lead (`str`, defaults to `ASK_ANSWER`): how the instruction begins; the question follows at once.
        between (`str`, defaults to a space): what stands between two choices.
        before_format (`str`, defaults to an empty line): what stands before the answer's format.
        choices_in_key (`bool`, defaults to `False`): whether two items are the same only if their choices are, too
            (PIQA's questions repeat).
    """

    word: str = "answer"
    lead: str = ASK_ANSWER
    between: str = " "
    before_format: str = "\n\n"
    choices_in_key: bool = False

    group = "commonsense"
    answer_field = "answer_label"
    needed_fields = ("question", "choices", "answer_label")

    @property
    def metric(self) -> OfflineMetric:
        """A new metric of this task."""
        return ChoiceAccuracy()

    def labels(self, choices: int) -> list[str]:
        """The labels of a question's choices.

        Args:
            choices (`int`): how many choices it has.
        """
        return [f"{self.word}{number}" for number in range(1, choices + 1)]

    def instruction_of(self, question: Question) -> str:
        """LLM-Adapters' instruction."""
        labels = self.labels(len(question.choices))
        listed = self.between.join(
            f"{label.capitalize()}: {text}" for label, text in zip(labels, question.choices, strict=True)
        )
        return f"{self.lead}{question.question}\n\n{listed}{self.before_format}Answer format: {'/'.join(labels)}"

    def target_of(self, question: Question) -> str:
        """LLM-Adapters' target."""
        return f" the correct answer is {question.answer}"

    def extract_answer(self, reply: str) -> str | None:
        """The first label in the reply, as LLM-Adapters does.

        Args:
            reply (`str`): what the model wrote.

        Returns:
            `str`, *optional*: the label, `None` where the reply has none.
        """
        found = re.search(self._label_pattern(), reply.lower())
        return found.group(0) if found else None

    def _label_pattern(self) -> str:
        return rf"\b{self.word}\d+\b"

    def check_answer(self, answer: str, choices: int, where: str) -> None:
        """Refuse what is no label of a choice.

        Args:
            choices (`int`): number of the question's choices.
            where (`str`): where it stands, for the message.

        Raises:
            ValueError: it is none.
        """
        if answer not in self.labels(choices):
            allowed = ", ".join(self.labels(choices))
            raise ValueError(f"{where}: the answer is {answer!r}, but {self.name} needs one of {allowed}.")

    def key_of(self, question: Question) -> str:
        """What makes two items the same question, with its choices where questions alone repeat.

        Returns:
            `str`: a key to compare.
        """
        choices = sorted(map(letters_and_digits, question.choices)) if self.choices_in_key else []
        return "\n".join([super().key_of(question), *choices])


def school_from_hub(row: Row) -> dict[str, Any]:
    """OpenBookQA and ARC on the Hub: lettered choices and the letter of the right one.

    Returns:
        `dict`: the local form's fields.
    """
    if "answerKey" not in row:
        return {}
    number = list(row["choices"]["label"]).index(row["answerKey"]) + 1
    question = row["question_stem"] if "question_stem" in row else row["question"]
    return {"question": question, "choices": list(row["choices"]["text"]), "answer_label": f"answer{number}"}


__all__ = ["ASK_ANSWER", "ChoiceTask", "school_from_hub"]
