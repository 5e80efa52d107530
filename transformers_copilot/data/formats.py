"""The layouts that rows come in, and what each is made into: a prompt and its target, a conversation, or a text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


class RowError(ValueError):
    """A row that can't be used; the message goes on from the row's place: "is no JSON"."""


@dataclass(frozen=True)
class PromptTarget:
    """What a model is given, and what it is to write.

    Attributes:
        prompt (`str`): not supervised.
        target (`str`): supervised, with the token that ends a text.
        answer (`str`): what a reply is compared with.
    """

    prompt: str
    target: str
    answer: str


@dataclass(frozen=True)
class PlainText:
    """A text that is supervised as a whole.

    Attributes:
        text (`str`): the text.
    """

    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns for a chat template.

    Attributes:
        messages (list of `dict`): as `apply_chat_template` takes them.
        supervised (list of `bool`): for each turn whether it is learnt; only the assistant's are.
        tools (list, *optional*): what the assistant may call.
        options (`dict`): more of the template's arguments (TRL's `chat_template_kwargs`).
    """

    messages: list[dict[str, Any]]
    supervised: list[bool]
    tools: list[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)


Text = PromptTarget | PlainText | Conversation


class NoAssistantTurn(RowError):
    """A conversation in which nothing is to be learnt."""


@dataclass(frozen=True)
class Columns:
    """Columns that the user named.

    Attributes:
        prompt, target, answer (`str`, *optional*): the columns' names; recognised where they are `None`.
        separator (`str`, *optional*): stands between a prompt and its target. Without one nothing does, but a space
            before a number, which can't bring its own.
    """

    prompt: str | None = None
    target: str | None = None
    answer: str | None = None
    separator: str | None = None


@dataclass(frozen=True)
class Format:
    """One layout of rows.

    Attributes:
        name (`str`): its name, for messages.
        supervised (`str`): what is learnt, for messages.
        columns (tuple of `str`): the columns that a row must have.
        make (callable): makes a row into a [`Text`].
    """

    name: str
    supervised: str
    columns: tuple[str, ...]
    make: Callable[[dict[str, Any]], Text]


def format_of(values: dict[str, Any], columns: Columns) -> Format:
    """The layout of a row.

    Args:
        values (`dict`): the row.
        columns ([`Columns`]): what the user named goes before what is recognised.

    Returns:
        [`Format`]

    Raises:
        RowError: it is none that is known.
    """
    filled = {name for name, value in values.items() if value is not None}
    known = _formats(columns)
    for layout in known:
        if filled.issuperset(layout.columns):
            return layout
    named = [name for name in (columns.prompt, columns.target) if name is not None and name not in filled]
    if named:
        raise RowError(
            f"has no column {', '.join(named)}, only {', '.join(sorted(filled))}. Name them with `prompt_column` and "
            "`target_column`"
        )
    if {"chosen", "rejected"} <= filled:
        raise RowError("has `chosen` and `rejected`: preferences, which a Copilot isn't taught from; give `messages`")
    layouts = "; ".join(" + ".join(layout.columns) for layout in known)
    raise RowError(
        f"has the columns {', '.join(sorted(filled)) or '(none)'}, which are no known layout ({layouts}). "
        "Name them with `prompt_column` and `target_column`"
    )


def _formats(columns: Columns) -> list[Format]:
    """Every layout, the surest first."""
    if columns.prompt is not None or columns.target is not None:
        names = columns.prompt or "prompt", columns.target or "target"
        return [_two_columns(*names, columns)]
    turns = "the assistant's turns"
    found = [
        Format("chat messages", turns, ("messages",), lambda row: _conversation(row, "messages")),
        Format("ShareGPT conversations", turns, ("conversations",), lambda row: _conversation(row, "conversations")),
    ]
    for names in (("prompt", "completion"), ("prompt", "target"), ("question", "answer")):
        found.append(_two_columns(*names, columns))
    for answer in ("output", "response"):
        names = "instruction", answer
        make = lambda row, answer=answer: _alpaca(row, answer)  # noqa: E731
        found.append(Format(f"instructions (Alpaca's: instruction, input, {answer})", f"the {answer}", names, make))
    found.append(Format("plain text", "all of it", ("text",), lambda row: PlainText(_text(row["text"], "text"))))
    return found


def _two_columns(prompt: str, target: str, columns: Columns) -> Format:
    names = (prompt, target)
    return Format(f"{prompt} and {target}", f"the {target}", names, lambda row: _prompt_target(row, *names, columns))


def _text(value: Any, name: str) -> str:
    """A cell as text; numbers are written as JSON writes them."""
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} is {value!r}; give some text")
    if "\0" in value:
        raise RowError(f"{name} holds a NUL character: {value[:60]!r}")
    return value


def _prompt_target(row: dict[str, Any], prompt: str, target: str, columns: Columns) -> Text:
    asked, written = row[prompt], row[target]
    if isinstance(asked, list) or isinstance(written, list):
        return _prompted_conversation(row, asked, written, (prompt, target))
    question, answer = _text(asked, prompt), _text(written, target)
    between = columns.separator
    if between is None:
        between = " " if not isinstance(written, str) and not question[-1].isspace() else ""
    compared = answer if columns.answer is None else _text(row.get(columns.answer), columns.answer)
    return PromptTarget(question, between + answer, compared)


def _prompted_conversation(row: dict[str, Any], asked: Any, written: Any, names: tuple[str, str]) -> Conversation:
    """TRL's prompt and completion as lists of turns: the completion's are learnt."""
    before = _turns([{"role": "user", "content": asked}] if isinstance(asked, str) else asked, names[0])
    after = _turns([{"role": "assistant", "content": written}] if isinstance(written, str) else written, names[1])
    learnt = [False] * len(before) + [turn["role"] == "assistant" for turn in after]
    return _checked(Conversation([*before, *after], learnt, *_extras(row)))


_ALPACA = (
    "Below is an instruction that describes a task{with_input}. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)


def _alpaca(row: dict[str, Any], answer: str) -> PromptTarget:
    """The prompt that Alpaca was trained with."""
    instruction, written = _text(row["instruction"], "instruction"), _text(row[answer], answer)
    given = row.get("input") or row.get("context") or ""
    context = _text(given, "input") if str(given).strip() else ""
    filled = {
        "with_input": ", paired with an input that provides further context" if context else "",
        "input": f"### Input:\n{context}\n\n" if context else "",
    }
    return PromptTarget(_ALPACA.format(instruction=instruction, **filled), written, written.strip())


# ShareGPT's names of who speaks, and what chat templates call them.
_SPEAKERS = {
    **{"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"},
    **{"bard": "assistant", "model": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"},
    **{"observation": "tool", "function_response": "tool", "function_call": "assistant"},
}


def _conversation(row: dict[str, Any], column: str) -> Conversation:
    messages = row[column]
    if isinstance(messages, str):  # a table's cell
        messages = _loaded(messages, column)
    turns = _turns(messages, column)
    if row.get("system") and turns[0]["role"] != "system":  # some ShareGPT files keep it beside the turns
        turns.insert(0, {"role": "system", "content": _text(row["system"], "system")})
    # OpenAI's fine-tuning form: an assistant's turn of weight 0 is only read.
    learnt = [turn["role"] == "assistant" and turn.pop("weight", 1) != 0 for turn in turns]
    return _checked(Conversation(turns, learnt, *_extras(row)))


def _checked(conversation: Conversation) -> Conversation:
    if not any(conversation.supervised):
        raise NoAssistantTurn("has no turn of the assistant to learn from")
    return conversation


def _extras(row: dict[str, Any]) -> tuple[list[Any] | None, dict[str, Any]]:
    """Tools and template arguments of a row; OpenAI's older form names tools `functions`."""
    tools = row.get("tools") or row.get("functions")
    tools = _loaded(tools, "tools") if isinstance(tools, str) else tools
    if tools is not None and not isinstance(tools, list):
        raise RowError(f"tools is {type(tools).__name__}; give a list of JSON schemas")
    return _without_none(tools) or None, dict(row.get("chat_template_kwargs") or {})


def _turns(messages: Any, column: str) -> list[dict[str, Any]]:
    """Turns as chat templates take them.

    Raises:
        RowError: one of them isn't a turn.
    """
    if not isinstance(messages, list) or not messages:
        raise RowError(f"{column} is {str(messages)[:60]!r}; give a list of turns with `role` and `content`")
    return [_turn(message, f"{column}, turn {number}") for number, message in enumerate(messages, start=1)]


def _turn(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RowError(f"{place} is {str(message)[:60]!r}; give `role` and `content`")
    turn = {name: _without_none(value) for name, value in message.items() if value is not None}
    if "from" in turn:
        said_by = str(turn.pop("from"))
        turn = {"role": _SPEAKERS.get(said_by.lower(), said_by), "content": turn.pop("value", None), **turn}
    if not isinstance(turn.get("role"), str):
        raise RowError(f"{place} has no role, only {', '.join(sorted(turn))}; give `role` and `content`")
    if isinstance(turn.get("content"), list):
        turn["content"] = "".join(_part(part, place) for part in turn["content"])
    if turn.get("content") is not None and not isinstance(turn["content"], str):
        turn["content"] = json.dumps(turn["content"], ensure_ascii=False)
    calls = turn.get("tool_calls") or ([{"function": turn["function_call"]}] if "function_call" in turn else [])
    turn.pop("function_call", None)
    turn.pop("tool_calls", None)
    if calls:
        turn["tool_calls"] = [_call(call, place) for call in calls]
    elif not (turn.get("content") or "").strip():
        raise RowError(f"{place} ({turn['role']}) says nothing: its content is {turn.get('content')!r}")
    turn["content"] = turn.get("content") or ""
    if "\0" in turn["content"]:
        raise RowError(f"{place} holds a NUL character")
    return turn


def _part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RowError(f"{place} holds a part of type {kind!r}; only text is read here")


def _call(call: Any, place: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, as templates expect them; OpenAI's form writes them as a string."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{place} calls no function by name: {str(call)[:60]!r}")
    given = function.get("arguments", {})
    arguments = _loaded(given, f"{place}, arguments of {function['name']}") if isinstance(given, str) else given
    extra = {name: call[name] for name in ("id",) if name in call}
    return {"type": "function", **extra, "function": {"name": function["name"], "arguments": arguments}}


def _loaded(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RowError(f"{name} is no JSON ({error}): {text[:60]!r}") from error


def _without_none(value: Any) -> Any:
    """A value without the empty fields that tables give every row."""
    if isinstance(value, Mapping):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


__all__ = ["Columns", "Conversation", "Format", "NoAssistantTurn", "PlainText", "PromptTarget", "RowError", "Text"]
__all__ += ["format_of"]
