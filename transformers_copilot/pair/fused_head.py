"""What the Copilot does before the Pilot's head: a speed-up, not another method.

Everything that the Copilot needs is there when the Pilot's layers have run and its head has not, unless it reads the
mistakes of the very positions of the call. So it runs then, inside the Pilot's pass, with the same functions as
everywhere else. Then one product with the head's weights is enough: of h + λu where only the rectified logits are asked
for, and of h and u one below the other where both parts' are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .cache_pilot_copilot import PilotCopilotCache
from .correction import (
    Corrector,
    copilot_states,
    feedback_kind,
    feeds_back,
    mistake_of,
    own_feedback,
    reads_mistakes,
    token_feedback,
)
from .mistake_batch import feedback_validity, shifted
from .mistakes import SparseMistake
from .options import chosen
from .pilot_head import is_plain_linear, narrowed
from .rationale import Capture


@dataclass
class GeneratedStep:
    """What is known of a call before the Pilot runs.

    Args:
        token_ids (`torch.LongTensor` of shape `(batch, length)`): the tokens of this call.
        attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
        question_mask (`torch.Tensor` of shape `(batch, questions)`, *optional*): encoder-decoder only.
        question (`torch.Tensor`, *optional*): an encoder's output; without, the captured embeddings.
        past (`int`): positions before this call.
        prompt_length (`int`, *optional*): tokens that were given; `None`: nothing is being generated.
        keep (`slice` or tensor): positions whose logits are wanted.
        position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): as the Pilot has them.
        question_is_known (`bool`, *optional*, defaults to `True`): `False`: the encoder runs in this very pass.
    """

    token_ids: Tensor
    attention_mask: Tensor | None
    question_mask: Tensor | None
    question: Tensor | None
    past: int
    prompt_length: int | None
    keep: slice | Tensor
    position_ids: Tensor | None = None
    question_is_known: bool = True


def correct_before_head(
    pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache | None, weight: float, captured: Capture
) -> None:
    """Let the Pilot's head read h + λu, so that its logits are the rectified ones: one product, and none of V numbers
    a token besides.

    Args:
        pair: the pair, with `head="pilot"` and logits fusion, whose Copilot reads no mistakes.
        step ([`GeneratedStep`]): what is known of the call before the Pilot runs.
        cache ([`PilotCopilotCache`], *optional*): earlier positions.
        captured ([`Capture`]): the Pilot's pass, about to begin.
    """

    def corrected(states: Tensor) -> Tensor:
        """What the Pilot's head reads, h + λu: its logits are z + λf then."""
        own = copilot_rows(pair, step, cache, captured)
        shift = pair.copilot.head_shift(None if own is None else own[:, step.keep], states)
        return narrowed(states.float() + weight * shift, states.dtype)

    captured.corrected = corrected


def share_head(pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache | None, captured: Capture) -> None:
    """Let one product with the head's weights serve both parts, where that is possible: one generated position with
    `head="pilot"`.

    Args:
        step ([`GeneratedStep`]): what is known of the call before the Pilot runs.
        cache ([`PilotCopilotCache`], *optional*): earlier positions.
        captured ([`Capture`]): the Pilot's pass, about to begin.
    """
    if step.token_ids.shape[1] != 1 or not step.question_is_known:
        return
    if cache is None and pair.copilot.new_cache() is not None:  # the first token, of which it would remember nothing
        return
    if reads_mistakes(pair) and step.past == 0:  # asked of these alone: a static cache's is not known beforehand
        return
    head = pair.get_output_embeddings()
    # With gradients the head has to be detached for the Copilot's row, which a shared product cannot be.
    plain = is_plain_linear(head) and cast(Tensor | None, head.bias) is None and head.weight.device.type != "meta"
    if plain and chosen("head", pair.copilot.config.head) == "pilot" and not torch.is_grad_enabled():
        captured.head_rows = lambda: pair.copilot.head_shift(
            copilot_rows(pair, step, cache, captured), captured.head_input
        )


def copilot_rows(
    pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache | None, captured: Capture
) -> Tensor | None:
    """The Copilot's states of a call whose Pilot has not come to its head yet.

    Args:
        pair: the pair, with `head="pilot"`.
        step ([`GeneratedStep`]): what is known of the call before the Pilot runs.
        cache ([`PilotCopilotCache`], *optional*): earlier positions; the Copilot's part is updated here.
        captured ([`Capture`]): the Pilot's pass so far.

    Returns:
        `torch.Tensor` of shape `(batch, length, hidden_size)`, or `None` of a Copilot without any.
    """
    question = step.question
    if question is None and feedback_kind(pair) is not None:
        question = captured.embeddings()
    return copilot_states(
        pair,
        _feedback(pair, step, cache),
        question,
        captured.rationale(),
        step.attention_mask,
        step.question_mask,
        None,
        step.past,
        None if cache is None else cache.copilot,
        step.position_ids,
    )


def _feedback(pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache | None) -> SparseMistake | None:
    """What the Copilot is told of the tokens before; mistakes of one generated position only."""
    if cache is None or not reads_mistakes(pair):
        return token_feedback(step.token_ids) if feedback_kind(pair) == "token" else None
    top_k = pair.config.mistake_top_k
    if feeds_back(pair, step.prompt_length) and step.past >= (step.prompt_length or 0):
        return own_feedback(cache.last_feedback(), top_k)
    valid = feedback_validity(step.attention_mask, None, 1, step.past)
    last = mistake_of(cast(Tensor, cache.last_logits()), step.token_ids, top_k)  # there, as there is a past
    return shifted(SparseMistake(last.token_ids[:, :0], last.values[:, :0]), last, valid)


__all__ = ["GeneratedStep", "copilot_rows", "correct_before_head", "share_head"]
