"""Lines of docstrings that say nothing: an argument whose description only repeats its name or its type.

python .ci/docstrings.py    # prints them; exit status 1 if there is one
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path


PACKAGE = Path(__file__).resolve().parents[1] / "transformers_copilot"
_ENTRY = re.compile(r"^(\s+)(\*{0,2}\w+)(?: \((.*?)\))?: (.+)$")
_SECTION = re.compile(r"^\s*(?:Returns|Raises|Yields|Attributes|Examples?|Note):$")
_FILLERS = {"the", "a", "an", "of", "its", "s"}


def empty_lines(text: str) -> Iterator[int]:
    """The lines of a module's docstrings that say nothing, from 0.

    Args:
        text: The module's source.

    Yields:
        Numbers of lines, in order within a docstring.
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(node) is None:
            continue
        stated = node.body[0]
        within, indent = False, ""
        for number in range(stated.lineno - 1, stated.end_lineno or stated.lineno):
            line = lines[number]
            if line.strip() == "Args:":
                within, indent = True, line[: -len("Args:")] + "    "
            elif _SECTION.match(line):
                within = False
            found = _ENTRY.match(line) if within else None
            if found is None or found[1] != indent or not _repeats(*found.groups()[1:]):
                continue
            goes_on = lines[number + 1].startswith(indent + " ")
            if not goes_on:
                yield number


def _repeats(name: str, kind: str | None, description: str) -> bool:
    """Whether all words of a description stand in the name or the type already."""
    known = {*re.findall(r"[a-z]+", f"{name} {kind or ''}".lower()), *_FILLERS}
    words = re.findall(r"[a-z]+", description.lower())
    return all({word, word.rstrip("s"), f"{word}s"} & known for word in words)


def main() -> int:
    """Print what is found."""
    found = 0
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for number in empty_lines(text):
            found += 1
            where = file.relative_to(PACKAGE.parent)
            sys.stdout.write(
                f"{where}:{number + 1}: {text.splitlines()[number].strip()} (it says nothing: leave it out)\n"
            )
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
