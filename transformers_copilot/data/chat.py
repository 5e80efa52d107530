"""Conversations as token ids, by the tokenizer's chat template; only the assistant's turns are supervised.

A template with `{% generation %}` markers says itself which tokens the assistant writes. For any other, each turn of
the assistant is what the conversation up to its end has more than the conversation before it with the generation
prompt, which is what the model is given when it writes that turn. This holds only where the one is how the other
begins. Some templates write earlier turns in another way than the last one (Qwen3's leaves out their thoughts). Each
turn of the assistant is then an item of its own, with the turns before it as its prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .formats import Conversation, PromptTarget, RowError
from .items import end_token


PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}Assistant:{% generation %} {{ message.content }}"
    "{% for call in message.tool_calls or [] %} call {{ call.function | tojson }}{% endfor %}"
    "{{ eos_token }}{% endgeneration %}{{ '\n' }}"  # a line's end behind a block would be dropped
    "{% else %}{{ message.role | capitalize }}: {{ message.content + '\n' }}{% endif %}"
    "{% if loop.first and tools %}Tools: {{ tools | tojson }}{{ '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_STAND_IN = "\u241fstands for what is said\u241f"
_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Rendered:
    """One item's tokens.

    Attributes:
        input_ids (list of `int`): the tokens.
        supervised (list of `bool`): for each whether it is learnt.
        joined (`str`, *optional*): where a token goes over from a prompt into what is learnt, the text around it.
    """

    input_ids: list[int]
    supervised: list[bool]
    joined: str | None = None


def use_template(tokenizer: Any, template: str | None) -> None:
    """Give a tokenizer another chat template.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): changed in place, and saved with it.
        template (`str`, *optional*): `"plain"` for "User: …", "Assistant: …" line by line, which any tokenizer can
            write; a file that holds a template; or the template itself. `None` changes nothing.

    Raises:
        FileNotFoundError: it names a file that isn't there.
    """
    from pathlib import Path

    if template is None:
        return
    if template == "plain":
        tokenizer.chat_template = PLAIN_TEMPLATE
    elif "{" in template:
        tokenizer.chat_template = template
    elif Path(template).is_file():
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"there is no chat template {template}; give a file, or `plain`.")


def check_template(tokenizer: Any) -> None:
    """Refuse a tokenizer that can't write conversations.

    Raises:
        ValueError: it has no chat template, or no token with which that ends a turn.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the data are conversations, and the tokenizer of {_name(tokenizer)} has no chat template. Give one with "
            "`--chat_template plain` or `--chat_template FILE.jinja` (`chat_template=` in Python), take the model's "
            "instruction-tuned version, or give the data as `prompt` and `completion`."
        )
    if "eos_token" in str(tokenizer.chat_template):  # others end a turn by a token of their own
        end_token(tokenizer)


def render(tokenizer: Any, conversation: Conversation) -> list[Rendered]:
    """A conversation as tokens.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): with a chat template.
        conversation ([`Conversation`]): the turns.

    Returns:
        One [`Rendered`], or one for each of the assistant's turns where the template asks for it.

    Raises:
        RowError: the template refuses the turns, or leaves one of them out.
        ValueError: the template breaks what its own generation prompt begins.
    """
    whole = _written(tokenizer, conversation, len(conversation.messages), False)
    _check_complete(conversation, whole)
    marked = _by_markers(tokenizer, conversation)
    if marked is not None:
        return [marked]
    spans = []
    for place in _learnt(conversation):
        start, end = _around(tokenizer, conversation, place)
        if not (whole.startswith(end) and end.startswith(start)):
            return [_tokens(tokenizer, *_alone(tokenizer, conversation, turn)) for turn in _learnt(conversation)]
        spans.append((len(start), _without_space(tokenizer, end)))
    return [_tokens(tokenizer, whole, spans)]


def questions(tokenizer: Any, conversation: Conversation) -> Iterator[PromptTarget]:
    """Each turn that is learnt, as a prompt and its target; for encoder-decoders, and to ask for answers.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): with a chat template.
        conversation ([`Conversation`]): the turns.

    Yields:
        [`PromptTarget`]; neither has the tokens that the tokenizer itself puts at the beginning and at the end.
    """
    whole = _written(tokenizer, conversation, len(conversation.messages), False)
    _check_complete(conversation, whole)
    for place in _learnt(conversation):
        text, [(start, end)] = _alone(tokenizer, conversation, place)
        prompt, target = text[:start], text[start:end]
        if tokenizer.bos_token and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
            prompt = prompt.removeprefix(tokenizer.bos_token)
        if tokenizer.eos_token:
            target = target.rstrip("\n").removesuffix(tokenizer.eos_token)
        yield PromptTarget(prompt, target, conversation.messages[place]["content"].strip())


def _learnt(conversation: Conversation) -> list[int]:
    return [place for place, learnt in enumerate(conversation.supervised) if learnt]


def _around(tokenizer: Any, conversation: Conversation, place: int) -> tuple[str, str]:
    """The text before a turn, with the generation prompt, and the text up to the turn's end."""
    return _written(tokenizer, conversation, place, True), _written(tokenizer, conversation, place + 1, False)


def _alone(tokenizer: Any, conversation: Conversation, place: int) -> tuple[str, list[tuple[int, int]]]:
    """A turn with those before it, and where it stands."""
    start, end = _around(tokenizer, conversation, place)
    if not end.startswith(start):
        raise ValueError(
            f"the chat template of {_name(tokenizer)} doesn't go on from its own generation prompt: that ends with "
            f"{start[-40:]!r}, and the written turn goes on with {end[_common(start, end) :][:40]!r} instead. So what "
            "the assistant writes can't be told apart. Give a template with `{% generation %}` markers "
            "(`--chat_template FILE.jinja`), or the data as `prompt` and `completion` texts."
        )
    return end, [(len(start), _without_space(tokenizer, end))]


def _written(tokenizer: Any, conversation: Conversation, count: int, ask: bool) -> str:
    """The first turns as text."""
    if not count:  # the assistant speaks first: templates refuse to write nothing
        return _before_all(tokenizer, conversation)
    return str(_applied(tokenizer, conversation, count, tokenize=False, add_generation_prompt=ask))


def _before_all(tokenizer: Any, conversation: Conversation) -> str:
    """What the template writes in front of a first turn of the assistant."""
    stand_in = {**conversation.messages[0], "content": _STAND_IN}
    first = replace(conversation, messages=[stand_in])
    before, found, _ = _written(tokenizer, first, 1, False).partition(_STAND_IN)
    if not found:
        raise RowError("begins with a turn of the assistant, which the chat template doesn't write")
    return before


def _applied(tokenizer: Any, conversation: Conversation, count: int, **options: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            conversation.messages[:count], tools=conversation.tools, **options, **conversation.options
        )
    except (TemplateError, TypeError, KeyError, AttributeError) as error:
        roles = ", ".join(message["role"] for message in conversation.messages)
        raise RowError(f"the chat template of {_name(tokenizer)} refuses the turns ({roles}): {error}") from error


def _check_complete(conversation: Conversation, whole: str) -> None:
    """Refuse what a template leaves out without a word, as many do with a role that they don't know.

    Raises:
        RowError: a turn isn't in the text.
    """
    for number, message in enumerate(conversation.messages, start=1):
        role, content = message["role"], message["content"].strip()
        if role != "assistant" and not _is_json(content) and content not in whole:
            raise RowError(f"the chat template doesn't know the role {role!r}: turn {number} isn't in what it writes")
        for call in message.get("tool_calls", []):
            if call["function"]["name"] not in whole:
                raise RowError(f"the chat template writes no tool calls, and turn {number} has one")


def _is_json(text: str) -> bool:
    """Templates may write what a tool gave back in another way."""
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _by_markers(tokenizer: Any, conversation: Conversation) -> Rendered | None:
    """The tokens that the template itself marks; `None` where it has no markers, or marks other turns than these."""
    if not tokenizer.is_fast or not _MARKER.search(tokenizer.get_chat_template(tools=conversation.tools)):
        return None
    count = len(conversation.messages)
    made = _applied(tokenizer, conversation, count, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    mask = [bool(value) for value in made["assistant_masks"]]
    starts = [place for place, on in enumerate(mask) if on and not (place and mask[place - 1])]
    assistants = [place for place, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    if len(starts) != len(assistants):
        return None
    for start, place in zip(starts, assistants, strict=True):
        if not conversation.supervised[place]:
            for token in range(start, len(mask)):
                if not mask[token]:
                    break
                mask[token] = False
    return Rendered(list(made["input_ids"]), mask)


def _without_space(tokenizer: Any, text: str) -> int:
    """Where a turn ends: after the token that ends it, if it has one, and before the line's end that follows."""
    bare = text.rstrip()
    return len(bare) if bare.endswith(tuple(tokenizer.all_special_tokens)) else len(text)


def _tokens(tokenizer: Any, text: str, spans: list[tuple[int, int]]) -> Rendered:
    """A text's tokens; a token is learnt that no text up to the span's start has and the text up to its end has."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    supervised, joined = [False] * len(ids), None
    for start, end in spans:
        before = tokenizer(text[:start], add_special_tokens=False).input_ids
        first, last = _common(before, ids), _common(tokenizer(text[:end], add_special_tokens=False).input_ids, ids)
        if first < len(before) and joined is None:
            joined = text[max(0, start - 20) : start + 20]
        supervised[first:last] = [True] * (last - first)
    return Rendered(list(ids), supervised, joined)


def _common(first: Any, second: Any) -> int:
    """How long the common beginning is."""
    length = min(len(first), len(second))
    return next((place for place in range(length) if first[place] != second[place]), length)


def _name(tokenizer: Any) -> str:
    return str(tokenizer.name_or_path or type(tokenizer).__name__)


__all__ = ["PLAIN_TEMPLATE", "Rendered", "check_template", "questions", "render", "use_template"]
