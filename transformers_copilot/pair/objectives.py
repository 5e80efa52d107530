"""The training objectives of both parts (Eq. 2, §3.1 and the ablation of arXiv 2505.16270), and the Copilot's loss on a
round, whether that is under way, logged or recorded.

All of them go over the whole vocabulary: the distribution that training compares with the truth is the one that scoring
and generation use. With the Pilot's head, the rectified logits are one product, z + f = W(h + u).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from .correction import copilot_states, feedback_kind, reads_mistakes, token_feedback
from .fusion import rectified_log_probabilities
from .mistake_batch import MistakeBatch
from .mistakes import rows_in_cache
from .options import chosen
from .pilot_head import gather


# Added under the root of "rmse" so that its gradient at an exact fit is finite.
_ROOT_EPS = 1e-12


def copilot_objective(
    correction: Tensor,
    pilot_logits: Tensor,
    token_ids: Tensor,
    objective: str,
    fusion: str,
    num_items: Tensor | float | None = None,
) -> Tensor:
    r"""The Copilot's loss over the supervised positions of a round.

    Args:
        correction (`torch.Tensor` of shape `(positions, vocab)`): the Copilot's f.
        pilot_logits (`torch.Tensor` of shape `(positions, vocab)`): the Pilot's z, all of them.
        token_ids (`torch.LongTensor` of shape `(positions,)`): the true tokens. In a compiled pass, whose shapes can't
            depend on how many positions count, -100 at those that don't.
        objective (`str`):
            - `"rmse"`: sqrt(mean_i ‖f_i − ℓ_i‖²), Eq. 7. The root is over the whole mini-batch: a root per token
              would make the best f a median, which is about zero.
            - `"mse"`: mean_i ‖f_i − ℓ_i‖².
            - `"kl"`: mean_i KL(softmax(ℓ_i) ‖ softmax(f_i)).
            - `"cross_entropy"`: mean_i −log p̃_i(true token), p̃ fused with λ = 1.
        fusion (`str`): how `"cross_entropy"` fuses.
        num_items (`float` or tensor, *optional*):
            Divide sums by this instead of by the number of positions: the size of the whole round when it is read in
            parts (gradient accumulation). Under `"rmse"` a part contributes its own root in proportion.

    Returns:
        `torch.FloatTensor`, a scalar.

    Raises:
        ValueError: there is no such objective or fusion.
    """
    chosen("objective", objective), chosen("fusion", fusion)
    positions = _positions_that_count(token_ids)
    items = _at_least_one(positions) if num_items is None else num_items
    if objective == "cross_entropy":
        rows = rows_in_cache(correction)
        pieces = zip(correction.split(rows), pilot_logits.split(rows), token_ids.split(rows), strict=True)
        return -sum((_likelihood(*piece, fusion) for piece in pieces), correction.new_zeros(())).float() / items
    correction = correction.float()
    true = token_ids.clamp_min(0).unsqueeze(-1)
    probabilities = torch.softmax(pilot_logits.float(), dim=-1)
    mistakes = (-probabilities).scatter_add(-1, true, torch.ones_like(true, dtype=correction.dtype))
    if objective == "kl":
        target, predicted = torch.log_softmax(mistakes, dim=-1), torch.log_softmax(correction, dim=-1)
        return _of_those_that_count(F.kl_div(predicted, target, reduction="none", log_target=True), token_ids) / items
    squared = _of_those_that_count((correction - mistakes).square(), token_ids)
    if objective == "mse":
        return squared / items
    return (squared / _at_least_one(positions) + _ROOT_EPS).sqrt() * (positions / items)


def _positions_that_count(token_ids: Tensor) -> Tensor | int:
    """How many have a true token: all of those that a pass which is not compiled picks."""
    return (token_ids >= 0).sum() if is_compiling() else len(token_ids)


def _at_least_one(positions: Tensor | int) -> Tensor | int:
    """A number to divide by: where no position counts, the sum that is divided is 0."""
    return positions.clamp_min(1) if isinstance(positions, Tensor) else positions


def _of_those_that_count(values: Tensor, token_ids: Tensor) -> Tensor:
    """The sum over the positions that have a true token."""
    return (values.masked_fill((token_ids < 0).unsqueeze(-1), 0.0) if is_compiling() else values).sum()


def check_copilot_loss(loss: Tensor) -> None:
    """Refuse to learn from a loss that is no number.

    Args:
        loss (`torch.FloatTensor`): the Copilot's, a scalar.

    Raises:
        ValueError: it is NaN or infinite.
    """
    if not torch.isfinite(loss):
        raise ValueError(
            f"the Copilot's loss is {float(loss.detach())}: its weights, or what it reads, hold NaN or infinity, "
            "and a further step would spoil all of it. Go on from the last checkpoint with a smaller "
            "`copilot_learning_rate`, or clip its gradient (`copilot_max_grad_norm`)."
        )


def rectified_cross_entropy(logits: Tensor, token_ids: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """`"cross_entropy"` under logits fusion, of logits z + f that one product has made.

    Args:
        logits (`torch.Tensor` of shape `(positions, vocab)`): the rectified ones, at λ = 1.
        token_ids (`torch.LongTensor` of shape `(positions,)`): the true tokens.
        num_items (`float` or tensor, *optional*): see [`copilot_objective`].

    Returns:
        `torch.FloatTensor`, a scalar.
    """
    rows = rows_in_cache(logits)
    items = _at_least_one(_positions_that_count(token_ids)) if num_items is None else num_items
    pieces = zip(logits.split(rows), token_ids.split(rows), strict=True)
    return sum((F.cross_entropy(z.float(), true, reduction="sum") for z, true in pieces), logits.new_zeros(())) / items


def _likelihood(correction: Tensor, pilot_logits: Tensor, token_ids: Tensor, fusion: str) -> Tensor:
    """Σ log p̃ of the true tokens, at λ = 1."""
    if chosen("fusion", fusion) == "logits":  # p̃ does not ask for z to be normed
        return -F.cross_entropy(pilot_logits.float() + correction.float(), token_ids, reduction="sum")
    log_probabilities = torch.log_softmax(pilot_logits.float(), dim=-1)
    rectified = rectified_log_probabilities(log_probabilities, correction, 1.0, fusion)
    return _of_those_that_count(rectified.gather(-1, token_ids.clamp_min(0).unsqueeze(-1)), token_ids)


def pilot_loss_of(logits: Tensor, targets: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Cross-entropy (Eq. 2), in float32.

    Args:
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): the Pilot's, or the rectified.
        targets (`torch.LongTensor` of shape `(batch, length)`): the token that each position predicts, or -100.
        num_items (`float` or tensor, *optional*): what the sum is divided by; the number of positions without.

    Returns:
        `torch.FloatTensor`, a scalar; 0 where nothing is supervised.
    """
    supervised = targets >= 0
    if is_compiling():
        items = supervised.sum().clamp_min(1) if num_items is None else num_items
        true = targets.masked_fill(~supervised, -100).flatten()
        return F.cross_entropy(logits.flatten(0, -2).float(), true, ignore_index=-100, reduction="sum") / items
    if not supervised.any():
        return logits[..., :1].float().sum() * 0.0
    chosen, true = logits[supervised].float(), targets[supervised]
    if num_items is None:
        return F.cross_entropy(chosen, true)
    return F.cross_entropy(chosen, true, reduction="sum") / num_items


def round_loss(pair: Any, batch: MistakeBatch, num_items: Tensor | float | None = None) -> Tensor:
    """The Copilot's objective on one round; see `copilot_loss` of the pair.

    Args:
        batch ([`MistakeBatch`]): the mistakes of one step of training, and what the Copilot reads of them.
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
    true = batch.targets()
    if is_compiling():  # every position, and what is not wanted has no true token: shapes are the same for any numbers
        at_lessons = None if states is None else states.masked_fill(~wanted.unsqueeze(-1), 0.0).flatten(0, 1)
        true = true.masked_fill(~wanted, -100).flatten()
    elif not wanted.any():
        return _no_lesson(pair, states, batch)
    else:
        at_lessons, true = None if states is None else states[wanted], true[wanted]
    head_states, logits = batch.at(wanted, batch.head_states), batch.at(wanted, batch.lesson_logits)
    if _head_learns(pair):
        # What a head that learns makes of a logged state is no longer p̂ as it was; all of that may have been kept.
        believed = batch.believed(wanted, pair.copilot.config.vocab_size)
        logits = logits if believed is None else believed
    return _lesson_loss(pair, at_lessons, head_states, logits, true, num_items)


def _feedback(pair: Any, batch: MistakeBatch) -> Any:
    if reads_mistakes(pair):
        return batch.feedback()
    return token_feedback(batch.token_ids) if feedback_kind(pair) == "token" else None


def _question(pair: Any, batch: MistakeBatch) -> Tensor | None:
    if batch.question is not None or batch.question_mask is not None or feedback_kind(pair) is None:
        return batch.question
    embedding = pair.get_input_embeddings()
    gather(embedding)
    with torch.no_grad():
        # Without hooks: a Trainer's NEFTune hook would add noise, and draw it from the Pilot's random stream.
        return embedding.forward(batch.token_ids)


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


__all__ = ["check_copilot_loss", "copilot_objective", "pilot_loss_of", "rectified_cross_entropy", "round_loss"]
