"""Copies of a round between an accelerator and the CPU's memory: pinned, and all of a round's at once.

A copy from or to pinned memory runs while the processor goes on, so the fields of a round don't wait for each other. On
the way to the CPU there is one wait, at the end; on the way to the device the work that reads them waits in its stream.
"""

from __future__ import annotations

import torch
from torch import Tensor


# Elsewhere a copy is done when the call returns (a CPU), or memory is shared (Apple's).
_COPY_ASIDE = ("cuda", "xpu")


def copies_aside(device: torch.device | str) -> bool:
    """Whether a device copies from and to pinned memory while the processor goes on.

    Args:
        device (`torch.device`): CUDA and ROCm devices are "cuda", Intel's are "xpu".

    Returns:
        `bool`
    """
    return torch.device(device).type in _COPY_ASIDE


def to_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in the CPU's memory, which share nothing with what they are copies of.

    Args:
        tensors (`dict`): a round's, by name, on any device.

    Returns:
        `dict`: the same names. What comes from an accelerator lies in pinned memory, ready to go back.
    """
    copies = {name: _host_copy(tensor.detach()) for name, tensor in tensors.items()}
    for device in {tensor.device for tensor in tensors.values() if copies_aside(tensor.device)}:
        _wait_for(device)
    return copies


def _host_copy(tensor: Tensor) -> Tensor:
    if not copies_aside(tensor.device):
        return tensor.to("cpu", copy=True).contiguous()
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given so far."""
    torch.accelerator.current_stream(device).synchronize()


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device.

    Args:
        tensor (`torch.Tensor`): on any device; best pinned, as [`to_host`] leaves it.
        device (`torch.device`): where it is to be.

    Returns:
        `torch.Tensor`: the same one where it is there already. On an accelerator its copy may still be under way; what
        is then asked of the device comes after it.
    """
    if tensor.device.type != "cpu" or not copies_aside(device):
        return tensor.to(device)
    pinned = tensor
    if not tensor.is_pinned():
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device).copy_(pinned, non_blocking=True)


__all__ = ["copies_aside", "to_device", "to_host"]
