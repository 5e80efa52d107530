"""Mistakes of the Pilot: what it believed, what was true, and the difference between the two.

Everything that needs a mistake (training, scoring, generating, the log) calls the functions of this file, so that
they cannot part. All of it is float32, whatever the Pilot's own precision.

Notation, as in arXiv 2505.16270: w_1 … w_N are the tokens; p̂_j is the Pilot's distribution for w_{j+1}; the mistake
is ℓ_j = onehot(w_{j+1}) − p̂_j (Eq. 4). A mistake that the Copilot reads is kept sparse: the true token and the `top_k`
most probable ones. With `top_k` equal to the vocabulary it is exact. The mistake that it learns from is always whole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling


# A megabyte of float32: a processor's own cache holds about as much.
_NUMBERS_AT_ONCE = 2**18


class PilotDistribution(NamedTuple):
    """The most probable tokens of p̂, at every position.

    Attributes:
        token_ids (`torch.LongTensor` of shape `(..., top_k)`): the tokens, most probable first.
        probabilities (`torch.FloatTensor` of shape `(..., top_k)`): their probabilities.
    """

    token_ids: Tensor
    probabilities: Tensor


class SparseMistake(NamedTuple):
    """A vector over the vocabulary, given by some of its entries; the others are zero.

    Attributes:
        token_ids (`torch.LongTensor` of shape `(..., entries)`): which entries. An id may occur twice, its values add.
        values (`torch.FloatTensor` of shape `(..., entries)`): their values.
    """

    token_ids: Tensor
    values: Tensor


def pilot_distribution(logits: Tensor, top_k: int | None, normalizer: Tensor | None = None) -> PilotDistribution:
    """The most probable tokens of p̂ = softmax(logits) (Eq. 1).

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's logits.
        top_k (`int`, *optional*): how many to keep; `None` keeps every token.
        normalizer (`torch.FloatTensor` of shape `(...)`, *optional*): [`log_normalizer`] of the logits, if known.

    Returns:
        [`PilotDistribution`] with float32 probabilities.
    """
    k = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
    top = torch.topk(logits, k, dim=-1)
    normalizer = log_normalizer(logits) if normalizer is None else normalizer
    return PilotDistribution(top.indices, (top.values.float() - normalizer.unsqueeze(-1)).exp())


def log_normalizer(logits: Tensor) -> Tensor:
    """log Σ exp(logits) in float32.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's logits.

    Returns:
        `torch.FloatTensor` of shape `(...)`: NaN or inf where a row holds NaN or +inf.
    """
    rows = rows_in_cache(logits)
    if logits.dim() < 2 or rows >= logits[..., 0].numel():
        return torch.logsumexp(logits.float(), dim=-1)
    pieces = logits.reshape(-1, logits.shape[-1]).split(rows)
    return torch.cat([torch.logsumexp(piece.float(), dim=-1) for piece in pieces]).view(logits.shape[:-1])


def rows_in_cache(vector: Tensor) -> int:
    """How many positions' whole vocabularies a processor has at hand at once; a pass over more waits for memory.

    Args:
        vector (`torch.Tensor` of shape `(..., vocab)`): what a pass goes over.

    Returns:
        `int`: all of them where it does not lie on a CPU, and in a compiled pass, which is cut up by its compiler.
    """
    if vector.device.type != "cpu" or is_compiling():
        return max(1, vector[..., 0].numel())
    return max(1, _NUMBERS_AT_ONCE // vector.shape[-1])


def probability_of(logits: Tensor, token_ids: Tensor, normalizer: Tensor | None = None) -> Tensor:
    """p̂ of one token at every position.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's logits.
        token_ids (`torch.LongTensor` of shape `(...)`): the token asked about.
        normalizer (`torch.FloatTensor` of shape `(...)`, *optional*): [`log_normalizer`] of the logits, if known.

    Returns:
        `torch.FloatTensor` of shape `(...)`.
    """
    chosen = logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1).float()
    return (chosen - (log_normalizer(logits) if normalizer is None else normalizer)).exp()


def observed_mistake(belief: PilotDistribution, token_ids: Tensor, probabilities: Tensor) -> SparseMistake:
    """ℓ = onehot(true token) − p̂ (Eq. 4).

    Args:
        belief ([`PilotDistribution`] of shape `(..., top_k)`): the most probable tokens of p̂.
        token_ids (`torch.LongTensor` of shape `(...)`): the true tokens.
        probabilities (`torch.FloatTensor` of shape `(...)`): p̂ of the true tokens.

    Returns:
        [`SparseMistake`] of shape `(..., top_k + 1)`, the true token first.
    """
    others = torch.where(belief.token_ids == token_ids.unsqueeze(-1), 0.0, -belief.probabilities)
    values = torch.cat([(1.0 - probabilities).unsqueeze(-1), others], dim=-1)
    return SparseMistake(torch.cat([token_ids.unsqueeze(-1), belief.token_ids], dim=-1), values)


def sparse_vector(vector: Tensor, top_k: int | None) -> SparseMistake:
    """The entries of largest size of a dense vector, as many as an observed mistake keeps.

    Args:
        vector (`torch.Tensor` of shape `(..., vocab)`): for "predicted" feedback, the Copilot's own output.
        top_k (`int`, *optional*): `mistake_top_k`; one entry more is kept, as in [`observed_mistake`].

    Returns:
        [`SparseMistake`] of shape `(..., min(top_k + 1, vocab))`.
    """
    vocab = vector.shape[-1]
    entries = vocab if top_k is None else min(top_k + 1, vocab)
    token_ids = vector.abs().topk(entries, dim=-1).indices
    return SparseMistake(token_ids, vector.gather(-1, token_ids).float())


def mistake_size(logits: Tensor, token_ids: Tensor) -> Tensor:
    """‖p − softmax(logits)‖², the squared size of the mistake at every position.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's or the rectified logits.
        token_ids (`torch.LongTensor` of shape `(...)`): the true tokens.

    Returns:
        `torch.FloatTensor` of shape `(...)`, from 0 to 2.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    true = probabilities.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return 1.0 - 2.0 * true + probabilities.square().sum(dim=-1)


def share_removed(pilot_size: float, pair_size: float) -> float:
    """Share of the Pilot's mistake that rectifying removes: 1 − E‖p − p̃‖² / E‖p − p̂‖².

    Args:
        pilot_size (`float`): E‖p − p̂‖², the mean (or sum) of [`mistake_size`] of the Pilot's logits.
        pair_size (`float`): E‖p − p̃‖², the same of the rectified logits.

    Returns:
        `float`: at most 1, below 0 where the mistake grew; 0 where the Pilot made none.
    """
    return 1.0 - pair_size / pilot_size if pilot_size > 0.0 else 0.0


__all__ = [
    "PilotDistribution",
    "SparseMistake",
    "log_normalizer",
    "mistake_size",
    "observed_mistake",
    "pilot_distribution",
    "probability_of",
    "rows_in_cache",
    "share_removed",
    "sparse_vector",
]
