"""What every task has: questions, a prompt, a target, and how an answer is read out of a reply.

The commonsense instructions and targets are LLM-Adapters', which the paper (arXiv 2505.16270) follows. A prompt is

    Question: {instruction}
    Answer:

and the target goes on from there: ` the correct answer is answer2` for commonsense; for arithmetic the worked solution,
then `####` and the answer, ` x=(22-14)/4 #### 2`. The mark makes the answer easy to find whatever the solution says.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..metrics import OfflineMetric
from .hub_source import HubSource, Row, no_conversion


@dataclass(frozen=True)
class Question:
    """One item of a task.

    Args:
        id (`str`): its name in the data.
        question (`str`): what is asked, without the task's instruction.
        answer (`str`): what a right reply says: a decimal number, a letter A to E, or a label such as `answer2`.
        rationale (`str`): the worked solution (arithmetic), or nothing.
        choices (`tuple[str, ...]`): the choices' texts (commonsense), or nothing.
        stem (`str`): the question without its choices where they stand in its text (AQuA), or nothing.
    """

    id: str
    question: str
    answer: str
    rationale: str = ""
    choices: tuple[str, ...] = ()
    stem: str = ""


@dataclass(frozen=True, kw_only=True)
class QuestionTask(ABC):
    """The definition of a task of questions and answers.

    Args:
        name (`str`): its name, and that of its folder.
        max_new_tokens (`int`): tokens to generate for a reply: room for the target of all but freak questions.
        hub ([`HubSource`]): its usual data set.
        from_hub (`Callable`): gives the fields that a row of that data set lacks of the local form; none where the
            row has the local form already.
    """

    name: str
    max_new_tokens: int
    hub: HubSource
    from_hub: Callable[[Row], dict[str, Any]] = no_conversion

    group: ClassVar[str]
    answer_field: ClassVar[str] = "answer"
    needed_fields: ClassVar[tuple[str, ...]] = ("question", "answer")

    @property
    @abstractmethod
    def metric(self) -> OfflineMetric:
        """A new metric of this task."""

    @abstractmethod
    def instruction_of(self, question: Question) -> str:
        """The instruction for a question, without the prompt's frame."""

    @abstractmethod
    def target_of(self, question: Question) -> str:
        """The text that the model is to write, without the end-of-text token.

        Returns:
            `str`: it begins with a space.
        """

    @abstractmethod
    def extract_answer(self, reply: str) -> str | None:
        """Read the answer out of a reply.

        Args:
            reply (`str`): what the model wrote.

        Returns:
            `str`, *optional*: the answer, `None` where the reply has none.
        """

    @abstractmethod
    def check_answer(self, answer: str, choices: int, where: str) -> None:
        """Refuse an answer that the task cannot have.

        Args:
            choices (`int`): number of the question's choices.
            where (`str`): where it stands, for the message.

        Raises:
            ValueError: the task cannot have this answer.
        """

    def prompt_of(self, question: Question) -> str:
        """The text that the model is given.

        Returns:
            `str`: the target begins with the space that follows it.
        """
        return f"Question: {self.instruction_of(question)}\nAnswer:"

    def key_of(self, question: Question) -> str:
        """What makes two items the same question: letters and digits, whatever their case, spacing and punctuation.

        Returns:
            `str`: a key to compare.
        """
        return letters_and_digits(question.stem or question.question.partition("Answer Choices:")[0])

    def row_of(self, question: Question) -> dict[str, str]:
        """A question as a row of the task's data set.

        Returns:
            `dict[str, str]`: `id`, `task`, `question`, `prompt`, `target` and `answer`.
        """
        return {
            "id": question.id,
            "task": self.name,
            "question": question.question,
            "prompt": self.prompt_of(question),
            "target": self.target_of(question),
            "answer": question.answer,
        }

    def question_from_row(self, row: Any, where: str) -> Question:
        """Make a question of one row in the local form.

        Args:
            row (`dict`): `question` and `answer` (arithmetic), or `question`, `choices` and `answer_label`
                (commonsense); `id`, `rationale` and `stem` where there are any.
            where (`str`): where the row stands, for messages.

        Raises:
            ValueError: the row is not an object, a field is missing, or the answer is none that the task can have.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: expected an object with the fields of {self.name}, got {type(row).__name__}.")
        missing = [name for name in self.needed_fields if row.get(name) in (None, "", [])]
        if missing:
            needed = ", ".join(self.needed_fields)
            raise ValueError(f"{where}: {', '.join(missing)} missing or empty; {self.name} needs {needed}.")
        choices = tuple(str(choice) for choice in row.get("choices") or ())
        answer = str(row[self.answer_field]).strip()
        self.check_answer(answer, len(choices), where)
        return Question(
            id=str(row.get("id", where)),
            question=str(row["question"]).strip(),
            answer=answer,
            rationale=str(row.get("rationale") or ""),
            choices=choices,
            stem=str(row.get("stem") or ""),
        )


def letters_and_digits(text: str) -> str:
    """A text without spaces, signs and capitals."""
    return re.sub(r"[\W_]+", "", text.lower())


__all__ = ["Question", "QuestionTask", "letters_and_digits"]
