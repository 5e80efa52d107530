"""Finish, then record: the Pilot is trained alone, its mistakes on further questions are recorded and learnt from.

A seed's finished Pilot and its record serve every variant and every rival, and are made once.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer

from benchmarks.experiments.clock import seconds_now
from benchmarks.experiments.measure import measure
from benchmarks.experiments.models import build_pair, build_pilot, with_last_layers, with_lora
from benchmarks.experiments.pieces import kept
from benchmarks.experiments.precision import precision
from benchmarks.experiments.spec import Variant
from benchmarks.experiments.train import Cost, Workplace, pilot_step_seconds, train
from benchmarks.process_memory import peak_bytes, reset_peak
from transformers_copilot import CopilotTrainer, MistakeLog, record_mistakes
from transformers_copilot.mistake_log.record_checks import columns_read
from transformers_copilot.pair.correction import reads_mistakes


PILOT_FILE, COST_FILE = "pilot.safetensors", "cost.json"


def finished_pilot(place: Workplace) -> tuple[PreTrainedModel, Cost]:
    """The Pilot, trained alone on a seed's training questions, and what that took.

    Args:
        place: Where. What is there already is taken.

    Returns:
        The Pilot, and the cost of its training.
    """
    folder = _folder(place, "finished")
    with FileLock(f"{folder}.lock"):
        if not (folder / COST_FILE).is_file():
            model = build_pilot(place.spec, place.data, place.seed)
            own, cost = replace(place, folder=folder / "run"), Cost(0.0, 0)
            if place.data.train:
                cost = train(own.trainer(Trainer, model, place.spec.training), place.deadline)
            folder.mkdir(parents=True, exist_ok=True)
            weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
            save_file(weights, folder / PILOT_FILE)
            _keep(cost, folder)
            shutil.rmtree(folder / "run", ignore_errors=True)
    model = build_pilot(place.spec, place.data, place.seed)
    model.load_state_dict(load_file(folder / PILOT_FILE))
    return model.to(place.device), _kept(folder)


def recorded(place: Workplace, pilot: PreTrainedModel) -> tuple[Path, Cost]:
    """The record of what a finished Pilot gets wrong on the questions that it has not read.

    Args:
        place: Where. What is there already is taken.
        pilot: The finished Pilot.

    Returns:
        The record's folder, and what recording took. It holds what any variant reads.
    """
    folder = _folder(place, "record")
    with FileLock(f"{folder}.lock"):
        if not (folder / COST_FILE).is_file():
            if place.deadline is not None:
                place.deadline.check()
            shutil.rmtree(folder, ignore_errors=True)  # a part of one would not say what the whole takes
            taught = [variant for variant in place.spec.variants if variant.finish]
            pairs = [build_pair(place.spec, variant, place.data, place.seed, pilot) for variant in taught]
            # What the others read, it reads too: their mistakes, or tokens and questions, or nothing but lessons.
            reading = max(pairs, key=lambda pair: (reads_mistakes(pair), pair.config.copilot.form == "decoder"))
            layers = sorted({layer for pair in pairs for layer in columns_read(pair)}, key=str)
            reset_peak()
            started = seconds_now(place.device)
            with precision(place.spec, place.device):
                record_mistakes(
                    reading.eval(),
                    place.items(place.data.read),
                    folder,
                    data_collator=place.collator(),
                    batch_size=place.spec.training.get("per_device_eval_batch_size", 32),
                    layers=layers,
                    progress=False,
                )
            _keep(Cost(seconds_now(place.device) - started, peak_bytes()), folder)
    return folder, _kept(folder)


def teach(place: Workplace, variant: Variant) -> tuple[PreTrainedModel, dict[str, Cost], int]:
    """A pair whose Copilot learns from the record of its finished Pilot.

    Args:
        place: Where.
        variant: The pair, and how its Copilot learns.

    Returns:
        The pair, the costs of finishing, recording and teaching, and the Copilot's steps.
    """
    pilot, finishing = finished_pilot(place)
    folder, recording = recorded(place, pilot)
    pair = build_pair(place.spec, variant, place.data, place.seed, pilot)
    training = {**place.spec.training, **variant.training, **variant.finish, "freeze_pilot": True}
    training.pop("train_sampling_strategy", None)  # a record has its own order
    args = place.arguments(training)
    trainer = CopilotTrainer(
        model=pair, args=args, train_dataset=MistakeLog.open(folder), data_collator=place.collator()
    )
    cost = train(trainer, place.deadline)
    return pair, {"finishing": finishing, "recording": recording, "teaching": cost}, trainer.state.global_step


def train_on(
    place: Workplace, rival: dict[str, Any], seconds: float | None = None
) -> tuple[Any, Cost, dict[str, float]]:
    """A rival: the finished Pilot is trained on with the questions that a Copilot learns from.

    Args:
        place: Where.
        rival: `rates`, the learning rates of which dev takes the best, and other training arguments that differ;
            `lora`, whether adapters are trained in the place of all weights; `layers`, of how many of the last layers
            the weights are trained, and no others.
        seconds: About how long it may take, by the pace of some steps. Without, it reads all of the questions.

    Returns:
        The trained model, the cost of the training that dev took, and dev's loss at every rate.
    """
    training = {**place.spec.training, **rival}
    rates, lora, layers = training.pop("rates"), training.pop("lora", False), training.pop("layers", None)
    on = replace(place, data=replace(place.data, train=place.data.read))
    if seconds is not None:
        steps = len(on.data.train) / training.get("per_device_train_batch_size", 8)
        epochs = kept(
            place.folder,
            place.deadline,
            "epochs_in_time",
            lambda: seconds / (steps * pilot_step_seconds(on, finished_pilot(place)[0])),
        )
        training["num_train_epochs"] = min(training.get("num_train_epochs", 1), epochs)
    tried: dict[float, tuple[float, Any, Cost]] = {}
    for rate in rates:
        model = finished_pilot(place)[0]
        model = with_lora(model) if lora else with_last_layers(model, layers) if layers else model
        own = replace(on, folder=place.folder / f"rate-{rate}")
        cost = train(own.trainer(Trainer, model, {**training, "learning_rate": rate}), place.deadline)
        tried[rate] = (dev_loss(place, model), model, cost)
        best = min(tried, key=lambda rate: tried[rate][0])
        tried = {rate: (loss, model if rate == best else None, cost) for rate, (loss, model, cost) in tried.items()}
    return tried[best][1], tried[best][2], {str(rate): round(loss, 5) for rate, (loss, _, _) in tried.items()}


def dev_loss(place: Workplace, model: PreTrainedModel) -> float:
    """The mean loss of a model on the tokens of dev's targets."""
    spec, data = replace(place.spec, measure="tokens"), replace(place.data, test=place.data.dev)
    return measure(spec, data, model).tokens["loss"]


def _folder(place: Workplace, what: str) -> Path:
    """Where something of a seed is kept; a Pilot that has read all questions is another one."""
    return place.folder.parent / f"{what}-{len(place.data.train)}-{place.seed}"


def _keep(cost: Cost, folder: Path) -> None:
    partial = folder / f"{COST_FILE}.partial"
    partial.write_text(json.dumps(asdict(cost)), encoding="utf-8")
    os.replace(partial, folder / COST_FILE)


def _kept(folder: Path) -> Cost:
    return Cost(**json.loads((folder / COST_FILE).read_text(encoding="utf-8")))
