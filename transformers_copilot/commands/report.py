"""`transformers-copilot report`: one page that shows a run's mistakes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..data.items import encode_items
from ..report.page import write_report
from ..report.run_folder import RunFolder
from ..report.texts import LookAt
from .arguments import CommandParser
from .data import DataArguments, load_test_data
from .models import load_tokenizer
from .terminal import quiet_libraries, say


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="transformers-copilot report",
        description="Write one HTML file that says whether a run's Copilot is worth keeping, where the Pilot goes "
        "wrong, whether it learns from it, and what the Copilot changes. It needs no network, neither now nor when it "
        "is opened.",
        epilog="examples:\n  transformers-copilot report runs/mawps -o report.html\n"
        "  transformers-copilot report runs/mawps --task mawps --data_dir data   (the pair is looked at on test "
        "questions)",
    )
    parser.add_argument("run_folder", help="The output_dir of a training run, or one of its checkpoints.")
    parser.add_argument("-o", "--output", default="report.html", help="The file to write (default: report.html).")
    parser.add_argument("--tokenizer", help="Id or folder of the tokenizer, where the run's folder has none.")
    parser.add_argument("--texts", type=int, default=16, help="Texts that the pair is looked at on (default: 16).")
    parser.add_argument("--no_pair", action="store_true", help="Leave the pair out: only the log is read, fast.")
    for option in ("task", "data_dir", "dataset"):
        parser.add_argument(f"--{option}", help="Test questions to look at the pair on; see `evaluate --help`.")
    for option in ("prompt_column", "target_column"):
        parser.add_argument(f"--{option}", help="A column of --dataset, if it isn't recognised.")
    return parser


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `report`.

    Returns:
        `int`: the exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.texts < 1:
        parser.error("--texts must be at least 1")
    progress = quiet_libraries()
    tokenizer = look_at = None
    if options.task or options.dataset:
        folder = RunFolder.read(options.run_folder)
        name = options.tokenizer or str(folder.tokenizer or folder.path)
        tokenizer, look_at = _texts(options, name, bool(folder.config.get("is_encoder_decoder")))
    elif options.tokenizer is not None:
        tokenizer = load_tokenizer(options.tokenizer)
    made = write_report(
        options.run_folder,
        options.output,
        tokenizer=tokenizer,
        look_at=look_at,
        most_texts=options.texts,
        with_pair=not options.no_pair,
        progress=progress,
    )
    say(f"{made} ({made.stat().st_size / 1e6:.1f} MB): open it in a browser.")
    return 0


def _texts(options: Any, tokenizer_name: str, seq2seq: bool) -> tuple[Any, LookAt]:
    names = {item.name for item in fields(DataArguments)}
    given = DataArguments(**{name: value for name, value in vars(options).items() if name in names})
    data, tokenizer = load_test_data(given, tokenizer_name)
    test: Any = data.test
    rows = test.take(min(options.texts, len(test)))
    texts = list(zip(rows["prompt"][:], rows["target"][:], strict=True))
    items, _ = encode_items(tokenizer, texts, 100_000, seq2seq)
    return tokenizer, LookAt(f"test questions of “{data.name}”", items)


__all__ = ["run"]
