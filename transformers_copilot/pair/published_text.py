"""Texts that go into files and onto the Hub: without folders of this machine and without secrets, and in a card without
markup."""

from __future__ import annotations

import html
import os
import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


_TOKEN = re.compile(r"\b(hf|api)_[A-Za-z0-9]{8,}")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)$", re.IGNORECASE)
_SHORTEST_SECRET = 8  # what is shorter would be found by chance
# A path from the root or from somebody's home, with one folder at least, inside a sentence. Addresses have a word, a
# colon or a slash before their slashes.
_PATH = re.compile(
    r"(?<![\w.:/\\~])(?:file:/*|~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s/\\\"'`<>|]+[/\\])+[^\s/\\\"'`<>|,;)]*", re.IGNORECASE
)
_HOME = re.compile(r"~[\w.-]*([/\\]|$)")
_DATA_FILE = re.compile(r"[^/\\]+\.(jsonl?|csv|tsv|txt|parquet|arrow|ya?ml)(\.(gz|xz|bz2|zst|zip))?", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")
_LONGEST_NAME = 200


def publishable(text: str | None) -> str | None:
    """A text that may leave this machine.

    Args:
        text (`str`, *optional*): what a user or a configuration gave.

    Returns:
        `str`: without tokens, secrets of the environment, and folders. Of a path to a data file its own name is left.
        `None` where nothing is to be said: there is no text, or it is the path of a folder.
    """
    if not text:
        return None
    if _is_path(text):
        return _file_name(text)
    return without_secrets(_PATH.sub(lambda found: _file_name(found.group()) or "[folder]", text))


def publishable_fit(fit: dict[str, Any] | None) -> dict[str, Any] | None:
    """Where λ was fitted, as it may stand in a checkpoint.

    Args:
        fit (`dict`, *optional*): a configuration's `copilot_weight_fit`; its `set_name` may be a path.
    """
    if not fit or not isinstance(fit.get("set_name"), str):
        return fit
    return {**fit, "set_name": publishable(fit["set_name"])}


def without_secrets(text: str) -> str:
    """A text without what looks like an access token, and without this process's own secrets: the values of variables
    of the environment such as `HF_TOKEN`."""
    named = (value for name, value in os.environ.items() if _SECRET_NAME.search(name))
    for secret in sorted((value for value in named if len(value) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "[removed]")
    return _TOKEN.sub("[removed]", text)


def as_plain_text(text: str) -> str:
    """A name as it may stand in a line or a table of Markdown, and be read there letter by letter.

    Args:
        text (`str`): any text: markup, HTML and line breaks in it come from a file's or a person's name.

    Returns:
        `str`: one line of bounded length, with markup and HTML escaped, and without links.
    """
    line = _CONTROLS.sub(" ", text).strip()
    if len(line) > _LONGEST_NAME:
        line = line[: _LONGEST_NAME - 1] + "…"
    line = html.escape(line, quote=False).replace("://", "&#58;//")
    return _MARKUP.sub(lambda mark: f"\\{mark.group()}", line)


def _is_path(text: str) -> bool:
    whole = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or bool(_HOME.match(text))
    named = "/" in text or "\\" in text  # a bare name says nothing of where it lies
    started = text.startswith(("./", "../", ".\\", "..\\", "file:"))
    return whole or started or (named and os.path.exists(text))


def _file_name(path: str) -> str | None:
    name = PureWindowsPath(path).name  # takes both kinds of slash
    return without_secrets(name) if _DATA_FILE.fullmatch(name) else None


__all__ = ["as_plain_text", "publishable", "publishable_fit", "without_secrets"]
