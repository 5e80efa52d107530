"""The one place that knows in what releases of transformers differ. The range that is supported is in setup.py.

5.24 calls a model's key-value cache `cache`, as an argument, in outputs and in `generate`; until 5.23 it was
`past_key_values`. A pair takes both names in both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import transformers
from packaging.version import Version


if TYPE_CHECKING:
    from transformers import Cache

CACHE_NAMES = ("cache", "past_key_values")
# What `generate`, and the outputs of transformers' own models, call it in the release that is installed.
CACHE_NAME = "cache" if Version(transformers.__version__).release >= (5, 24) else "past_key_values"


def given_cache(past_key_values: Cache | None, cache: Cache | None) -> Cache | None:
    """The cache of a call, under whichever of its names it came.

    Args:
        past_key_values (`Cache`, *optional*): under the old name.
        cache (`Cache`, *optional*): under the new one.

    Returns:
        `Cache` or `None`

    Raises:
        ValueError: both are given.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("both `cache` and `past_key_values` are given; they are two names of one argument: give one.")
    return past_key_values if cache is None else cache


def cache_parameter(parameters: Collection[str]) -> str | None:
    """What a model calls its cache: of transformers' own models one name, remote code may be older.

    Args:
        parameters (collection of `str`): the names that the model's `forward` takes.

    Returns:
        `str`, or `None` where the model takes no cache.
    """
    # Before the release that calls it `cache`, that is something else where a model takes it (XLM).
    return next((name for name in CACHE_NAMES[CACHE_NAMES.index(CACHE_NAME) :] if name in parameters), None)


def cache_of(outputs: Mapping[str, Any]) -> Cache | None:
    """The cache in a model's output.

    Args:
        outputs (`ModelOutput`): of any model.

    Returns:
        `Cache` or `None`
    """
    return outputs.get(CACHE_NAME)


__all__ = ["CACHE_NAME", "CACHE_NAMES", "cache_of", "cache_parameter", "given_cache"]
