"""The report's pictures: each drawn light and dark, with a title, an explanation and words for a screen reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from ..mistake_log.token_text import TokenTexts
from . import pictures, pictures_of_pair
from .mistake_analysis import MistakeAnalysis
from .mistake_counters import FEWEST
from .pair_inspection import PairInspection
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
    """

    key: str
    title: str
    alt: str
    caption: str
    light: str
    dark: str


def _picture(key: str, title: str, alt: str, caption: str, draw: Callable[[Theme], bytes]) -> ReportPicture:
    return ReportPicture(key, title, alt, caption, data_uri(draw(LIGHT)), data_uri(draw(DARK)))


def pictures_of_log(analysis: MistakeAnalysis) -> list[ReportPicture]:
    """Pictures that need the log only; one of which there are too few cases is left out.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
    """
    rounds, places, after = (_enough(t) for t in (analysis.by_round, analysis.by_position, analysis.after_first_wrong))
    made = []
    if rounds["first_round"].nunique() > 2:  # a line of two points is no course
        made.append(
            _picture(
                "rounds",
                "How mistakes shrink in training",
                _rounds_words(rounds),
                "A line for each kind of token. 0: the Pilot was sure and right; 2: sure and wrong. A line that falls "
                "is learning; one that lies flat has learnt what these texts teach.",
                lambda theme: pictures.sizes_over_rounds(analysis.by_round, theme),
            )
        )
    if len(places):
        made.append(
            _picture(
                "places",
                "Which tokens of a reply are wrong",
                _places_words(places),
                "Over the whole training: the share of replies whose first, second, … token was wrong. Places that few "
                "replies reach are left out.",
                lambda theme: pictures.places_in_reply(analysis.by_position, theme),
            )
        )
    if len(after):
        made.append(
            _picture(
                "after",
                "What follows the first wrong token",
                _after_words(after),
                "Replies are laid over one another at their first wrong token (0). Above: how many of the tokens after "
                "it are wrong too. Below: the mistakes of a reply added up so far. The true tokens were given, so this "
                "is how the error grows even if each wrong token is put right at once.",
                lambda theme: pictures.after_first_wrong(analysis.after_first_wrong, theme),
            )
        )
    return made


def _enough(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["tokens"] >= FEWEST]


def pictures_of_inspection(inspection: PairInspection, tokens: TokenTexts, chosen: float) -> list[ReportPicture]:
    """Pictures that need the pair.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        tokens ([`TokenTexts`]): tells the kinds of tokens.
        chosen (`float`): the pair's own λ.
    """
    table = pictures_of_pair.corrected_by_class(inspection, tokens)
    made = [
        _picture(
            "weight",
            "How much of the correction is best",
            _weight_words(inspection.by_weight),
            "λ says how much of the correction is used; at 0 the Pilot is alone. Above: of how many tokens the true "
            "one is the likeliest (high is good). Below: the loss (low is good), by which λ is chosen.",
            lambda theme: pictures_of_pair.effect_of_weight(inspection.by_weight, chosen, theme),
        )
    ]
    if len(table):
        made.append(
            _picture(
                "corrected",
                "What the Copilot corrects",
                _corrected_words(table),
                f"At λ = {inspection.weight:g}, by the kind of the true token: of the vocabulary's entries that had or "
                "got a probability above 0.1 %, how many moved towards the truth and how many away from it.",
                lambda theme: pictures_of_pair.share_of_corrected(table, theme),
            )
        )
    sure = _enough(pictures_of_pair.reliability_table(inspection))
    if len(sure):
        made.append(
            _picture(
                "reliability",
                "Can the probabilities be trusted?",
                _reliability_words(sure),
                "On the dotted line a model is right as often as it says. Below it, it is too sure of itself. Points "
                f"of fewer than {FEWEST} tokens are left out.",
                lambda theme: pictures_of_pair.reliability(inspection, theme),
            )
        )
    return made


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
        f"{row.weight:g}: {100 * row.token_accuracy:.1f} % right, loss {row.loss:.3f}" for row in table.itertuples()
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


__all__ = ["ReportPicture", "pictures_of_inspection", "pictures_of_log"]
