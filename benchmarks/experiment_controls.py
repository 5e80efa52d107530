"""The rivals of a pair: what its time, its weights or its data would have bought without a Copilot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from experiment_measure import precision, supervised_of
from experiment_models import CorrectedHead, blocks_of_size, build_pilot, with_corrected_head, with_lora
from experiment_train import Workplace, train, train_head
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer

from transformers_copilot.copilot_weight import DEFAULT_GRID
from transformers_copilot.fusion import rectify


def train_control(place: Workplace, name: str, pair: dict[str, Any]) -> tuple[PreTrainedModel, float, dict[str, Any]]:
    """Build and train a rival.

    Args:
        place: Where.
        name: One of `CONTROLS`.
        pair: The result of the pair that it is a rival of, of the same seed.

    Returns:
        The model, the seconds that its training took, and what else is to be reported of it.
    """
    training = dict(place.spec.training)
    training.pop("freeze_pilot", None)
    if name == "head":
        model = with_corrected_head(build_pilot(place.spec, place.data, place.seed))
        seconds = train_head(place, model)
        return model, seconds, {"correction_weight": fit_correction(place, model)}
    blocks = 0
    if name == "longer":
        place, training = _for_longer(place, training, pair)
    elif name == "blocks":
        blocks = blocks_of_size(place.spec, place.data, pair["weights"]["pair"] - pair["weights"]["pilot"])
    elif name in ("full", "lora"):
        training.update(place.spec.rival_training)
    model = build_pilot(place.spec, place.data, place.seed, extra_blocks=blocks)
    if name == "lora":
        model = with_lora(model)
    return model, train(place.trainer(Trainer, model, training)), {}


def _for_longer(place: Workplace, training: dict[str, Any], pair: dict[str, Any]) -> tuple[Workplace, dict[str, Any]]:
    """All questions that the pair's Copilot learns from, and epochs for the pair's time."""
    rows = place.data.train + place.data.read
    factor = max(1.0, pair["seconds"]["training"] / pair["seconds"]["pilot_alone"])
    epochs = training.get("num_train_epochs", 1) * factor * len(place.data.train) / len(rows)
    return replace(place, data=replace(place.data, train=rows)), {**training, "num_train_epochs": epochs}


@torch.no_grad()
def fit_correction(place: Workplace, model: PreTrainedModel) -> float:
    """Choose on dev how much of the linear correction is used, as a pair's λ is, and put it into the model.

    Args:
        place: Where; its dev questions and its precision are used.
        model: A Pilot with its corrected head.

    Returns:
        The factor: the one of a pair's grid with the smallest loss; 0 leaves the Pilot alone.
    """
    head = model.lm_head
    if not isinstance(head, CorrectedHead):
        raise ValueError("the model has no linear correction; build it with `with_corrected_head`.")
    losses = dict.fromkeys(DEFAULT_GRID, 0.0)
    size = place.spec.training.get("per_device_eval_batch_size", 32)
    model.eval()
    head.train()  # It gives both parts then.
    for batch in DataLoader(place.items(place.data.dev), size, collate_fn=place.collator()):
        batch = dict(batch.to(model.device))
        with precision(place.spec, model):
            model(**batch, use_cache=False)
        if head.parts is None:
            raise ValueError("the head gave no parts.")
        logits, labels = supervised_of(model, head.parts[0], batch["labels"])
        correction, _ = supervised_of(model, head.parts[1], batch["labels"])
        for weight in losses:
            corrected = rectify(logits, correction, weight, "logits")
            losses[weight] += float(nn.functional.cross_entropy(corrected, labels, reduction="sum"))
    head.eval()
    best = min(losses, key=lambda weight: (losses[weight], weight))
    head.map.weight.mul_(best)
    return best
