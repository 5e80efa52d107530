"""The Copilot's lessons: its loss on a round, whether that is under way, logged or recorded.

What training compares with the truth is the distribution that inference uses, whole. With the Pilot's head, the
rectified logits are one product, z + f = W(h + u).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .correction import copilot_states, feedback_kind, reads_mistakes, token_feedback
from .mistake_batch import MistakeBatch
from .objectives import copilot_objective, rectified_cross_entropy
from .validation import chosen


def round_loss(pair: Any, batch: MistakeBatch, num_items: Tensor | float | None = None) -> Tensor:
    """The Copilot's objective on one round; see `copilot_loss` of the pair.

    Args:
        batch ([`MistakeBatch`]): the round.
        num_items (`float` or tensor, *optional*): see [`copilot_objective`].

    Returns:
        `torch.FloatTensor`, a scalar; 0 where the round has no supervised position.
    """
    states = copilot_states(
        pair,
        _feedback(pair, batch),
        _question(pair, batch),
        batch.rationale,
        batch.attention_mask,
        batch.question_mask,
        batch.segments,
    )
    wanted = batch.supervised(pair.config.mistakes_from)
    if not wanted.any():
        return _no_lesson(pair, states, batch)
    at_lessons = None if states is None else states[wanted]
    head_states, logits = batch.at(wanted, batch.head_states), batch.at(wanted, batch.lesson_logits)
    if _head_learns(pair):
        # What a head that learns makes of a logged state is no longer p̂ as it was; all of that may have been kept.
        believed = batch.believed(wanted, pair.copilot.config.vocab_size)
        logits = logits if believed is None else believed
    return _lesson_loss(pair, at_lessons, head_states, logits, batch.targets()[wanted], num_items)


def _feedback(pair: Any, batch: MistakeBatch) -> Any:
    if reads_mistakes(pair):
        return batch.feedback()
    return token_feedback(batch.token_ids) if feedback_kind(pair) == "token" else None


def _question(pair: Any, batch: MistakeBatch) -> Tensor | None:
    if batch.question is not None or batch.question_mask is not None or feedback_kind(pair) is None:
        return batch.question
    with torch.no_grad():
        # Without hooks: a Trainer's NEFTune hook would add noise, and draw it from the Pilot's random stream.
        return pair.get_input_embeddings().forward(batch.token_ids)


def _head_learns(pair: Any) -> bool:
    head = pair.get_output_embeddings()
    return head is not None and any(parameter.requires_grad for parameter in head.parameters())


def _no_lesson(pair: Any, states: Tensor | None, batch: MistakeBatch) -> Tensor:
    """Zero, through every weight: distributed training waits for a gradient of each."""
    width = pair.copilot.config.pilot_hidden_size
    head_states = torch.zeros(1, 1, width, device=batch.token_ids.device)
    return pair.correction(None if states is None else states[:1, :1], head_states).sum() * 0.0


def _lesson_loss(
    pair: Any,
    states: Tensor | None,
    head_states: Tensor | None,
    logits: Tensor | None,
    true: Tensor,
    num_items: Tensor | float | None,
) -> Tensor:
    """The objective at some positions. z + f is one product where the Pilot's head makes both; else z is made of h, or
    was kept itself."""
    objective, fusion = pair.config.objective, pair.config.fusion
    plain = chosen("objective", objective) == "cross_entropy" and chosen("fusion", fusion) == "logits"
    if plain and logits is None and chosen("head", pair.copilot.config.head) == "pilot":
        shifted = cast(Tensor, head_states).float() + pair.copilot.head_shift(states, head_states)
        return rectified_cross_entropy(pair.head_logits(shifted), true, num_items)
    correction = pair.correction(states, head_states)
    if logits is None:
        with torch.no_grad():
            logits = pair.head_logits(head_states)
    return copilot_objective(correction, logits, true, objective, fusion, num_items)


__all__ = ["round_loss"]
