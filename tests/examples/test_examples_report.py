"""The examples' report of models on the same questions, and the demonstration's sums."""

import json
from pathlib import Path

import pytest
from comparison import Comparison, peak_memory_bytes
from report import changed_answers, changed_questions, make_contestant
from sum_questions import SumStream, build_tokenizer


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
