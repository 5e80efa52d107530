"""Peak memory, each variant in a process of its own: `python benchmarks/memory.py training linear --pilot …`."""

import argparse
import json
import subprocess
import sys

import torch
from generation_speed import writer
from measuring import Row, announce
from models import Kind, kind_named, load_pilot, make_pair
from options import add_options, command_line
from process_memory import peak_bytes, reset_peak
from training_speed import train
from work import Parameters

from transformers_copilot import MistakeLog


# What is measured, and what bounds it.
CASES = {"training": "weights, gradients, AdamW", "generation": "weights"}
PILOT = "pilot"  # the variant without a Copilot; others are kinds of pairs
TRAINING_STEPS = 2  # the first makes the optimizer's state, the second has it from its start


def measure(options: argparse.Namespace) -> int:
    """Run one case in this process.

    Args:
        options: `case`, `variant` and the command line's options.

    Returns:
        Peak bytes beyond those that the process held before it loaded the model.
    """
    reset_peak()
    before = peak_bytes()
    model = load_pilot(options)
    paired = options.variant != PILOT
    if paired:
        model = make_pair(model, kind_named(options.variant, options))
    reset_peak()  # loading holds some weights twice
    if options.case == "training":
        train(model, options, TRAINING_STEPS, MistakeLog() if paired else None)
    else:
        more = {"copilot_weight": 1.0} if paired else {}
        writer(model, options.rows, options, **more)()
    return peak_bytes() - before


def memory_rows(kinds: list[tuple[Kind, Parameters]], options: argparse.Namespace) -> list[Row]:
    """Peak memory of training and of generation, each pair over the Pilot alone.

    Args:
        kinds: The kinds of pairs, and their weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    rows = []
    for case, bound_by in CASES.items():
        alone = _peak(case, PILOT, options)
        for kind, work in kinds:
            ratio, bound = _peak(case, kind.name, options) / alone, work.training_state()
            row = Row(kind.name, f"peak memory, {case}", alone / 1e9, ratio, ratio, ratio, "GB", bound, bound_by)
            rows.append(announce(row))
    return rows


def _peak(case: str, variant: str, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, case, variant, *command_line(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {case}, {variant} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["peak"]


def main() -> None:
    """Measure one case, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("variant", help="pilot, or the name of a kind of pair")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({"peak": measure(options)}))


if __name__ == "__main__":
    main()
