"""The choices that a pair and its Copilot have: each one's values, its default, the paper's value, and what it does.

The two configurations, `PilotCopilotConfig.paper()`, the command line, the table of docs/options.md and the tests read
them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


__all__ = ["COPILOT_OPTIONS", "PAIR_OPTIONS", "Option"]
