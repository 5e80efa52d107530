"""Reading the Pilot's head once for both parts: a speed-up of generation with `head="pilot"`, not another method.

[`share_head`] has the Copilot run inside the Pilot's pass, with the same functions as everywhere else, and its row go
through the Pilot's head together with the Pilot's own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from .cache_pilot_copilot import PilotCopilotCache
from .mistake_batch import feedback_validity, shifted
from .mistakes import SparseMistake
from .rationale import Capture
from .rectifying import Corrector, copilot_states, feeds_back, mistake_of, own_feedback


def share_head(
    pair: Corrector,
    captured: Capture,
    token_ids: Tensor,
    attention_mask: Tensor | None,
    question_mask: Tensor | None,
    question: Tensor | None,
    cache: PilotCopilotCache | None,
    past: int,
    prompt_length: int | None,
) -> None:
    """Let the Pilot's head map the Copilot's row along with its own, where that is possible: one generated position
    with `head="pilot"`. Generation is bound by reading weights, and the head's are then read once instead of twice.

    Args:
        pair: the pair.
        captured ([`Capture`]): the Pilot's pass, about to begin.
        token_ids, attention_mask, question_mask, question, cache, past, prompt_length: see [`step_rows`].
    """
    if cache is None or past == 0 or token_ids.shape[1] != 1 or pair.copilot.config.head != "pilot":
        return
    head = pair.get_output_embeddings()
    # With gradients the head has to be detached for this use, which a shared product cannot be.
    if type(head) is not nn.Linear or cast(Tensor | None, head.bias) is not None or torch.is_grad_enabled():
        return
    captured.head_rows = lambda: step_rows(
        pair, captured, token_ids, attention_mask, question_mask, question, cache, past, prompt_length
    )


def step_rows(
    pair: Corrector,
    captured: Capture,
    token_ids: Tensor,
    attention_mask: Tensor | None,
    question_mask: Tensor | None,
    question: Tensor | None,
    cache: PilotCopilotCache,
    past: int,
    prompt_length: int | None,
) -> Tensor:
    """One generated position, inside the Pilot's pass: the row that its head is to map beside its own.

    Everything that the Copilot needs of a position is there when the Pilot's layers have run and its head has not.

    Args:
        pair: the pair, with `head="pilot"`.
        token_ids (`torch.LongTensor` of shape `(batch, 1)`): the token taken last.
        captured ([`Capture`]): the Pilot's pass so far.
        attention_mask, question_mask, past: see [`PilotPass`].
        question (`torch.Tensor`, *optional*): an encoder's output; else the captured embeddings.
        cache ([`PilotCopilotCache`]): earlier positions; the Copilot's part is updated here.
        prompt_length (`int`, *optional*): see [`run_copilot`].

    Returns:
        `torch.Tensor` of shape `(batch, 1, pilot_hidden_size)`.
    """
    if feeds_back(pair, prompt_length) and past >= (prompt_length or 0):
        feedback = own_feedback(cache.last_feedback(), pair.config.mistake_top_k)
    else:
        valid = feedback_validity(attention_mask, None, 1, past)
        last = cast(Tensor, cache.last_logits())  # there, as there is a past
        feedback = mistake_of(last, token_ids, pair.config.mistake_top_k)
        feedback = shifted(SparseMistake(*(tensor[:, :0] for tensor in feedback)), feedback, valid)
    states = copilot_states(
        pair,
        feedback,
        captured.embeddings() if question is None else question,
        captured.rationale(),
        attention_mask,
        question_mask,
        None,
        past,
        cache.copilot,
    )
    return pair.copilot.correction_head(states)


__all__ = ["share_head", "step_rows"]
