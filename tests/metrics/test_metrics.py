"""Metrics against hand-worked examples and scikit-learn, without a network; intervals by hand-worked values."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, ndcg_score, top_k_accuracy_score
from transformers import DataCollatorForSeq2Seq

from tests.conftest import make_tokenizer
from transformers_copilot import metrics
from transformers_copilot.data.items import encode_items
from transformers_copilot.metrics import (
    CalibrationError,
    ChoiceAccuracy,
    ExactAnswer,
    HitAtK,
    MistakeRemoved,
    MistakeSize,
    NdcgAtK,
    Recommendations,
    accuracy_of,
    expected_calibration_error,
    paired_gain,
    same_answer,
    wilson_interval,
)
from transformers_copilot.metrics.likelihoods import item_losses, loss_gain


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("10", "10", True),
        ("10.0", "10", True),
        ("1,000", "1000", True),
        ("1.83333", "1.8333333333", True),
        ("1.835", "1.8333333333", False),
        ("0.0504", "0.05", False),
        ("0", "0.0005", False),
        ("-15", "15", False),
        ("answer2", "answer2", True),
        ("answer2", "answer1", False),
        (None, "3", False),
        ("nan", "3", False),
    ],
)
def test_same_answer(found: str | None, expected: str, same: bool) -> None:
    assert same_answer(found, expected) is same


def test_exact_answers_are_compared_as_numbers_and_missing_ones_are_counted() -> None:
    metric = ExactAnswer()
    found = ["7.0", None, "1,000", "3"]
    assert isinstance(metric, evaluate.Metric) and metric.keep_in_memory
    score = metric.compute(predictions=found, references=["7", "2", "1000", "4"])
    assert score == {"exact_answer": 0.5, "correct": 2, "total": 4, "unanswered": 1}
    assert metric.score_each(found, ["7", "2", "1000", "4"]) == [1.0, 0.0, 1.0, 0.0]


def test_choices_are_scored_as_scikit_learn_scores_them() -> None:
    draws = np.random.default_rng(0)
    right, found = (draws.choice(["answer1", "answer2", "answer3"], 200).tolist() for _ in range(2))
    score = ChoiceAccuracy().compute(predictions=found, references=right)
    assert score["choice_accuracy"] == pytest.approx(accuracy_score(right, found))
    assert ChoiceAccuracy().compute(predictions=["TRUE", None], references=["true", "false"]) == {
        "choice_accuracy": 0.5,
        "correct": 1,
        "total": 2,
        "unanswered": 1,
    }


def test_answers_added_in_batches_or_alone_are_the_same() -> None:
    metric = ChoiceAccuracy()
    metric.add_batch(predictions=[None, "b"], references=["a", "b"])
    metric.add(prediction="c", reference="c")
    metric.add(prediction=None, reference="c")
    assert metric.compute() == {"choice_accuracy": 0.5, "correct": 2, "total": 4, "unanswered": 2}
    assert metric.compute(predictions=["a"], references=["a"])["total"] == 1, "what was computed is forgotten"
    with pytest.raises(ValueError, match="Mismatch"):
        metric.compute(predictions=["a", "b"], references=["a"])


def test_ranks_of_a_hand_worked_example() -> None:
    # The right items stand at places 1, 3 and 6, and nowhere: at 5, (1 + 1/log2(4) + 0 + 0) / 4 = 0.375.
    ranked = [list("abcdef"), list("bca"), list("bcdefa"), ["x", None]]
    score = Recommendations().compute(predictions=ranked, references=["a"] * 4)
    assert score["hit_at_5"] == 0.5 and score["hit_at_10"] == score["hit_at_20"] == score["hit_at_100"] == 0.75
    assert score["ndcg_at_5"] == pytest.approx((1 + 1 / 2) / 4)
    assert score["ndcg_at_10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / 4)
    assert set(score) == {f"{name}_at_{k}" for name in ("hit", "ndcg") for k in (5, 10, 20, 100)}
    metric = Recommendations()
    assert metric.score_name == "hit_at_10" and metric.score_each(ranked, ["a"] * 4) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("k", [5, 10, 20, 100])
def test_ranks_are_those_of_scikit_learn(k: int) -> None:
    draws = np.random.default_rng(k)
    scores, right = draws.permuted(np.tile(np.arange(120.0), (30, 1)), axis=1), draws.integers(0, 120, 30)
    ranked = [[str(item) for item in np.argsort(-row)] for row in scores]
    items = [str(item) for item in right]
    ndcg = NdcgAtK(cutoffs=(k,)).compute(predictions=ranked, references=items)[f"ndcg_at_{k}"]
    hit = HitAtK(cutoffs=(k,)).compute(predictions=ranked, references=items)[f"hit_at_{k}"]
    assert ndcg == pytest.approx(ndcg_score(np.eye(120)[right], scores, k=k))
    assert hit == pytest.approx(top_k_accuracy_score(right, scores, k=k, labels=np.arange(120)))


@pytest.mark.parametrize("cutoffs", [(), (0, 5)])
def test_cutoffs_that_are_none_are_refused(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cutoffs"):
        Recommendations(cutoffs=cutoffs)


def test_size_of_a_hand_worked_mistake() -> None:
    # p̂ = (1/2, 1/4, 1/4), truth the first: 1/4 + 1/16 + 1/16 = 0.375; truth the second: 1/4 + 9/16 + 1/16 = 0.875.
    logits = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0], [9.0, 9.0, 9.0]]).log()
    score = MistakeSize().compute(predictions=logits, references=[0, 1, -100])
    assert score == {"mistake_size": pytest.approx((0.375 + 0.875) / 2), "tokens": 2}
    # p̃ = (3/4, 1/8, 1/8) for the same tokens: 0.09375 and 0.75·0.75 + 49/64 + 1/64 = 1.34375.
    pair = torch.tensor([[6.0, 1.0, 1.0], [6.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).log()
    removed = MistakeRemoved().compute(predictions=pair, references=[0, 1, -100], pilot_predictions=logits)
    assert removed["mistake_removed"] == pytest.approx(1 - (0.09375 + 1.34375) / (0.375 + 0.875))
    assert removed["pilot_mistake_size"] == pytest.approx(0.625) and removed["tokens"] == 2


def test_mistakes_of_batches_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, pilot = (torch.randn(4, 6, 50, generator=generator) for _ in range(2))
    tokens = torch.randint(0, 50, (4, 6), generator=generator)
    whole = MistakeRemoved().compute(predictions=logits, references=tokens, pilot_predictions=pilot)
    metric = MistakeRemoved()
    for rows in (slice(0, 1), slice(1, 4)):
        metric.add_batch(predictions=logits[rows], references=tokens[rows], pilot_predictions=pilot[rows])
    assert metric.compute() == pytest.approx(whole)
    p = torch.nn.functional.one_hot(tokens, 50)
    expected = (p - logits.softmax(-1)).square().sum(-1).mean() / (p - pilot.softmax(-1)).square().sum(-1).mean()
    assert whole["mistake_removed"] == pytest.approx(1 - float(expected), abs=1e-6)
    single = MistakeSize()
    for row, token in zip(logits[0], tokens[0], strict=True):
        single.add(prediction=row, reference=int(token))
    assert single.compute()["mistake_size"] == pytest.approx(
        MistakeSize().compute(predictions=logits[0].numpy(), references=tokens[0].numpy())["mistake_size"]
    )


def test_logits_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`predictions` has the shape \(2, 3\), `references` \(3,\)"):
        MistakeSize().compute(predictions=torch.zeros(2, 3), references=[0, 1, 2])
    with pytest.raises(ValueError, match="`pilot_predictions` has the shape"):
        MistakeRemoved().compute(predictions=torch.zeros(1, 3), references=[0], pilot_predictions=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="token 7"):
        MistakeSize().compute(predictions=torch.zeros(1, 3), references=[7])


def test_batches_without_a_token_are_passed_over_but_nothing_cannot_be_scored() -> None:
    metric = MistakeSize()
    metric.add_batch(predictions=torch.zeros(1, 3), references=[-100])
    metric.add_batch(predictions=torch.zeros(1, 2), references=[1])
    assert metric.compute() == {"mistake_size": pytest.approx(0.5), "tokens": 1}
    with pytest.raises(ValueError, match="nothing to score"):
        MistakeSize().compute(predictions=torch.zeros(1, 3), references=[-100])
    for empty in (ExactAnswer(), Recommendations()):
        with pytest.raises(ValueError, match="nothing to score"):
            empty.compute(predictions=[], references=[])


def test_calibration_of_a_hand_worked_example() -> None:
    # Bins of a half: (0.4, 0.2; one of two right) is off by 0.2, (0.9, 0.7, 0.8; all right) by 0.2.
    score = CalibrationError(bins=2).compute(predictions=[0.4, 0.2, 0.9, 0.7, 0.8], references=[1, 0, 1, 1, 1])
    assert score["expected_calibration_error"] == pytest.approx((0.2 * 2 + 0.2 * 3) / 5)
    assert score["confidence"] == pytest.approx(0.6) and score["accuracy"] == pytest.approx(0.8)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0.0


def test_calibration_is_that_of_scikit_learns_curve() -> None:
    draws = np.random.default_rng(3)
    sure = draws.random(2000)
    right = (draws.random(2000) < sure**2).astype(int)
    accuracy, confidence = calibration_curve(right, sure, n_bins=15, strategy="uniform")
    counts = np.histogram(sure, bins=15, range=(0, 1))[0]
    expected = float((np.abs(accuracy - confidence) * counts).sum() / 2000)
    assert expected_calibration_error(sure.tolist(), right.tolist()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("sure", "right", "bins", "message"),
    [
        ([1.5], [1], 15, "probabilities"),
        ([], [], 15, "one mark"),
        ([0.5], [1, 0], 15, "one mark"),
        ([0.5], [1], 0, "bins"),
    ],
)
def test_what_has_no_calibration_is_refused(sure: list, right: list, bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(sure, right, bins)


METRICS: list[tuple[Callable[[], Any], Sequence[Any], Sequence[Any]]] = [
    (ExactAnswer, ["1"], ["1"]),
    (ChoiceAccuracy, ["a"], ["a"]),
    (Recommendations, [["a"]], ["a"]),
    (MistakeSize, [[0.0, 1.0]], [1]),
    (CalibrationError, [0.5], [1.0]),
]


@pytest.mark.parametrize(("make", "found", "right"), METRICS, ids=lambda value: getattr(value, "__name__", None))
def test_every_metric_names_its_score_and_writes_no_files(
    make: Callable[[], Any], found: Sequence[Any], right: Sequence[Any], tmp_path: Any
) -> None:
    metric = make(cache_dir=str(tmp_path))
    assert metric.score_name in metric.compute(predictions=found, references=right)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert "references" in metric.inputs_description and metric.description


def test_public_names_exist() -> None:
    assert all(re.fullmatch(r"\w+", name) and getattr(metrics, name) is not None for name in metrics.__all__)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # z = 1.96, z² = 3.8415: (0.8 + 0.19207 ± 1.96·√(0.016 + 0.0096036)) / 1.38415
        (8, 10, 0.4902, 0.9433),
        # 0 of 20: lower end 0, upper end z² / (20 + z²) = 3.8415 / 23.8415
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        # at one half the interval is ± z/2/√(n + z²) = 0.98/√103.8415
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_interval_refuses_what_has_none(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(correct, total)


def test_paired_gain_of_a_known_case() -> None:
    # 100 questions, 20 mended, 5 spoilt: gain 0.15, variance of one question 0.25 - 0.15² = 0.2275,
    # hence 0.15 ± 1.96·√(0.2275/100) = 0.0565 to 0.2435; the bootstrap's steps are of 0.01.
    before = [True] * 5 + [False] * 20 + [True] * 30 + [False] * 45
    after = [False] * 5 + [True] * 20 + [True] * 30 + [False] * 45
    gain = paired_gain(before, after)
    assert (gain.fixed, gain.broken, gain.total) == (20, 5, 100)
    assert gain.difference == pytest.approx(0.15)
    assert gain.low == pytest.approx(0.0565, abs=0.0101) and gain.high == pytest.approx(0.2435, abs=0.0101)
    assert paired_gain(before, after) == gain, "the same seed gives the same interval"


def test_paired_gain_of_models_that_agree_is_nothing_as_far_as_three_questions_can_tell() -> None:
    gain = paired_gain([True, False, True], [True, False, True])
    assert gain.difference == 0.0 and gain.high == -gain.low == pytest.approx(wilson_interval(0, 3)[1])


def test_paired_gain_needs_the_same_questions() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_gain([True] * 3, [True] * 2)


def test_accuracy_of_marks() -> None:
    accuracy = accuracy_of([True] * 8 + [False] * 2)
    assert (accuracy.correct, accuracy.total, accuracy.share) == (8, 10, 0.8)


def test_losses_of_targets_are_those_of_a_pass_a_question(tiny_pair):
    """Whatever the batch and its padding, and with an interval that holds the difference."""
    pair, tokenizer = tiny_pair("llama"), make_tokenizer()
    texts = [("w5 w6 w7", " w8 w9"), ("w10", " w11 w12 w13"), ("w14 w15", " w16")]
    items, _ = encode_items(tokenizer, texts, 100, is_encoder_decoder=False)
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    pilot, rectified, tokens = item_losses(pair, items, collator, 0.7, batch_size=2)
    for place, (prompt, target) in enumerate(texts):
        ids = torch.tensor([tokenizer(prompt).input_ids + tokenizer(target).input_ids + [tokenizer.eos_token_id]])
        first = len(tokenizer(prompt).input_ids)
        for weight, found in ((0.0, pilot), (0.7, rectified)):
            likely = pair(ids, copilot_weight=weight).logits[0, first - 1 : -1].log_softmax(-1)
            expected = -likely.gather(-1, ids[0, first:, None]).sum().item()
            assert found[place] == pytest.approx(expected, abs=1e-4)
        assert tokens[place] == ids.shape[1] - first
    gain = loss_gain(pilot, rectified, tokens)
    assert gain.before == pytest.approx(pilot.sum() / tokens.sum()) and gain.low <= gain.difference <= gain.high
    assert loss_gain(pilot, pilot, tokens).as_dict()["difference"] == 0.0
    with pytest.raises(ValueError, match="no token"):
        loss_gain(pilot, pilot, 0 * tokens)
