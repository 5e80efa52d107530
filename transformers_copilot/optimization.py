"""One optimiser and one schedule for two models: parameter groups of the Pilot's and the Copilot's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from .training_args_copilot import CopilotArguments


def split_parameter_groups(
    optimizer: torch.optim.Optimizer, copilot: nn.Module, decay: set[int], args: CopilotArguments
) -> None:
    """Give the Copilot's parameters groups of their own, in place; the Pilot's come first.

    Args:
        optimizer (`torch.optim.Optimizer`): new, without state.
        copilot (`nn.Module`): the Copilot.
        decay (`set[int]`): ids of the parameters that decay.
        args ([`CopilotArguments`]): learning rate and weight decay of the Copilot.
    """
    own = {id(parameter) for parameter in copilot.parameters()}
    groups: list[dict[str, Any]] = []
    for part in ("pilot", "copilot"):
        for group in optimizer.param_groups:
            parameters = [p for p in group["params"] if (id(p) in own) == (part == "copilot")]
            if not parameters:
                continue
            new = {**group, "params": parameters, "part": part}
            if part == "copilot":
                new["lr"] = args.of_copilot("learning_rate")
                new["weight_decay"] = args.of_copilot("weight_decay") if id(parameters[0]) in decay else 0.0
            groups.append(new)
    optimizer.param_groups = groups


def has_own_schedule(args: CopilotArguments) -> bool:
    """Whether the Copilot's schedule is another than the Pilot's.

    Args:
        args ([`CopilotArguments`]): the arguments.

    Returns:
        `bool`
    """
    return args.copilot_lr_scheduler_type is not None or args.copilot_warmup_steps is not None


def joint_scheduler(optimizer: torch.optim.Optimizer, args: Any, num_training_steps: int) -> LambdaLR:
    """A `LambdaLR` with the Pilot's schedule for its groups and the Copilot's for its own.

    Args:
        optimizer (`torch.optim.Optimizer`): with groups from [`split_parameter_groups`].
        args ([`CopilotTrainingArguments`]): both schedules.
        num_training_steps (`int`): steps of the Pilot.

    Returns:
        `LambdaLR`

    Raises:
        ValueError: a schedule is not a function of the step alone.
    """
    warmup = args.copilot_warmup_steps
    pilot_warmup = args.get_warmup_steps(num_training_steps)
    if warmup is None:
        copilot_warmup = pilot_warmup
    else:
        copilot_warmup = int(warmup) if warmup >= 1 else int(warmup * num_training_steps)
    kwargs = args.lr_scheduler_kwargs
    own_type = args.of_copilot("lr_scheduler_type")
    of_part = {
        "pilot": _step_factor(args.lr_scheduler_type, pilot_warmup, num_training_steps, kwargs),
        "copilot": _step_factor(own_type, copilot_warmup, num_training_steps, kwargs),
    }
    return LambdaLR(optimizer, [of_part[group["part"]] for group in optimizer.param_groups])


def _step_factor(kind: Any, warmup: int, steps: int, kwargs: Any) -> Callable[[int], float]:
    """The schedule's factor on the peak learning rate, as a function of the step."""
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(
        kind, optimizer=probe, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=kwargs
    )
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"the schedule {kind!r} is not a function of the step alone, so Pilot and Copilot cannot have schedules of "
            "their own with it. Leave `copilot_lr_scheduler_type` and `copilot_warmup_steps` unset, or use e.g. "
            "'cosine'."
        )
    return scheduler.lr_lambdas[0]


__all__ = ["has_own_schedule", "joint_scheduler", "split_parameter_groups"]
