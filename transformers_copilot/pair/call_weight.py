"""λ of a call of `generate`: where it is given, which place counts, and how it reaches every pass that the call makes.

A call runs the model in more places than its own loop: the second pass of classifier-free guidance, a draft of the
model's own, token healing, a user's processor, a loop of a user's. Some of them call the model without arguments. So λ
also is in force for the pair while the call lasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .validation import check_copilot_weight


# By the id of the pair. A context variable and not an attribute: two threads may write with one pair, each with its λ.
_IN_FORCE: ContextVar[Mapping[int, float] | None] = ContextVar("transformers_copilot_weight", default=None)


@contextmanager
def weight_in_force(pair: Any, weight: float) -> Iterator[None]:
    """Let λ count for every pass of a pair inside the `with` block that is not given another one.

    Yields:
        Nothing.
    """
    token = _IN_FORCE.set({**(_IN_FORCE.get() or {}), id(pair): weight})
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def weight_of_pass(pair: Any, copilot_weight: float | None) -> float:
    """λ of one pass of a pair.

    Args:
        copilot_weight (`float`, *optional*): what the pass was given.

    Returns:
        `float`: that; else what is in force, inside `generate`; else the pair's own, `pair.config.copilot_weight`.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not from 0 to 20.
    """
    if copilot_weight is None:
        copilot_weight = (_IN_FORCE.get() or {}).get(id(pair))
    return check_copilot_weight(pair.config.copilot_weight if copilot_weight is None else copilot_weight)


def named_weight(generation_config: Any, copilot_weight: float | None) -> float | None:
    """λ as a call of `generate` names it.

    Args:
        generation_config (`GenerationConfig`, *optional*): the call's; `copilot_weight` may be among its entries.
        copilot_weight (`float`, *optional*): the call's keyword, which goes first.

    Returns:
        `float`, or `None` where the call names none.
    """
    return getattr(generation_config, "copilot_weight", None) if copilot_weight is None else copilot_weight


def weight_of_call(pair: Any, generation_config: Any, copilot_weight: float | None) -> float:
    """λ of a call of `generate`.

    Args:
        generation_config (`GenerationConfig`, *optional*): the call's.
        copilot_weight (`float`, *optional*): the call's keyword.

    Returns:
        `float`: the first that is set of the call's keyword, the call's generation configuration, that of the call of
        `generate` that this one is part of, the pair's generation configuration, and the pair's configuration.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not from 0 to 20.
    """
    named = named_weight(generation_config, copilot_weight)
    if named is None and id(pair) not in (_IN_FORCE.get() or {}):
        named = getattr(pair.generation_config, "copilot_weight", None)
    return weight_of_pass(pair, named)


def make_room_for_weight(generation_config: Any) -> None:
    """Let a generation configuration know of λ, so that it keeps one that is put into it.

    `GenerationConfig.update` leaves out entries that are not there, and loading leaves out those that transformers
    doesn't know of a configuration that says of itself that it was made of a model's, as the first one of any model is.

    Args:
        generation_config (`GenerationConfig`): changed in place.
    """
    generation_config._from_model_config = None
    generation_config.copilot_weight = getattr(generation_config, "copilot_weight", None)


__all__ = ["make_room_for_weight", "named_weight", "weight_in_force", "weight_of_call", "weight_of_pass"]
