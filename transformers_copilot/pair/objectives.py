"""The training objectives of both parts (Eq. 2, §3.1 and the ablation of arXiv 2505.16270).

All of them go over the whole vocabulary: the distribution that training compares with the truth is the one that scoring
and generation use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .fusion import rectified_log_probabilities
from .mistakes import rows_in_cache
from .validation import chosen


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
        token_ids (`torch.LongTensor` of shape `(positions,)`): the true tokens.
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
    positions = correction.shape[0]
    items = positions if num_items is None else num_items
    if objective == "cross_entropy":
        rows = rows_in_cache(correction)
        pieces = zip(correction.split(rows), pilot_logits.split(rows), token_ids.split(rows), strict=True)
        return -sum((_likelihood(*piece, fusion) for piece in pieces), correction.new_zeros(())).float() / items
    correction = correction.float()
    true = token_ids.unsqueeze(-1)
    probabilities = torch.softmax(pilot_logits.float(), dim=-1)
    mistakes = (-probabilities).scatter_add(-1, true, torch.ones_like(true, dtype=correction.dtype))
    if objective == "kl":
        target, predicted = torch.log_softmax(mistakes, dim=-1), torch.log_softmax(correction, dim=-1)
        return F.kl_div(predicted, target, reduction="sum", log_target=True) / items
    squared = (correction - mistakes).square().sum()
    if objective == "mse":
        return squared / items
    return (squared / positions + _ROOT_EPS).sqrt() * (positions / items)


def rectified_cross_entropy(logits: Tensor, token_ids: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """`"cross_entropy"` under logits fusion, of logits z + f that one product has made.

    Args:
        logits (`torch.Tensor` of shape `(positions, vocab)`): the rectified ones, at λ = 1.
        token_ids (`torch.LongTensor` of shape `(positions,)`): the true tokens.
        num_items (`float` or tensor, *optional*): see [`copilot_objective`].

    Returns:
        `torch.FloatTensor`, a scalar.
    """
    rows, items = rows_in_cache(logits), len(token_ids) if num_items is None else num_items
    pieces = zip(logits.split(rows), token_ids.split(rows), strict=True)
    return sum((F.cross_entropy(z.float(), true, reduction="sum") for z, true in pieces), logits.new_zeros(())) / items


def _likelihood(correction: Tensor, pilot_logits: Tensor, token_ids: Tensor, fusion: str) -> Tensor:
    """Σ log p̃ of the true tokens, at λ = 1."""
    if chosen("fusion", fusion) == "logits":  # p̃ does not ask for z to be normed
        return -F.cross_entropy(pilot_logits.float() + correction.float(), token_ids, reduction="sum")
    log_probabilities = torch.log_softmax(pilot_logits.float(), dim=-1)
    rectified = rectified_log_probabilities(log_probabilities, correction, 1.0, fusion)
    return rectified.gather(-1, token_ids.unsqueeze(-1)).sum()


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
    if not supervised.any():
        return logits[..., :1].float().sum() * 0.0
    chosen, true = logits[supervised].float(), targets[supervised]
    if num_items is None:
        return F.cross_entropy(chosen, true)
    return F.cross_entropy(chosen, true, reduction="sum") / num_items


__all__ = ["copilot_objective", "pilot_loss_of", "rectified_cross_entropy"]
