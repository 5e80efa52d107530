"""Whether a model is right as often as it says: the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Value

from .base import OfflineMetric, mean


def expected_calibration_error(
    confidences: Sequence[float], correct: Sequence[float] | Sequence[bool], bins: int = 15
) -> float:
    """Mean distance of confidence and accuracy over bins of equal width (Guo et al., 2017).

    Args:
        confidences (`Sequence[float]`): for every answer or token the probability that the model gave to it, 0 to 1.
        correct (`Sequence[float]` or `Sequence[bool]`): whether it was right.
        bins (`int`, defaults to 15): number of bins; bin `i` holds confidences above `i / bins` up to `(i+1) / bins`.

    Returns:
        `float` from 0 to 1: 0 where accuracy and mean confidence are the same in every bin.

    Raises:
        ValueError: there is nothing, the two are of different length, a confidence is not within 0 and 1, or `bins`
            is below 1.
    """
    sure, right = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if sure.shape != right.shape or sure.ndim != 1 or not sure.size:
        raise ValueError(f"Calibration needs one mark for every confidence, got {sure.shape} and {right.shape}.")
    if bins < 1:
        raise ValueError(f"`bins` is {bins}: give at least 1.")
    if not ((sure >= 0) & (sure <= 1 + 1e-6)).all():
        raise ValueError("A confidence is not within 0 and 1: give probabilities, not logits.")
    places = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right - sure, minlength=bins)
    return float(np.abs(gaps).sum() / sure.size)


class CalibrationError(OfflineMetric):
    """Expected calibration error of confidences.

    Args:
        bins (`int`, defaults to 15): number of bins of equal width.
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    score_name = "expected_calibration_error"

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        self.bins = bins
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(
            "Mean distance of confidence and accuracy over bins of equal width.",
            "Args:\n    predictions: confidences from 0 to 1.\n    references: 1 where right, 0 elsewhere.",
            {"predictions": Value("float64"), "references": Value("float64")},
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {
            "expected_calibration_error": expected_calibration_error(predictions, references, self.bins),
            "confidence": mean(predictions),
            "accuracy": mean(references),
        }


__all__ = ["CalibrationError", "expected_calibration_error"]
