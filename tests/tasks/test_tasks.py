"""The tasks: rows, sets kept apart, the local and the Hub's form, prompts, targets and answers."""

import json
import os
import re
from pathlib import Path

import pytest

from transformers_copilot import tasks
from transformers_copilot.tasks.arithmetic import plain_equation
from transformers_copilot.tasks.base import Question
from transformers_copilot.tasks.catalogue import QUESTION_TASKS
from transformers_copilot.tasks.reading import read_rows


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sum_row(number: int, question: str | None = None) -> dict:
    question = question or f"Tom has {number} pens and buys 2 more . How many has he ?"
    return {"id": f"q{number}", "question": question, "answer": str(number + 2), "rationale": f"X=({number}.0+2.0)"}


CHOICES = {"boolq": ["true", "false"], "social_iqa": ["a", "b", "c"], "hellaswag": ["a", "b", "c", "d"]}
LABELS = {"boolq": "false", "piqa": "solution2", "winogrande": "option2", "hellaswag": "ending2"}


def row_of(task: str, number: int) -> dict:
    """A row in the local form, of any task of questions."""
    if QUESTION_TASKS[task].group == "arithmetic":
        row = sum_row(number)
        return {**row, "answer": "B", "stem": row["question"]} if task == "aqua" else row
    label = LABELS.get(task, "answer2")
    return {
        "id": f"q{number}",
        "question": f"{number}?",
        "choices": CHOICES.get(task, ["a", "b"]),
        "answer_label": label,
    }


@pytest.mark.parametrize("name", [name for name in tasks.TASK_NAMES if name in QUESTION_TASKS])
def test_every_task_of_questions_loads_from_a_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / QUESTION_TASKS[name].group / name
    write_lines(folder / "train.jsonl", [row_of(name, number) for number in range(10)])
    write_lines(folder / "test.jsonl", [row_of(name, number) for number in range(20, 23)])
    task = tasks.load(name, data_dir=tmp_path)
    assert {split: len(rows) for split, rows in task.dataset.items()} == {"train": 9, "dev": 1, "test": 3}
    assert task.dataset["test"].column_names == ["id", "task", "question", "prompt", "target", "answer"]
    assert task.dev_from_train and task.left_out == {"train": 0, "dev": 0, "either": 0} and task.test_size == 3
    for row in task.dataset["test"]:
        assert row["prompt"].startswith("Question: ") and row["prompt"].endswith("\nAnswer:")
        assert row["target"].startswith(" ") and task.extract_answer(row["target"]) == row["answer"]
        assert row["task"] == name == task.name
    answers = task.dataset["test"]["answer"][:]
    score = task.metric.compute(predictions=[None, *answers[1:]], references=answers)
    assert score[task.metric.score_name] == pytest.approx(2 / 3) and score["unanswered"] == 1
    assert task.group == QUESTION_TASKS[name].group and task.max_new_tokens >= 12


def test_unknown_tasks_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no task 'math': the tasks are mawps, svamp, .* lastfm"):
        tasks.load("math", data_dir=tmp_path)
    with pytest.raises(ValueError, match="no task 'gsm'"):
        tasks.load("mawps", data_dir=tmp_path, train_tasks=["mawps", "gsm"])
    with pytest.raises(ValueError, match="both given"):
        tasks.load("mawps", data_dir=tmp_path, dataset_name="somebody/else")


def test_task_that_is_neither_local_nor_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"no file .*arithmetic/mawps/test\.jsonl"):
        tasks.load("mawps", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mawps is not to be had.*MU-NLPC/Calc-mawps.*Give `data_dir`"):
        tasks.load("mawps")
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        tasks.load("mawps", data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "line",
    [b'{"question": "How many?", "answer": "1"', b"not json", b'{"question": "caf\xe9", "answer": "1"}', b"{'a': 1}"],
)
def test_malformed_line_names_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(sum_row(1)).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"train\.jsonl, line 3: is no (JSON|UTF-8)"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("mawps", {"question": "How many?"}, "answer missing or empty"),
        ("mawps", {"question": "How many?", "answer": "many"}, "needs a plain decimal number"),
        ("mawps", ["How many?", "1"], "expected an object"),
        ("aqua", {"question": "Which? Answer Choices: (A) 1 (B) 2", "answer": "F"}, "one of A, B, C, D, E"),
        ("boolq", {"question": "Is it?", "choices": ["true", "false"], "answer_label": "yes"}, "one of true, false"),
        ("piqa", {"question": "Goal", "choices": ["a", "b"], "answer_label": "solution3"}, "solution1, solution2"),
        ("openbookqa", {"question": "What?", "answer": "a", "answer_label": "answer1"}, "choices missing"),
    ],
)
def test_row_that_the_task_cannot_have_is_refused(tmp_path: Path, task: str, row: object, message: str) -> None:
    folder = tmp_path / QUESTION_TASKS[task].group / task
    write_lines(folder / "test.jsonl", [row_of(task, 1)])
    write_lines(folder / "train.jsonl", [row_of(task, 2), row])
    with pytest.raises(ValueError, match=message) as error:
        tasks.load(task, data_dir=tmp_path)
    assert str(error.value).startswith(f"{folder}/train.jsonl, line 2: ")


def test_zero_is_an_answer() -> None:
    row = {"question": "None left?", "answer": 0}
    assert QUESTION_TASKS["mawps"].question_from_row(row, "x:1").answer == "0"


def test_questions_that_stand_in_another_set_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "arithmetic" / "mawps"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(10)])
    write_lines(folder / "dev.jsonl", [sum_row(20), sum_row(3)])
    respelt = sum_row(4)["question"].upper().replace(" .", ".").replace(" ?", "?")
    write_lines(folder / "test.jsonl", [sum_row(4, respelt), sum_row(20), sum_row(31), sum_row(32)])
    task = tasks.load("mawps", data_dir=tmp_path)
    assert task.dataset["test"]["id"][:] == ["q31", "q32"]
    assert task.test_size == 4
    assert task.left_out == {"train": 1, "dev": 1, "either": 2}
    assert task.dataset["dev"]["id"][:] == ["q20"]
    assert len(task.dataset["train"]) == 10 and not task.dev_from_train
    write_lines(folder / "test.jsonl", [sum_row(4), sum_row(20)])
    with pytest.raises(ValueError, match="All 2 test questions of mawps stand in"):
        tasks.load("mawps", data_dir=tmp_path)


def test_dev_is_taken_out_of_train_where_there_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "arithmetic" / "mawps"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(20)])
    write_lines(folder / "test.jsonl", [sum_row(number) for number in (5, 40)])
    task = tasks.load("mawps", data_dir=tmp_path, dev_size=0.2)
    train, dev = (set(task.dataset[split]["id"]) for split in ("train", "dev"))
    assert (len(train), len(dev), task.dev_from_train) == (16, 4, True)
    assert not train & dev
    assert task.dataset["test"]["id"][:] == ["q40"]
    other = tasks.load("mawps", data_dir=tmp_path, dev_size=0.2, seed=1)
    assert set(other.dataset["dev"]["id"]) != dev
    with pytest.raises(ValueError, match="20 training questions leave none"):
        tasks.load("mawps", data_dir=tmp_path, dev_size=1.0)


def test_a_task_without_train_is_trained_on_others(tmp_path: Path) -> None:
    write_lines(tmp_path / "arithmetic/svamp/test.jsonl", [sum_row(1)])
    write_lines(tmp_path / "arithmetic/mawps/train.jsonl", [sum_row(number) for number in range(10, 20)])
    with pytest.raises(ValueError, match="No training questions for svamp: name tasks .* `train_tasks`"):
        tasks.load("svamp", data_dir=tmp_path)
    task = tasks.load("svamp", data_dir=tmp_path, train_tasks=("mawps",))
    assert set(task.dataset["train"]["task"]) == {"mawps"} and task.dataset["test"]["task"][:] == ["svamp"]
    with pytest.raises(ValueError, match="cannot be trained on recommendations"):
        tasks.load("svamp", data_dir=tmp_path, train_tasks=("lastfm",))


def test_key_of_a_question() -> None:
    boolq, piqa, aqua = (QUESTION_TASKS[name] for name in ("boolq", "piqa", "aqua"))
    first = Question("1", "is it So?", "true", choices=("true", "false"))
    assert boolq.key_of(first) == boolq.key_of(Question("2", "Is it so", "false"))
    goal = Question("1", "Boil butter", "solution1", choices=("On a plate", "In a jar"))
    swapped = Question("2", "boil butter.", "solution2", choices=("in a jar", "on a plate"))
    other = Question("3", "Boil butter", "solution1", choices=("On a plate", "In a cup"))
    assert piqa.key_of(goal) == piqa.key_of(swapped) != piqa.key_of(other)
    with_choices = Question("1", "How far? Answer Choices: (A) 1 (B) 2", "A")
    assert aqua.key_of(with_choices) == aqua.key_of(Question("2", "Whatever", "B", stem="How far?"))


def test_data_set_by_name_with_local_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "questions"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(20)])
    write_lines(folder / "test.jsonl", [sum_row(number) for number in (3, 50)])
    task = tasks.load("mawps", dataset_name=str(folder))
    assert task.left_out["either"] == 1 and task.dataset["test"]["answer"][:] == ["52"]
    assert task.dev_from_train and len(task.dataset["train"]) == 18


def test_data_set_by_name_with_its_own_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    choices = {"text": ["sun", "moon"], "label": ["A", "B"]}
    rows = [{"id": str(i), "question_stem": f"Which {i}?", "choices": choices, "answerKey": "B"} for i in range(6)]
    write_lines(tmp_path / "own" / "train.jsonl", rows[:4])
    write_lines(tmp_path / "own" / "validation.jsonl", rows[4:5])
    write_lines(tmp_path / "own" / "test.jsonl", rows[5:])
    task = tasks.load("openbookqa", dataset_name=str(tmp_path / "own"))
    assert [len(task.dataset[split]) for split in ("train", "dev", "test")] == [4, 1, 1] and not task.dev_from_train
    row = task.dataset["test"][0]
    assert "Answer1: sun Answer2: moon" in row["prompt"] and row["answer"] == "answer2"


def test_row_of_another_form_names_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    row = {"question": "Q?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "D"}
    write_lines(tmp_path / "own" / "test.jsonl", [row])
    with pytest.raises(ValueError, match=r"own\[test\]\[0\]: not a row of arc_easy .*'D' is not in list.* answerKey"):
        tasks.load("arc_easy", dataset_name=str(tmp_path / "own"))


def test_every_task_of_questions_is_known_on_the_hub() -> None:
    assert all("test" in task.hub.splits for task in QUESTION_TASKS.values())
    assert all(name == task.name for name, task in QUESTION_TASKS.items())


SCHOOL = {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}
HUB_ROWS = [
    ("gsm8k", {"question": "Q?", "answer": "2+3=<<2+3=5>>5 pens.\n#### 1,005"}, "2+3=5 pens. #### 1005", "1005"),
    ("mawps", {"question": "Q?", "result": "7", "equation": "x=3+4", "chain": ""}, "x=3+4 #### 7", "7"),
    ("svamp", {"question": "Q?", "result": "7", "equation": "(3.0+4.0)"}, "x=3+4 #### 7", "7"),
    (
        "aqua",
        {"question": "Q?", "options": ["A)21", "B)2"], "rationale": "Easy.", "correct": "B"},
        "Easy. #### B",
        "B",
    ),
    ("boolq", {"question": "is it", "answer": False, "passage": "It is."}, "the correct answer is false", "false"),
    (
        "openbookqa",
        {"question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        "the correct answer is answer2",
        "answer2",
    ),
    (
        "arc_easy",
        {"question": "Q", "choices": SCHOOL, "answerKey": "3"},
        "the correct answer is answer3",
        "answer3",
    ),
    (
        "arc_challenge",
        {"question": "Q", "choices": SCHOOL, "answerKey": "1"},
        "the correct answer is answer1",
        "answer1",
    ),
    ("piqa", {"goal": "G", "sol1": "a", "sol2": "b", "label": 1}, "the correct answer is solution2", "solution2"),
    (
        "social_iqa",
        {"context": "C.", "question": "Q?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "3"},
        "the correct answer is answer3",
        "answer3",
    ),
    (
        "winogrande",
        {"sentence": "A _ b", "option1": "x", "option2": "y", "answer": "1"},
        "the correct answer is option1",
        "option1",
    ),
    (
        "hellaswag",
        {"activity_label": "Sport", "ctx": "He runs", "endings": ["a", "b", "c", "d"], "label": "0"},
        "the correct answer is ending1",
        "ending1",
    ),
]


@pytest.mark.parametrize(("name", "row", "target", "answer"), HUB_ROWS, ids=[row[0] for row in HUB_ROWS])
def test_rows_of_the_hub(name: str, row: dict, target: str, answer: str) -> None:
    task = QUESTION_TASKS[name]
    local = {**row, **task.from_hub(row)}
    question = task.question_from_row(local, "hub[0]")
    assert " ".join(task.target_of(question).split()) == target
    assert task.extract_answer(task.target_of(question)) == question.answer == answer
    again = row_of(name, 3)
    assert task.from_hub(again) == {}, "rows in the local form stay as they are"


def test_prompts_are_those_of_llm_adapters() -> None:
    def prompt(name: str, question: Question) -> str:
        return QUESTION_TASKS[name].prompt_of(question)

    arc = Question("1", "Why?", "answer2", choices=("a", "b"))
    assert prompt("arc_easy", arc) == (
        "Question: Please choose the correct answer to the question: Why?\n\nAnswer1: a Answer2: b\n\n"
        "Answer format: answer1/answer2\nAnswer:"
    )
    piqa = prompt("piqa", Question("1", "Why?", "solution1", choices=("a", "b")))
    assert "correct solution to the question: Why?\n\nSolution1: a\n\nSolution2: b\n\nAnswer format: solution1/" in piqa
    winogrande = prompt("winogrande", Question("1", "A _ b", "option1", choices=("a", "b")))
    assert "sentence: A _ b\n\nOption1: a Option2: b Answer format: option1/option2\n" in winogrande
    hellaswag = prompt("hellaswag", Question("1", "He", "ending1", choices=("a", "b")))
    assert "the given sentence: He\n\nEnding1: a Ending2: b\n\nAnswer format: ending1/ending2\n" in hellaswag
    boolq = prompt("boolq", Question("1", "is it?", "true"))
    assert "true or false, question: is it?\n\nAnswer format: true/false\n" in boolq
    assert prompt("mawps", Question("1", "How many ?", "3")) == "Question: How many ?\nAnswer:"


@pytest.mark.parametrize(
    ("equation", "short"),
    [
        ("X=((22.0-14.0)/4.0)", "x=(22-14)/4"),
        ("x=3*6", "x=3*6"),
        ("( 76.0 - 25.0 )", "x=76-25"),
        ("X=(2.0+1.0)*(3.0-1.0)", "x=(2+1)*(3-1)"),
        ("(6.0+x)*(x-6.0)=189.0", "(6+x)*(x-6)=189"),
        ("X=1.08+4.80+20.05", "x=1.08+4.80+20.05"),
        ("", ""),
    ],
)
def test_equations_are_written_short(equation: str, short: str) -> None:
    assert plain_equation(equation) == short


@pytest.mark.parametrize(
    ("task", "reply", "answer"),
    [
        ("mawps", " x=(22-14)/4 #### 2", "2"),
        ("mawps", " x=3*6 #### 1,234.50 apples and 7", "1234.50"),
        ("mawps", " (6+x)*(x-6)=189 #### -15", "-15"),
        ("mawps", "She has 3 and 4, so 7.", "7"),
        ("mawps", " x=5-3 ####", None),
        ("mawps", "no idea", None),
        ("mawps", " #### .5", ".5"),
        ("aqua", "C is wrong, so #### B", "B"),
        ("aqua", "The answer is (D)", "D"),
        ("boolq", " the correct answer is False.", "false"),
        ("openbookqa", " the correct answer is answer4 or answer1", "answer4"),
        ("openbookqa", " the correct answer is solution4", None),
        ("hellaswag", "ending2", "ending2"),
    ],
)
def test_answers_are_read_out_of_replies(task: str, reply: str, answer: str | None) -> None:
    assert QUESTION_TASKS[task].extract_answer(reply) == answer


def test_models_do_without_tasks_and_metrics() -> None:
    package = Path(tasks.__file__).parents[1] / "pair"
    waiting, seen = {"modeling_pilot_copilot", "modeling_pilot_copilot_seq2seq"}, set()
    while waiting:
        seen.add(name := waiting.pop())
        text = (package / f"{name}.py").read_text(encoding="utf-8")
        waiting |= set(re.findall(r"^\s*from \.(\w+)", text, re.MULTILINE)) - seen
        assert not {"tasks", "metrics"} & waiting, f"{name}.py imports a sub-package, which remote code cannot have"
    assert "mistakes" in seen


KNOWN_COUNTS = {"mawps": (238, 35), "boolq": (3270, 6), "openbookqa": (500, 23), "arc_easy": (2376, 7)}


@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="DATA_DIR names no folder with the tasks' files")
@pytest.mark.parametrize("name", KNOWN_COUNTS)
def test_overlaps_of_the_real_files(name: str) -> None:
    task = tasks.load(name, data_dir=os.environ["DATA_DIR"])
    assert (task.test_size, task.left_out["either"]) == KNOWN_COUNTS[name]
    assert len(task.dataset["test"]) == task.test_size - task.left_out["either"]
