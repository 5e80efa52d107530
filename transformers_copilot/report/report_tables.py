"""The report's tables and sentences: figures put into words, tokens and texts made safe to show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..mistake_log.token_text import TokenTexts, printable
from .mistake_analysis import MistakeAnalysis
from .mistake_examples import LogExamples
from .pair_inspection import PairInspection


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


def changed_replies(results: dict[str, Any]) -> list[ChangedReply]:
    """The replies that the Copilot changed, of a run's test results.

    Args:
        results (`dict`): what `transformers-copilot evaluate` wrote (`rows`), or a file with a list `changed`.

    Returns:
        list of [`ChangedReply`], the mended and the spoilt ones first
    """
    made = []
    for row in results.get("rows", []):
        if row["pilot_reply"] != row["pair_reply"] and not (row["pilot_correct"] and row["pair_correct"]):
            verdict = VERDICTS[row["pilot_correct"], row["pair_correct"]]
            made.append((row["question"], row["expected"], row["pilot_reply"], row["pair_reply"], verdict))
    for row in results.get("changed", []):
        made.append((row["question"], row["expected"], row["before"], row["after"], row["verdict"]))
    order = list(VERDICTS.values())
    made.sort(key=lambda values: order.index(values[-1]) if values[-1] in order else len(order))
    return [ChangedReply(*(printable("none" if value is None else str(value)) for value in row)) for row in made]


def models_table(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The accuracies of a run's test results.

    Args:
        results (`dict`): test results with `models`.

    Returns:
        list of `dict`: `name`, `correct`, `total`, `share`, `low`, `high`
    """
    names = ("correct", "total", "share", "low", "high")
    rows = []
    for name, model in results.get("models", {}).items():
        if all(key in model for key in names):
            rows.append({"name": printable(name), **{key: model[key] for key in names}})
    return rows


def confusion_rows(analysis: MistakeAnalysis, examples: LogExamples, tokens: TokenTexts) -> list[dict[str, Any]]:
    """The most costly confusions, ready to be shown.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
        examples ([`LogExamples`]): mistakes of each confusion, with the tokens before them.
        tokens ([`TokenTexts`]): writes each token so that it can be read.

    Returns:
        list of `dict` with the names of both tokens, the figures and `examples`
    """
    rows = []
    for row in analysis.confusions.to_dict("records"):
        key = (int(row["true_token_id"]), int(row["predicted_token_id"]))
        rows.append(
            {
                **{name: row[name] for name in ("count", "first_tenth", "last_tenth", "tenths")},
                "true_token_id": key[0],
                "predicted_token_id": key[1],
                "mean_size": float(row["mean_size"]),
                "cost": float(row["cost"]),
                "trend": float(row["trend"]),
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
        `dict`: counts `mended` and `spoilt` of all tokens, and `rows`
    """
    frame = inspection.tokens
    frame = frame.assign(change=(frame["pair_probability"] - frame["pilot_probability"]).abs())
    before = frame["pilot_token_id"] == frame["true_token_id"]
    after = frame["pair_token_id"] == frame["true_token_id"]
    rows = []
    for verdict, chosen in (("mended", ~before & after), ("spoilt", before & ~after)):
        for row in frame[chosen].nlargest(most, "change").itertuples():
            # An encoder-decoder's text is its source; its positions are the decoder's.
            ids = items[int(row.item)]
            written = ids["input_ids"] if len(ids["input_ids"]) == len(ids["labels"]) else []
            rows.append(
                {
                    "verdict": verdict,
                    "before": running_text(written[max(0, row.position - context) : row.position], tokens),
                    "true": tokens.name(row.true_token_id),
                    "pilot": tokens.name(row.pilot_token_id),
                    "pair": tokens.name(row.pair_token_id),
                    "pilot_probability": float(row.pilot_probability),
                    "pair_probability": float(row.pair_probability),
                }
            )
    return {"mended": int((~before & after).sum()), "spoilt": int((before & ~after).sum()), "rows": rows}


def findings(analysis: MistakeAnalysis, inspection: PairInspection | None, tokens: TokenTexts) -> list[str]:
    """What stands out, in sentences.

    Args:
        analysis ([`MistakeAnalysis`]): the log in figures.
        inspection ([`PairInspection`], *optional*): what the Copilot changes.
        tokens ([`TokenTexts`]): writes each token so that it can be read.
    """
    totals, back = analysis.totals, analysis.recurrence
    said = []
    if len(analysis.confusions):
        top = analysis.confusions.iloc[0]
        true, predicted = (tokens.name(int(top[f"{which}_token_id"])) for which in ("true", "predicted"))
        said.append(
            f"The confusion that costs most: where “{true}” is right, the Pilot holds “{predicted}” likeliest. "
            f"{top['count']:,} times, {_percent(top['cost'] / totals['cost'], 1)} of all mistake; "
            f"{top['first_tenth']} of them in the first tenth of training, {top['last_tenth']} in the last: "
            f"{_direction(top['first_tenth'], top['last_tenth'])}."
        )
    if back["first_tenth_tokens"] and back["last_tenth_tokens"]:
        first, last = (back[f"{part}_tenth"] / back[f"{part}_tenth_tokens"] for part in ("first", "last"))
        said.append(
            f"{_percent(first, 1)} of the tokens were wrong in the first tenth of training and {_percent(last, 1)} in "
            "the last. "
            f"{back['came_back']:,} of the last tenth's {back['last_tenth']:,} wrong tokens "
            f"({_percent(back['came_back_share'], 0)}) repeat a confusion of the first tenth; {back['cured']:,} of its "
            f"{back['kinds_first']:,} confusions are gone."
        )
    kind = analysis.by_class.sort_values("cost").iloc[-1]
    said.append(
        f"{_class_words(kind['token_class'])} make {_percent(kind['cost_share'], 0)} of all mistake and "
        f"{_percent(kind['tokens'] / totals['tokens'], 0)} of the tokens; {_percent(kind['wrong_share'], 1)} of them "
        "are wrong."
    )
    after = analysis.after_first_wrong
    next_one = after[after["distance"] == 1]
    if len(next_one) and len(analysis.first_wrong):
        place = int(analysis.first_wrong.sort_values("replies").iloc[-1]["place"])
        share = float(next_one["wrong_share"].iloc[0])
        said.append(
            f"A reply's first wrong token is most often its token {place + 1}. Right after a first wrong token "
            f"{_percent(share, 0)} of the tokens are wrong, against {_percent(totals['wrong_share'], 0)} of all."
        )
    if inspection is not None:
        said.append(_pair_sentence(inspection))
    return said


def _pair_sentence(inspection: PairInspection) -> str:
    table = inspection.by_weight.set_index("weight")
    alone = table.loc[0.0] if 0.0 in table.index else None
    used = table.loc[inspection.weight]
    best = float(table["mistake_size"].idxmin())
    if alone is None or not alone["mistake_size"]:
        return f"On the texts looked at, the mean mistake is smallest at λ = {best:g}."
    removed = 1.0 - used["mistake_size"] / alone["mistake_size"]
    changed = "removes" if removed >= 0 else "adds"
    return (
        f"On the texts looked at, the Copilot {changed} {_percent(abs(removed), 1)} of the mean mistake at λ = "
        f"{inspection.weight:g}; it would be smallest at λ = {best:g}."
    )


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


def _direction(first: int, last: int) -> str:
    if last > 1.5 * first and last - first > 2:
        return "training does not unlearn it, it grows"
    return "it goes away" if 2 * last < first else "it stays"


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
    "plain",
    "running_text",
]
