"""Quality of ranked recommendations with one right item each: Hit@K and NDCG@K."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Sequence as ListOf
from datasets import Value

from .base import QuestionMetric, mean


CUTOFFS = (5, 10, 20, 100)


def rank_of(ranked: Sequence[str | None], item: str) -> int | None:
    """Where an item stands in a list.

    Args:
        ranked (`Sequence[str | None]`): items, best first. `None` keeps its place and is never right.
        item (`str`): the item looked for.

    Returns:
        `int`, *optional*: its first place, counted from 1, or `None` where it is not in the list.
    """
    return next((place for place, found in enumerate(ranked, start=1) if found == item), None)


def hit_at_k(ranked: Sequence[str | None], item: str, k: int) -> float:
    """Whether an item is among the first K.

    Args:
        ranked (`Sequence[str | None]`): items, best first. `None` keeps its place and is never right.
        item (`str`): the one item that is right.
        k (`int`): how many of the list count.

    Returns:
        `float`: 1 or 0.
    """
    rank = rank_of(ranked, item)
    return float(rank is not None and rank <= k)


def ndcg_at_k(ranked: Sequence[str | None], item: str, k: int) -> float:
    """Normalized discounted cumulative gain of a list with one right item: 1 / log₂(1 + place).

    Args:
        ranked (`Sequence[str | None]`): items, best first. `None` keeps its place and is never right.
        item (`str`): the one item that is right.
        k (`int`): how many of the list count.

    Returns:
        `float` from 0 to 1: 0 where the item is not among the first K.
    """
    rank = rank_of(ranked, item)
    return 1.0 / math.log2(1 + rank) if rank is not None and rank <= k else 0.0


class RankingMetric(QuestionMetric):
    """Mean of a mark over lists of recommendations, at several cut-offs.

    Args:
        cutoffs (`Sequence[int]`, defaults to `(5, 10, 20, 100)`): how many first places count; a figure for each.
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.

    Raises:
        ValueError: there is no cut-off, or one is below 1.
    """

    marks: dict[str, Any] = {}

    def __init__(self, cutoffs: Sequence[int] = CUTOFFS, **kwargs: Any) -> None:
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"`cutoffs` is {tuple(cutoffs)!r}: give one whole number of at least 1 or several.")
        self.cutoffs = tuple(cutoffs)
        self.score_name = f"{next(iter(self.marks))}_at_{10 if 10 in self.cutoffs else self.cutoffs[0]}"
        super().__init__(**kwargs)

    def score_each(self, predictions: Sequence[Sequence[str | None]], references: Sequence[str]) -> list[float]:
        """The mark that `score_name` names, of every list.

        Args:
            predictions (`Sequence[Sequence[str | None]]`): for every question the items, best first.
            references (`Sequence[str]`): one right item for each list, in order.
        """
        name, _, k = self.score_name.partition("_at_")
        return [self.marks[name](ranked, item, int(k)) for ranked, item in zip(predictions, references, strict=True)]

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add lists of recommendations.

        Args:
            predictions (`Sequence[Sequence[str | None]]`): for every question the items, best first.
            references (`Sequence[str]`): one right item for each list, in order.
            **kwargs: nothing else can be added: `evaluate` raises a `ValueError`.
        """
        filled = [["" if item is None else item for item in ranked] for ranked in predictions]
        super().add_batch(predictions=filled, references=references, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(
            f"{' and '.join(self.marks)} at {', '.join(map(str, self.cutoffs))}: means over lists with one right item.",
            "Args:\n    predictions: for every question the items, best first.\n    references: the right items.",
            {"predictions": ListOf(Value("string")), "references": Value("string")},
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        pairs = list(zip(predictions, references, strict=True))
        return {
            f"{name}_at_{k}": mean([mark(ranked, item, k) for ranked, item in pairs])
            for name, mark in self.marks.items()
            for k in self.cutoffs
        }


class HitAtK(RankingMetric):
    """Share of lists that hold the right item among their first K.

    Args:
        cutoffs (`Sequence[int]`, defaults to `(5, 10, 20, 100)`): how many first places count; a figure for each.
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    marks = {"hit": hit_at_k}


class NdcgAtK(RankingMetric):
    """Mean NDCG of lists with one right item.

    Args:
        cutoffs (`Sequence[int]`, defaults to `(5, 10, 20, 100)`): how many first places count; a figure for each.
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    marks = {"ndcg": ndcg_at_k}


class Recommendations(RankingMetric):
    """Hit@K and NDCG@K together: what the recommendation tasks report.

    Args:
        cutoffs (`Sequence[int]`, defaults to `(5, 10, 20, 100)`): how many first places count; a figure for each.
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    marks = {"hit": hit_at_k, "ndcg": ndcg_at_k}


__all__ = ["CUTOFFS", "HitAtK", "NdcgAtK", "RankingMetric", "Recommendations", "hit_at_k", "ndcg_at_k", "rank_of"]
