"""Whether a training fits into its device's memory: looked at before it begins, and said where it didn't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer

from ..mistake_log.device_memory import MOMENTS, described, free_bytes, size_text, weight_bytes


# How much less than counted a training may take: only what clearly doesn't fit is refused.
_SLACK = 0.9
_WITH_TWO_MOMENTS = ("adamw_torch", "adamw_torch_fused")
LOWER = (
    "Lower `per_device_train_batch_size` and raise `gradient_accumulation_steps` by as much "
    "(`auto_find_batch_size=True` lowers it by itself; in an evaluation it is `per_device_eval_batch_size`), shorten "
    "the texts, or set `gradient_checkpointing=True`. `freeze_pilot=True` and adapters (`pair.add_adapters`) need "
    "neither gradients nor moments of the Pilot's weights."
)


def needed_by_weights(model: torch.nn.Module, args: Any, optimizer: Any) -> dict[str, int]:
    """Bytes that a training keeps on its device for the weights that lie there, by what takes them.

    Args:
        model (`nn.Module`): the pair; a part of it may lie on other devices.
        args ([`CopilotTrainingArguments`]): which device it is, and which optimizer there is to be.
        optimizer (*optional*): the optimizer, where there is one already.
    """
    here = [weight for weight in model.parameters() if weight.device == args.device]
    learnt = weight_bytes(weight for weight in here if weight.requires_grad)
    needed = {"weights": weight_bytes(here), "their gradients": learnt}
    if isinstance(optimizer, AcceleratedOptimizer):
        optimizer = optimizer.optimizer
    own = isinstance(optimizer, torch.optim.Adam)  # AdamW is one
    if own or (optimizer is None and str(getattr(args.optim, "value", args.optim)) in _WITH_TWO_MOMENTS):
        needed["AdamW's two moments"] = MOMENTS * learnt
    return needed


def check_training_fits(needed: Mapping[str, int], device: torch.device) -> None:
    """Refuse a training whose gradients and moments alone are more than what is free.

    On a CPU nothing else would say so: the system ends such a process without a word.

    Args:
        needed (mapping): as [`needed_by_weights`] gives it, for weights that lie there already.
        device (`torch.device`): where they lie.

    Raises:
        ValueError: they clearly don't fit.
    """
    free = free_bytes(device)
    more = {name: size for name, size in needed.items() if name != "weights"}
    if free is not None and sum(more.values()) * _SLACK > free:
        raise ValueError(
            f"this training needs {described(more)} beside the pair's weights, and more for each batch; {device} has "
            f"{size_text(free)} free. Train the Copilot alone (`freeze_pilot=True`) or adapters "
            "(`pair.add_adapters`), take an optimizer that keeps less (`optim='adafactor'`), a smaller Pilot, or free "
            "some memory."
        )


__all__ = ["LOWER", "check_training_fits", "needed_by_weights"]
