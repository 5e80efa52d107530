"""Fusion: how the Copilot's correction f changes the Pilot's next-token distribution (Eq. 8), and the λ of a call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .options import check_copilot_weight, chosen


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
    return in_range_of(logits.float() + rectify_shift(logits, correction, weight, fusion), logits.dtype)


def in_range_of(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in a narrower type. Where float16 has no such number, the row moves until its largest is 0, which changes
    no distribution, and what then is below float16's least becomes that.

    Args:
        logits (`torch.FloatTensor` of shape `(..., vocab)`): in float32.
        dtype (`torch.dtype`): the type that is wanted; those but float16 have float32's range.

    Returns:
        `torch.Tensor` of shape `(..., vocab)`: -inf stays -inf.
    """
    if dtype != torch.float16:
        return logits.to(dtype)
    most = torch.finfo(dtype).max
    largest = logits.amax(dim=-1, keepdim=True)
    moved = (logits - torch.where(largest > most, largest, 0.0)).clamp_min(-most)
    return torch.where(torch.isneginf(logits), logits, moved).to(dtype)


class _InForce(threading.local):
    """λ of the calls of `generate` that are under way in this thread, by the id of the pair: two threads may write with
    one pair, each with its λ."""

    def __init__(self) -> None:  # of each thread
        self.weights: Mapping[int, float] = {}


_IN_FORCE = _InForce()


@contextmanager
def weight_in_force(pair: Any, weight: float) -> Iterator[None]:
    """Let λ count for every pass of a pair inside the `with` block that is not given another one.

    Yields:
        Nothing.
    """
    before = _IN_FORCE.weights
    _IN_FORCE.weights = {**before, id(pair): weight}
    try:
        yield
    finally:
        _IN_FORCE.weights = before


def weight_of_pass(pair: Any, copilot_weight: float | None) -> float:
    """λ of one pass of a pair.

    Args:
        copilot_weight (`float`, *optional*): what the pass was given.

    Returns:
        `float`: that; else what is in force, inside `generate`; else the pair's own, `pair.config.copilot_weight`.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not from 0 to 20.
    """
    if copilot_weight is None:
        copilot_weight = _IN_FORCE.weights.get(id(pair))
    return check_copilot_weight(pair.config.copilot_weight if copilot_weight is None else copilot_weight)


def named_weight(generation_config: Any, copilot_weight: float | None) -> float | None:
    """λ as a call of `generate` names it.

    Args:
        generation_config (`GenerationConfig`, *optional*): the call's; `copilot_weight` may be among its entries.
        copilot_weight (`float`, *optional*): the call's keyword, which goes first.

    Returns:
        `float`, or `None` where the call names none.
    """
    return getattr(generation_config, "copilot_weight", None) if copilot_weight is None else copilot_weight


def weight_of_call(pair: Any, generation_config: Any, copilot_weight: float | None) -> float:
    """λ of a call of `generate`.

    Args:
        generation_config (`GenerationConfig`, *optional*): the one that this call was given; it may hold a λ.
        copilot_weight (`float`, *optional*): the call's keyword.

    Returns:
        `float`: the first that is set of the call's keyword, the call's generation configuration, that of the call of
        `generate` that this one is part of, the pair's generation configuration, and the pair's configuration.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not from 0 to 20.
    """
    named = named_weight(generation_config, copilot_weight)
    if named is None and id(pair) not in _IN_FORCE.weights:
        named = getattr(pair.generation_config, "copilot_weight", None)
    return weight_of_pass(pair, named)


def make_room_for_weight(generation_config: Any) -> None:
    """Let a generation configuration know of λ, so that it keeps one that is put into it.

    `GenerationConfig.update` leaves out entries that are not there, and loading leaves out those that transformers
    doesn't know of a configuration that says of itself that it was made of a model's, as the first one of any model is.

    Args:
        generation_config (`GenerationConfig`): gets a field for λ, in place.
    """
    generation_config._from_model_config = None
    generation_config.copilot_weight = getattr(generation_config, "copilot_weight", None)


__all__ = [
    "MIN_PROBABILITY",
    "in_range_of",
    "rectified_log_probabilities",
    "rectify",
    "rectify_shift",
    "make_room_for_weight",
    "named_weight",
    "weight_in_force",
    "weight_of_call",
    "weight_of_pass",
]
