"""What a training says of itself on the pair's card: what really ran, and what its last evaluation measured."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from typing import Any

from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.training_args import OptimizerNames

from ..hub.card_facts import CardFacts, CardResult


# What the Copilot has of its own, by the name of the training argument.
_OF_COPILOT = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
_OWN_SETTINGS = (
    "use_mistake_log",
    "mistake_log_rounds",
    "mistake_log_draw",
    "copilot_steps_per_round",
    "freeze_pilot",
    "held_out_mistakes",
)
# Evaluation results that are the Pilot's and the pair's of the same quantity.
_COMPARED = (
    ("loss", "eval_pilot_loss", "eval_rectified_loss"),
    ("mistake_size", "eval_pilot_mistake_size", "eval_mistake_size"),
)


def facts_of_training(trainer: Any, dataset: list[str], dataset_args: list[str]) -> CardFacts:
    """What was known of the pair before, with this training's settings and its last evaluation.

    Args:
        trainer ([`CopilotTrainerMixin`]): after a training, in one, or before: what did not run is not told.
        dataset (`list[str]`): names of the data; where it is one, it is the evaluation set's name in the results.
        dataset_args (`list[str]`): where it is one, the evaluation set's configuration.

    Returns:
        [`CardFacts`]: results of an earlier evaluation stay, where this training measured no such thing on the set.
    """
    before = trainer.pair.card_facts or CardFacts()
    name = dataset[0] if len(dataset) == 1 else "the evaluation set"
    measured = _measured(trainer, name, dataset_args[0] if len(dataset_args) == 1 else None)
    kept = [r for r in before.results if (r.test_set, r.metric) not in {(m.test_set, m.metric) for m in measured}]
    return replace(before, training=_settings(trainer) or before.training, results=[*kept, *measured])


def _settings(trainer: Any) -> dict[str, Any]:
    """Settings as they ran; nothing where nothing ran."""
    if not trainer.state.global_step:
        return {}
    settings: dict[str, Any] = {"steps": f"{trainer.state.global_step:,}"}
    if trainer.state.epoch is not None:
        settings["epochs"] = f"{trainer.state.epoch:.4g}"
    if isinstance(trainer.train_dataset, Sized):
        settings["training examples"] = f"{len(trainer.train_dataset):,}"
    settings |= extract_hyperparameters_from_trainer(trainer)
    args = trainer.args
    if "adam" in args.optim:
        settings["optimizer"] = f"{OptimizerNames(args.optim).value}, betas {args.adam_beta1} and {args.adam_beta2}"
    for planned in ("num_epochs", "training_steps"):  # what ran stands above
        settings.pop(planned, None)
    if args.bf16:
        settings["mixed_precision_training"] = "bfloat16"
    for name in _OF_COPILOT:
        value = args.of_copilot(name)
        settings[f"copilot_{name}"] = getattr(value, "value", value)
    if trainer.learns_from_record:
        settings |= {"freeze_pilot": True, "taught_from_a_record": True}
    else:
        settings |= {name: getattr(args, name) for name in _OWN_SETTINGS}
    settings["mistakes_from"] = trainer.pair.config.mistakes_from
    for name in ("pilot_loss", "copilot_loss"):
        values = [entry[name] for entry in trainer.state.log_history if name in entry]
        if values:
            settings[f"last {name}"] = values[-1]
    return settings


def _measured(trainer: Any, name: str, config: str | None) -> list[CardResult]:
    """The last evaluation's comparisons of pair and Pilot."""
    entries = [entry for entry in trainer.state.log_history if _COMPARED[0][1] in entry]
    if not entries or not isinstance(trainer.eval_dataset, Sized):
        return []
    count, last = len(trainer.eval_dataset), entries[-1]
    return [
        CardResult(
            name,
            metric,
            count,
            last[pilot],
            last[pair],
            copilot_weight=last.get("eval_copilot_weight"),
            dataset_config=config,
        )
        for metric, pilot, pair in _COMPARED
        if pilot in last and pair in last
    ]


__all__ = ["facts_of_training"]
