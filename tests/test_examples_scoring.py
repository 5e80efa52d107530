"""The examples' figures: numbers compared as numbers, intervals by hand-worked values, the report, the sums."""

import json
from pathlib import Path

import pytest
from comparison import Comparison, peak_memory_bytes
from report import changed_answers, changed_questions, make_contestant
from scoring import accuracy_of, paired_gain, same_answer, wilson_interval
from sum_questions import SumStream, build_tokenizer


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


def test_paired_gain_of_models_that_agree_is_nothing() -> None:
    gain = paired_gain([True, False, True], [True, False, True])
    assert (gain.difference, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_paired_gain_needs_the_same_questions() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired_gain([True] * 3, [True] * 2)


def test_accuracy_of_marks() -> None:
    accuracy = accuracy_of([True] * 8 + [False] * 2)
    assert (accuracy.correct, accuracy.total, accuracy.share) == (8, 10, 0.8)


def test_changed_answers_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["1", "2", "3", "4", "5"]
    before = make_contestant("Pilot alone", 10, ["1", "9", "3.0", None, "5"], expected, 1.0)
    after = make_contestant("the pair", 30, ["1", "2", "3", "8", "6"], expected, 2.0)
    assert changed_questions(before, after) == [1, 3, 4]
    questions = [f"question {number}" for number in range(5)]
    changed = changed_answers(questions, expected, before, after)
    assert [item["verdict"] for item in changed] == ["mended", "still wrong", "spoilt"]
    path = tmp_path / "run" / "results.json"
    Comparison(questions, expected, after, [before], {"task": "counting"}).print_and_save(path)
    printed = capsys.readouterr().out
    assert "60.0%" in printed and "the pair over Pilot alone: +0.0 points" in printed
    assert "no difference that these questions could show" in printed
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["task"] == "counting" and results["models"]["the pair"]["correct"] == 3
    assert results["gains"]["Pilot alone"]["fixed"] == 1 and len(results["changed"]) == 3


def test_peak_memory_is_that_of_a_process_with_torch() -> None:
    assert 50 * 2**20 < peak_memory_bytes() < 2**40


def test_sums_are_right_and_never_repeated() -> None:
    stream = SumStream(seed=3)
    questions = stream.take(500) + stream.take(500)
    assert len({question.prompt for question in questions}) == 1000
    for question in questions[:100]:
        left, sign, right = next((question.prompt[:-1].partition(sign)) for sign in "+-*" if sign in question.prompt)
        result = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
        assert str(result) == question.answer
    assert SumStream(seed=3).take(5) == questions[:5]
    with pytest.raises(ValueError, match="too much"):
        SumStream(seed=3, digits=1).take(20)


def test_tokenizer_of_digits() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("37+45=82").input_ids
    assert len(tokenizer) == 16 and len(ids) == 8
    assert (
        tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == "37+45=82"
    )
