"""`transformers-copilot merge`: a pair as one plain model, for programs that know nothing of pairs."""

from __future__ import annotations

from pathlib import Path

from .arguments import CommandParser
from .models import load_pair, load_tokenizer
from .terminal import quiet_libraries, say


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="transformers-copilot merge",
        description="Write a pair as a plain model of its Pilot's class: same text, the Pilot's cost, for any server. "
        "It takes a Copilot of the form 'branch' at λ = 1, or 'linear' at any λ.",
        epilog="example:\n  transformers-copilot merge runs/mawps --output_dir merged",
    )
    parser.add_argument("pair", help="The pair's folder, or its id on the Hub.")
    parser.add_argument(
        "--output_dir", required=True, help="Where the plain model goes; a folder that is empty or new."
    )
    parser.add_argument(
        "--copilot_weight", type=float, help="λ that is merged; by default the pair's. A branch needs 1."
    )
    return parser


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `merge`.

    Returns:
        `int`: the exit code.

    Raises:
        ValueError: the folder holds something, or no plain model is equal to the pair.
    """
    options = _parser().parse_args(arguments)
    quiet_libraries()
    folder = Path(options.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not empty; give another --output_dir.")
    pair, tokenizer = load_pair(options.pair, device="cpu"), load_tokenizer(options.pair)
    if options.copilot_weight is not None:
        pair.config.copilot_weight = options.copilot_weight
        pair.config.check_options()
        pair.generation_config.copilot_weight = None
    merged = pair.merge_copilot()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(
        f"{type(merged).__name__}, {merged.num_parameters():,} weights, is in {folder}",
        f"It writes what the pair writes at λ = {pair.config.copilot_weight:g}, and loads where its Pilot loads.",
    )
    return 0


__all__ = ["run"]
