"""The Mistake Log as a table, with a row for every token whose next token is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch
from datasets import Features, Value
from torch import Tensor

from ..pair.mistake_batch import MistakeBatch, lesson_positions
from .record import MistakeRecord


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
    states: dict[str, Any] = dict.fromkeys(("rationale", "head_states", "lesson_logits", "question", "layers"))
    batch = replace(record, **states, question_lengths=None).to_batch()
    known = lesson_positions(batch.labels, batch.attention_mask, batch.segments, "all")
    if batch.belief_ids is None:  # where the Copilot reads no mistakes, those of lessons are all that is kept
        known = known & batch.lessons
    sequence, position = known.nonzero(as_tuple=True)
    columns = {
        "round": torch.full_like(sequence, number),
        "sequence": sequence,
        "position": position,
        "token_id": batch.token_ids[known],
        "true_token_id": batch.targets()[known],
        "supervised": (batch.labels >= 0)[known],
        **{name: values[known] for name, values in _figures(batch).items()},
    }
    schema = FEATURES.arrow_schema
    arrays = [pa.array(columns[field.name].numpy()).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _figures(batch: MistakeBatch) -> dict[str, Tensor]:
    """Probabilities and sizes at every position: of lessons exact, elsewhere over the tokens that are kept of p̂."""
    shape = batch.token_ids.shape
    if batch.belief_ids is None or batch.belief_probabilities is None or batch.next_probabilities is None:
        numbers = torch.zeros(shape)
        found = {"true_probability": numbers, "predicted_probability": numbers, "mistake_size": numbers}
        found["predicted_token_id"] = torch.zeros(shape, dtype=torch.long)
    else:
        true, probability = batch.targets(), batch.next_probabilities
        others = torch.where(batch.belief_ids == true.unsqueeze(-1), 0.0, batch.belief_probabilities)
        found = {
            "true_probability": probability,
            "predicted_token_id": batch.belief_ids[..., 0],
            "predicted_probability": batch.belief_probabilities[..., 0],
            "mistake_size": (1.0 - probability).square() + others.square().sum(dim=-1),
        }
    exact = {
        "true_probability": batch.true_probabilities,
        "predicted_token_id": batch.predicted_ids,
        "predicted_probability": batch.predicted_probabilities,
        "mistake_size": batch.mistake_sizes,
    }
    return {name: values.masked_scatter(batch.lessons, exact[name]) for name, values in found.items()}


__all__ = ["FEATURES", "mistake_table"]
