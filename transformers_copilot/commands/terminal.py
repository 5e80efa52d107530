"""What the commands print: tables, marks for changed tokens, and nothing coloured or moving where no one looks on."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import TextIO

from transformers.utils import logging


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether somebody looks on.

    Args:
        stream (`TextIO`, *optional*): where it is printed; the standard output by default.

    Returns:
        `bool`
    """
    return (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"


def uses_colour(stream: TextIO | None = None) -> bool:
    """Whether colour may be printed: in a terminal, unless `NO_COLOR` is set.

    Args:
        stream (`TextIO`, *optional*): where it is printed; the standard output by default.

    Returns:
        `bool`
    """
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def quiet_libraries() -> bool:
    """Keep libraries' notes and, where no one looks on, their progress bars out of the output.

    Returns:
        `bool`: whether progress is to be shown.
    """
    logging.set_verbosity_error()
    shown = is_terminal(sys.stderr)
    if not shown:
        logging.disable_progress_bar()
    return shown


def say(*lines: str) -> None:
    """Print lines at once; of several processes (`accelerate launch`) the first one speaks for all."""
    if os.environ.get("RANK", "0") != "0":
        return
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line; the first to the left, the others to the right.

    Args:
        head (sequence of `str`): the columns' names.
        rows (sequence of sequences of `str`): the cells.

    Returns:
        `str`
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    made = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        made.append("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(made)


def marked_changes(
    before: Sequence[int], after: Sequence[int], write: Callable[[Sequence[int]], str], colour: bool
) -> str:
    """A text with what is other than in another one marked.

    Args:
        before (sequence of `int`): the other text's tokens.
        after (sequence of `int`): this text's tokens.
        write (callable): what tokens write together.
        colour (`bool`): mark by colour; else as `[-old-]{+new+}`.

    Returns:
        `str`
    """
    parts = []
    for kind, old_from, old_to, new_from, new_to in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = write(before[old_from:old_to]), write(after[new_from:new_to])
        if kind == "equal":
            parts.append(new)
        elif colour:
            parts += [f"\033[9;31m{old}\033[0m" if old else "", f"\033[1;32m{new}\033[0m" if new else ""]
        else:
            parts += [f"[-{old}-]" if old else "", f"{{+{new}+}}" if new else ""]
    return "".join(parts)


__all__ = ["is_terminal", "marked_changes", "quiet_libraries", "say", "table", "uses_colour"]
