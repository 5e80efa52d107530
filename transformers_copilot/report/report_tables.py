"""The report's tables and sentences: figures put into words, tokens and texts made safe to show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..mistake_log.token_text import TokenTexts, printable
from .mistake_analysis import MistakeAnalysis
from .mistake_counters import FEWEST, TENTHS
from .mistake_examples import LogExamples
from .pair_inspection import PairInspection
from .run_folder import MODEL_FIGURES


VERDICTS = {
    (False, True): "mended",
    (True, False): "spoilt",
    (False, False): "still wrong",
    (True, True): "still right",
}


@dataclass
class ChangedReply:
    """A test question that the pair answers otherwise than its Pilot.

    Attributes:
        question, expected (`str`): the question and the right answer.
        pilot, pair (`str`): the two replies, or the answers read out of them.
        verdict (`str`): `"mended"`, `"spoilt"` or `"still wrong"`.
    """

    question: str
    expected: str
    pilot: str
    pair: str
    verdict: str


def changed_replies(results: dict[str, Any]) -> dict[str, list[ChangedReply]]:
    """The replies that the Copilot changed, of a run's test results.

    Args:
        results (`dict`): what `transformers-copilot evaluate` wrote (`rows`), or a file with a list `changed`.

    Returns:
        `dict` of lists of [`ChangedReply`] by verdict, the mended and the spoilt ones first
    """
    made = []
    for row in results.get("rows", []):
        if row["pilot_reply"] != row["pair_reply"] and not (row["pilot_correct"] and row["pair_correct"]):
            verdict = VERDICTS[row["pilot_correct"], row["pair_correct"]]
            made.append((row["question"], row["expected"], row["pilot_reply"], row["pair_reply"], verdict))
    for row in results.get("changed", []):
        made.append((row["question"], row["expected"], row["before"], row["after"], row["verdict"]))
    found: dict[str, list[ChangedReply]] = {verdict: [] for verdict in VERDICTS.values()}
    for row in made:
        reply = ChangedReply(*(printable("none" if value is None else str(value)) for value in row))
        found.setdefault(reply.verdict, []).append(reply)
    return {verdict: replies for verdict, replies in found.items() if replies}


def models_table(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The accuracies of a run's test results.

    Args:
        results (`dict`): test results with `models`.

    Returns:
        list of `dict`: `name`, `correct`, `total`, `share`, `low`, `high`
    """
    rows = []
    rival = results.get("baseline") or {}
    for name, model in {**results.get("models", {}), **({rival["name"]: rival} if rival else {})}.items():
        if all(key in model for key in MODEL_FIGURES):
            rows.append({"name": printable(name), **{key: model[key] for key in MODEL_FIGURES}})
    return rows


def confusion_rows(analysis: MistakeAnalysis, examples: LogExamples, tokens: TokenTexts) -> list[dict[str, Any]]:
    """The most costly confusions, ready to be shown.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
        examples ([`LogExamples`]): mistakes of each confusion, with the tokens before them.
        tokens ([`TokenTexts`]): writes each token so that it can be read.

    Returns:
        list of `dict` with the names of both tokens, the figures and `examples`; `trend` is `None` where there are
        fewer than five cases, and in a log of fewer than ten rounds, where the tenths are `None` too
    """
    rows, parted = [], _has_tenths(analysis)
    for row in analysis.confusions.to_dict("records"):
        key = (int(row["true_token_id"]), int(row["predicted_token_id"]))
        rows.append(
            {
                **{name: row[name] for name in ("count", "tenths")},
                **{name: row[name] if parted else None for name in ("first_tenth", "last_tenth")},
                "true_token_id": key[0],
                "predicted_token_id": key[1],
                "mean_size": float(row["mean_size"]),
                "cost": float(row["cost"]),
                "trend": float(row["trend"]) if row["count"] >= FEWEST and parted else None,
                "true": tokens.name(key[0]),
                "predicted": tokens.name(key[1]),
                "kind": tokens.class_of(key[0]),
                "cost_share": float(row["cost"]) / analysis.totals["cost"],
                "tops": max(*row["tenths"], 1),
                "examples": [
                    {
                        "round": example.round + 1,
                        "before": running_text(example.before, tokens),
                        "true": tokens.name(example.true),
                        "predicted": tokens.name(example.predicted),
                        "true_probability": example.true_probability,
                        "predicted_probability": example.predicted_probability,
                    }
                    for example in reversed(examples.by_confusion.get(key, []))
                ],
            }
        )
    return rows


def running_text(token_ids: list[int], tokens: TokenTexts) -> str:
    """Tokens as running text, without what could change how the page is shown.

    Args:
        tokens ([`TokenTexts`]): turns ids into text, if it has a tokenizer.

    Returns:
        `str`: names with spaces between them where there is no tokenizer.
    """
    if tokens.tokenizer is None:
        return " ".join(tokens.names(token_ids))
    text = tokens.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return printable(text)


def changed_tokens(
    inspection: PairInspection, items: list[dict[str, list[int]]], tokens: TokenTexts, most: int = 10, context: int = 24
) -> dict[str, Any]:
    """Tokens whose likeliest token the Copilot changed for the better or the worse.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        items (list of `dict`): the texts that were inspected, in the same order.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        most (`int`, *optional*, defaults to 10): tokens of each kind that are listed.
        context (`int`, *optional*, defaults to 24): tokens before that are shown.

    Returns:
        `dict`: for `"mended"` and `"spoilt"` the `count` of all such tokens, and `rows`
    """
    frame = inspection.tokens
    frame = frame.assign(change=(frame["pair_probability"] - frame["pilot_probability"]).abs())
    before = frame["pilot_token_id"] == frame["true_token_id"]
    after = frame["pair_token_id"] == frame["true_token_id"]
    found = {}
    for verdict, chosen in (("mended", ~before & after), ("spoilt", before & ~after)):
        rows = []
        for row in frame[chosen].nlargest(most, "change").itertuples():
            # An encoder-decoder's text is its source; its positions are the decoder's.
            ids = items[int(row.item)]
            written = ids["input_ids"] if len(ids["input_ids"]) == len(ids["labels"]) else []
            rows.append(
                {
                    "before": running_text(written[max(0, row.position - context) : row.position], tokens),
                    "true": tokens.name(row.true_token_id),
                    "pilot": tokens.name(row.pilot_token_id),
                    "pair": tokens.name(row.pair_token_id),
                    "pilot_probability": float(row.pilot_probability),
                    "pair_probability": float(row.pair_probability),
                }
            )
        found[verdict] = {"count": int(chosen.sum()), "rows": rows}
    return found


def findings(analysis: MistakeAnalysis, tokens: TokenTexts) -> list[str]:
    """What stands out in a log, in sentences. Nothing is said of fewer than five cases.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
    """
    totals, said = analysis.totals, [*_top_confusion(analysis, tokens), *_recurrence(analysis.recurrence)]
    kind = analysis.by_class.sort_values("cost").iloc[-1]
    said.append(
        f"{_class_words(kind['token_class'])} make {_percent(kind['cost_share'], 0)} of all mistake and "
        f"{_percent(kind['tokens'] / totals['tokens'], 0)} of the tokens; {_percent(kind['wrong_share'], 1)} of them "
        "are wrong."
    )
    after = analysis.after_first_wrong
    next_one = after[(after["distance"] == 1) & (after["tokens"] >= FEWEST)]
    if len(next_one) and len(analysis.first_wrong):
        place = int(analysis.first_wrong.sort_values("replies").iloc[-1]["place"])
        share = float(next_one["wrong_share"].iloc[0])
        said.append(
            f"A reply's first wrong token is most often its token {place + 1}. Right after a first wrong token "
            f"{_percent(share, 0)} of the tokens are wrong, against {_percent(totals['wrong_share'], 0)} of all."
        )
    return said


def _top_confusion(analysis: MistakeAnalysis, tokens: TokenTexts) -> list[str]:
    enough = analysis.confusions[analysis.confusions["count"] >= FEWEST]
    if not len(enough):
        return []
    top = enough.iloc[0]
    true, predicted = (tokens.name(int(top[f"{which}_token_id"])) for which in ("true", "predicted"))
    first, last = int(top["first_tenth"]), int(top["last_tenth"])
    course = f"; {first} of them in the first tenth of training, {last} in the last{_direction(first, last)}"
    return [
        f"The confusion that costs most: where “{true}” is right, the Pilot holds “{predicted}” likeliest. "
        f"{top['count']:,} times, {_percent(top['cost'] / analysis.totals['cost'], 1)} of all mistake"
        f"{course if _has_tenths(analysis) else ''}."
    ]


def _has_tenths(analysis: MistakeAnalysis) -> bool:
    return bool(analysis.totals["last_round"] - analysis.totals["first_round"] + 1 >= TENTHS)


def _recurrence(back: dict[str, Any]) -> list[str]:
    if min(back["first_tenth_tokens"], back["last_tenth_tokens"]) < FEWEST:
        return []
    first, last = (back[f"{part}_tenth"] / back[f"{part}_tenth_tokens"] for part in ("first", "last"))
    shares = f"{_percent(first, 1)} of the tokens were wrong in the first tenth of training and {_percent(last, 1)}"
    said = [f"{shares} in the last."]
    if back["last_tenth"] >= FEWEST:
        said.append(
            f"{back['came_back']:,} of the last tenth's {back['last_tenth']:,} wrong tokens "
            f"({_percent(back['came_back_share'], 0)}) repeat a confusion of the first tenth; {back['cured']:,} of its "
            f"{back['kinds_first']:,} confusions are gone."
        )
    return [" ".join(said)]


def pair_sentences(inspection: PairInspection, chosen: float) -> list[str]:
    """What the Copilot does on the texts looked at: right tokens and loss together, and whether they agree.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        chosen (`float`): the pair's own λ.
    """
    table = inspection.by_weight.set_index("weight")
    used = table.loc[inspection.weight]
    said = [] if chosen else ["The pair's own λ is 0, which changes nothing; another is looked at here."]
    if 0.0 in table.index:
        alone = table.loc[0.0]
        said.append(
            f"At λ = {inspection.weight:g}, {_percent(used['token_accuracy'], 1)} of the tokens are right, against "
            f"{_percent(alone['token_accuracy'], 1)} of the Pilot alone; the loss is {used['loss']:.4f} against "
            f"{alone['loss']:.4f}."
        )
        more_right = used["token_accuracy"] - alone["token_accuracy"]
        if (used["loss"] - alone["loss"]) * more_right > 0:
            how = "more tokens are right, yet the true ones are less likely"
            if more_right < 0:
                how = "the true tokens are likelier, yet fewer of them come first"
            said.append(
                f"These two disagree: {how}, taken together. Go by the loss where replies are drawn at random, by the "
                "right tokens where the likeliest token is always taken."
            )
    best = float(table["loss"].idxmin())
    said.append(f"Here the loss is lowest at λ = {best:g}.")
    return said


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _direction(first: int, last: int) -> str:
    """Whether a count grew or shrank by more than chance would make it."""
    if abs(last - first) > 2 * math.sqrt(first + last):
        return ": training does not unlearn it, it grows" if last > first else ": it goes away"
    return ": it stays" if min(first, last) >= FEWEST else ""


def _class_words(kind: str) -> str:
    names = {"digit": "Digits", "word": "Words", "punctuation": "Signs and punctuation", "end": "Ends of replies"}
    return names.get(kind, "Tokens of no other kind")


def plain(value: Any) -> Any:
    """Figures as JSON takes them: numpy's numbers as Python's, what is no number as `None`.

    Args:
        value: a figure, or tables and lists of them.

    Returns:
        The same in Python's own types.
    """
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict("records"))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    item = value.item() if type(value).__module__ == "numpy" else value
    return None if isinstance(item, float) and not math.isfinite(item) else item


__all__ = [
    "ChangedReply",
    "changed_replies",
    "changed_tokens",
    "confusion_rows",
    "findings",
    "models_table",
    "pair_sentences",
    "plain",
    "running_text",
]
