"""The report's first words: whether the Copilot is worth keeping, by which texts, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..metrics.intervals import side_of_zero
from ..metrics.likelihoods import FEW_TEXTS, FEWEST_TEXTS, loss_gain
from ..mistake_log.token_text import printable
from .pair_inspection import PairInspection


DEV = "dev texts"


@dataclass
class Evidence:
    """Both losses on some texts, in nats a token.

    Attributes:
        texts (`str`): what they are, without their number.
        total (`int`): how many.
        read (`str`): whether training has read them, in words.
        tested (`bool`): whether they can tell if the Copilot helps: neither was it taught nor λ chosen on them.
        weight (`float`): λ of the pair.
        before, after (`float`): the Pilot's loss, and the pair's.
        low, high (`float`, *optional*): 95 % interval of the gain; none where the texts are too few for one.
    """

    texts: str
    total: int
    read: str
    tested: bool
    weight: float
    before: float
    after: float
    low: float | None = None
    high: float | None = None

    @property
    def gain(self) -> float:
        """How much lower the pair's loss is."""
        return self.before - self.after

    @property
    def sign(self) -> int:
        """1 for a gain, -1 for a loss, 0 where the texts don't show which."""
        return side_of_zero(self.low, self.high)


@dataclass
class Verdict:
    """Whether the Copilot is worth keeping.

    Attributes:
        kind (`str`): `"keep"`, `"leave"`, or `"open"` where the texts don't tell.
        headline (`str`): the answer in a few words.
        sentences (list of `str`): what it rests on.
        evidence (list of [`Evidence`]): both losses on each kind of texts that there is.
    """

    kind: str
    headline: str
    sentences: list[str]
    evidence: list[Evidence] = field(default_factory=list)


def evidence_of_evaluation(results: dict[str, Any]) -> list[Evidence]:
    """What `transformers-copilot evaluate` found.

    Args:
        results (`dict`): what it wrote; nothing is found in results without `loss`, or at λ = 0.
    """
    loss, weight = results.get("loss"), float(results.get("copilot_weight", 1.0))
    if not loss or not weight:
        return []
    task = str(results.get("task", ""))
    texts = f"test questions of “{task}”" if task else "test questions"
    shown = loss["total"] >= FEWEST_TEXTS and loss["low"] < loss["high"]
    interval = (float(loss["low"]), float(loss["high"])) if shown else (None, None)
    return [Evidence(texts, int(loss["total"]), "no", True, weight, loss["before"], loss["after"], *interval)]


def evidence_of_inspection(inspection: PairInspection, texts: str, read: int | None) -> Evidence:
    """What was measured for this page.

    Args:
        inspection ([`PairInspection`]): what the Pilot and the pair did on some texts.
        texts (`str`): what these are.
        read (`int`, *optional*): how many of them training has read, if that is known.
    """
    sums = inspection.tokens.groupby("item").agg(
        before=("pilot_loss", "sum"), after=("pair_loss", "sum"), tokens=("pilot_loss", "size")
    )
    gain = loss_gain(*(sums[name].to_numpy() for name in ("before", "after", "tokens")))
    shown = gain.total >= FEWEST_TEXTS and gain.low < gain.high
    words = "not known" if read is None else "no" if not read else "yes" if read >= gain.total else f"{read} of them"
    interval = (gain.low, gain.high) if shown else (None, None)
    return Evidence(texts, gain.total, words, not read, inspection.weight, gain.before, gain.after, *interval)


def evidence_of_fit(config: dict[str, Any]) -> list[Evidence]:
    """What was measured where λ was chosen: at the λ that was chosen, or at the best other one where that is 0.

    Args:
        config (`dict`): the pair's configuration; nothing is found where λ was not chosen by the loss.
    """
    fit, weight = config.get("copilot_weight_fit") or {}, config.get("copilot_weight")
    losses = {float(name): -score for name, score in (fit.get("scores") or {}).items()}
    if fit.get("criterion") != "loss" or fit.get("weight") != weight or 0.0 not in losses or len(losses) < 2:
        return []
    others = [tried for tried in losses if tried]
    # The names of λ are rounded, so the chosen one is the nearest.
    used = min(others, key=lambda tried: abs(tried - weight) if weight else losses[tried])
    read = "no, but λ was chosen on them"
    return [Evidence(DEV, fit["set_size"], read, False, weight or used, losses[0.0], losses[used])]


def judge(evidence: list[Evidence], results: dict[str, Any], weight: float | None) -> Verdict:
    """Put what was measured into a verdict.

    Args:
        evidence (list of [`Evidence`]): both losses on each kind of texts that there is.
        results (`dict`): what `transformers-copilot evaluate` wrote; empty if it did not run.
        weight (`float`, *optional*): the pair's λ, if there is a pair.
    """
    if weight == 0:
        return _switched_off(evidence)
    if results.get("copilot_weight") == 0:  # asked without the Copilot, so it says nothing of it
        results = {}
    tested = [one for one in evidence if one.tested]
    if not tested:
        return _untested(evidence)
    best = max(tested, key=lambda one: one.total)
    gain = results.get("gain") or {}
    answers = side_of_zero(gain.get("low"), gain.get("high"))
    kind, headline = _decide(best, answers)
    rival = results.get("baseline") or {}
    against = side_of_zero(rival["loss"]["low"], rival["loss"]["high"]) if rival else 0
    if kind == "keep" and against < 0:
        kind, headline = "open", f"Better than the Pilot alone, yet not than {printable(rival['name'])}"
    unread = ", which training has not read" if best.read == "no" else ""
    sentences = [f"Measured on {best.total:,} {best.texts}{unread}.", *_in_words(best)]
    sentences += _answers_in_words(results, answers)
    if rival:
        loss = rival["loss"]
        sentences.append(
            f"The rival, {printable(rival['name'])}, has a loss of {loss['before']:.4f}. The pair is better by "
            f"{loss['before'] - loss['after']:+.4f}, 95 % interval {loss['low']:+.4f} to {loss['high']:+.4f} "
            f"({_meaning(against)})."
        )
    if FEWEST_TEXTS <= best.total < FEW_TEXTS:
        sentences.append(f"{best.total} texts are few: take the interval as a rough one.")
    elif kind == "open":
        sentences.append("More test questions would tell more.")
    return Verdict(kind, headline, sentences, evidence)


def _switched_off(evidence: list[Evidence]) -> Verdict:
    said = [
        "λ says how much of the Copilot's correction is used. It is 0, so the pair writes what its Pilot alone would. "
        "0 is chosen where no other λ makes the right text of the dev texts likelier."
    ]
    if evidence:
        best = max(evidence, key=lambda one: one.total)
        said += [f"Measured on {best.total:,} {best.texts}.", *_in_words(best)]
    return Verdict("leave", "Leave the Copilot out", said, evidence)


def _untested(evidence: list[Evidence]) -> Verdict:
    how = (
        "To find out, run `transformers-copilot evaluate` with questions that training has not read, then make this "
        "report again."
    )
    if not evidence:
        return Verdict("open", "Not tested yet", [f"No losses of this pair were measured. {how}"])
    dev = [one for one in evidence if one.texts == DEV]
    best = (dev or evidence)[0]
    why = (
        f"λ was chosen on the {best.total:,} {best.texts}, so what is gained there is a little too good to be true."
        if dev
        else f"The only texts at hand ({best.total:,} {best.texts}) are such as training has read: both parts know "
        "their answers."
    )
    direction = "better" if best.gain > 0 else "no better"
    where = "the dev texts" if dev else "texts that training has read"
    return Verdict("open", f"Not tested yet: {direction} on {where}", [why, _losses(best), how], evidence)


def _decide(best: Evidence, answers: int) -> tuple[str, str]:
    if best.total < FEWEST_TEXTS:
        return "open", f"Too few texts to tell: {best.total}"
    signs = best.sign, answers
    if signs in ((1, -1), (-1, 1)):
        return "open", "Undecided: the likelihood and the right answers disagree"
    if best.sign > 0:
        return "keep", "Keep the Copilot: it makes the right text likelier"
    if answers > 0:
        return "keep", "Keep the Copilot: more answers are right"
    if best.sign < 0:
        return "leave", "Leave the Copilot out: it makes the right text less likely"
    if answers < 0:
        return "leave", "Leave the Copilot out: fewer answers are right"
    return "open", f"No gain that {best.total:,} texts could show"


def _losses(one: Evidence) -> str:
    return (
        f"The loss is {one.before:.4f} for the Pilot alone and {one.after:.4f} with its Copilot (λ = {one.weight:g}: "
        "so much of its correction is used). The loss says how much the right text surprises a model: the lower, the "
        "better."
    )


def _in_words(one: Evidence) -> list[str]:
    said = [_losses(one)]
    if one.low is not None and one.high is not None:
        ends, meaning = f"{one.low:+.4f} to {one.high:+.4f}", _meaning(one.sign)
        said.append(f"The gain is {one.gain:+.4f} a token, 95 % interval {ends} ({meaning}).")
    return said


def _meaning(sign: int) -> str:
    return "0 is not in it: hardly chance" if sign else "0 is in it: it may be chance"


def _answers_in_words(results: dict[str, Any], sign: int) -> list[str]:
    models, gain = list((results.get("models") or {}).values()), results.get("gain") or {}
    if len(models) < 2 or "low" not in gain:
        return []
    before, after = models[0], models[1]
    said = f"Right answers: {before['correct']:,} of {before['total']:,} alone, {after['correct']:,} with the Copilot"
    if gain["low"] == gain["high"]:
        return [f"{said}."]
    ends = f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
    return [f"{said} ({100 * gain['difference']:+.1f} points, 95 % interval {ends}; {_meaning(sign)})."]


__all__ = ["Evidence", "Verdict", "evidence_of_evaluation", "evidence_of_fit", "evidence_of_inspection", "judge"]
