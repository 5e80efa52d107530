"""What a Copilot costs: time and memory of pairs, each as a ratio to its Pilot alone in the same run.

    python -m benchmarks.cost.speed --pilot HuggingFaceTB/SmolLM2-135M

Without `--pilot`, a model of SmolLM2-135M's shape with random weights: speed does not depend on what the weights are.
All forms of Copilots are measured: a linear one, branches, and decoders with either feedback and either head. Pilot and
pair run in turn, every ratio is of two measurements made one after the other, and the median of the rounds is printed
with its quartiles. Beside it stands the ratio of the work that bounds it: operations where the processor is kept busy
(training, prefill, several sequences), weights read where memory is (one sequence). `work.py` has the formulas. The
first table has them all in short, the bound in brackets. About 40 minutes on 2 cores of a CPU.

With `--device cuda` the same on a GPU: every time is taken when the device has done its work, and memory is that of its
tensors. `--shape llama31-8b` has the paper's larger size, 8B beside 1B, with random weights; what it needs is compared
with what is free before anything is made.
"""

import argparse
import json
import warnings
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.cost.generation_speed import generation_rows, idle_rows
from benchmarks.cost.measuring import Row, as_json, describe_machine, markdown, overview
from benchmarks.cost.memory import memory_rows
from benchmarks.cost.models import SHAPES, all_kinds, load_pilot, make_pair
from benchmarks.cost.options import add_options, read_options
from benchmarks.cost.room import check_room
from benchmarks.cost.training_speed import training_rows
from benchmarks.cost.work import count_parameters


SMOLLM2_WEIGHTS = 134_515_008


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of generation and prefill")
    parser.add_argument("--training_blocks", type=int, default=3, help="rounds of training")
    parser.add_argument("--block_steps", type=int, default=2, help="timed steps of each in a round of training")
    parser.add_argument("--no_training", action="store_true", help="measure reading and writing alone")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = read_options(parser, arguments)
    if not 0 < options.supervised < options.length:
        parser.error(f"--supervised must be from 1 to below --length ({options.length})")
    try:
        check_room(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def measure(options: argparse.Namespace) -> tuple[list[Row], str]:
    """All rows of the table.

    Args:
        options: The command line's options.

    Returns:
        The rows, and a line about the models.
    """
    pilot = load_pilot(options)  # a model of its own: a pair puts hooks on its Pilot
    rows, counted, idle = [], [], []
    for kind in all_kinds(options):
        pair = make_pair(load_pilot(options), kind)
        work = count_parameters(pair)
        counted.append((kind, work))
        if not options.no_training:
            rows += training_rows(kind, pilot, pair, work, options)
        rows += generation_rows(kind, pilot, pair, work, options)
        if not idle:
            idle = idle_rows(pilot, pair, work, options)
        del pair  # a Pilot's weights and gradients each
    layers = pilot.config.num_hidden_layers
    del pilot
    if options.device == "cuda":
        torch.cuda.empty_cache()  # the processes that measure memory have the whole device
    rows += [*idle, *memory_rows(counted, options)]
    if counted[0][1].stored[0] != SMOLLM2_WEIGHTS:
        for row in rows:
            row.target = None  # targets are for that Pilot only
    name = options.pilot or f"random weights of {SHAPES[options.shape].name}"
    weights = ", ".join(f"{kind.name} {work.stored[1]:,}" for kind, work in counted)
    models = (
        f"Pilot: {name}, {counted[0][1].stored[0]:,} weights in {layers} layers "
        f"({options.dtype}); Copilots' own weights: {weights}. "
        f"Prompts of {options.length} tokens, {options.new_tokens} new ones; training: {options.autocast} autocast."
    )
    return rows, models


def main(arguments: list[str] | None = None) -> None:
    """Measure and print.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(options.threads)
    rows, models = measure(options)
    machine = describe_machine(options.threads, options.device)
    print(f"{overview(rows)}\n\n{markdown(rows)}")
    print(f"\n{models}")
    print("Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + f", {options.clock} clock.")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        facts = {"rows": as_json(rows), "models": models, "machine": machine, "options": vars(options)}
        options.json.write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
