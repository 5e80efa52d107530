"""The choices that a pair and its Copilot have, and the checks of what users give.

Each choice has its values, its default, the paper's value, and a sentence on what it does.

The two configurations, `PilotCopilotConfig.paper()`, the command line, the table of docs/options.md and the tests read
them here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True)
class Option:
    """One choice.

    Args:
        name (`str`): the configuration's field, and the command line's option.
        default: its value where nothing is said; `None` where that depends on the Copilot's form.
        paper: what arXiv 2505.16270 does.
        about (`str`): what it does, in a sentence or two.
        values (`tuple` of `str`, *optional*): every value, where they are names.
    """

    name: str
    default: Any
    paper: Any
    about: str
    values: tuple[str, ...] | None = None


def _by_name(*options: Option) -> dict[str, Option]:
    return {option.name: option for option in options}


# Fields of a pair's configuration.
PAIR_OPTIONS: dict[str, Option] = _by_name(
    Option(
        "error_feedback",
        "token",
        "predicted",
        "what a decoder is told of earlier tokens: the token alone, the mistake against the token that was taken, or "
        "(in generation) its own earlier corrections; the token alone is cheapest, and lost nothing where we compared",
        ("observed", "predicted", "token"),
    ),
    Option(
        "fusion",
        "logits",
        "probability",
        "softmax(z + λf) is always a distribution; p̂ + λf has to be clamped",
        ("logits", "probability"),
    ),
    Option(
        "objective",
        "cross_entropy",
        "rmse",
        "the Copilot's loss; it has to fit the fusion",
        ("cross_entropy", "kl", "mse", "rmse"),
    ),
    Option(
        "mistakes_from",
        "labels",
        "labels",
        '`"all"` learns from the prompt\'s tokens as well: more lessons a pass, but of another kind of text',
        ("labels", "all"),
    ),
    Option(
        "mistake_top_k",
        64,
        None,
        "a mistake that is *read* keeps the true token and so many of the Pilot's likeliest; the loss sees all of them",
    ),
    Option("copilot_weight", 1.0, 1.0, "λ: how much of the correction is used"),
)
# Fields of the Copilot's own configuration.
COPILOT_OPTIONS: dict[str, Option] = _by_name(
    Option("form", "linear", "decoder", "what the Copilot is, see below", ("decoder", "branch", "linear")),
    Option(
        "rationale",
        "preceding",
        "preceding",
        'what a decoder sees of the Pilot\'s layers: their mean, at earlier positions, or (`"current"`) at its own '
        "too; the last layer's states, its own as an input; or three states a position, from a third, two thirds and "
        "all of the depth",
        ("preceding", "current", "last", "depths"),
    ),
    Option(
        "head",
        None,
        "own",
        '`"pilot"` borrows the Pilot\'s vocabulary matrices: far fewer new weights, for small training sets and large '
        "vocabularies",
        ("own", "pilot"),
    ),
)


# Under logits fusion f is a gradient of the loss and λ a step along it, which is best well above 1.
MAX_COPILOT_WEIGHT = 20.0
# Options of a pair that are names, and every value of each.
OPTION_VALUES: dict[str, tuple[str, ...]] = {
    name: option.values for name, option in PAIR_OPTIONS.items() if option.values is not None
}
# The same of a Copilot's configuration and of the training arguments.
COPILOT_VALUES: dict[str, tuple[str, ...]] = {
    **{name: option.values for name, option in COPILOT_OPTIONS.items() if option.values is not None},
    "norm_type": ("rms_norm", "layer_norm"),
}
TRAINING_VALUES: dict[str, tuple[str, ...]] = {
    "mistake_log_dtype": ("bfloat16", "float32"),
    "mistake_log_draw": ("newest", "uniform"),
}
_NAMED = {**OPTION_VALUES, **COPILOT_VALUES, **TRAINING_VALUES}


def check_option(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse an option's unknown value.

    Args:
        name (`str`): the option's name, as users write it.
        value: what was given.
        allowed (sequence): every value that is accepted.

    Raises:
        ValueError: `value` is not one of `allowed`; the message names them.
    """
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` is {value!r}, which is not one of its values: {choices}.")


def chosen(name: str, value: str | None) -> str:
    """An option's value, to be branched on: `chosen("fusion", fusion) == "logits"`.

    Configurations are checked when they are made, but their fields can be set later, and functions are called with
    any text: whatever is not known must not pass for the branch that comes last.

    Args:
        name (`str`): an option of a pair, a Copilot or a training that is a name.
        value (`str`): what was given.

    Returns:
        `str`: the same value.

    Raises:
        ValueError: it is none of the option's values; the message names them.
    """
    check_option(name, value, _NAMED[name])
    return str(value)


def check_copilot_weight(value: Any) -> float:
    """Return λ as a float, or refuse it.

    Args:
        value: λ of Eq. 8 (`copilot_weight`), a number from 0 (the Pilot alone) to 20.

    Returns:
        `float`: the same number.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, above 20 or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"`copilot_weight` (λ) is {value!r} of type {type(value).__name__}; give a number from 0 to "
            f"{MAX_COPILOT_WEIGHT:g}, such as 1.0. 0 is the Pilot alone."
        )
    weight = float(value)
    if not math.isfinite(weight) or not 0.0 <= weight <= MAX_COPILOT_WEIGHT:
        raise ValueError(
            f"`copilot_weight` (λ) is {weight}; it must be from 0 (the Pilot alone) to {MAX_COPILOT_WEIGHT:g}. "
            "The paper searches 0.1, 0.3, 0.5, 0.8 and 1.0."
        )
    return weight


def check_positive(name: str, value: int) -> None:
    """Refuse a count that is below one.

    Args:
        name (`str`): the argument's name, as users write it.
        value (`int`): what was given.

    Raises:
        ValueError: `value` is below 1.
    """
    if value < 1:
        raise ValueError(f"`{name}` is {value}; it must be at least 1.")


def check_labels(labels: torch.Tensor, vocab_size: int) -> None:
    """Refuse labels that the vocabulary does not hold.

    Args:
        labels (`torch.LongTensor` of shape `(batch, length)`): token ids, -100 where nothing is supervised.
        vocab_size (`int`): the number of tokens that the Pilot knows.

    Raises:
        ValueError: a label is `vocab_size` or more, or is negative and not -100.
    """
    from torch.compiler import is_compiling  # here: a command's help reads options without torch

    if labels.numel() == 0:
        raise ValueError(
            f"the batch is empty (labels of shape {tuple(labels.shape)}); give at least one sequence of one token."
        )
    if is_compiling():  # to look at numbers would cut the compiled graph in two
        return
    wrong = (labels >= vocab_size) | ((labels < 0) & (labels != -100))
    if wrong.any():
        place = wrong.nonzero()[0]
        raise ValueError(
            f"label {int(labels[tuple(place)])} ({_place(place)}) is outside the vocabulary of "
            f"{vocab_size} tokens; use the Pilot's own tokenizer, and -100 for positions without a label."
        )


def check_token_ids(name: str, ids: torch.Tensor | None, size: int) -> None:
    """Refuse token ids that the Pilot has no embedding for.

    A single position on an accelerator is not looked at: it is one that `generate` wrote, and looking would wait for
    the device at every token.

    Args:
        name (`str`): the argument's name, as users write it.
        ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): token ids.
        size (`int`): the number of tokens that there are embeddings for.

    Raises:
        ValueError: an id is negative, or `size` or more.
    """
    from torch.compiler import is_compiling  # here: a command's help reads options without torch

    if ids is None or ids.is_floating_point() or not ids.numel() or ids.is_meta or is_compiling():
        return
    if ids.device.type != "cpu" and ids.shape[-1] == 1:
        return
    least, most = ids.aminmax()
    if least < 0 or most >= size:
        place = ((ids < 0) | (ids >= size)).nonzero()[0]
        raise ValueError(
            f"`{name}` has the token id {int(ids[tuple(place)])} ({_place(place)}), which is outside the vocabulary of "
            f"{size} tokens; use the Pilot's own tokenizer, or make room for new tokens with "
            "`pair.resize_token_embeddings(len(tokenizer))`."
        )


def _place(place: torch.Tensor) -> str:
    *rows, column = place.tolist()
    return f"row {rows[0]}, position {column}" if rows else f"position {column}"


__all__ = ["COPILOT_OPTIONS", "PAIR_OPTIONS", "Option"]
