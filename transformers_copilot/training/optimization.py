"""One optimiser and one schedule for two models: parameter groups of the Pilot's and the Copilot's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from .arguments import METRIC_SCHEDULES, CopilotArguments


# Arguments of the Copilot's that parameter groups carry out, and those that a schedule does.
GROUP_ARGUMENTS = ("copilot_learning_rate", "copilot_weight_decay")
SCHEDULE_ARGUMENTS = ("copilot_lr_scheduler_type", "copilot_warmup_steps", "copilot_lr_scheduler_kwargs")
_GROUP_KEYS = {"copilot_learning_rate": "lr", "copilot_weight_decay": "weight_decay"}


def split_parameter_groups(
    optimizer: torch.optim.Optimizer, copilot: nn.Module, decay: set[int], args: CopilotArguments
) -> None:
    """Give the Copilot's parameters groups of their own, in place; the Pilot's come first and stay as they are.

    Args:
        optimizer (`torch.optim.Optimizer`): just made, without state: its groups are replaced.
        decay (`set[int]`): ids of the parameters that decay.
        args ([`CopilotArguments`]): learning rate and weight decay of the Copilot, where they are set.

    Raises:
        ValueError: the optimiser has no such thing as what is set for the Copilot.
    """
    own = {id(parameter) for parameter in copilot.parameters()}
    rate, weight_decay = args.copilot_learning_rate, args.copilot_weight_decay
    groups: list[dict[str, Any]] = []
    for part in ("pilot", "copilot"):
        for index, group in enumerate(optimizer.param_groups):
            parameters = [p for p in group["params"] if (id(p) in own) == (part == "copilot")]
            pieces = [parameters]
            if part == "copilot" and weight_decay is not None:
                pieces = [[p for p in parameters if (id(p) in decay) == decays] for decays in (True, False)]
            for piece in pieces:
                if not piece:
                    continue
                new = {**group, "params": piece, "part": part, "group": index}
                if part == "copilot":
                    new["lr"] = _like(group.get("lr"), rate)
                    if weight_decay is not None:
                        new["weight_decay"] = weight_decay if id(piece[0]) in decay else 0.0
                groups.append(new)
    given = args.given_for_copilot(GROUP_ARGUMENTS)
    if any(
        group["part"] == "copilot" for group in groups
    ):  # or they are hidden in it, as those that step layer-wise do
        given = [name for name in given if _GROUP_KEYS[name] not in optimizer.defaults]
    if given:
        raise _refusal(given, f"{type(optimizer).__name__}, which has no such setting for a part of the parameters")
    optimizer.param_groups = groups


def _like(old: Any, rate: float | None) -> Any:
    """A learning rate of the Copilot's own; some optimisers keep theirs in a tensor, which groups must not share."""
    if isinstance(old, Tensor):
        return old.clone() if rate is None else torch.full_like(old, rate)
    return old if rate is None else rate


def _part_of(group: dict[str, Any], own: set[int]) -> str | None:
    """Whose parameters a group holds, by the ids of the Copilot's: `"pilot"`, `"copilot"`, or `None` for both."""
    if "part" in group:
        return group["part"]
    parts = {"copilot" if id(parameter) in own else "pilot" for parameter in group["params"]}
    return parts.pop() if len(parts) == 1 else "pilot" if not parts else None


def check_given_optimizer(optimizer: Any, scheduler: Any, copilot: nn.Module, args: CopilotArguments) -> None:
    """Refuse what an optimiser or a schedule that the user made leaves no room for.

    Args:
        optimizer (`torch.optim.Optimizer`, *optional*): the one given; `None`: the trainer makes it.
        scheduler (*optional*): the learning rate scheduler given; `None`: the trainer makes it.
        args ([`CopilotArguments`]): what of them is set for the Copilot has to be honoured.

    Raises:
        ValueError: an argument would be ignored, or the Copilot would not learn.
    """
    if scheduler is not None and (given := args.given_for_copilot(SCHEDULE_ARGUMENTS)):
        raise _refusal(given, "a learning rate scheduler of your own (`optimizers`), which is used as it is")
    if optimizer is None:
        return
    if given := args.given_for_copilot(GROUP_ARGUMENTS):
        how = "an optimizer of your own (`optimizers`), whose groups are used as they are"
        raise _refusal(given, how, " Or give the Copilot's parameters a group with its own `lr` and `weight_decay`.")
    groups = optimizer.param_groups if isinstance(optimizer, torch.optim.Optimizer) else []
    own = {id(parameter) for parameter in copilot.parameters() if parameter.requires_grad}
    if groups and own and not own.intersection(id(p) for group in groups for p in group["params"]):
        raise ValueError(
            "the optimizer given in `optimizers` holds none of the Copilot's parameters, so the Copilot would never "
            "learn. Make it of `pair.parameters()`, or train the Pilot alone with transformers' Trainer."
        )
    if scheduler is None and (given := args.given_for_copilot(SCHEDULE_ARGUMENTS)):
        parts = {_part_of(group, own) for group in groups}
        if not parts or None in parts:
            how = "an optimizer of your own (`optimizers`) with both parts in one group"
            raise _refusal(given, how, " Or give the Copilot's parameters a group of their own.")


def _refusal(given: list[str], beside: str, mend: str = "") -> ValueError:
    names = ", ".join(f"`{name}`" for name in given)
    return ValueError(f"{names} can't be honoured beside {beside}. Leave {names} out.{mend}")


@contextlib.contextmanager
def copilot_groups_alone(optimizer: torch.optim.Optimizer, copilot: nn.Module) -> Iterator[None]:
    """For a step of the Copilot's alone: an optimiser may keep counts by group, and the Pilot's are not to go on.

    Args:
        optimizer (`torch.optim.Optimizer`): with groups of both.

    Yields:
        Nothing; the Pilot's groups are back afterwards.
    """
    groups = optimizer.param_groups
    own = {id(parameter) for parameter in copilot.parameters()}
    parts = [_part_of(group, own) for group in groups]
    if None in parts or "copilot" not in parts:  # then nothing but the missing gradients tells the parts apart
        yield
        return
    optimizer.param_groups = [group for group, part in zip(groups, parts, strict=True) if part == "copilot"]
    try:
        yield
    finally:
        optimizer.param_groups = groups


def pair_scheduler(optimizer: torch.optim.Optimizer, copilot: nn.Module, args: Any, num_training_steps: int) -> Any:
    """The schedule of both parts, where Trainer's own would not do.

    Args:
        optimizer (`torch.optim.Optimizer`): with groups of one part each.
        args ([`CopilotTrainingArguments`]): `lr_scheduler_type`, `warmup_steps` and the like, and the Copilot's.
        num_training_steps (`int`): steps of the Pilot.

    Returns:
        `LambdaLR`, a schedule that follows a metric, or `None`: Trainer's own, as for the Pilot alone.

    Raises:
        ValueError: a schedule is not a function of the step alone, or doesn't fit its learning rate.
    """
    if _has_own_schedule(args):
        return _joint_scheduler(optimizer, copilot, args, num_training_steps)
    if args.schedule_name("lr_scheduler_type") in METRIC_SCHEDULES:
        kwargs = _rates_by_group(optimizer, args.lr_scheduler_kwargs)
        return get_scheduler(args.lr_scheduler_type, optimizer=optimizer, scheduler_specific_kwargs=kwargs)
    return None


def _has_own_schedule(args: CopilotArguments) -> bool:
    """Whether the Copilot's schedule is another than the Pilot's: also where only its peak differs, since `min_lr` and
    `lr_end` are no shares of the peak."""
    if args.schedule_name("lr_scheduler_type") in METRIC_SCHEDULES:
        return False
    return bool(args.given_for_copilot((*SCHEDULE_ARGUMENTS, "copilot_learning_rate")))


def _joint_scheduler(
    optimizer: torch.optim.Optimizer, copilot: nn.Module, args: Any, num_training_steps: int
) -> LambdaLR:
    """A `LambdaLR` with the Pilot's schedule for its groups and the Copilot's for its own."""
    own = {id(parameter) for parameter in copilot.parameters()}
    # As transformers does alone: absolute rates are taken as shares of the optimiser's own rate.
    pilot = _step_factor(
        args.lr_scheduler_type,
        args.get_warmup_steps(num_training_steps),
        num_training_steps,
        args.lr_scheduler_kwargs,
        float(optimizer.defaults["lr"]),
    )
    factors = []
    for group in optimizer.param_groups:
        if _part_of(group, own) != "copilot":
            factors.append(pilot)
            continue
        try:
            factors.append(_copilot_factor(group, args, num_training_steps))
        except TypeError as error:
            kind, kwargs = args.copilot_schedule()
            raise ValueError(f"the Copilot's schedule {kind!r} does not take {kwargs}: {error}.") from error
    return LambdaLR(optimizer, factors)


def _copilot_factor(group: dict[str, Any], args: Any, steps: int) -> Callable[[int], float]:
    kind, kwargs = args.copilot_schedule()
    rate = float(group.get("initial_lr", group["lr"]))
    try:
        return _step_factor(kind, args.copilot_warmup(steps), steps, kwargs, rate)
    except ValueError as error:
        raise ValueError(f"the Copilot's schedule, from a peak of {rate}: {error}") from error


def _step_factor(kind: Any, warmup: int, steps: int, kwargs: Any, rate: float) -> Callable[[int], float]:
    """The schedule's factor on the peak learning rate, as a function of the step."""
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(
        kind, optimizer=probe, num_warmup_steps=warmup, num_training_steps=steps, scheduler_specific_kwargs=kwargs
    )
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            f"the schedule {kind!r} is not a function of the step alone, so Pilot and Copilot cannot have schedules of "
            "their own with it. Use e.g. 'cosine'."
        )
    return scheduler.lr_lambdas[0]


def _rates_by_group(optimizer: torch.optim.Optimizer, kwargs: dict[str, Any] | None) -> dict[str, Any] | None:
    """`lr_scheduler_kwargs` of a metric's schedule, whose lists have a bound for each group that Trainer makes alone:
    the pair has more groups than its Pilot alone, and each has the bound of the one that it was split from."""
    if kwargs is None or not all("group" in group for group in optimizer.param_groups):
        return kwargs
    origins: list[int] = [group["group"] for group in optimizer.param_groups]
    listed = (list, tuple)
    return {k: [v[i] for i in origins if i < len(v)] if isinstance(v, listed) else v for k, v in kwargs.items()}


__all__ = [
    "GROUP_ARGUMENTS",
    "SCHEDULE_ARGUMENTS",
    "check_given_optimizer",
    "copilot_groups_alone",
    "pair_scheduler",
    "split_parameter_groups",
]
