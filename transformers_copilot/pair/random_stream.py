"""A random stream of the Copilot's own, so that its dropout takes nothing from the Pilot's: the Pilot's masks are those
that it would have alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def own_random_stream(model: nn.Module, content: Tensor) -> Iterator[None]:
    """Draw from a stream that torch's own does not notice.

    The seed is made of torch's seed, of what is read and of the model's weights, which change with every step. So
    nothing has to be saved for a resumed training to draw as an uninterrupted one. Checkpointed layers, which run again
    in the backward pass, draw the same masks: torch puts the state back that they had.

    Args:
        model (`nn.Module`): the Copilot.
        content (`torch.Tensor`): what it reads, integers.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    device = content.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        smallest = min((weight.numel() for weight in learning), default=0)
        state = sum(float(weight.detach().double().sum()) for weight in learning if weight.numel() == smallest)
        torch.manual_seed(hash((torch.initial_seed(), int(content.sum()), state)) % 2**63)
        yield


__all__ = ["own_random_stream"]
