"""What a run's time is: processor seconds, which a busy neighbour does not lengthen, or a GPU's wall clock."""

from __future__ import annotations

import time

import torch


def seconds_now(device: str) -> float:
    """The clock that costs are told by; only differences mean anything.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        Seconds: of all of the process's threads on a processor; on a GPU of the wall, when its work is done.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
