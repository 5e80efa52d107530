"""What a correction does at several λ, over all tokens and by dimension of the vocabulary (Theorem 4.1, question E)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from experiment_data import ExperimentData
from experiment_measure import TokenSums, at_targets, batches
from experiment_spec import Experiment
from torch import Tensor
from transformers import PreTrainedModel

from transformers_copilot.pair.fusion import rectify


# "for all 0 < λ < λ_0": the theorem's claim is looked at with this λ.
SMALL_WEIGHT = 0.1
TOKENS_AT_ONCE = 64


def by_weight(
    spec: Experiment, data: ExperimentData, pair: PreTrainedModel, weights: tuple[float, ...]
) -> dict[str, Any]:
    """Measure the correction on the test tokens, in one pass: p̂ and f do not depend on λ.

    Args:
        spec: The experiment.
        data: Its data.
        pair: The pair.
        weights: λ.

    Returns:
        `tokens_by_weight`, for each λ, as text, what [`Measured`] calls `tokens`; `dimensions`, as
        [`DimensionSums.shares`].
    """
    sums = {weight: TokenSums() for weight in weights}
    dimensions: DimensionSums | None = None
    for alone, correction, true in _corrected(spec, data, pair):
        for weight, kept in sums.items():
            kept.add(rectify(alone, correction, weight, pair.config.fusion), true)
        dimensions = dimensions or DimensionSums(alone.shape[-1], alone.device)
        dimensions.add(alone, correction, true, pair.config.fusion)
    return {
        "tokens_by_weight": {f"{weight:g}": kept.means() for weight, kept in sums.items()},
        "dimensions": dimensions.shares() if dimensions else {},
    }


@torch.no_grad()
def _corrected(
    spec: Experiment, data: ExperimentData, pair: PreTrainedModel
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of some test tokens at a time the Pilot's logits, f `(tokens, vocab)` and the true tokens `(tokens,)`."""
    pair.eval()
    for batch in batches(spec, data, pair.device):
        inputs, targets = at_targets(pair, batch)
        outputs = pair(**inputs, use_cache=False, copilot_weight=1.0, return_correction=True)
        kept = targets >= 0
        parts = (outputs.pilot_logits[kept].float(), outputs.correction[kept].float(), targets[kept])
        # Several tensors as large as these are made of them, some in double precision.
        yield from zip(*(each.split(TOKENS_AT_ONCE) for each in parts), strict=True)


class DimensionSums:
    """Sums over test tokens at every dimension k of the vocabulary, for Theorem 4.1.

    With p the true token's one-hot vector, the Pilot's mistake at k is p_k - p̂_k, of mean ε_P and deviation σ_P. The
    Copilot's error is what is left of it when all of the correction is used, p_k - p̃_k at λ = 1, of mean ε_C: under
    probability fusion that is ℓ_k - f_k but for clamping, and for logits the same in what it does to p̂.

    Args:
        vocab_size: Dimensions.
        device: Where the sums are kept.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.pilot, self.squares, self.copilot, self.small, self.true = torch.zeros(
            5, vocab_size, dtype=torch.float64, device=device
        )
        self.count = 0

    def add(self, alone: Tensor, correction: Tensor, true: Tensor, fusion: str) -> None:
        """Add tokens.

        Args:
            alone: The Pilot's logits, `(tokens, vocab)`.
            correction: f, `(tokens, vocab)`.
            true: The true tokens, `(tokens,)`.
            fusion: How the two are fused.
        """
        target = torch.nn.functional.one_hot(true, alone.shape[-1]).double()
        mistake = target - alone.double().softmax(-1)
        self.pilot += mistake.sum(0)
        self.squares += mistake.square().sum(0)
        self.copilot += (target - rectify(alone, correction, 1.0, fusion).double().softmax(-1)).sum(0)
        rectified = rectify(alone, correction, SMALL_WEIGHT, fusion).double().softmax(-1)
        self.small += (target - rectified).square().sum(0)
        self.true += target.sum(0)
        self.count += len(true)

    def shares(self) -> dict[str, float]:
        """How often the theorem's conditions and its claim hold.

        Returns:
            `dimensions`, those that are true at some test token; shares of them by how often they are: `conditions`,
            ε_P² > 0 and |ε_C| < sqrt(ε_P² + σ_P²); `claim`, E(p - p̃)² < E(p - p̂)² at λ = 0.1; `claim_of_conditions`,
            the share of those with the conditions where the claim holds.
        """
        bias = self.pilot / self.count
        conditions = (bias.square() > 0) & ((self.copilot / self.count).square() < self.squares / self.count)
        claim = self.small < self.squares
        weight = self.true / self.count
        met = float(weight[conditions].sum())
        both = float(weight[conditions & claim].sum())
        return {
            "dimensions": int((self.true > 0).sum()),
            "conditions": round(met, 4),
            "claim": round(float(weight[claim].sum()), 4),
            "claim_of_conditions": round(both / met, 4) if met else 0.0,
        }
