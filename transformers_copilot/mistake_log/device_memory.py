"""The memory of a device: what a pair takes there, what is free, and what to lower where it is too little."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from torch.distributed.tensor import DTensor


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

# What AdamW keeps of each weight that learns.
MOMENTS = 2


def weight_bytes(weights: Iterable[Tensor]) -> int:
    """Bytes of some weights in this process; of those that are spread over several, its own share.

    Args:
        weights (iterable of `torch.Tensor`): of any type, on any device.
    """
    own = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights)
    return sum(weight.nbytes for weight in own)


def logit_bytes(itemsize: int, learnt: bool = True) -> int:
    """Bytes of a logit: itself, and once more in float32; in training its gradient in float32, too.

    Args:
        itemsize (`int`): bytes of a number of the model's.
        learnt (`bool`, *optional*, defaults to `True`): whether it is one of a training.
    """
    return itemsize + (8 if learnt else 4)


def pilot_logits(pair: PilotCopilotPreTrainedModel, shape: Sequence[int], learnt: bool = True) -> dict[str, int]:
    """Bytes of the logits of a batch, which are the most of what it takes beside a small model.

    Args:
        pair: whose Pilot it is.
        shape (sequence of `int`): texts of the batch, and tokens of the longest; empty where there was none yet.
        learnt (`bool`, *optional*, defaults to `True`): as [`logit_bytes`] takes it.

    Returns:
        `dict`: with the batch's size in the name.
    """
    if len(shape) != 2:
        return {}
    rows, length = shape
    size = logit_bytes(next(pair.pilot.parameters()).element_size(), learnt)
    return {f"the Pilot's logits of {rows} x {length} tokens": rows * length * pair.config.vocab_size * size}


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, or can be made so.

    Args:
        device (`torch.device`): a CPU's is the machine's, with its swap space.

    Returns:
        `int`, or `None` where it isn't known how to ask.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return psutil.virtual_memory().available + psutil.swap_memory().free if device.type == "cpu" else None


def total_bytes(device: torch.device) -> int | None:
    """All the memory of a device.

    Args:
        device (`torch.device`): as [`free_bytes`] takes it.

    Returns:
        `int`, or `None` where it isn't known how to ask.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return psutil.virtual_memory().total + psutil.swap_memory().total if device.type == "cpu" else None


def size_text(nbytes: float) -> str:
    """A number of bytes as users read it.

    Args:
        nbytes (`float`): shown in GB from 10⁹ on, in MB below.
    """
    return f"{nbytes / 1e9:,.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"


def described(needed: Mapping[str, float]) -> str:
    """What is needed as a text: the sum, and in brackets its parts.

    Args:
        needed (mapping): bytes by what takes them.
    """
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in needed.items())
    return f"{size_text(sum(needed.values()))} ({parts})"


@contextmanager
def memory_explained(
    device: torch.device, what: str, needed: Callable[[], Mapping[str, float]], lower: str
) -> Iterator[None]:
    """Where the memory of a device is full, say what was needed, what there is, and which option to lower.

    Args:
        device (`torch.device`): where the pair is.
        what (`str`): what takes it, as a sentence's beginning.
        needed (callable): gives bytes by what takes them; called where the memory is full.
        lower (`str`): what to do, as a sentence.

    Yields:
        Nothing.

    Raises:
        RuntimeError: torch's own, with a note.
    """
    try:
        yield
    except RuntimeError as error:
        if should_reduce_batch_size(error):
            there = total_bytes(device)
            has = "" if there is None else f" {device} has {size_text(there)} in all."
            error.add_note(
                f"{what} takes about {described(needed())}, and what lies between its layers beside that.{has} {lower}"
            )
        raise


__all__ = [
    "MOMENTS",
    "described",
    "free_bytes",
    "logit_bytes",
    "memory_explained",
    "pilot_logits",
    "size_text",
    "total_bytes",
    "weight_bytes",
]
