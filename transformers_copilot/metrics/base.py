"""What the metrics of this package have in common: they are in memory, need no network, and can score each question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features


class OfflineMetric(evaluate.Metric):
    """An `evaluate.Metric` that is a class of this package, not a script to be downloaded, and writes no files.

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`. `keep_in_memory` is `True` unless several
            processes share the metric.

    Attributes:
        score_name (`str`): the entry of [`compute`]'s result that is the score; the others explain it.
    """

    score_name: str = ""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
        super().__init__(**kwargs)

    def _describe(self, description: str, inputs: str, features: dict[str, Any]) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=description, citation="", inputs_description=f"\n\n{inputs}", features=Features(features)
        )


class QuestionMetric(OfflineMetric):
    """A metric whose score is the mean of one mark a question, so that two models can be compared question by question.

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    def score_each(self, predictions: Sequence[Any], references: Sequence[str]) -> list[float]:
        """The mark of every question.

        Args:
            predictions (`Sequence`): what was answered, as [`compute`] takes it.
            references (`Sequence[str]`): the right answers, in the same order.

        Returns:
            `list[float]`: marks from 0 to 1, whose mean is the score named `score_name`.
        """
        raise NotImplementedError


def mean(values: Sequence[float]) -> float:
    """A mean that says what is wrong where there is none.

    Args:
        values (`Sequence[float]`): the numbers to average, at least one.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("There is nothing to score: no question, or no token that is not left out, was added.")
    return sum(values) / len(values)


__all__ = ["OfflineMetric", "QuestionMetric", "mean"]
