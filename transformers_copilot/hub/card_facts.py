"""What a card says beside the configuration: measurements, settings, data. Local paths and tokens stay out."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from huggingface_hub import EvalResult

from ..pair.provenance import hub_id
from ..pair.published_text import as_plain_text, publishable


Interval = tuple[float, float]


@dataclass
class CardResult:
    """One comparison of a pair with its Pilot alone, for the card.

    Args:
        test_set (`str`): the test set's name, as the card is to show it.
        metric (`str`): the metric's name, as the Hub knows it, e.g. `"accuracy"`.
        count (`int`): how many examples were measured.
        pilot (`float`): what the Pilot alone reached, in the metric's unit.
        pair (`float`): what the pair reached.
        pilot_interval (`tuple` of two `float`, *optional*): the ends of a 95 % interval of what the Pilot reached.
        pair_interval (`tuple` of two `float`, *optional*): the same of what the pair reached.
        gain_interval (`tuple` of two `float`, *optional*): 95 % interval of pair − Pilot, paired by example.
        copilot_weight (`float`, *optional*): λ of the measurement.
        dataset (`str`, *optional*): the set's id on the Hub.
        dataset_config (`str`, *optional*): the configuration that was measured on, of a data set with several, e.g.
            `"main"`.
        dataset_split (`str`, *optional*): the part of it that was measured on, e.g. `"test"`.
    """

    test_set: str
    metric: str
    count: int
    pilot: float
    pair: float
    pilot_interval: Interval | None = None
    pair_interval: Interval | None = None
    gain_interval: Interval | None = None
    copilot_weight: float | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None


@dataclass
class CardFacts:
    """What the card says that the configuration does not. A Trainer sets `pair.card_facts`; so can you, before a push.

    Args:
        results (`list` of [`CardResult`]): comparisons with the Pilot alone.
        training (`dict`): settings by name, as they ran.
        datasets (`list[str]`): ids of the training sets on the Hub.
        language (`str` or `list[str]`, *optional*): codes of the languages that the pair writes, e.g. `"en"`. `None`
            leaves them out of the card.
        license (`str`, *optional*): the Hub's name of the licence, e.g. `"apache-2.0"`. `None` leaves it out of the
            card.
        tags (`list[str]`): tags on the Hub, beside those that every card of this package has.
        model_name (`str`, *optional*): the title. Defaults to the repository's name.
        limits (`str`, *optional*): what it should not be used for.
    """

    results: list[CardResult] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    language: str | list[str] | None = None
    license: str | None = None
    tags: list[str] = field(default_factory=list)
    model_name: str | None = None
    limits: str | None = None


def eval_results(result: CardResult, task: str) -> list[EvalResult]:
    """A comparison as the Hub reads it: the pair's value and, by a name that says so, the Pilot's.

    Args:
        result ([`CardResult`]): what the pair and its Pilot reached on one test set.
        task (`str`): the Hub's name of the task.

    Returns:
        `list` of `huggingface_hub.EvalResult`
    """
    name, metric = publishable(result.test_set) or "a test set", publishable(result.metric) or "a metric"
    entries = []
    for who, value, interval in (
        ("", result.pair, result.pair_interval),
        (" (Pilot alone)", result.pilot, result.pilot_interval),
    ):
        details: dict[str, Any] = {"examples": result.count}
        if not who and result.copilot_weight is not None:
            details["copilot_weight"] = result.copilot_weight
        if interval is not None:
            details["interval_95"] = list(interval)
        entries.append(
            EvalResult(
                task_type=task,
                dataset_type=hub_id(result.dataset) or re.sub(r"\W+", "-", name).strip("-"),
                dataset_name=name,
                dataset_config=publishable(result.dataset_config),
                dataset_split=publishable(result.dataset_split),
                metric_type=metric,
                metric_name=f"{metric}{who}",
                metric_value=value,
                metric_args=details,
            )
        )
    return entries


def result_row(result: CardResult) -> dict[str, Any]:
    """A comparison as a row of the card's table.

    Args:
        result ([`CardResult`]): what the pair and its Pilot reached on one test set.

    Returns:
        `dict`: the table's texts by column, names in them without markup.
    """

    def shown(value: float, interval: Interval | None, sign: str = "") -> str:
        """A value with its interval, if that is known."""
        text = f"{value:{sign}.4g}"
        return text if interval is None else f"{text} [{interval[0]:{sign}.4g}, {interval[1]:{sign}.4g}]"

    return {
        **asdict(result),
        "test_set": as_plain_text(publishable(result.test_set) or ""),
        "metric": as_plain_text(publishable(result.metric) or ""),
        "count": f"{result.count:,}",
        "pilot": shown(result.pilot, result.pilot_interval),
        "pair": shown(result.pair, result.pair_interval),
        "gain": shown(result.pair - result.pilot, result.gain_interval, "+"),
        "copilot_weight": "" if result.copilot_weight is None else f"{result.copilot_weight:g}",
    }


__all__ = ["CardFacts", "CardResult", "eval_results", "result_row"]
