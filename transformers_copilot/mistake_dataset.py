"""The Mistake Log as rows: one a token whose successor is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
import torch
from datasets import Features, Value

from .mistake_batch import MistakeBatch
from .mistake_record import MistakeRecord


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


def mistake_table(rounds: Iterable[tuple[int, MistakeRecord]]) -> pa.Table:
    """Rounds as rows, a row a token whose successor is known, in the order of round, sequence and position.

    Args:
        rounds (iterable of `(int, MistakeRecord)`): each round's number and record.

    Returns:
        `pyarrow.Table` with the columns of `FEATURES`; without rows where there is no such token.
    """
    parts = [_round_table(number, record) for number, record in rounds]
    return pa.concat_tables(parts) if parts else FEATURES.arrow_schema.empty_table()


def _round_table(number: int, record: MistakeRecord) -> pa.Table:
    # Hidden states are of no use here, and padding them again would take far more memory than all the rest.
    slim = replace(record, rationale=record.rationale[:, :0], question=None, question_lengths=None, layers=None)
    batch = slim.to_batch()
    true, probability = batch.targets()
    known = batch.supervised("all")
    sequence, position = known.nonzero(as_tuple=True)
    columns = {
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
    schema = FEATURES.arrow_schema
    arrays = [pa.array(columns[field.name].numpy()).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _sizes(batch: MistakeBatch, true: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """‖p − p̂‖² over the tokens that the log keeps of p̂."""
    others = torch.where(batch.belief_ids == true.unsqueeze(-1), 0.0, batch.belief_probabilities)
    return (1.0 - probability).square() + others.square().sum(dim=-1)


__all__ = ["FEATURES", "mistake_table"]
