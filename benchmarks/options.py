"""The command line that the benchmark and its processes share."""

import argparse


SHARED = ("pilot", "copilot_layers", "head", "batch", "rows", "length", "supervised", "new_tokens")
SHARED += ("threads", "dtype", "autocast", "clock")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what says which models are measured, and on what.

    Args:
        parser: The parser to add to.
    """
    parser.add_argument("--pilot", help="id or path; random weights of SmolLM2-135M's shape without")
    parser.add_argument("--copilot_layers", type=int, default=6, help="layers of the Copilot")
    parser.add_argument("--head", choices=("pilot", "own"), default="pilot", help="vocabulary matrices of the Copilot")
    parser.add_argument("--batch", type=int, default=16, help="sequences of a training step")
    parser.add_argument("--rows", type=int, default=8, help="sequences of the larger generation")
    parser.add_argument("--length", type=int, default=64, help="tokens of a training sequence, and of a prompt")
    parser.add_argument("--supervised", type=int, default=16, help="tokens of a training sequence that have a label")
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens that are generated")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the Pilot's weights"
    )
    parser.add_argument("--autocast", choices=("bfloat16", "none"), default="bfloat16", help="in training")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: this process's processor time")


def command_line(options: argparse.Namespace) -> list[str]:
    """The shared options as arguments for another process.

    Args:
        options: Parsed options.

    Returns:
        The arguments.
    """
    given = [(name, getattr(options, name)) for name in SHARED]
    return [part for name, value in given if value is not None for part in (f"--{name}", str(value))]
