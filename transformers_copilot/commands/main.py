"""The command line's first word: which command it is, and what becomes of its errors."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

from huggingface_hub.errors import HfHubHTTPError


COMMANDS = {
    "train": "fine-tune a model and teach its Copilot, on a task or on your own JSON lines",
    "record": "read a model once over training texts, to teach Copilots often (`train --record`)",
    "evaluate": "answer test questions with the pair and with its Pilot alone, and compare",
    "generate": "let a pair write; --compare shows what the Copilot changes",
    "report": "one HTML page: where a run goes wrong, and what its Copilot changes",
    "merge": "write a pair as one plain model, which any server takes",
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
Exit codes: 0 done, 1 an error, 2 a wrong command line.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (list of `str`, *optional*): the words after the program's name; defaults to the process's own.

    Returns:
        `int`: 0 done, 1 an error, 2 a wrong command line.
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
        sys.stderr.write(f"transformers-copilot: there is no command {name!r}, only {', '.join(COMMANDS)}.\n")
        return 2
    try:
        return int(import_module(f".{name}", __package__).run(rest) or 0)
    except SystemExit as stop:  # argparse has said what is wrong, or shown its help
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        sys.stderr.write(f"transformers-copilot {name}: stopped.\n")
        return 1
    except (OSError, ValueError, TypeError, ImportError, HfHubHTTPError, RuntimeError) as error:
        if show_traceback:
            traceback.print_exc()
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", []))
        sys.stderr.write(f"transformers-copilot {name}: {error}{notes}\n")
        return 1


__all__ = ["COMMANDS", "main"]
