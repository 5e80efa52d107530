"""What docstrings state is so: every argument is named, none that is not there, and defaults are those of the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import transformers_copilot
from tests.helpers.ci_programs import ci_program
from transformers_copilot.pair.compat import CACHE_NAMES


docstrings = ci_program("docstrings")


class Taken(NamedTuple):
    """An argument, or a field that a class is made with."""

    default: Any  # `inspect.Parameter.empty` where there is none
    annotation: str


class Documented(NamedTuple):
    """A public class or function: where it is, what it takes, and what its docstring says."""

    name: str
    parameters: dict[str, Taken]
    text: str
    module: ModuleType
    others: set[str]  # that may be described besides


NO_DEFAULT = inspect.Parameter.empty
OWNER = ("self", "cls")
# Arguments whose name says all there is to say wherever a docstring leaves them out.
SAY_ENOUGH = {
    *("answer", "batch", "copilot", "copilot_config", "figure", "file", "folder", "key", "lines", "log"),
    *("mistake_round", "model", "names", "num_training_steps", "options", "pair", "pair_class", "pilot"),
    *("pilot_config", "prompts", "question", "record", "round_", "row", "rows", "task", "text", "theme", "token_id"),
    *("token_ids", "tokenizer", "value", "weight"),
}


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(transformers_copilot.__path__, "transformers_copilot.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def documented() -> Iterator[Documented]:
    """All that is public and written in the package: classes, functions, methods."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            where = f"{module.__name__.removeprefix('transformers_copilot.')}.{name}"
            if inspect.isfunction(value):
                yield Documented(where, taken(value), inspect.getdoc(value) or "", module, set())
            elif inspect.isclass(value):
                others = {*getattr(value, "__dataclass_fields__", {}), *attributes(value)}
                others |= {*inspect.signature(value.__init__).parameters, *vars(value).get("__annotations__", {})}
                if others.intersection(CACHE_NAMES):  # a Pilot's cache has one name or the other, by the release
                    others |= {*CACHE_NAMES}
                yield Documented(where, taken_by_class(value), own_doc(value), module, others)
                for method_name, method in vars(value).items():
                    method = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                    if inspect.isfunction(method) and not method_name.startswith("_"):
                        text = inspect.cleandoc(method.__doc__ or "")
                        yield Documented(f"{where}.{method_name}", taken(method), text, module, set())


def own_doc(value: type) -> str:
    return inspect.cleandoc(value.__dict__.get("__doc__") or "")


def taken(function: Any) -> dict[str, Taken]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: Taken(each.default, str(each.annotation)) for each in parameters if each.name not in OWNER}


def taken_by_class(value: type) -> dict[str, Taken]:
    """What a class is made with, as far as the class itself says it; what it overrides is described where it began."""
    if getattr(value, "_is_protocol", False):
        return {}
    annotations = {name: str(annotation) for name, annotation in vars(value).get("__annotations__", {}).items()}
    if issubclass(value, tuple) and hasattr(value, "_fields"):
        defaults = value._field_defaults
        return {name: Taken(defaults.get(name, NO_DEFAULT), annotations[name]) for name in value._fields}
    if "__dataclass_fields__" not in vars(value):
        return taken(vars(value)["__init__"]) if "__init__" in vars(value) else {}
    inherited = {name for base in value.__mro__[1:] for name in getattr(base, "__dataclass_fields__", {})}
    found = {}
    for field in dataclasses.fields(value):
        # An option of the command line says what it is in its metadata.
        if field.name in annotations and field.name not in inherited and field.init and not field.metadata:
            default = NO_DEFAULT if field.default is dataclasses.MISSING else field.default
            found[field.name] = Taken(default, annotations[field.name])
    return found


def attributes(value: type) -> set[str]:
    """Names that a class's own `__init__` sets."""
    plain = "__init__" in vars(value) and not dataclasses.is_dataclass(value)
    source = inspect.getsource(vars(value)["__init__"]) if plain else ""
    return set(re.findall(r"^ +self\.(\w+) = ", source, re.MULTILINE))


def described(text: str) -> dict[str, str]:
    """The entries of `Args:` (or `Attributes:`): name to what is said of it."""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    if section is None:
        return {}
    entries: dict[str, str] = {}
    for entry in re.split(r"^    (?=\S)", section[1], flags=re.MULTILINE)[1:]:
        head = re.match(r"(\*{0,2}\w+(?:,\s+\*{0,2}\w+)*)(?=\s+\(|:)", entry)
        assert head is not None, entry
        entries |= {name.lstrip("*"): entry for name in re.split(r",\s+", head[1])}
    return entries


def stated_default(entry: str, module: ModuleType) -> Any:
    """The value after "defaults to", where it is one; `NO_DEFAULT` where it is said in words, or not at all."""
    stated = re.search(r"[Dd]efaults to (`[^`]+`|[-+\de.,_]*\d)", entry)
    if stated is None:
        return NO_DEFAULT
    text = stated[1]
    try:
        return ast.literal_eval(text.strip("`") if "`" in text else text.rstrip(".,").replace(",", ""))
    except (ValueError, SyntaxError):
        value: Any = vars(module)
        for part in text.strip("`").split("."):
            value = value.get(part, NO_DEFAULT) if isinstance(value, dict) else getattr(value, part, NO_DEFAULT)
        return value


ALL = list(documented())


def test_lines_that_say_nothing_are_found() -> None:
    text = '''
def take(pair: Pair, tokens, weight: float, source: TextRows, part: str, model: Any, folder: str, *rest: int) -> None:
    """Take it.

    Args:
        pair ([`Pair`]): the pair.
        tokens (`PreTrainedTokenizerBase`): the tokenizer.
        weight (`float`): λ, from 0 to 20.
        source: the text rows.
        part (`str`): `"str"`.
        model: any model.
        folder (`str`): the folder
            that it is written into.
        *rest: this is
            a number.

    Returns:
        pair: the pair.
    """


@dataclass
class Box:
    """A box.

    Attributes:
        lines: the text of the lines."""

    lines: list[str]
'''
    assert [text.splitlines()[number].strip() for number in docstrings.empty_lines(text)] == [
        "pair ([`Pair`]): the pair.",
        "tokens (`PreTrainedTokenizerBase`): the tokenizer.",
        "source: the text rows.",
        "*rest: this is",
        'lines: the text of the lines."""',
    ]


def test_a_folder_has_few_lines_that_say_little() -> None:
    def module(short: int, long: int) -> str:
        entries = [f"        a{place}: how far" for place in range(short)]
        entries += [f"        b{place}: how far it is, in metres" for place in range(long)]
        return "\n".join(["def go():", '    """Go.', "", "    Args:", *entries, '    """'])

    little = f"{docstrings.SHARE:.0%} are allowed"
    assert list(docstrings.findings({"hub/push.py": module(1, 20), "tasks/base.py": module(0, 9)})) == []
    *lines, reason = docstrings.findings({"hub/push.py": module(2, 0), "hub/deep/card.py": module(0, 8)})
    assert lines == ["hub/push.py:5: a0: how far (it says little)", "hub/push.py:6: a1: how far (it says little)"]
    assert reason.startswith("hub: 2 of 10 descriptions") and little in reason
    assert any(little in line for line in docstrings.findings({"registration.py": module(1, 1)}))


def test_there_is_much_to_check() -> None:
    assert len(ALL) > 300 and sum(bool(described(each.text)) for each in ALL) > 200


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.name)
def test_a_docstring_names_every_argument_and_its_default(each: Documented) -> None:
    assert each.text, "no docstring"
    entries = described(each.text)
    omitted = {name for name in each.parameters if name not in entries}
    assert omitted <= SAY_ENOUGH, "arguments that the docstring omits"
    assert all(each.parameters[name].default is NO_DEFAULT for name in omitted), "what is optional is described"
    assert set(entries) <= {*each.parameters, *each.others}, "arguments that are not there"
    for name, (default, annotation) in each.parameters.items():
        if name in omitted:
            continue
        head, _, words = entries[name].partition("):")
        stated = stated_default(head, each.module)
        if default is not None and stated is NO_DEFAULT:
            stated = stated_default(words or head, each.module)
        assert stated is NO_DEFAULT or stated == default, f"{name} defaults to {default!r}"
        if default is NO_DEFAULT:
            assert "*optional*" not in head or "None" in annotation or annotation == "Any", f"{name} is not optional"
        elif default and isinstance(default, int | float | str):
            assert "defaults to" in entries[name].lower(), f"{name} defaults to {default!r}, which is not said"
