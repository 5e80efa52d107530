"""The examples' data: reading rows, keeping sets apart, the Hub's form, prompts, targets and answers."""

import json
from pathlib import Path

import pytest
from task_data import hub_reader, load_task, local_reader, question_key
from task_hub import HUB_SOURCES, local_form
from task_prompts import TASKS, Question, extract_answer, plain_equation, prompt_of, target_of
from task_rows import question_from_row, read_jsonl


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sum_row(number: int, question: str | None = None) -> dict:
    question = question or f"Tom has {number} pens and buys 2 more . How many has he ?"
    return {"id": f"q{number}", "question": question, "answer": str(number + 2), "rationale": f"X=({number}.0+2.0)"}


@pytest.mark.parametrize(
    "line",
    [b'{"question": "How many?", "answer": "1"', b"not json", b'{"question": "caf\xe9", "answer": "1"}', b"{'a': 1}"],
)
def test_malformed_line_names_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(sum_row(1)).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"train\.jsonl:3: not a line of JSON"):
        list(read_jsonl(path))


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
def test_row_that_the_task_cannot_have_is_refused(task: str, row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        question_from_row(TASKS[task], row, "file.jsonl:7")
    assert str(error.value).startswith("file.jsonl:7: ")


def test_zero_is_an_answer() -> None:
    assert question_from_row(TASKS["mawps"], {"question": "None left?", "answer": 0}, "x:1").answer == "0"


def test_questions_that_stand_in_another_set_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "arithmetic" / "mawps"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(10)])
    write_lines(folder / "dev.jsonl", [sum_row(20), sum_row(3)])
    respelt = sum_row(4)["question"].upper().replace(" .", ".").replace(" ?", "?")
    write_lines(folder / "test.jsonl", [sum_row(4, respelt), sum_row(20), sum_row(31), sum_row(32)])
    data = load_task(TASKS["mawps"], local_reader(tmp_path))
    assert [question.id for question in data.test] == ["q31", "q32"]
    assert data.test_size == 4
    assert data.left_out == {"train": 1, "dev": 1, "either": 2}
    assert [question.id for _, question in data.dev] == ["q20"]
    assert len(data.train) == 10 and not data.dev_from_train


def test_dev_is_taken_out_of_train_where_there_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "arithmetic" / "mawps"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(20)])
    write_lines(folder / "test.jsonl", [sum_row(number) for number in (5, 40)])
    data = load_task(TASKS["mawps"], local_reader(tmp_path), dev_size=0.2)
    train, dev = ({question.id for _, question in items} for items in (data.train, data.dev))
    assert (len(train), len(dev), data.dev_from_train) == (16, 4, True)
    assert not train & dev
    assert [question.id for question in data.test] == ["q40"]


def test_a_task_without_train_is_trained_on_others(tmp_path: Path) -> None:
    write_lines(tmp_path / "arithmetic/svamp/test.jsonl", [sum_row(1)])
    write_lines(tmp_path / "arithmetic/mawps/train.jsonl", [sum_row(number) for number in range(10, 20)])
    reader = local_reader(tmp_path)
    with pytest.raises(ValueError, match="--train_tasks"):
        load_task(TASKS["svamp"], reader)
    with pytest.raises(ValueError, match="No test questions for mawps"):
        load_task(TASKS["mawps"], reader)
    data = load_task(TASKS["svamp"], reader, ["mawps"])
    assert {task.name for task, _ in data.train} == {"mawps"} and len(data.test) == 1


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        local_reader(tmp_path / "nowhere")


def test_key_of_a_question() -> None:
    boolq, piqa, aqua = (TASKS[name] for name in ("boolq", "piqa", "aqua"))
    first = Question("1", "is it So?", "true", choices=("true", "false"))
    assert question_key(boolq, first) == question_key(boolq, Question("2", "Is it so", "false"))
    goal = Question("1", "Boil butter", "solution1", choices=("On a plate", "In a jar"))
    swapped = Question("2", "boil butter.", "solution2", choices=("in a jar", "on a plate"))
    other = Question("3", "Boil butter", "solution1", choices=("On a plate", "In a cup"))
    assert question_key(piqa, goal) == question_key(piqa, swapped) != question_key(piqa, other)
    with_choices = Question("1", "How far? Answer Choices: (A) 1 (B) 2", "A")
    assert question_key(aqua, with_choices) == question_key(aqua, Question("2", "Whatever", "B", stem="How far?"))


def test_data_set_by_name_with_local_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "questions"
    write_lines(folder / "train.jsonl", [sum_row(number) for number in range(20)])
    write_lines(folder / "test.jsonl", [sum_row(number) for number in (3, 50)])
    data = load_task(TASKS["mawps"], hub_reader(str(folder)))
    assert data.left_out["either"] == 1 and [question.answer for question in data.test] == ["52"]
    assert data.dev_from_train and len(data.train) == 18


def test_data_set_by_name_with_its_own_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    choices = {"text": ["sun", "moon"], "label": ["A", "B"]}
    rows = [{"id": str(i), "question_stem": f"Which {i}?", "choices": choices, "answerKey": "B"} for i in range(6)]
    write_lines(tmp_path / "own" / "train.jsonl", rows[:4])
    write_lines(tmp_path / "own" / "validation.jsonl", rows[4:5])
    write_lines(tmp_path / "own" / "test.jsonl", rows[5:])
    data = load_task(TASKS["openbookqa"], hub_reader(str(tmp_path / "own")))
    assert (len(data.train), len(data.dev), len(data.test), data.dev_from_train) == (4, 1, 1, False)
    assert (data.test[0].choices, data.test[0].answer) == (("sun", "moon"), "answer2")


def test_every_task_is_known_on_the_hub() -> None:
    assert set(HUB_SOURCES) == set(TASKS)
    assert all("test" in source.splits for source in HUB_SOURCES.values())


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
        {"question": "Q", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        "the correct answer is answer3",
        "answer3",
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
    task = TASKS[name]
    question = question_from_row(task, local_form(task, row), "hub[0]")
    assert " ".join(target_of(task, question).split()) == target
    assert extract_answer(task, target_of(task, question)) == question.answer == answer


def test_prompts_are_those_of_llm_adapters() -> None:
    choices = ("a", "b")
    arc = Question("1", "Why?", "answer2", choices=choices)
    assert prompt_of(TASKS["arc_easy"], arc) == (
        "Question: Please choose the correct answer to the question: Why?\n\nAnswer1: a Answer2: b\n\n"
        "Answer format: answer1/answer2\nAnswer:"
    )
    piqa = prompt_of(TASKS["piqa"], Question("1", "Why?", "solution1", choices=choices))
    assert "Why?\n\nSolution1: a\n\nSolution2: b\n\nAnswer format: solution1/solution2\n" in piqa
    winogrande = prompt_of(TASKS["winogrande"], Question("1", "A _ b", "option1", choices=choices))
    assert "A _ b\n\nOption1: a Option2: b Answer format: option1/option2\n" in winogrande
    boolq = prompt_of(TASKS["boolq"], Question("1", "is it?", "true"))
    assert "true or false, question: is it?\n\nAnswer format: true/false\n" in boolq
    assert prompt_of(TASKS["mawps"], Question("1", "How many ?", "3")) == "Question: How many ?\nAnswer:"


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
    assert extract_answer(TASKS[task], reply) == answer
