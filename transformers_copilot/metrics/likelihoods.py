"""How probable the pair and its Pilot alone hold the right answers, on the same questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel


# Below the first, an interval of texts drawn anew is too narrow to be believed; below the second, it is very wide.
FEWEST_TEXTS, FEW_TEXTS = 10, 30


@dataclass(frozen=True)
class LossGain:
    """The loss of the right answers, in nats a token, before and after, with a 95 % interval of the difference.

    Args:
        before: Mean negative log-likelihood of a token under the first model.
        after: The same under the second.
        low: Lower end of the interval of `before - after`; questions are drawn anew, each with both models' losses.
        high: Upper end of that interval.
        tokens: Number of tokens of all right answers, over which the means are taken.
        total: Number of questions that were drawn from.
    """

    before: float
    after: float
    low: float
    high: float
    tokens: int
    total: int

    @property
    def difference(self) -> float:
        """What is gained: above 0 where the second model is better."""
        return self.before - self.after

    def as_dict(self) -> dict[str, Any]:
        """The fields and the difference, for JSON."""
        return {**asdict(self), "difference": self.difference}


@torch.no_grad()
def item_losses(
    pair: PreTrainedModel, items: Sequence[dict[str, Any]], collator: Any, weight: float, batch_size: int = 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Negative log-likelihoods of what is supervised in tokenized texts, by the Pilot alone and by the pair.

    Args:
        pair: Put into evaluation mode meanwhile.
        items: With `input_ids` and `labels`.
        collator: Makes a batch of items.
        weight: λ of the pair.
        batch_size: Texts at a time; defaults to 16.

    Returns:
        For each text the Pilot's sum, the pair's, and the number of tokens.
    """
    sums = np.zeros((3, len(items)))
    for places, batch in _batches(pair, items, collator, batch_size):
        targets = pair.targets_of(batch["labels"], {})
        outputs = pair(**batch, copilot_weight=weight, use_cache=False)
        pilot_logits = outputs.logits if outputs.pilot_logits is None else outputs.pilot_logits
        for row, logits in ((0, pilot_logits), (1, outputs.logits)):
            sums[row, places] = _row_losses(logits, targets)
        sums[2, places] = (targets >= 0).sum(dim=-1).cpu().numpy()
    return sums[0], sums[1], sums[2]


@torch.no_grad()
def model_losses(
    model: PreTrainedModel, items: Sequence[dict[str, Any]], collator: Any, batch_size: int = 16
) -> np.ndarray:
    """Negative log-likelihoods of what is supervised in tokenized texts, by any model that continues or answers them.

    Args:
        model: No pair; put into evaluation mode meanwhile.
        items: With `input_ids` and `labels`.
        collator: Makes a batch of items.
        batch_size: Texts at a time; defaults to 16.

    Returns:
        For each text the model's sum.
    """
    sums = np.zeros(len(items))
    for places, batch in _batches(model, items, collator, batch_size):
        targets = batch.pop("labels")
        if model.config.is_encoder_decoder:
            outputs = model(**batch, labels=targets, use_cache=False)
        else:
            targets = torch.nn.functional.pad(targets[:, 1:], (0, 1), value=-100)
            outputs = model(**batch, use_cache=False)
        sums[places] = _row_losses(outputs.logits, targets)
    return sums


def _batches(
    model: PreTrainedModel, items: Sequence[dict[str, Any]], collator: Any, batch_size: int
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Items of similar length together, as batches on the model's device, each with its items' places."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(items)), key=lambda place: len(items[place]["input_ids"]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        yield places, {name: value.to(model.device) for name, value in collator([items[p] for p in places]).items()}
    model.train(was_training)


def _row_losses(logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Each row's sum over the positions that have a target."""
    known = targets >= 0
    losses = torch.nn.functional.cross_entropy(logits[known].float(), targets[known], reduction="none")
    return torch.zeros(targets.shape).masked_scatter(known.cpu(), losses.cpu()).sum(dim=-1).numpy()


def loss_gain(
    before: np.ndarray, after: np.ndarray, tokens: np.ndarray, draws: int = 10_000, seed: int = 0
) -> LossGain:
    """The gain of one model over another on the same questions, with a bootstrap interval.

    Args:
        before: For each question the sum of the first model's losses.
        after: The same of the second model, in the same order.
        tokens: For each question its number of tokens.
        draws: Number of bootstrap samples; defaults to 10,000.
        seed: Seed of the draws.

    Raises:
        ValueError: There is no token.
    """
    count = float(tokens.sum())
    if not count:
        raise ValueError("there is no token to measure a loss on; give questions with targets.")
    drawn = np.random.default_rng(seed).multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=draws)
    differences = drawn @ (before - after) / np.maximum(drawn @ tokens, 1.0)
    low, high = np.percentile(differences, [2.5, 97.5])
    means = float(before.sum()) / count, float(after.sum()) / count
    return LossGain(*means, float(low), float(high), int(count), len(tokens))


__all__ = ["FEWEST_TEXTS", "FEW_TEXTS", "LossGain", "item_losses", "loss_gain", "model_losses"]
