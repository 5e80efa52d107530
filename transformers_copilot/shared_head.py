"""Reading the Pilot's head once for both parts: a speed-up of generation with `head="pilot"`, not another method.

Everything that the Copilot needs of a generated position is there when the Pilot's layers have run and its head has
not. So the Copilot runs then, inside the Pilot's pass, with the same functions as everywhere else, and one product with
the head's weights serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from .cache_pilot_copilot import PilotCopilotCache
from .mistake_batch import feedback_validity, shifted
from .mistakes import SparseMistake
from .rationale import Capture
from .rectifying import Corrector, copilot_states, feeds_back, mistake_of, own_feedback
from .validation import chosen


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
        question_is_known (`bool`, *optional*, defaults to `True`): `False`: the encoder runs in this very pass.
    """

    token_ids: Tensor
    attention_mask: Tensor | None
    question_mask: Tensor | None
    question: Tensor | None
    past: int
    prompt_length: int | None
    question_is_known: bool = True


def share_head(pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache | None, captured: Capture) -> None:
    """Let one product with the head's weights serve both parts, where that is possible: one generated position with
    `head="pilot"`.

    Args:
        pair: the pair.
        step ([`GeneratedStep`]): the call.
        cache ([`PilotCopilotCache`], *optional*): earlier positions.
        captured ([`Capture`]): the Pilot's pass, about to begin.
    """
    if cache is None or step.past == 0 or step.token_ids.shape[1] != 1 or not step.question_is_known:
        return
    head = pair.get_output_embeddings()
    # With gradients the head has to be detached for the Copilot's row, which a shared product cannot be.
    plain = type(head) is nn.Linear and cast(Tensor | None, head.bias) is None and head.weight.device.type != "meta"
    if plain and chosen("head", pair.copilot.config.head) == "pilot" and not torch.is_grad_enabled():
        captured.head_rows = lambda: step_rows(pair, step, cache, captured)


def step_rows(pair: Corrector, step: GeneratedStep, cache: PilotCopilotCache, captured: Capture) -> Tensor:
    """The Copilot's row for the Pilot's head, at one generated position.

    Args:
        pair: the pair, with `head="pilot"`.
        step ([`GeneratedStep`]): the call.
        cache ([`PilotCopilotCache`]): earlier positions; the Copilot's part is updated here.
        captured ([`Capture`]): the Pilot's pass so far.

    Returns:
        `torch.Tensor` of shape `(batch, 1, pilot_hidden_size)`.
    """
    top_k = pair.config.mistake_top_k
    if feeds_back(pair, step.prompt_length) and step.past >= (step.prompt_length or 0):
        feedback = own_feedback(cache.last_feedback(), top_k)
    else:
        valid = feedback_validity(step.attention_mask, None, 1, step.past)
        last = mistake_of(cast(Tensor, cache.last_logits()), step.token_ids, top_k)  # there, as there is a past
        feedback = shifted(SparseMistake(last.token_ids[:, :0], last.values[:, :0]), last, valid)
    states = copilot_states(
        pair,
        feedback,
        captured.embeddings() if step.question is None else step.question,
        captured.rationale(),
        step.attention_mask,
        step.question_mask,
        None,
        step.past,
        cache.copilot,
    )
    return pair.copilot.correction_head(states)


__all__ = ["GeneratedStep", "share_head", "step_rows"]
