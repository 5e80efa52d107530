"""What the arithmetic tasks share: a worked solution, the mark `####`, and the answer, a number or a letter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..metrics import ChoiceAccuracy, ExactAnswer, OfflineMetric, as_number
from .base import Question, QuestionTask
from .hub_source import Row


ANSWER_MARK = "####"
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_LETTER = re.compile(r"\b([A-E])\b")


@dataclass(frozen=True, kw_only=True)
class ArithmeticTask(QuestionTask):
    """A task whose answer is a number or, with `lettered`, a choice from A to E.

    Args:
        short_equations (`bool`, defaults to `False`): whether the solutions are equations, to be written the short way.
        lettered (`bool`, defaults to `False`): whether the answer is a letter.
    """

    short_equations: bool = False
    lettered: bool = False

    group = "arithmetic"

    @property
    def metric(self) -> OfflineMetric:
        """A new metric of this task."""
        return ChoiceAccuracy() if self.lettered else ExactAnswer()

    def instruction_of(self, question: Question) -> str:
        """The question as it stands."""
        return question.question

    def target_of(self, question: Question) -> str:
        """The worked solution if there is one, the mark and the answer."""
        solution = question.rationale.strip()
        if self.short_equations:
            solution = plain_equation(solution)
        return f" {solution} {ANSWER_MARK} {question.answer}" if solution else f" {ANSWER_MARK} {question.answer}"

    def extract_answer(self, reply: str) -> str | None:
        """The first number (or letter A to E) after the mark; without a mark the last one in the reply.

        Args:
            reply (`str`): what the model wrote.

        Returns:
            `str`, *optional*: the answer, a number without thousands commas; `None` where the reply has none.
        """
        _, mark, after = reply.partition(ANSWER_MARK)
        found = (_LETTER if self.lettered else _NUMBER).findall(after if mark else reply)
        if not found:
            return None
        return (found[0] if mark else found[-1]).replace(",", "")

    def check_answer(self, answer: str, choices: int, where: str) -> None:
        """Refuse what is no number (or letter).

        Args:
            choices (`int`): not used: a letter is one of A to E, whatever the number of choices.
            where (`str`): where it stands, for the message.

        Raises:
            ValueError: it is none.
        """
        if self.lettered and answer not in tuple("ABCDE"):
            raise ValueError(f"{where}: the answer is {answer!r}, but {self.name} needs one of A, B, C, D, E.")
        if not self.lettered and as_number(answer) is None:
            raise ValueError(f"{where}: the answer is {answer!r}, but {self.name} needs a plain decimal number.")


def equation_from_hub(row: Row) -> dict[str, Any]:
    """MAWPS and SVAMP on the Hub: an equation and its result.

    Returns:
        `dict`: the local form's fields.
    """
    if "result" not in row:
        return {}
    return {"rationale": row.get("equation") or "", "answer": str(row["result"]).strip().replace(",", "")}


def plain_equation(equation: str) -> str:
    """Write an equation of MAWPS or SVAMP the short way: `X=((22.0-14.0)/4.0)` becomes `x=(22-14)/4`.

    Args:
        equation (`str`): the equation as the data has it, or nothing.

    Returns:
        `str`: the same equation without blanks, superfluous decimals and outer brackets, its unknown called x; an
        expression without an equals sign gets `x=` in front.
    """
    short = re.sub(r"(\d)\.0+(?!\d)", r"\1", re.sub(r"\s+", "", equation)).lower()
    if not short:
        return ""
    left, equals, right = short.rpartition("=")
    while _is_bracketed(right):
        right = right[1:-1]
    return f"{left}={right}" if equals else f"x={right}"


def _is_bracketed(expression: str) -> bool:
    """Whether the first bracket of an expression is closed by its last character."""
    if not (expression.startswith("(") and expression.endswith(")")):
        return False
    depth = 0
    for position, character in enumerate(expression):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position == len(expression) - 1
    return False


__all__ = ["ANSWER_MARK", "ArithmeticTask", "equation_from_hub", "plain_equation"]
