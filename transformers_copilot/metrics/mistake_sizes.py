"""Size of the mistakes that are left, E‖p − p̂‖², and the share of it that rectifying removes."""

from __future__ import annotations

from typing import Any

import evaluate
import torch
from datasets import Value
from torch import Tensor

from ..pair.mistakes import mistake_size, share_removed
from .base import OfflineMetric, mean


class LogitsMetric(OfflineMetric):
    """A metric of next-token distributions. Only a mistake's size is kept of a row of logits, so vocabularies may be
    large and batches may be many.

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add logits and true tokens; row `i` of the logits is the distribution of token `i`, nothing is shifted.

        Args:
            predictions (`Tensor` or array of shape `(..., vocab)`): logits, of the pair where there are two models.
            references (`Tensor` or array of shape `(...)`): the true tokens. Negative ones, such as the label -100,
                are left out.
            **kwargs: further logits that the metric asks for, such as `pilot_predictions`.

        Raises:
            ValueError: the logits are not those of these tokens.
        """
        tokens = torch.as_tensor(references)
        kept = tokens >= 0
        sizes = {
            name: _sizes(value, tokens, kept, name) for name, value in {"predictions": predictions, **kwargs}.items()
        }
        super().add_batch(references=tokens[kept].tolist(), **sizes)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one row of logits and its true token.

        Args:
            prediction (`Tensor` or array of shape `(vocab,)`): logits of the next token.
            reference (`int`): id of the token that truly came next.
            **kwargs: further logits that the metric asks for.
        """
        rows = {name: torch.as_tensor(value)[None] for name, value in kwargs.items()}
        self.add_batch(predictions=torch.as_tensor(prediction)[None], references=[reference], **rows)


def _sizes(logits: Any, tokens: Tensor, kept: Tensor, name: str) -> list[float]:
    """The mistakes' sizes at the kept places."""
    logits = torch.as_tensor(logits)
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(
            f"`{name}` has the shape {tuple(logits.shape)}, `references` {tuple(tokens.shape)}: give one row of logits "
            "over the vocabulary for every token."
        )
    if kept.any() and int(tokens.max()) >= logits.shape[-1]:
        raise ValueError(f"`references` has token {int(tokens.max())}, `{name}` {logits.shape[-1]} logits a row.")
    return mistake_size(logits[kept], tokens[kept].to(logits.device)).tolist()


class MistakeSize(LogitsMetric):
    """E‖p − p̂‖²: mean squared size of the mistake over tokens, from 0 (sure and right) to 2 (sure and wrong).

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    score_name = "mistake_size"

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(
            "Mean over tokens of ‖onehot(true token) − softmax(logits)‖².",
            "Args:\n    predictions: logits of shape (..., vocab).\n    references: true tokens of shape (...).",
            {"predictions": Value("float32"), "references": Value("int64")},
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"mistake_size": mean(predictions), "tokens": len(predictions)}


class MistakeRemoved(LogitsMetric):
    """Share of the Pilot's mistake that the pair removes: 1 − E‖p − p̃‖² / E‖p − p̂‖².

    Args:
        **kwargs: handed to `evaluate.Metric`, such as `experiment_id`.
    """

    score_name = "mistake_removed"

    def _info(self) -> evaluate.MetricInfo:
        return self._describe(
            "1 − E‖p − p̃‖² / E‖p − p̂‖²: below 0 where the pair makes the mistake larger.",
            "Args:\n    predictions: rectified logits of shape (..., vocab)."
            "\n    references: true tokens of shape (...)."
            "\n    pilot_predictions: the Pilot's logits, of the shape of `predictions`.",
            {"predictions": Value("float32"), "references": Value("int64"), "pilot_predictions": Value("float32")},
        )

    def _compute(
        self, *, predictions: Any = None, references: Any = None, pilot_predictions: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        pair, pilot = mean(predictions), mean(pilot_predictions)
        return {
            "mistake_removed": share_removed(pilot, pair),
            "mistake_size": pair,
            "pilot_mistake_size": pilot,
            "tokens": len(predictions),
        }


__all__ = ["LogitsMetric", "MistakeRemoved", "MistakeSize"]
