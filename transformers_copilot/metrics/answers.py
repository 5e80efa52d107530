"""Accuracy of answers read out of replies: exact answers, numbers compared as numbers, and labelled choices."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import evaluate
from datasets import Value

from .base import QuestionMetric, mean


NUMBER_TOLERANCE = Decimal("0.001")


def same_answer(found: str | None, expected: str) -> bool:
    """Whether an answer is the expected one; numbers are compared as numbers.

    Two numbers are the same when they differ by 0.001 at most (LLM-Adapters' rule, for answers such as
    1.8333333333), and where the expected number is below 1, by a thousandth of it at most.

    Args:
        found: The answer read out of a reply, `None` for no answer.
        expected: The right answer, a number or other text.

    Returns:
        `True` if they are the same.
    """
    if found is None:
        return False
    if found == expected:
        return True
    number, right = as_number(found), as_number(expected)
    if number is None or right is None:
        return False
    return abs(number - right) <= NUMBER_TOLERANCE * min(Decimal(1), abs(right))


def as_number(text: str) -> Decimal | None:
    """Read a decimal number, thousands commas allowed.

    Returns:
        The number, or `None` where the text is none.
    """
    try:
        number = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


class AnswerMetric(QuestionMetric):
    """Share of questions whose answer is right; a reply without an answer is wrong, and counted.

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    description: str = ""

    def is_right(self, found: str | None, expected: str) -> bool:
        """Whether one answer is right.

        Args:
            found (`str`, *optional*): the answer read out of a reply; `None` or nothing where it has none.
            expected (`str`): the right answer to the same question.
        """
        raise NotImplementedError

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add answers.

        Args:
            predictions (`Sequence[str | None]`): the answers; `None` for a reply that has none.
            references (`Sequence[str]`): one right answer for each prediction, in order.
            **kwargs: nothing else can be added: `evaluate` raises a `ValueError`.
        """
        filled = ["" if answer is None else answer for answer in predictions]
        super().add_batch(predictions=filled, references=references, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one answer.

        Args:
            prediction (`str`, *optional*): the answer; `None` for a reply that has none.
            reference (`str`): the right answer to the same question.
            **kwargs: nothing else can be added: `evaluate` raises a `ValueError`.
        """
        super().add(prediction="" if prediction is None else prediction, reference=reference, **kwargs)

    def score_each(self, predictions: Sequence[str | None], references: Sequence[str]) -> list[float]:
        """1 for every right answer, 0 for every other.

        Args:
            predictions (`Sequence[str | None]`): the answers; `None` for a reply that has none.
            references (`Sequence[str]`): the right answers, in the same order.
        """
        return [float(self.is_right(found, right)) for found, right in zip(predictions, references, strict=True)]

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(
            self.description,
            "Args:\n    predictions: answers, `None` where a reply has none.\n    references: right answers.",
            {"predictions": Value("string"), "references": Value("string")},
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        marks = self.score_each(predictions, references)
        return {
            self.score_name: mean(marks),
            "correct": int(sum(marks)),
            "total": len(marks),
            "unanswered": sum(not answer for answer in predictions),
        }


class ExactAnswer(AnswerMetric):
    """Share of right answers, numbers compared as numbers ([`same_answer`]).

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    score_name = "exact_answer"
    description = "Share of questions whose answer is the right one; numbers are compared as numbers."

    def is_right(self, found: str | None, expected: str) -> bool:
        """Whether one answer is the right one.

        Args:
            found (`str`, *optional*): the answer read out of a reply; `None` or nothing where it has none.
            expected (`str`): the right answer, a number or other text.
        """
        return same_answer(found or None, expected)


class ChoiceAccuracy(AnswerMetric):
    """Share of questions where the right choice was named by its label (`answer2`, `true`, `B`).

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    score_name = "choice_accuracy"
    description = "Share of questions where the label of the right choice was named."

    def is_right(self, found: str | None, expected: str) -> bool:
        """Whether one label is the right one, whatever its case.

        Args:
            found (`str`, *optional*): the label read out of a reply; `None` or nothing where it has none.
            expected (`str`): the right choice's label, such as `answer2`.
        """
        return (found or "").strip().lower() == expected.strip().lower()


__all__ = ["NUMBER_TOLERANCE", "AnswerMetric", "ChoiceAccuracy", "ExactAnswer", "as_number", "same_answer"]
