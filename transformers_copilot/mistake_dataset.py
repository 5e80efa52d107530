"""The Mistake Log as rows: one a token whose successor is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from datasets import Features, Value

from .mistake_batch import MistakeBatch


if TYPE_CHECKING:
    from .mistake_log import MistakeLog

FEATURES = Features(
    {
        "round": Value("int64"),
        "sequence": Value("int32"),
        "position": Value("int32"),
        "token_id": Value("int32"),
        "true_token_id": Value("int32"),
        "true_probability": Value("float32"),
        "predicted_token_id": Value("int32"),
        "predicted_probability": Value("float32"),
        "supervised": Value("bool"),
        "mistake_size": Value("float32"),
    }
)


def mistake_rows(log: MistakeLog) -> Iterator[dict[str, Any]]:
    """Rows of a log, a round at a time.

    Args:
        log ([`MistakeLog`]): the log.

    Yields:
        `dict` with the columns of `FEATURES`.
    """
    for number, record in zip(log.round_numbers, log, strict=True):
        batch = record.to_batch()
        true, probability = batch.targets()
        columns = {
            "token_id": batch.token_ids,
            "true_token_id": true,
            "true_probability": probability,
            "predicted_token_id": batch.belief_ids[..., 0],
            "predicted_probability": batch.belief_probabilities[..., 0],
            "supervised": batch.supervised("labels"),
            "mistake_size": _sizes(batch, true, probability),
        }
        known = batch.supervised("all")
        for sequence, position in known.nonzero().tolist():
            row = {name: column[sequence, position].item() for name, column in columns.items()}
            yield {"round": number, "sequence": sequence, "position": position, **row}


def _sizes(batch: MistakeBatch, true: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """‖p − p̂‖² over the tokens that the log keeps of p̂."""
    others = torch.where(batch.belief_ids == true.unsqueeze(-1), 0.0, batch.belief_probabilities)
    return (1.0 - probability).square() + others.square().sum(dim=-1)


__all__ = ["FEATURES", "mistake_rows"]
