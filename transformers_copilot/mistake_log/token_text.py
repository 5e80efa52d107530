"""Tokens as people can read them: their text with everything invisible made visible, and their kind."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import pre_tokenizers


TOKEN_CLASSES = ("digit", "word", "punctuation", "end", "other")
_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "\u00a0": "⍽", "\u007f": "␡"}
_DIRECTION = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")


class TokenTexts:
    """Names and kinds of tokens. Without a tokenizer, a token's name is its id.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the Pilot's. Without it names are ids.
        end_token_ids (iterable of `int`, *optional*): tokens that end a text, beside the tokenizer's own.
    """

    def __init__(self, tokenizer: Any | None = None, end_token_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.end_token_ids = {int(index) for index in end_token_ids}
        self._special: set[int] = set()
        self._texts: dict[int, str] = {}
        self._classes: dict[int, str] = {}
        self._reference: tuple[int, str] | None = None
        if tokenizer is not None:
            self._special = set(tokenizer.all_special_ids)
            if tokenizer.eos_token_id is not None:
                self.end_token_ids.add(int(tokenizer.eos_token_id))
            # A token's text depends on whether it stands first (SentencePiece drops a leading space there), so each
            # is decoded behind another one. It is looked for among the tokens: there may be none for a given letter.
            plain = (index for index in range(len(tokenizer)) if index not in self._special)
            texts = ((index, self._decode([index])) for index in plain)
            self._reference = next(((index, text) for index, text in texts if text.isalnum()), None)

    def text(self, token_id: int) -> str:
        """The characters that a token writes; bytes that are no character by themselves as `\\xe2`.

        Returns:
            `str`: `"#17"` without a tokenizer.
        """
        if token_id not in self._texts:
            self._texts[token_id] = self._find_text(token_id)
        return self._texts[token_id]

    def name(self, token_id: int) -> str:
        """A token's text with what cannot be seen made visible, on one line, safe to print."""
        text = self.text(token_id)
        return visible(text) if text else "(nothing)"

    def names(self, token_ids: Iterable[int]) -> list[str]:
        """Names of several tokens."""
        return [self.name(int(token_id)) for token_id in token_ids]

    def written(self, token_ids: Sequence[int]) -> str:
        """What tokens in the middle of a text write together, without what a page or a terminal would obey.

        Returns:
            `str`: characters that several tokens make up are whole, and a leading space stays.
        """
        if not token_ids:
            return ""
        if self._reference is None:
            return printable(self._decode(token_ids))
        before, start = self._reference
        text = self._decode([before, *token_ids])
        return printable(text[len(start) :] if text.startswith(start) else self._decode(token_ids))

    def class_of(self, token_id: int) -> str:
        """What kind of token it is.

        Returns:
            `str`: one of `TOKEN_CLASSES`; without a tokenizer `"end"` or `"other"`.
        """
        if token_id not in self._classes:
            self._classes[token_id] = self._find_class(token_id)
        return self._classes[token_id]

    def classes(self, token_ids: pd.Series) -> pd.Categorical:
        """The kinds of many tokens.

        Returns:
            `pandas.Categorical` of `TOKEN_CLASSES`
        """
        codes, unique = pd.factorize(token_ids)
        of_unique = np.array([TOKEN_CLASSES.index(self.class_of(int(token_id))) for token_id in unique], dtype="int8")
        chosen = of_unique[codes] if len(unique) else np.zeros(0, "int8")
        return pd.Categorical.from_codes(chosen, categories=list(TOKEN_CLASSES))

    def _find_class(self, token_id: int) -> str:
        if token_id in self.end_token_ids:
            return "end"
        text = "" if self.tokenizer is None or token_id in self._special else self.text(token_id).strip()
        if text.isdigit():
            return "digit"
        if not text or text.startswith("\\x"):
            return "other"
        return "word" if any(character.isalnum() for character in text) else "punctuation"

    def _find_text(self, token_id: int) -> str:
        if self.tokenizer is None or token_id >= len(self.tokenizer):
            return f"#{token_id}"
        if self._reference is None or token_id in self._special:
            text = self._decode([token_id])
        else:
            before, start = self._reference
            text = self._decode([before, token_id])
            text = text[len(start) :] if text.startswith(start) else self._decode([token_id])
        if text and "\ufffd" not in text:
            return text
        raw = self.tokenizer.convert_ids_to_tokens(token_id)
        return _bytes_of(raw) if raw is not None else f"#{token_id}"

    def _decode(self, token_ids: Sequence[int]) -> str:
        if self.tokenizer is None:
            return "".join(f"#{token_id}" for token_id in token_ids)
        return self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def visible(text: str) -> str:
    """Text in which every character can be seen and none changes how its neighbours are shown.

    Spaces at the ends become ␣, line ends ⏎, control characters their pictures (␀, ␛), and characters that only act on
    others (direction marks, joiners, private ones) their code points, as in `<U+202E>`.

    Args:
        text (`str`): any text, control characters and all.
    """
    inner = text.strip(" ")
    ends = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if not inner:
        return "␣" * len(text)
    return "␣" * ends[0] + "".join(_seen(character) for character in inner) + "␣" * ends[1]


def printable(text: str) -> str:
    """Running text without characters that a page or a terminal would obey: control characters, lone surrogates and
    the marks that turn the direction of what follows are shown as [`visible`] shows them. Line ends stay.

    Args:
        text (`str`): any text, control characters and all.
    """
    return "".join(c if c == "\n" or (c not in _DIRECTION and _harmless(c)) else _seen(c) for c in text)


def _harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def _seen(character: str) -> str:
    if character == " ":
        return " "
    if character in _SHOWN:
        return _SHOWN[character]
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    category = unicodedata.category(character)
    if category[0] == "C" or category in ("Zl", "Zp"):
        return f"<U+{ord(character):04X}>"
    if category == "Zs":
        return "␣"
    return "◌" + character if category[0] == "M" else character


def _byte_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: printable ones stand for themselves, and the
    others, in order, for the letters from U+0100 on."""
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    own = {chr(byte): byte for byte in range(256) if chr(byte) in letters}
    others = [byte for byte in range(256) if chr(byte) not in letters]
    return {**own, **{chr(0x100 + place): byte for place, byte in enumerate(others)}}


def _bytes_of(raw: str) -> str:
    letters = _byte_letters()
    if not raw or any(letter not in letters for letter in raw):
        return raw
    return bytes(letters[letter] for letter in raw).decode("utf-8", errors="backslashreplace")


__all__ = ["TOKEN_CLASSES", "TokenTexts", "printable", "visible"]
