"""Metrics of answers, recommendations, mistakes and confidences: `evaluate.Metric` classes that need no network.

from transformers_copilot.metrics import ExactAnswer
ExactAnswer().compute(predictions=["7.0", None], references=["7", "3"])
# {'exact_answer': 0.5, 'correct': 1, 'total': 2, 'unanswered': 1}
"""

from .answers import AnswerMetric, ChoiceAccuracy, ExactAnswer, as_number, same_answer
from .base import OfflineMetric, QuestionMetric
from .calibration import CalibrationError, expected_calibration_error
from .intervals import Accuracy, Gain, accuracy_of, paired_gain, wilson_interval
from .mistake_sizes import MistakeRemoved, MistakeSize
from .ranking import HitAtK, NdcgAtK, Recommendations, hit_at_k, ndcg_at_k


__all__ = [
    "Accuracy",
    "AnswerMetric",
    "CalibrationError",
    "ChoiceAccuracy",
    "ExactAnswer",
    "Gain",
    "HitAtK",
    "MistakeRemoved",
    "MistakeSize",
    "NdcgAtK",
    "OfflineMetric",
    "QuestionMetric",
    "Recommendations",
    "accuracy_of",
    "as_number",
    "expected_calibration_error",
    "hit_at_k",
    "ndcg_at_k",
    "paired_gain",
    "same_answer",
    "wilson_interval",
]
