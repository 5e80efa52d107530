"""Who may see what: one function makes every attention mask of the Copilot, for training, scoring and generation.

Position j sees mistakes up to ℓ_{j-1} (the Copilot's own sequence is shifted by one), questions X̃_k with k ≤ j, and
rationales h̄_k with k < j (`rationale="preceding"`) or k ≤ j (all others). Whatever lets it see more leaks the answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .options import chosen


class CopilotMasks(NamedTuple):
    """Additive attention masks: 0 where attending is allowed, half the type's minimum elsewhere.

    Attributes:
        mistakes (`torch.Tensor` of shape `(batch, 1, queries, past + queries)`): for self-attention.
        memory (`torch.Tensor` of shape `(batch, 1, queries, questions + past + queries)`): for cross-attention over
            questions followed by rationales.
    """

    mistakes: Tensor
    memory: Tensor


def is_token_mask(mask: Any) -> TypeGuard[Tensor]:
    """Whether an attention mask says of each token whether it is padding. `generate` with a static cache makes whole
    ones instead, of shape `(batch, 1, queries, keys)`, or one for each kind of layer.

    Args:
        mask (`torch.Tensor` or `dict`, *optional*): an attention mask as a model takes it.

    Returns:
        `bool`
    """
    return isinstance(mask, Tensor) and mask.dim() == 2


def key_visibility(
    attention_mask: Tensor | None, segments: Tensor | None, batch: int, queries: int, past: int, device: torch.device
) -> Tensor:
    """Which earlier or same positions every query may see at all.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, past + queries)`, *optional*): 0 where there is padding.
        segments (`torch.LongTensor` of shape `(batch, queries)`, *optional*): number of the document in a packed row.
        batch (`int`): rows of the batch.
        queries (`int`): positions of this call.
        past (`int`): positions before them, already in the cache.
        device (`torch.device`): where the mask is to be.

    Returns:
        `torch.BoolTensor` of shape `(batch, queries, past + queries)`.
    """
    positions = torch.arange(past, past + queries, device=device)
    keys = torch.arange(past + queries, device=device)
    visible = (keys <= positions.unsqueeze(-1)).expand(batch, -1, -1)
    if attention_mask is not None:
        visible = visible & attention_mask.to(device).bool().unsqueeze(1)
    if segments is not None:
        visible = visible & (segments.unsqueeze(-1) == segments.unsqueeze(1))
    return visible


def copilot_masks(
    visible: Tensor, past: int, rationale: str, dtype: torch.dtype, question_mask: Tensor | None = None
) -> CopilotMasks:
    """The Copilot's masks.

    Args:
        visible (`torch.BoolTensor` of shape `(batch, queries, past + queries)`): see [`key_visibility`].
        past (`int`): positions already in the cache.
        rationale (`str`): see [`CopilotConfig`].
        dtype (`torch.dtype`): the type of the queries.
        question_mask (`torch.Tensor` of shape `(batch, questions)`, *optional*):
            Encoder-decoder: the encoder's padding mask. `None`: questions are the sequence's own embeddings.

    Returns:
        [`CopilotMasks`]
    """
    batch, queries, keys = visible.shape
    offsets = (
        torch.arange(keys, device=visible.device) - torch.arange(past, past + queries, device=visible.device)[:, None]
    )
    # A padded query sees at least itself: a row without any key has no softmax. Nothing real ever reads it.
    own = offsets == 0
    mistakes = visible | own
    rationales = visible & (offsets < 0) if chosen("rationale", rationale) == "preceding" else visible
    if question_mask is None:
        questions = mistakes
    else:
        questions = question_mask.to(visible.device).bool().unsqueeze(1).expand(-1, queries, -1)
    memory = torch.cat([questions, rationales], dim=-1)
    return CopilotMasks(_additive(mistakes, dtype), _additive(memory, dtype))


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    # Half the minimum: the whole one would turn into -inf, and a row of them into NaN, when autocast narrows it.
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min / 2).unsqueeze(1)


def packed_segments(position_ids: Tensor | None, attention_mask: Tensor | None, past: int) -> Tensor | None:
    """Number of the document that each token of a packed row belongs to.

    Args:
        position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): positions, which start again at 0
            with each document.
        attention_mask (`torch.Tensor`, *optional*): with a mask the row is taken as one document, as transformers does.
        past (`int`): positions in the cache; a packed row has none.

    Returns:
        `torch.LongTensor` of shape `(batch, length)`, or `None` where no row is packed.
    """
    if position_ids is None or attention_mask is not None or past > 0 or position_ids.ndim != 2:
        return None
    starts = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not is_compiling() and not starts.any():  # compiled, one document is numbered like several
        return None
    return torch.nn.functional.pad(starts.long().cumsum(dim=-1), (1, 0))


__all__ = ["CopilotMasks", "copilot_masks", "is_token_mask", "key_visibility", "packed_segments"]
