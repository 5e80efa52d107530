"""The report's verdict: what it rests on, and that no two of its figures mislead."""

import itertools

import numpy as np
import pandas as pd
import pytest

from transformers_copilot.metrics.likelihoods import loss_gain
from transformers_copilot.report.pair_inspection import PairInspection
from transformers_copilot.report.report_tables import pair_sentences
from transformers_copilot.report.verdict import (
    Evidence,
    evidence_of_evaluation,
    evidence_of_fit,
    evidence_of_inspection,
    judge,
)


def evaluation(low: float, high: float, total: int = 40, answers: tuple[float, float] = (-0.1, 0.1)) -> dict:
    """Results as `transformers-copilot evaluate` writes them."""
    model = {"correct": 20, "total": total, "share": 0.5, "low": 0.3, "high": 0.7}
    return {
        "task": "sums",
        "copilot_weight": 0.8,
        "loss": {"before": 1.25, "after": 1.25 - (low + high) / 2, "low": low, "high": high, "total": total},
        "gain": {"difference": sum(answers) / 2, "low": answers[0], "high": answers[1]},
        "models": {"Pilot alone": model, "Pilot + Copilot": model},
    }


@pytest.mark.parametrize(
    ("low", "high", "total", "answers", "kind", "headline"),
    [
        (0.1, 0.2, 40, (-0.1, 0.1), "keep", "Keep the Copilot: it makes the right text likelier"),
        (0.1, 0.2, 40, (0.1, 0.2), "keep", "Keep the Copilot"),
        (-0.1, 0.1, 40, (0.1, 0.2), "keep", "more answers are right"),
        (-0.1, 0.1, 40, (-0.1, 0.1), "open", "No gain that 40 texts could show"),
        (-0.2, -0.1, 40, (-0.1, 0.1), "leave", "Leave the Copilot out"),
        (-0.1, 0.1, 40, (-0.2, -0.1), "leave", "fewer answers are right"),
        (0.1, 0.2, 40, (-0.2, -0.1), "open", "disagree"),
        (-0.2, -0.1, 40, (0.1, 0.2), "open", "disagree"),
        (0.1, 0.2, 9, (0.1, 0.2), "open", "Too few texts to tell: 9"),
    ],
)
def test_the_verdict_goes_by_both_intervals(low, high, total, answers, kind, headline):
    results = evaluation(low, high, total, answers)
    verdict = judge(evidence_of_evaluation(results), results, 0.8)
    assert verdict.kind == kind and headline in verdict.headline
    said = " ".join(verdict.sentences)
    assert f"Measured on {total} test questions of “sums”" in said and "1.2500 for the Pilot alone" in said
    assert f"{1.25 - (low + high) / 2:.4f} with its Copilot" in said and "20 of" in said
    assert (f"{low:+.4f} to {high:+.4f}" in said) == (total >= 10)


@pytest.mark.parametrize(("low", "high", "kind"), [(-0.2, -0.1, "open"), (-0.1, 0.1, "keep"), (0.1, 0.2, "keep")])
def test_a_rival_that_is_better_is_not_passed_over(low, high, kind):
    loss = {"before": 1.0, "after": 1.1, "low": low, "high": high, "total": 40}
    results = {**evaluation(0.1, 0.2), "baseline": {"name": "LoRA <b>", "loss": loss}}
    verdict = judge(evidence_of_evaluation(results), results, 0.8)
    assert verdict.kind == kind and ("yet not than LoRA <b>" in verdict.headline) == (kind == "open")
    assert f"a loss of 1.0000. The pair is better by -0.1000, 95 % interval {low:+.4f}" in " ".join(verdict.sentences)


def test_texts_that_training_has_read_decide_nothing():
    read = Evidence("texts of the last rounds", 500, "yes", False, 0.8, 1.0, 0.1, 0.8, 1.0)
    verdict = judge([read], {}, 0.8)
    assert verdict.kind == "open" and verdict.headline == "Not tested yet: better on texts that training has read"
    assert "transformers-copilot evaluate" in verdict.sentences[-1]
    fit = {"criterion": "loss", "weight": 0.8, "set_size": 36, "scores": {"0": -1.2, "0.8": -1.1, "1": -1.3}}
    dev = evidence_of_fit({"copilot_weight": 0.8, "copilot_weight_fit": fit})
    assert (dev[0].before, dev[0].after, dev[0].total, dev[0].tested) == (1.2, 1.1, 36, False)
    assert judge([read, *dev], {}, 0.8).headline == "Not tested yet: better on the dev texts"
    results = evaluation(-0.2, -0.1)
    assert judge([read, *dev, *evidence_of_evaluation(results)], results, 0.8).kind == "leave"
    assert judge([], {}, None).headline == "Not tested yet"


def test_a_fit_that_is_not_of_this_weight_is_no_evidence():
    fit = {"criterion": "loss", "weight": 0.8, "set_size": 36, "scores": {"0": -1.2, "0.8": -1.1}}
    for changed in ({"weight": 0.3}, {"criterion": "metric"}, {"scores": {"0.8": -1.1}}):
        assert evidence_of_fit({"copilot_weight": 0.8, "copilot_weight_fit": {**fit, **changed}}) == []
    assert evidence_of_fit({"copilot_weight": 0.8}) == []


def test_a_copilot_that_is_switched_off_is_left_out_with_its_losses():
    fit = {"criterion": "loss", "weight": 0.0, "set_size": 36, "scores": {"0": -1.2, "0.1": -1.25, "1": -1.4}}
    dev = evidence_of_fit({"copilot_weight": 0.0, "copilot_weight_fit": fit})
    assert (dev[0].weight, dev[0].before, dev[0].after) == (0.1, 1.2, 1.25)
    at_0 = {**evaluation(0.0, 0.0), "copilot_weight": 0.0}
    assert evidence_of_evaluation(at_0) == []  # both are the Pilot's there
    tested = Evidence("texts", 40, "no", True, 0.8, 1.0, 0.9, 0.05, 0.15)
    assert "Right answers" not in " ".join(judge([tested], at_0, 0.8).sentences)
    verdict = judge(dev, at_0, 0.0)
    assert verdict.kind == "leave" and "It is 0" in verdict.sentences[0]
    assert "1.2000 for the Pilot alone and 1.2500" in " ".join(verdict.sentences)


def inspection(accuracy: tuple[float, float], loss: tuple[float, float]) -> PairInspection:
    """Twelve texts of two tokens, looked at with λ = 0.5."""
    rng = np.random.default_rng(0)
    tokens = pd.DataFrame({"item": np.repeat(np.arange(12), 2), "pilot_loss": rng.random(24)})
    tokens["pair_loss"] = tokens["pilot_loss"] - rng.random(24) / 10
    rows = [(0.0, accuracy[0], 0.9, loss[0]), (0.5, accuracy[1], 0.5, loss[1])]
    by_weight = pd.DataFrame(rows, columns=["weight", "token_accuracy", "mistake_size", "loss"])
    return PairInspection(0.5, by_weight, tokens)


def test_what_was_measured_for_the_page_is_drawn_text_by_text():
    seen = inspection((0.7, 0.8), (1.0, 0.9))
    found = evidence_of_inspection(seen, "test questions", 0)
    sums = seen.tokens.groupby("item").sum()
    true = loss_gain(sums["pilot_loss"].to_numpy(), sums["pair_loss"].to_numpy(), np.full(12, 2))
    assert (found.before, found.after) == pytest.approx((true.before, true.after))
    assert (found.low, found.high, found.total) == (true.low, true.high, 12) and found.tested and found.sign == 1
    for read, words in ((3, "3 of them"), (12, "yes")):
        found = evidence_of_inspection(seen, "texts", read)
        assert found.read == words and not found.tested


def test_a_gain_in_one_measure_never_hides_a_loss_in_the_other():
    """ "Removes 5.3 % of the mean mistake" stood beside right tokens that fell from 74 to 71 %."""
    for (right, loss), one in itertools.product(
        itertools.product(((0.74, 0.71), (0.71, 0.74), (0.7, 0.7)), ((1.0, 0.9), (0.9, 1.0))), (0.5, 0.0)
    ):
        said = " ".join(pair_sentences(inspection(right, loss), one))
        assert f"{100 * right[0]:.1f} %" in said and f"{100 * right[1]:.1f} %" in said
        assert f"{loss[0]:.4f}" in said and f"{loss[1]:.4f}" in said and "mean mistake" not in said
        assert ("disagree" in said) == ((right[1] - right[0]) * (loss[1] - loss[0]) > 0)
        assert ("own λ is 0" in said) == (one == 0.0)
