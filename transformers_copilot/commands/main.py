"""The command line's first word: which command it is, and what becomes of its errors."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib import import_module


COMMANDS = {
    "train": "fine-tune a model and teach its Copilot, on a task or on your own data",
    "record": "read a model once over training texts, to teach Copilots often (`train --record`)",
    "evaluate": "answer test questions with the pair and with its Pilot alone, and compare",
    "generate": "let a pair write; --compare shows what the Copilot changes",
    "report": "one HTML page: where a run goes wrong, and what its Copilot changes",
    "merge": "write a pair as one plain model, which any server takes",
    "serve": "answer requests with a pair, with an OpenAI-compatible API",
    "push": "upload a pair, its tokenizer and its report to the Hub",
}
HELP = """\
usage: transformers-copilot COMMAND [options]

A Copilot for a language model (the Pilot): it learns from the model's mistakes and corrects it while it writes.

commands:
{commands}

A first round, from a folder with a task's JSON lines to a page that shows the mistakes:
  transformers-copilot train --pilot HuggingFaceTB/SmolLM2-135M --task mawps --data_dir data --output_dir runs/mawps
  transformers-copilot evaluate runs/mawps --task mawps --data_dir data
  transformers-copilot report runs/mawps -o report.html
  echo "Question: What is 12 + 30?" | transformers-copilot generate runs/mawps --compare

`transformers-copilot COMMAND --help` lists a command's options. `--traceback` shows where an error came from.
Exit codes: 0 done, 1 an error, 2 a wrong command line, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (list of `str`, *optional*): the words after the program's name; defaults to the process's own.

    Returns:
        `int`: 0 done, 1 an error, 2 a wrong command line, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    if not words or words[0] in ("-h", "--help", "help"):
        commands = "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
        print(HELP.format(commands=commands), file=sys.stdout if words else sys.stderr)  # noqa: T201
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"transformers-copilot: there is no command {name!r}, only {', '.join(COMMANDS)}.{hint}\n")
        return 2
    if name == "train" and any(word in ("-h", "--help") for word in rest):  # without all that training imports
        print(import_module(".train_options", __package__).short_help())  # noqa: T201
        return 0
    if name == "train" and (wrong := _mistyped(rest)) is not None:
        sys.stderr.write(f"transformers-copilot train: error: {wrong}\n")
        return 2
    try:
        _register()
        return int(import_module(f".{name}", __package__).run(rest) or 0)
    except SystemExit as stop:  # argparse has said what is wrong, or shown its help
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        sys.stderr.write(f"transformers-copilot {name}: stopped.\n")
        return 130  # as shells say it
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        if show_traceback:
            import traceback

            traceback.print_exc()
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", []))
        sys.stderr.write(f"transformers-copilot {name}: {error}{notes}\n")
        return 1


def _mistyped(words: list[str]) -> str | None:
    """What is wrong with an option of `train` that there isn't, so far as its names can be read."""
    from .option_names import train_options, wrong_option

    known = train_options()
    return wrong_option(words, known, "transformers-copilot train") if known else None


def _register() -> None:
    """Make the Auto classes know pairs: the package leaves it to the command line, whose help needs no transformers."""
    from ..registration import register

    register()


def _expected_errors() -> tuple[type[Exception], ...]:
    """What users' input and their machines cause; imported late, as help needs none of it."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from safetensors import SafetensorError

    kinds = (OSError, ValueError, TypeError, ImportError, RuntimeError)
    return (*kinds, HfHubHTTPError, SafetensorError, DatasetsError)


__all__ = ["COMMANDS", "main"]
