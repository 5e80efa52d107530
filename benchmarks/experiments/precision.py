"""What a run computes on, and how exactly: in bfloat16 where its experiment wants it and the machine gains by it."""

from __future__ import annotations

import argparse
import functools
import time

import torch

from benchmarks.experiments.spec import Experiment


TIMED_SIZE, TIMED_PRODUCTS = 512, 3


def check_device(parser: argparse.ArgumentParser, device: str) -> None:
    """End with a message where a device is asked for that isn't there.

    Args:
        parser: Whose message it is.
        device: `cpu` or `cuda`.
    """
    if device == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"--device cuda: torch {torch.__version__} sees no GPU. Install a torch that is built for CUDA, or give "
            "--device cpu (DEVICE=cpu)."
        )


def uses_bfloat16(spec: Experiment, device: str) -> bool:
    """Whether a run trains and records under bfloat16 autocast.

    Args:
        spec: The experiment; `bf16` of its training asks for it.
        device: `cpu` or `cuda`.

    Returns:
        Whether it does. Otherwise it computes in float32, which is the more exact of the two.
    """
    return bool(spec.training.get("bf16")) and bfloat16_pays(device)


@functools.cache
def bfloat16_pays(device: str) -> bool:
    """Whether this machine multiplies matrices faster in bfloat16; a processor that emulates it can be 70 times slower.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        Whether it does; on a GPU, whether it knows the type.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of a matrix product."""
    matrix = torch.ones(TIMED_SIZE, TIMED_SIZE, dtype=dtype)
    times = []
    for _ in range(TIMED_PRODUCTS):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return min(times)


def precision(spec: Experiment, device: str) -> torch.autocast:
    """The autocast that a run records under, as it trains.

    Args:
        spec: The experiment.
        device: `cpu` or `cuda`.

    Returns:
        The context; it changes nothing where the run computes in float32.
    """
    return torch.autocast(device, torch.bfloat16, enabled=uses_bfloat16(spec, device))
