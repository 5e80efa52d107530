"""Peak memory, each variant in a process of its own: `python benchmarks/memory.py training pair --pilot …`."""

import argparse
import json
import subprocess
import sys

import torch
from generation_speed import writer
from measuring import Row
from models import load_pilot, make_pair
from options import add_options, command_line
from process_memory import peak_bytes, reset_peak
from training_speed import train
from work import Parameters

from transformers_copilot import MistakeLog


CASES = ("training", "generation")
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
    if options.variant == "pair":
        model = make_pair(model, options)
    reset_peak()  # loading holds some weights twice
    if options.case == "training":
        train(model, options, TRAINING_STEPS, MistakeLog() if options.variant == "pair" else None)
    else:
        more = {"copilot_weight": 1.0} if options.variant == "pair" else {}
        writer(model, options.rows, options, **more)()
    return peak_bytes() - before


def memory_rows(work: Parameters, options: argparse.Namespace) -> list[Row]:
    """Peak memory of training and of generation, the pair over the Pilot alone.

    Args:
        work: The pair's weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    bounds = {
        "training": (work.training_state(), "weights, gradients, AdamW"),
        "generation": (work.training_state(), "weights"),
    }
    rows = []
    for case in CASES:
        peaks = {}
        for variant in ("pilot", "pair"):
            command = [sys.executable, __file__, case, variant, *command_line(options)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"measuring the memory of {case}, {variant} failed:\n{done.stderr}")
            peaks[variant] = json.loads(done.stdout.splitlines()[-1])["peak"]
        ratio, (bound, bound_by) = peaks["pair"] / peaks["pilot"], bounds[case]
        rows.append(Row(f"peak memory, {case}", peaks["pilot"] / 1e9, ratio, ratio, ratio, "GB", bound, bound_by))
    return rows


def main() -> None:
    """Measure one case, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("variant", choices=("pilot", "pair"))
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps({"peak": measure(options)}))


if __name__ == "__main__":
    main()
