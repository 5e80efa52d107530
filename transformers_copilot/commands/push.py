"""`transformers-copilot push`: a pair, its tokenizer and its report on the Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

from .arguments import CommandParser
from .models import load_pair, load_tokenizer
from .terminal import quiet_libraries, say


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="transformers-copilot push",
        description="Upload a pair to the Hub: weights, configuration, code, card and tokenizer in one commit, and its "
        "report beside them. Log in first with `hf auth login`.",
        epilog="example:\n  transformers-copilot push runs/mawps user/mawps-pair --private --report report.html",
    )
    parser.add_argument("pair", help="The pair's folder.")
    parser.add_argument("repo_id", help="user/name; made where it does not exist.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--report", help="A report's HTML file, to go into the repository too.")
    parser.add_argument("--message", default="Upload pair", help="The commit's title.")
    return parser


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `push`.

    Returns:
        `int`: the exit code.
    """
    options = _parser().parse_args(arguments)
    quiet_libraries()
    if options.report is not None and not Path(options.report).is_file():
        raise FileNotFoundError(f"there is no report {options.report}; make it with `transformers-copilot report`.")
    pair, tokenizer = load_pair(options.pair, device="cpu"), load_tokenizer(options.pair)
    commit = pair.push_to_hub(
        options.repo_id,
        tokenizer=tokenizer,
        commit_message=options.message,
        private=options.private or None,
    )
    if options.report is not None:
        HfApi().upload_file(
            path_or_fileobj=options.report,
            path_in_repo="report.html",
            repo_id=options.repo_id,
            commit_message="Upload the report of mistakes",
        )
    say(f"{commit.repo_url if commit.repo_url else options.repo_id}: {options.message}")
    return 0


__all__ = ["run"]
