"""Names of options: a mistyped one is answered with the nearest, and that of `train` before torch is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path


_LIGHT = ("PairArguments", "TrainArguments", "DataArguments")
_PARSERS_OWN = ("--config", "--help", "--help-all")


def wrong_option(words: Iterable[str], names: list[str], command: str) -> str | None:
    """What is wrong with the first option that there isn't.

    Args:
        words (iterable of `str`): the command line.
        names (list of `str`): all options, with their dashes; what one of them begins with stands for it.
        command (`str`): what is called for help, such as `"transformers-copilot train"`.

    Returns:
        `str`, or `None` where all are known.
    """
    for word in words:
        name = word.partition("=")[0]
        if word == "--":
            return None
        if not name.startswith("--") or any(known.startswith(name) for known in names):
            continue
        near = get_close_matches(name.replace("-", "_").replace("__", "--", 1), names, 1)
        hint = f"did you mean {near[0]}?" if near else f"`{command} --help` lists them"
        return f"there is no option {name}: {hint}"
    return None


def train_options() -> list[str]:
    """All options of `train`, Trainer's among them, read off the source: to import that takes seconds.

    Returns:
        list of `str`; empty where a source is no file.
    """
    folder, library = Path(__file__).parent, find_spec("transformers")
    if library is None or library.origin is None:
        return []
    sources = (
        *((folder / "train_options.py", kind) for kind in _LIGHT),
        (folder.parent / "training" / "arguments.py", "CopilotArguments"),
        (Path(library.origin).parent / "training_args.py", "TrainingArguments"),
    )
    if not all(file.is_file() for file, _ in sources):
        return []
    fields = [name for file, kind in sources for name in _fields(file, kind)]
    # The parser adds a `--no_x`, to those that are true by default; which ones these are, it says itself.
    spelt = [f"--{no}{name}" for name in fields for no in ("", "no_")]
    return [*spelt, *(name.replace("_", "-") for name in spelt), *_PARSERS_OWN]


def _fields(file: Path, kind: str) -> list[str]:
    """The names of a dataclass's fields."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    body = next((node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == kind), [])
    return [node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


__all__ = ["train_options", "wrong_option"]
