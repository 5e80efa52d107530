"""The Mistake Log as rows: one a token whose successor is known."""

from __future__ import annotations

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


def mistake_columns(log: MistakeLog) -> dict[str, list[Any]]:
    """Columns of a log, a row a token whose successor is known.

    Args:
        log ([`MistakeLog`]): the log.

    Returns:
        `dict` with the columns of `FEATURES`, empty lists where the log has no such token.
    """
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for number, record in zip(log.round_numbers, log, strict=True):
        batch = record.to_batch()
        true, probability = batch.targets()
        known = batch.supervised("all")
        sequence, position = known.nonzero(as_tuple=True)
        values = {
            "round": torch.full_like(sequence, number),
            "sequence": sequence,
            "position": position,
            "token_id": batch.token_ids[known],
            "true_token_id": true[known],
            "true_probability": probability[known],
            "predicted_token_id": batch.belief_ids[..., 0][known],
            "predicted_probability": batch.belief_probabilities[..., 0][known],
            "supervised": batch.supervised("labels")[known],
            "mistake_size": _sizes(batch, true, probability)[known],
        }
        for name, value in values.items():
            columns[name] += value.tolist()
    return columns


def _sizes(batch: MistakeBatch, true: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """‖p − p̂‖² over the tokens that the log keeps of p̂."""
    others = torch.where(batch.belief_ids == true.unsqueeze(-1), 0.0, batch.belief_probabilities)
    return (1.0 - probability).square() + others.square().sum(dim=-1)


__all__ = ["FEATURES", "mistake_columns"]
