"""The rivals of a pair: what its time, its weights or its data would have bought without a Copilot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer

from benchmarks.experiments.finish import finished_pilot, train_on
from benchmarks.experiments.measure import supervised_of
from benchmarks.experiments.models import CorrectedHead, blocks_of_size, build_pilot, with_corrected_head, with_lora
from benchmarks.experiments.replay import is_recorded, recording_of, take_recorded
from benchmarks.experiments.spec import FURTHER_CONTROLS
from benchmarks.experiments.train import Cost, Workplace, train, train_head
from transformers_copilot.pair.fusion import rectify
from transformers_copilot.training.copilot_weight import DEFAULT_GRID


TEMPERATURES = (0.5, 0.67, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)


def train_control(
    place: Workplace, name: str, pair: dict[str, Any], rate: float | None = None
) -> tuple[PreTrainedModel, Cost, dict[str, Any]]:
    """Build and train a rival.

    Args:
        place: Where.
        name: One of `CONTROLS`.
        pair: The result of the pair that it is a rival of, of the same seed.
        rate: The learning rate that dev took with the first seed, where several are tried.

    Returns:
        The model, what its training took, and what else is to be reported of it.
    """
    training = dict(place.spec.training)
    training.pop("freeze_pilot", None)
    if name in FURTHER_CONTROLS:
        return _further(place, name, pair, rate)
    if name == "head":
        model = with_corrected_head(build_pilot(place.spec, place.data, place.seed))
        cost = train_head(place, model)
        return model, cost, {"correction_weight": fit_correction(place, model)}
    if name == "temperature":
        model, cost = _plain_pilot(place, training, pair)
        return model, cost, {"temperature": fit_temperature(place, model)}
    blocks = 0
    if name == "longer":
        place, training = _for_longer(place, training, pair)
    elif name == "blocks":
        blocks = blocks_of_size(place.spec, place.data, pair["weights"]["pair"] - pair["weights"]["pilot"])
    elif name in ("full", "lora"):
        rival = place.spec.rival_training
        training.update({name: value for name, value in rival.items() if name not in FURTHER_CONTROLS})
    model = build_pilot(place.spec, place.data, place.seed, extra_blocks=blocks)
    if name == "lora":
        model = with_lora(model)
    return model, train(place.trainer(Trainer, model, training), place.deadline), {}


def _further(
    place: Workplace, name: str, pair: dict[str, Any], rate: float | None
) -> tuple[PreTrainedModel, Cost, dict[str, Any]]:
    """A rival of a Copilot that learns after its Pilot; the cost is that of all training, finishing among it."""
    if name in ("everything", "everything_longer"):
        place = replace(place, data=replace(place.data, train=place.data.train + place.data.read))
        if name == "everything":
            return *finished_pilot(place), {}
        training = dict(place.spec.training)
        factor = pair["seconds"]["training"] / pair["seconds"]["pilot_alone"]
        training["num_train_epochs"] = training.get("num_train_epochs", 1) * factor
        model = build_pilot(place.spec, place.data, place.seed)
        return model, train(place.trainer(Trainer, model, training), place.deadline), {}
    model, finishing = finished_pilot(place)
    if name == "finished_temperature":
        return model, finishing, {"temperature": fit_temperature(place, model)}
    seconds = pair["seconds"]["recording"] + pair["seconds"]["teaching"] if name == "further_in_time" else None
    rival = place.spec.rival_training["further" if name == "further_in_time" else name]
    rival = rival if rate is None else {**rival, "rates": [rate]}
    model, cost, tried = train_on(place, {**rival, "lora": name == "further_lora"}, seconds)
    return model, finishing + cost, {"dev_by_rate": tried}


def _plain_pilot(place: Workplace, training: dict[str, Any], pair: dict[str, Any]) -> tuple[PreTrainedModel, Cost]:
    """The Pilot alone: the pair's own where it was kept, as it learns the same but for dropout masks; else trained."""
    model, kept = build_pilot(place.spec, place.data, place.seed), recording_of(place)
    if not is_recorded(kept):
        return model, train(place.trainer(Trainer, model, training), place.deadline)
    take_recorded(model, kept)
    return model.to(place.device), Cost(pair["seconds"]["pilot_alone"], 0)


def _for_longer(place: Workplace, training: dict[str, Any], pair: dict[str, Any]) -> tuple[Workplace, dict[str, Any]]:
    """All questions that the pair's Copilot learns from, and epochs for the pair's time."""
    rows = place.data.train + place.data.read
    factor = max(1.0, pair["seconds"]["training"] / pair["seconds"]["pilot_alone"])
    epochs = training.get("num_train_epochs", 1) * factor * len(place.data.train) / len(rows)
    return replace(place, data=replace(place.data, train=rows)), {**training, "num_train_epochs": epochs}


def fit_temperature(place: Workplace, model: PreTrainedModel) -> float:
    """Choose on dev what the logits are divided by, and have the model do it.

    Args:
        place: Where.
        model: A trained Pilot.

    Returns:
        The temperature T. z / T is z + (1 / T - 1) z: a linear correction of the last hidden state, the hidden state
        itself, of which dev chooses how much is used.
    """
    head = with_corrected_head(model).lm_head
    nn.init.eye_(head.map.weight)
    weight = fit_correction(place, model, tuple(1.0 / value - 1.0 for value in TEMPERATURES))
    return round(1.0 / (1.0 + weight), 4)


@torch.no_grad()
def fit_correction(place: Workplace, model: PreTrainedModel, grid: tuple[float, ...] = DEFAULT_GRID) -> float:
    """Choose on dev how much of the linear correction is used, as a pair's λ is, and put it into the model.

    Args:
        place: Where; its dev questions are used.
        model: A Pilot with its corrected head.
        grid: The factors to choose from; those of a pair where none are given.

    Returns:
        The factor with the smallest loss; 0 leaves the Pilot alone.
    """
    head = model.lm_head
    if not isinstance(head, CorrectedHead):
        raise ValueError("the model has no linear correction; build it with `with_corrected_head`.")
    losses = dict.fromkeys(grid, 0.0)
    size = place.spec.training.get("per_device_eval_batch_size", 32)
    model.eval()
    head.train()  # It gives both parts then.
    for batch in DataLoader(place.items(place.data.dev), size, collate_fn=place.collator()):
        batch = dict(batch.to(model.device))
        model(**batch, use_cache=False)
        if head.parts is None:
            raise ValueError("the head gave no parts.")
        logits, labels = supervised_of(model, head.parts[0], batch["labels"])
        correction, _ = supervised_of(model, head.parts[1], batch["labels"])
        for weight in losses:
            corrected = rectify(logits, correction, weight, "logits")
            losses[weight] += float(nn.functional.cross_entropy(corrected, labels, reduction="sum"))
    head.eval()
    best = min(losses, key=lambda weight: (losses[weight], abs(weight)))
    head.map.weight.mul_(best)
    return best
