"""How sure a figure is: Wilson's interval of an accuracy, and the bootstrap of a gain on the same questions.

An accuracy gets a 95 % Wilson interval. The gain of one model over another on the same questions gets a paired
bootstrap interval: questions are drawn with replacement, each with both models' answers, and the gain taken anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


Z_95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """Share of questions answered right, with its 95 % Wilson interval.

    Args:
        correct: Number of right answers.
        total: Number of questions asked, answered or not.
        low: Lower end of the interval, 0 to 1.
        high: Upper end of the interval, 0 to 1.
    """

    correct: int
    total: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Right answers over questions, 0 to 1."""
        return self.correct / self.total

    def as_dict(self) -> dict[str, Any]:
        """The fields and the share, for JSON."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Gain:
    """Difference of two accuracies on the same questions, with its 95 % paired bootstrap interval.

    Args:
        difference: The second model's accuracy less the first's, -1 to 1.
        low: Lower end of the interval, -1 to 1.
        high: Upper end of the interval, -1 to 1.
        fixed: Questions that only the second model has right.
        broken: Questions that only the first model has right.
        total: Number of questions that both models were asked.
    """

    difference: float
    low: float
    high: float
    fixed: int
    broken: int
    total: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def wilson_interval(correct: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for a share.

    Args:
        correct: Number of successes, 0 to `total`.
        total: Number of trials, at least 1.
        z: Standard normal quantile; defaults to 1.959964, which gives 95 %.

    Returns:
        Lower and upper end, within 0 and 1.

    Raises:
        ValueError: `total` is below 1 or `correct` is not within 0 and `total`.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} right of {total} questions has no interval: give at least one question.")
    share, z2 = correct / total, z * z
    center = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, center - half), min(1.0, center + half)


def side_of_zero(low: float | None, high: float | None) -> int:
    """What an interval of a difference says.

    Args:
        low: Its lower end; `None` where there is no interval.
        high: Its upper end.

    Returns:
        1 where it lies above zero, -1 where it lies below, 0 where it holds zero or there is none.
    """
    if low is None or high is None:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def accuracy_of(correct: Sequence[bool]) -> Accuracy:
    """Accuracy and its interval.

    Args:
        correct: For each question whether it was answered right.
    """
    right, total = sum(map(bool, correct)), len(correct)
    return Accuracy(right, total, *wilson_interval(right, total))


def paired_gain(before: Sequence[bool], after: Sequence[bool], draws: int = 10_000, seed: int = 0) -> Gain:
    """Gain of one model over another on the same questions, with a bootstrap interval.

    A question contributes +1 (fixed), -1 (broken) or 0; drawing questions with replacement draws these three from a
    multinomial distribution, so no list of questions is drawn at all. Where all drawn gains are the same, the
    interval is made of Wilson's, as one of no width would claim what no sample can show.

    Args:
        before: For each question whether the first model has it right.
        after: The same for the second model, in the same order.
        draws: Number of bootstrap samples; defaults to 10,000.
        seed: Seed of the draws.

    Raises:
        ValueError: The two are of different length or empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"A paired gain needs two lists of the same questions, got {len(before)} and {len(after)}.")
    fixed = sum(1 for old, new in zip(before, after, strict=True) if new and not old)
    broken = sum(1 for old, new in zip(before, after, strict=True) if old and not new)
    total = len(before)
    shares = [fixed / total, broken / total, (total - fixed - broken) / total]
    counts = np.random.default_rng(seed).multinomial(total, shares, size=draws)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) / total, [2.5, 97.5])
    if low == high:  # every question did the same, which says little of the others: Wilson's intervals of both shares
        (fixed_low, fixed_high), (broken_low, broken_high) = (
            wilson_interval(count, total) for count in (fixed, broken)
        )
        low, high = fixed_low - broken_high, fixed_high - broken_low
    return Gain((fixed - broken) / total, float(low), float(high), fixed, broken, total)
