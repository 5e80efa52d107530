"""What is refused before a training begins: arguments that can't be used with these devices or with this data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..mistake_log.recorded_mistakes import RecordedMistakes
from .arguments import CopilotArguments


# Arguments of rounds under way, which there are none of in a record, and the value that each has to have there.
_SENSELESS: dict[str, Any] = {
    "held_out_mistakes": 0.0,
    "copilot_steps_per_round": 1,
    "mistake_log_draw": "newest",
    "mistake_log_export_rows": 0,
    "mistake_log_layers": 0,
    "mistake_picture_steps": 0,
}
_SAMPLING_BY_LENGTH = ("group_by_length", "batch_rebalance")


def check_arguments(args: Any) -> None:
    """Refuse arguments that lack the Copilot's.

    Args:
        args: what the Trainer was given, of any class.

    Raises:
        TypeError: they are no [`CopilotArguments`].
    """
    if not isinstance(args, CopilotArguments):
        raise TypeError(
            f"`args` is a {type(args).__name__}; give CopilotTrainingArguments, or mix CopilotArguments into your own "
            "arguments' class."
        )


def check_devices(args: Any) -> None:
    """Refuse several devices where rounds would be split wrongly, or where DDP would wait for the Pilot's gradients.

    Args:
        args ([`CopilotTrainingArguments`]): asked for `n_gpu`, which sets up the devices.

    Raises:
        ValueError: one process has several devices, or several processes train the Copilot alone between the Pilot's
            steps without `ddp_find_unused_parameters`.
    """
    steps, frozen = args.copilot_steps_per_round, args.freeze_pilot
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} devices in one process would use DataParallel, which splits logged rounds wrongly. "
            "Start one process a device with `torchrun` or `accelerate launch`, or show this one a single device."
        )
    if args.world_size > 1 and steps > 1 and not frozen and not args.ddp_find_unused_parameters:
        raise ValueError(
            f"`copilot_steps_per_round={steps}` trains the Copilot alone between the Pilot's steps; under "
            "distributed training that needs `ddp_find_unused_parameters=True` (or `freeze_pilot=True`)."
        )


def check_recorded_training(args: Any, pilot_is_frozen: bool, eval_dataset: Any, log_is_given: bool) -> None:
    """Refuse what a training from a record can't honour.

    Args:
        args ([`CopilotTrainingArguments`]): those about rounds of the Pilot's own training have to be left out.
        pilot_is_frozen (`bool`): the record tells what the Pilot got wrong as it was, so it must not learn meanwhile.
        eval_dataset: one data set, a `dict` of several, or `None`; none of them may be a record.
        log_is_given (`bool`): whether the user gave a `mistake_log`, which nothing would be put into.

    Raises:
        ValueError: one of these does not hold.
    """
    if not pilot_is_frozen:
        raise ValueError(
            "`train_dataset` is a record of what the Pilot got wrong as it was, so it must not learn meanwhile: "
            "set `freeze_pilot=True`. To train both, give the data itself."
        )
    wrong = [f"`{name}={getattr(args, name)!r}`" for name, value in _SENSELESS.items() if getattr(args, name) != value]
    if log_is_given:
        wrong.append("`mistake_log`")
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: these are about rounds of the Pilot's own training, and a record has none. Leave "
            "them out; epochs (`num_train_epochs`) are how often a record is read."
        )
    sampling = str(getattr(args, "train_sampling_strategy", ""))
    if sampling in _SAMPLING_BY_LENGTH:
        raise ValueError(
            f"`train_sampling_strategy` is {sampling!r}, but recorded sequences are not sorted by length: leave it "
            "out, or give 'sequential'."
        )
    if getattr(args.accelerator_config, "dispatch_batches", None):
        raise ValueError(
            "`accelerator_config` has `dispatch_batches=True`, which cuts batches into rows, and recorded "
            "sequences stand in one row: leave it out."
        )
    sets = eval_dataset.values() if isinstance(eval_dataset, Mapping) else [eval_dataset]
    if any(isinstance(one, RecordedMistakes) for one in sets):
        raise ValueError(
            "`eval_dataset` is a record, but an evaluation runs the Pilot on text: give examples with `input_ids` "
            "and `labels`."
        )


__all__ = ["check_arguments", "check_devices", "check_recorded_training"]
