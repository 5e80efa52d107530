"""Fusion: how the Copilot's correction f changes the Pilot's next-token distribution (Eq. 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from .validation import chosen


# Smallest probability that p̂ + λf is clamped to. A tiny positive number, so that no token becomes impossible by
# clamping (multinomial sampling and log-likelihoods stay finite).
MIN_PROBABILITY = 1e-12


def rectified_log_probabilities(log_probabilities: Tensor, correction: Tensor, weight: float, fusion: str) -> Tensor:
    """log p̃, the rectified distribution.

    Args:
        log_probabilities (`torch.FloatTensor` of shape `(..., vocab)`): log p̂.
        correction (`torch.Tensor` of shape `(..., vocab)`): the Copilot's f.
        fusion (`str`): `"logits"`: softmax(z + λf); `"probability"`: p̂ + λf, clamped and renormalised (Eq. 8).

    Returns:
        `torch.FloatTensor` of shape `(..., vocab)`.

    Raises:
        ValueError: there is no such fusion.
    """
    if chosen("fusion", fusion) == "logits":
        return torch.log_softmax(log_probabilities + weight * correction.float(), dim=-1)
    fused = (log_probabilities.exp() + weight * correction.float()).clamp_min(MIN_PROBABILITY)
    return fused.log() - fused.sum(dim=-1, keepdim=True).log()


def rectify_shift(
    logits: Tensor, correction: Tensor, weight: float, fusion: str, of_probabilities: bool = False
) -> Tensor:
    """What has to be added to the Pilot's logits, or log-probabilities, to rectify them.

    Of logits that is λf under logits fusion: z + λf are the logits of a plain model too, where the pair is one. Under
    probability fusion it is log p̃ − log p̂, which keeps the Pilot's own log-normaliser: processors that look at a
    logit's sign, such as the repetition penalty, see what they would have seen.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's logits z.
        correction (`torch.Tensor` of shape `(..., vocab)`): the Copilot's f.
        fusion (`str`): see [`rectified_log_probabilities`].
        of_probabilities (`bool`, *optional*, defaults to `False`): what it is added to are log-probabilities, as beams
            have them, and the sum is to be log p̃: always log p̃ − log p̂.

    Returns:
        `torch.FloatTensor` of shape `(..., vocab)`; zero where the Pilot's logit is -inf, so that a token that the
        Pilot rules out stays ruled out.
    """
    if chosen("fusion", fusion) == "logits" and not of_probabilities:
        return torch.where(torch.isneginf(logits), 0.0, weight * correction.float())
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    shift = rectified_log_probabilities(log_probabilities, correction, weight, fusion) - log_probabilities
    return torch.where(torch.isneginf(log_probabilities), 0.0, shift)


def rectify(logits: Tensor, correction: Tensor, weight: float, fusion: str) -> Tensor:
    """The rectified logits, whose softmax is p̃; at λ = 0 exactly z. See [`rectify_shift`].

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's logits z.
        correction (`torch.Tensor` of shape `(..., vocab)`): the Copilot's f.
        weight (`float`): λ. At 0 `logits` is returned as it is.
        fusion (`str`): see [`rectified_log_probabilities`].

    Returns:
        `torch.Tensor` of shape `(..., vocab)` in the type of `logits`.
    """
    chosen("fusion", fusion)
    if weight == 0.0:
        return logits
    return (logits.float() + rectify_shift(logits, correction, weight, fusion)).to(logits.dtype)


__all__ = ["MIN_PROBABILITY", "rectified_log_probabilities", "rectify", "rectify_shift"]
