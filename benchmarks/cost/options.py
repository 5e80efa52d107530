"""The benchmark's command line: which models are measured, and on what."""

import argparse

from benchmarks.cost.models import SHAPES
from benchmarks.experiments.precision import bfloat16_pays, check_device


FORMS = ("linear", "branch", "decoder")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which models are measured, and on what.

    Args:
        parser: The parser to add to.
    """
    parser.add_argument("--pilot", help="id or path; random weights of --shape without")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="smollm2", help="of a Pilot with random weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everything runs")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="forms of Copilots")
    parser.add_argument("--branch_layers", nargs="+", type=int, help="layers of each branch; by default 2 and 6, or 5")
    parser.add_argument("--copilot_layers", type=int, help="layers of decoders; by default 2, or 4")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a training step")
    parser.add_argument("--rows", type=int, default=8, help="sequences of the larger generation")
    parser.add_argument("--length", type=int, default=64, help="tokens of a training sequence, and of a prompt")
    parser.add_argument("--supervised", type=int, default=16, help="tokens of a training sequence that have a label")
    parser.add_argument("--new_tokens", type=int, default=32, help="tokens that are generated")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the Pilot's weights"
    )
    parser.add_argument(
        "--autocast",
        choices=("bfloat16", "none"),
        help="in training; by default bfloat16 where this machine multiplies faster in it",
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: this process's processor time")


def read_options(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read a command line that `add_options` has added to.

    Args:
        parser: The parser.
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options, with the autocast that this machine gains by where none was asked for.
    """
    options = parser.parse_args(arguments)
    check_device(parser, options.device)
    shape = SHAPES[options.shape]
    options.branch_layers = options.branch_layers or list(shape.branch_layers)
    options.copilot_layers = options.copilot_layers or shape.copilot_layers
    if options.autocast is None:
        options.autocast = "bfloat16" if bfloat16_pays(options.device) else "none"
    return options
