"""The command line: every command as a process, from training to the pushed pair, and wrong command lines."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.hub_fixtures import hub, hub_server, run_in_process  # noqa: F401
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import make_pilot
from transformers_copilot.commands import arguments as command_arguments
from transformers_copilot.commands import evaluate
from transformers_copilot.commands.main import COMMANDS, main
from transformers_copilot.commands.terminal import marked_changes, table


def run_command(*words: object, stdin: str = "", folder: Path | None = None) -> subprocess.CompletedProcess:
    """A command in a process of its own, without a network and not in a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "transformers_copilot", *map(str, words)],
        env=environment,
        input=stdin,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def rows(numbers: range) -> str:
    made = [{"question": f"{n}+1=", "reply": f" {n + 1}", "right": str(n + 1)} for n in numbers]
    return "".join(json.dumps(row) + "\n" for row in made)


COLUMNS = ["--prompt_column", "question", "--target_column", "reply"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a Pilot, data, and the run that `train` made of them by a YAML file and the command line."""
    folder = tmp_path_factory.mktemp("commands")
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder / "pilot")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ends)).save_pretrained(folder / "pilot")
    (folder / "train.jsonl").write_text(rows(range(40)))
    (folder / "test.jsonl").write_text(rows(range(40, 52)))
    (folder / "run.yaml").write_text(
        "pilot: pilot\ndataset: train.jsonl\nprompt_column: question\ntarget_column: reply\ncopilot_layers: 2\n"
        "max_steps: 3\nlearning_rate: 1.0e-2\nper_device_train_batch_size: 8\nuse_cpu: true\noutput_dir: nowhere\n"
        "save_strategy: 'no'\n"
    )
    done = run_command("train", "--config", "run.yaml", "--output_dir", "run", "--max_steps", 12, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "36 training texts, 4 for λ" in done.stdout and "λ = " in done.stdout
    assert "\r" not in done.stdout + done.stderr and "it/s" not in done.stderr  # no bars where no one looks on
    assert not (folder / "nowhere").exists()
    return folder


def test_a_trained_run_has_all_that_the_other_commands_read(trained):
    names = {path.name for path in (trained / "run").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "mistake_rows", "trainer_state.json"} <= names
    state = json.loads((trained / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 12  # the command line goes before the file


def test_evaluate_then_report(trained):
    run = trained / "run"
    own = ["--dataset", trained / "test.jsonl", *COLUMNS]
    done = run_command("evaluate", run, *own, "--answer_column", "right", "--max_new_tokens", 3, "--weight", 1.5)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Pilot alone +[\d,]+ +\d+ of 12", done.stdout, re.MULTILINE) and "mended" in done.stdout
    results = json.loads((run / "evaluation.json").read_text())
    assert [row["question"] for row in results["rows"]] == [f"{n}+1=" for n in range(40, 52)]
    for name, short in (("Pilot alone", "pilot"), ("Pilot + Copilot", "pair")):
        model, answers = results["models"][name], [row[f"{short}_answer"] for row in results["rows"]]
        right = [row[f"{short}_reply"].strip() == row["expected"] for row in results["rows"]]
        assert [row[f"{short}_correct"] for row in results["rows"]] == right and model["correct"] == sum(right)
        assert all(answer == answer.strip() for answer in answers) and model["total"] == 12
    gain = results["gain"]
    assert gain["fixed"] - gain["broken"] == round(12 * gain["difference"])
    loss = results["loss"]
    assert loss["total"] == 12 and loss["low"] <= loss["difference"] <= loss["high"]
    assert f"Pilot {loss['before']:.4f}, pair {loss['after']:.4f}" in done.stdout
    page = trained / "page.html"
    done = run_command("report", run, "-o", page, *own)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert (
        "12 test questions of “test”, which training has not read" in text
        and "12 of 12" not in done.stdout
        and str(page) in done.stdout
    )


def test_generate_reads_standard_input_and_shows_changes(trained):
    done = run_command("generate", trained / "run", "--max_new_tokens", 5, "--compare", "--weight", 2, stdin="7+1=\n")
    assert done.returncode == 0, done.stderr
    alone, _, pair = done.stdout.partition("Pilot + Copilot, λ = 2:")
    assert alone.startswith("Pilot alone:") and pair.strip()
    said_same = "changed nothing" in pair
    assert said_same != bool(re.search(r"They part at token \d: .* became .*\.|One reply goes on", pair))
    assert said_same or "{+" in pair or "[-" in pair
    assert "\033[" not in done.stdout  # no colour where no one looks on


def test_push_puts_pair_and_report_on_the_hub(trained, hub, tmp_path):  # noqa: F811
    (tmp_path / "report.html").write_text("<p>a page</p>")
    words = ["push", str(trained / "run"), hub.repo("pair"), "--private", "--report", str(tmp_path / "report.html")]
    code = f"from transformers_copilot.commands.main import main\nreport(code=main({words!r}))"
    done = run_in_process(code, hub, tmp_path / "home")
    assert done.values["code"] == 0, done.output
    files = hub.files(hub.repo("pair"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "report.html"} <= set(files)
    assert files["report.html"] == b"<p>a page</p>" and "mistake_rows" not in " ".join(files)


# ---- in this process: quick ----


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_task_from_a_folder_is_trained_and_evaluated(family, tmp_path, capsys):
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "pilot")
    ends = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    make_pilot(family, **ends, eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path / "pilot")
    folder = tmp_path / "data" / "arithmetic" / "mawps"
    folder.mkdir(parents=True)
    for split, numbers in (("train", range(12)), ("dev", range(20, 24)), ("test", range(30, 35))):
        made = [
            {"id": f"{split}-{n}", "question": f"{n} and 1 ?", "answer": str(n + 1), "rationale": f"X={n}.0+1.0"}
            for n in numbers
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    task = ["--task", "mawps", "--data_dir", str(tmp_path / "data")]
    run = str(tmp_path / "run")
    words = [
        "train",
        "--pilot",
        str(tmp_path / "pilot"),
        *task,
        "--copilot_layers",
        "2",
        "--max_steps",
        "2",
    ]
    words += ["--output_dir", run, "--use_cpu", "--save_strategy", "no", "--per_device_train_batch_size", "4"]
    kind = {"rationale": "depths", "error_feedback": "token", "head": "pilot"}
    words += [word for name, value in kind.items() for word in (f"--{name}", value)]
    assert main(words) == 0, capsys.readouterr().err
    made = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: made.get(name, made["copilot"].get(name)) for name in kind} == kind
    assert "12 training texts, 4 for λ" in capsys.readouterr().out
    assert main(["evaluate", run, *task, "--max_new_tokens", "4"]) == 0
    assert "of 5" in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [row["expected"] for row in results["rows"]] == ["31", "32", "33", "34", "35"]


def test_too_little_memory_is_said_without_a_traceback(trained, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(evaluate, "write_replies", full)
    asked = ["--dataset", str(trained / "test.jsonl"), *COLUMNS]
    assert main(["evaluate", str(trained / "run"), *asked]) == 1
    said = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in said and "Traceback" not in said
    assert "Answering takes about" in said and "cpu has" in said and "--batch_size" in said


def test_help_teaches(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS) and "Exit codes: 0" in printed
    for name in ("train", "report", "generate", "push"):
        assert main([name, "--help"]) == 0
        assert "example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "usage"),
        (["fly"], 2, "no command 'fly'"),
        (["report"], 2, "run_folder"),
        (["report", "no/such/run"], 1, "there is no folder no/such/run"),
        (["report", "x", "--texts", "0"], 2, "--texts must be at least 1"),
        (["generate", "x", "hello", "--max_new_tokens", "0"], 2, "--max_new_tokens must be 1"),
        (["evaluate", "x"], 1, "no data: give `--task`"),
        (["evaluate", "x", "--task", "mawps", "--dataset", "y.jsonl"], 1, "both given"),
        (["evaluate", "x", "--dataset", "no.jsonl"], 1, "there is no file or folder no.jsonl"),
        (["evaluate"], 2, "pair"),
        (["train", "--output_dir", "x"], 2, "--pilot"),
        (["train", "--config", "no.yaml"], 2, "there is no file no.yaml"),
        (["train", "--pilot", "x", "--output_dir", "y", "--fusion", "hope"], 2, "invalid choice"),
        (["train", "--pilot", "x", "--output_dir", "y", "--rationale", "hope"], 2, "invalid choice"),
        (["train", "--pilot", "x", "--output_dir", "y", "--rationale_window", "current"], 2, "--rationale_window"),
        (["train", "--pilot", "x", "--learnin_rate=1"], 2, "no option --learnin_rate: did you mean --learning_rate?"),
        (["generate", "x", "--max_new_token", "3", "--wieght", "1"], 2, "did you mean --weight?"),
        (["trian"], 2, "Did you mean 'train'?"),
        (["push", "x", "user/name", "--report", "no.html"], 1, "there is no report no.html"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}\n', "line 1: has the columns prompt, which are no known layout"),
        ('{"prompt": "a", "target": "b"}\n{"prompt": "a", "target": ""}\n', "line 2: target is ''"),
        ('{"prompt": "a", "target": [3]}\n', "line 1: target, turn 1 is '3'"),
        ("garbage\n", "line 1: is no JSON"),
        ("", "is empty"),
        ('{"prompt": "a", "target": "b"}\n', "leave none to train on"),
    ],
)
def test_malformed_rows_are_named(line, message, capsys, tmp_path):
    (tmp_path / "own.jsonl").write_text(line)
    words = ["train", "--pilot", "x", "--output_dir", str(tmp_path / "out"), "--dataset", str(tmp_path / "own.jsonl")]
    assert main([*words, "--use_cpu", "true"]) == 1
    assert message in capsys.readouterr().err


def test_a_plain_model_is_no_pair(capsys, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    LlamaConfig(vocab_size=30, hidden_size=64).save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), "hello"]) == 1
    assert "is a llama model and no pair" in capsys.readouterr().err


def test_yaml_says_what_the_command_line_can_say(tmp_path, capsys):
    parser = command_arguments.make_parser("x", (), "…")
    file = tmp_path / "run.yaml"
    file.write_text("a: 1.0e-4\nb: true\nc: null\nd: [x, y]\ne: {k: 1}\n")
    expected = ["--a", "0.0001", "--b", "True", "--d", "x", "y", "--e", '{"k": 1}']
    assert command_arguments.from_yaml(parser, str(file)) == expected
    for text in ("- a\n- b\n", "a: [\n"):
        file.write_text(text)
        with pytest.raises(SystemExit) as stopped:
            command_arguments.from_yaml(parser, str(file))
        assert stopped.value.code == 2


def test_changes_are_marked():
    def write(tokens):
        return "".join("abcdx"[token] for token in tokens)

    assert marked_changes([0, 1, 2], [0, 4, 2], write, False) == "a[-b-]{+x+}c"
    assert marked_changes([0], [0, 1], write, False) == "a{+b+}"
    assert marked_changes([0], [1], write, True) == "\033[9;31ma\033[0m\033[1;32mb\033[0m"
    assert table(["", "n"], [["x", "10"], ["long", "1"]]) == "       n\nx     10\nlong   1"
