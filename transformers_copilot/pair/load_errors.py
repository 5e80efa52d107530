"""What to do about a download that failed: a note added to the error, which stays what it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, HTTPError


@contextmanager
def load_errors_explained(source: Any) -> Iterator[None]:
    """Add to an error of the Hub's what it answered and what to do; other errors pass as they are.

    Args:
        source: id or folder of what is loaded.
    """
    try:
        yield
    except Exception as error:
        note = _note(source, error)
        if note is not None:
            error.add_note(note)
        raise


def _note(source: Any, error: BaseException | None) -> str | None:
    """transformers says "couldn't connect" for many answers; what the Hub said is further down the chain."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if status not in (401, 403):
                return None
            return (
                f"The Hub answered {status}: this token, or none, may not read {source}. Log in with `hf auth login` "
                "or pass `token=`, and ask its owner for access if it is gated."
            )
        if isinstance(error, HTTPError):
            return (
                f"The connection broke off or could not be made ({type(error).__name__}). Nothing half is in the "
                "cache: load again."
            )
        error = error.__cause__ or error.__context__
    return None


__all__ = ["load_errors_explained"]
