"""Peak memory, each variant in a process of its own."""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from benchmarks.cost.generation_speed import writer
from benchmarks.cost.measuring import Row, announce
from benchmarks.cost.models import Kind, kind_named, load_pilot, make_pair
from benchmarks.cost.training_speed import train
from benchmarks.cost.work import Parameters
from benchmarks.process_memory import peak_bytes, reset_peak
from transformers_copilot import MistakeLog


# What is measured, and what bounds it.
CASES = {"training": "weights, gradients, AdamW", "generation": "weights"}
PILOT = "pilot"  # the variant without a Copilot; others are kinds of pairs
TRAINING_STEPS = 2  # the first makes the optimizer's state, the second has it from its start


def reset_peak_of(device: str) -> None:
    """Forget the peak so far.

    Args:
        device: `cpu` or `cuda`.
    """
    reset_peak()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_bytes_of(device: str) -> int:
    """The most memory that was held since the peak was forgotten.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        Bytes.
    """
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()


def measure(case: str, variant: str, options: argparse.Namespace) -> int:
    """Run one case in this process.

    Args:
        case: One of `CASES`.
        variant: `PILOT`, or the name of a kind of pair.
        options: The command line's options.

    Returns:
        Peak bytes beyond those that the process held before it loaded the model: of the process, or on a GPU of its
        tensors there.
    """
    torch.set_num_threads(options.threads)
    reset_peak_of(options.device)
    before = peak_bytes_of(options.device)
    model = load_pilot(options)
    paired = variant != PILOT
    if paired:
        model = make_pair(model, kind_named(variant, options))
    reset_peak_of(options.device)  # loading holds some weights twice
    if case == "training":
        train(model, options, TRAINING_STEPS, MistakeLog() if paired else None)
    else:
        more = {"copilot_weight": 1.0} if paired else {}
        writer(model, options.rows, options, **more)()
    return peak_bytes_of(options.device) - before


def memory_rows(kinds: list[tuple[Kind, Parameters]], options: argparse.Namespace) -> list[Row]:
    """Peak memory of training and of generation, each pair over the Pilot alone.

    Args:
        kinds: The kinds of pairs, and their weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    rows = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        cases = {name: by for name, by in CASES.items() if name != "training" or not options.no_training}
        for case, bound_by in cases.items():
            alone = processes.submit(measure, case, PILOT, options).result()
            for kind, work in kinds:
                ratio = processes.submit(measure, case, kind.name, options).result() / alone
                bound, name = work.training_state(), f"peak memory, {case}"
                rows.append(announce(Row(kind.name, name, alone / 1e9, ratio, ratio, ratio, "GB", bound, bound_by)))
    return rows
