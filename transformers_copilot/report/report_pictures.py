"""The report's pictures: each drawn light and dark, with a title, an explanation and words for a screen reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from ..mistake_log.token_text import TokenTexts
from . import pictures, pictures_of_pair
from .mistake_analysis import MistakeAnalysis
from .mistake_examples import LogExamples
from .pair_inspection import LayerView, PairInspection
from .picture_style import DARK, LIGHT, Theme, data_uri


@dataclass
class ReportPicture:
    """A picture of the report.

    Attributes:
        key (`str`): its name in the page's addresses.
        title (`str`): the question that the picture answers.
        alt (`str`): what it shows, for those who cannot see it.
        caption (`str`): how to read it.
        light, dark (`str`): the picture as data addresses.
        wide (`bool`): whether it scrolls sideways on a narrow screen.
    """

    key: str
    title: str
    alt: str
    caption: str
    light: str
    dark: str
    wide: bool = False


def _picture(
    key: str, title: str, alt: str, caption: str, draw: Callable[[Theme], bytes], wide: bool = False
) -> ReportPicture:
    return ReportPicture(key, title, alt, caption, data_uri(draw(LIGHT)), data_uri(draw(DARK)), wide)


def pictures_of_log(analysis: MistakeAnalysis, examples: LogExamples, tokens: TokenTexts) -> list[ReportPicture]:
    """Pictures that need the log only.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
        examples ([`LogExamples`]): replies of the log.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
    """
    made = []
    cell = (
        "A row is a reply, a cell one of its true tokens; the stronger the colour, the larger the Pilot's mistake. A "
        "frame marks a token that the Pilot got wrong; what it would have written stands in brackets. The Pilot was "
        "given the true tokens before each cell."
    )
    for key, when, sequences in (
        ("first-replies", f"in the first round ({analysis.totals['first_round'] + 1})", examples.first),
        ("last-replies", f"in the last rounds (up to {analysis.totals['last_round'] + 1})", examples.last),
    ):
        if sequences:
            made.append(
                _picture(
                    key,
                    f"Where replies go wrong {when}",
                    _heat_words(sequences),
                    cell,
                    partial(pictures.mistake_heat_map, sequences, tokens),
                    wide=True,
                )
            )
    made.append(
        _picture(
            "rounds",
            "How mistakes shrink in training",
            _rounds_words(analysis.by_round),
            "A line a kind of token. 0: the Pilot was sure and right; 2: sure and wrong.",
            lambda theme: pictures.sizes_over_rounds(analysis.by_round, theme),
        )
    )
    made.append(
        _picture(
            "places",
            "Which tokens of a reply are wrong",
            _places_words(analysis.by_position),
            "The share of replies whose token at this place was wrong; places that few replies reach are left out.",
            lambda theme: pictures.places_in_reply(analysis.by_position, theme),
        )
    )
    if len(analysis.after_first_wrong):
        made.append(
            _picture(
                "after",
                "What follows the first wrong token",
                _after_words(analysis.after_first_wrong),
                "Replies are laid over one another at their first wrong token (0). Above: how many of the tokens after "
                "it are wrong too. Below: the mistakes of a reply added up so far. The true tokens were given, so this "
                "is how the error grows even if each wrong token is put right at once.",
                lambda theme: pictures.after_first_wrong(analysis.after_first_wrong, theme),
            )
        )
    return made


def pictures_of_inspection(
    inspection: PairInspection, view: LayerView | None, tokens: TokenTexts, chosen: float
) -> list[ReportPicture]:
    """Pictures that need the pair.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        view ([`LayerView`], *optional*): one token, layer by layer.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        chosen (`float`): the pair's own λ.
    """
    table = pictures_of_pair.corrected_by_class(inspection, tokens)
    made = [
        _picture(
            "weight",
            "How much of the correction is best",
            _weight_words(inspection.by_weight),
            "λ = 0 is the Pilot alone. Above: tokens whose true one is the likeliest. Below: the mean mistake.",
            lambda theme: pictures_of_pair.effect_of_weight(inspection.by_weight, chosen, theme),
        ),
        _picture(
            "corrected",
            "What the Copilot corrects",
            _corrected_words(table),
            f"At λ = {inspection.weight:g}: of the vocabulary entries that had or got a probability above 0.1 %, how "
            "many moved towards the truth and how many away from it, by the kind of the true token.",
            lambda theme: pictures_of_pair.share_of_corrected(table, theme),
        ),
        _picture(
            "reliability",
            "Can the probabilities be trusted?",
            _reliability_words(pictures_of_pair.reliability_table(inspection)),
            "On the dotted line a model is right as often as it says. Below it, it is too sure of itself.",
            lambda theme: pictures_of_pair.reliability(inspection, theme),
        ),
    ]
    if view is not None:
        normed = "" if view.normed else " The Pilot's final norm was not found, so it was left out."
        made.append(
            _picture(
                "layers",
                "One rectified token, layer by layer",
                _layer_words(view, tokens),
                "What each layer's output would say if it were the last one (the logit lens), then what the Pilot "
                f"said, and what the pair made of it. The true token has a frame.{normed}",
                lambda theme: pictures_of_pair.layers_of_token(view, tokens, theme),
            )
        )
    return made


def _heat_words(sequences: list) -> str:
    parts = []
    for place, sequence in enumerate(sequences, start=1):
        reply = sequence.reply
        wrong = [int(at) + 1 for at in (reply["true_token_id"] != reply["predicted_token_id"]).to_numpy().nonzero()[0]]
        where = ", ".join(map(str, wrong[:8])) + (" and more" if len(wrong) > 8 else "")
        parts.append(f"reply {place}: {len(reply)} tokens, wrong at {where}" if wrong else f"reply {place}: all right")
    return f"Heat map of {len(sequences)} replies. {'; '.join(parts)}."


def _rounds_words(by_round: pd.DataFrame) -> str:
    parts = []
    for kind, line in by_round.groupby("token_class"):
        line = line.sort_values("first_round")
        parts.append(f"{kind} from {line['mean_size'].iloc[0]:.2f} to {line['mean_size'].iloc[-1]:.2f}")
    return (
        f"Lines of the mean size of the mistake over training, from the first to the last rounds: {', '.join(parts)}."
    )


def _places_words(by_position: pd.DataFrame) -> str:
    parts = [f"{row.place + 1}: {100 * row.wrong_share:.0f} %" for row in by_position.head(12).itertuples()]
    return f"Bars of the share of wrong tokens by place in the reply. {', '.join(parts)}."


def _after_words(table: pd.DataFrame) -> str:
    after = table[table["distance"].isin((1, 5, 10, 20))]
    parts = [f"{row.distance} after: {100 * row.wrong_share:.0f} %" for row in after.itertuples()]
    return f"Share of wrong tokens by distance to a reply's first wrong one. {', '.join(parts)}."


def _weight_words(table: pd.DataFrame) -> str:
    parts = [
        f"{row.weight:g}: {100 * row.token_accuracy:.1f} % right, mean mistake {row.mistake_size:.3f}"
        for row in table.itertuples()
    ]
    return f"Two lines over λ. {'; '.join(parts)}."


def _corrected_words(table: pd.DataFrame) -> str:
    parts = [
        f"{row.token_class}: {100 * row.corrected_share:.0f} % towards, {100 * row.harmed_share:.0f} % away"
        for row in table.itertuples()
    ]
    return f"Bars of the logits moved towards and away from the truth. {'; '.join(parts)}."


def _reliability_words(table: pd.DataFrame) -> str:
    parts = [
        f"{row.model} {100 * row.confidence:.0f} % sure, right {100 * row.right_share:.0f} % of {row.tokens} tokens"
        for row in table.itertuples()
    ]
    return f"How often tokens were right by how likely they were. {'; '.join(parts)}."


def _layer_words(view: LayerView, tokens: TokenTexts) -> str:
    parts = [f"{label}: {tokens.name(row[0][0])} {100 * row[0][1]:.0f} %" for label, row in view.rows[-6:]]
    return (
        f"The likeliest token of the last layers and of the pair; true is {tokens.name(view.true)}. {'; '.join(parts)}."
    )


__all__ = ["ReportPicture", "pictures_of_inspection", "pictures_of_log"]
