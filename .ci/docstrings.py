"""Lines of docstrings that say nothing: an argument whose description only repeats its name or its type.

A description of three words or fewer may still say something, such as the two values that there are. Many of them say
little, so each folder may have a share of them, and no more.

python .ci/docstrings.py    # prints what is found; exit status 1 if there is something
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


PACKAGE = Path(__file__).resolve().parents[1] / "transformers_copilot"
SHORT = 3  # words
SHARE = 0.08  # of a folder's argument lines that may be short
# Folders that have more of them yet: 0.27, 0.25 and 0.24 when this check was made. Lower a figure as its share falls.
SHARES = {"commands": 0.32, "data": 0.30, "pair": 0.28}
# Lines that say nothing and stand yet: the file and the argument. Take one out when it is mended.
STANDING = {("commands/arguments.py", "parser"), ("commands/pair.py", "rows"), ("data/formats.py", "text")}
_SECTION = re.compile(r"^(\s*)(\w+):$")
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \(((?:[^()]|\([^()]*\))*)\))?: (.+)$")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FILLERS = {"the", "a", "an", "of", "its", "s", "this", "that", "to", "be", "is", "are", "it"}
_OPEN_TYPES = {"any", "none", "optional"}  # "of any model" says more than the hint `Any`
# What a type is called in words.
_MEANT = {
    "str": {"string", "text"},
    "int": {"integer", "number"},
    "float": {"number"},
    "bool": {"boolean", "flag", "whether"},
    "dict": {"dictionary"},
    "callable": {"function"},
    "tensor": {"tensors"},
}


class Entry(NamedTuple):
    """A description in a docstring.

    Attributes:
        line (`int`): where it begins in the module, from 0.
        named (`str`): the name, and the type as docstring and signature have it.
        description (`str`): all that is said, in one line.
    """

    line: int
    named: str
    description: str


def entries(text: str) -> Iterator[Entry]:
    """The arguments and attributes that a module's docstrings describe.

    Args:
        text (`str`): the module's source.

    Yields:
        `Entry`, in order within a docstring.
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            stated, types = node.body[0], _types(node)
            within, indent = False, ""
            for number in range(stated.lineno - 1, stated.end_lineno or stated.lineno):
                section = _SECTION.match(lines[number])
                if section is not None and section[2] in ("Args", "Attributes", "Returns", "Yields", "Raises"):
                    within, indent = section[2] in ("Args", "Attributes"), section[1] + "    "
                    continue
                begins = within and lines[number].startswith(indent) and lines[number][len(indent) :][:1].strip()
                found = _ENTRY.match(lines[number][len(indent) :].removesuffix('"""')) if begins else None
                if found is None:
                    continue
                rest = [found[3]]
                for line in lines[number + 1 : stated.end_lineno]:
                    if not line.startswith(indent + " "):
                        break
                    rest.append(line.strip().removesuffix('"""'))
                hints = " ".join(types.get(name.strip(" *"), "") for name in found[1].split(","))
                yield Entry(number, f"{found[1]} {found[2] or ''} {hints}", " ".join(rest))


def empty_lines(text: str) -> Iterator[int]:
    """The lines of a module's docstrings that say nothing, from 0.

    Args:
        text (`str`): the module's source.

    Yields:
        `int`, in order within a docstring.
    """
    return (entry.line for entry in entries(text) if _repeats(entry))


def short_lines(text: str) -> tuple[list[int], int]:
    """The lines of a module's docstrings that say little.

    Args:
        text (`str`): the module's source.

    Returns:
        Numbers of lines from 0, and how many descriptions there are in all.
    """
    found = list(entries(text))
    return [entry.line for entry in found if len(entry.description.split()) <= SHORT], len(found)


def _types(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> dict[str, str]:
    """The type hints of a function's arguments or a class's fields, by name."""
    if isinstance(node, ast.ClassDef):
        hinted: Iterable[tuple[str, ast.expr | None]] = (
            (each.target.id, each.annotation)
            for each in node.body
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
        )
    else:
        given = node.args
        stars = [each for each in (given.vararg, given.kwarg) if each is not None]
        hinted = ((each.arg, each.annotation) for each in [*given.posonlyargs, *given.args, *given.kwonlyargs, *stars])
    return {name: ast.unparse(hint) for name, hint in hinted if hint is not None}


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _repeats(entry: Entry) -> bool:
    """Whether all words of a description stand in the name or the type already."""
    if "`" in entry.description:  # a value, or a place to look at
        return False
    known = _words(entry.named) - _OPEN_TYPES | _FILLERS
    known |= {word for name, meant in _MEANT.items() if name in known for word in meant}
    return all({word, word.rstrip("s"), f"{word}s"} & known for word in _words(entry.description))


def findings(texts: dict[str, str]) -> Iterator[str]:
    """What is wrong with the docstrings of some modules.

    Args:
        texts (`dict[str, str]`): each module's source by its path in the package, such as `pair/loading.py`.

    Yields:
        `str`: place, line and reason.
    """
    short: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for path, text in texts.items():
        lines = text.splitlines()
        folder = path.rpartition("/")[0].partition("/")[0]
        for number in empty_lines(text):
            line = lines[number].strip()
            if (path, line.partition(" ")[0].rstrip(":")) not in STANDING:
                yield f"{path}:{number + 1}: {line} (it says nothing: leave it out, or say what it means)"
        numbers, count = short_lines(text)
        counts[folder] = counts.get(folder, 0) + count
        short.setdefault(folder, []).extend(f"{path}:{number + 1}: {lines[number].strip()}" for number in numbers)
    for folder, found in short.items():
        share, allowed = len(found) / max(counts[folder], 1), SHARES.get(folder, SHARE)
        if share > allowed:
            yield from (f"{line} (it says little)" for line in found)
            yield (
                f"{folder or 'the package'}: {len(found)} of {counts[folder]} descriptions have {SHORT} words or "
                f"fewer, {share:.0%}; {allowed:.0%} are allowed. Say what a caller needs in some of the lines above."
            )


def main() -> int:
    """Print what is found."""
    files = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(PACKAGE.rglob("*.py"))}
    found = list(findings({path: file.read_text(encoding="utf-8") for path, file in files.items()}))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
