"""`train` and `evaluate` on data as people have them, and help that comes at once."""

import json
import resource
import subprocess
import sys
from dataclasses import fields

import pytest

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import make_pilot
from transformers_copilot import CopilotTrainingArguments
from transformers_copilot.building.pair_building import DEFAULT_COPILOT_LAYERS
from transformers_copilot.commands import option_names, train_options
from transformers_copilot.commands.arguments import make_parser
from transformers_copilot.commands.main import main
from transformers_copilot.training.finishing import COPILOT_EPOCHS


CHAT = [{"messages": [{"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": f"{n + 1}"}]}
        for n in range(30)]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a Pilot, and 30 conversations."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "pilot")
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    make_pilot("llama", vocab_size=len(tokenizer), **ends).save_pretrained(tmp_path / "pilot")
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ["train", "--pilot", "pilot", "--dataset", "chats.jsonl", "--chat_template", "plain", "--output_dir", "run"]
TRAIN += ["--use_cpu"]


def test_a_dry_run_shows_what_is_learnt_and_trains_nothing(folder, capsys):
    assert main([*TRAIN, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "chats.jsonl: chat messages; learnt is the assistant's turns" in printed
    assert "27 texts to train on, 3 for λ; 0 are too long" in printed
    assert printed.count("Assistant:⟦ ") == 3 and "</s>⟧" in printed
    assert not (folder / "run").exists()


def test_chats_are_trained_on_and_asked(folder, capsys):
    assert main([*TRAIN, "--max_steps", "2", "--save_strategy", "no"]) == 0, capsys.readouterr().err
    assert "27 training texts, 3 for λ" in capsys.readouterr().out
    words = ["evaluate", "run", "--dataset", "chats.jsonl", "--max_test_examples", "4", "--max_new_tokens", "3"]
    assert main(words) == 0, capsys.readouterr().err
    rows = json.loads((folder / "run" / "evaluation.json").read_text())["rows"]
    assert [row["expected"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["question"] == "User: 0+1?\nAssistant:"


def test_a_folders_dev_file_serves_for_the_weight(folder, capsys):
    (folder / "set").mkdir()
    lines = [json.dumps(row) + "\n" for row in CHAT]
    (folder / "set" / "train.jsonl").write_text("".join(lines[:20]) + "garbage\n")
    (folder / "set" / "valid.jsonl").write_text("".join(lines[20:]))
    words = [word if word != "chats.jsonl" else "set" for word in TRAIN]
    assert main([*words, "--dry_run"]) == 1
    assert "train.jsonl, line 21: is no JSON" in capsys.readouterr().err
    assert main([*words, "--dry_run", "--skip_bad_rows"]) == 0
    printed = capsys.readouterr().out
    assert "20 texts to train on, 10 for λ" in printed and "left out: 1 broken rows" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--pilot", "pilot", "--dataset", "chats.jsonl", "--dry_run"], "no chat template"),
        ([*TRAIN, "--dry_run", "--chat_template", "no.jinja"], "there is no chat template no.jinja"),
        ([*TRAIN, "--dry_run", "--streaming"], "--max_train_examples"),
        ([*TRAIN, "--dry_run", "--dataset", "no.tsv"], "there is no file or folder no.tsv"),
        (
            [*TRAIN, "--dry_run", "--dataset", "nothing"],
            "there is no file or folder nothing here; looking",
        ),
        (["generate", "r9", "hello"], "there is no folder r9"),
        (["generate", "runs/none/x", "hello"], "there is no folder runs/none/x"),
        (["evaluate", "r9", "--dataset", "chats.jsonl"], "there is no folder r9"),
        (["train", "--pilot", "./none", "--dataset", "chats.jsonl", "--dry_run"], "there is no folder ./none"),
    ],
)
def test_what_is_missing_is_said(words, message, folder, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err


def test_cut_weights_are_an_error_without_a_traceback(folder, capsys):
    file = folder / "pilot" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert main([*TRAIN, "--max_steps", "1"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "commands:"),
        (["train", "--help"], 0, "examples:"),
        (["train", "--pilot", "x", "--learnin_rate", "1"], 2, "did you mean --learning_rate?"),
        (["trian"], 2, "Did you mean 'train'?"),
    ],
)
def test_an_answer_takes_less_than_a_second_of_processor_time(words, code, said):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "transformers_copilot", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
    assert done.returncode == code and said in done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 60


def test_the_names_that_are_read_off_the_source_are_the_parsers():
    kinds = (train_options.PairArguments, train_options.TrainArguments, train_options.DataArguments)
    parser = make_parser("train", (*kinds, CopilotTrainingArguments), "…", short_help=train_options.short_help)
    read = option_names.train_options()
    assert {name for name in parser.names if name.startswith("--")} <= set(read)
    assert {name for name in read if not name.startswith(("--no_", "--no-"))} <= set(parser.names)


def test_the_short_help_says_what_holds(capsys):
    defaults = {item.name: item.default for item in fields(CopilotTrainingArguments)}
    own = train_options.TRAINER_DEFAULTS
    for name, (said, _) in train_options._TRAINER_SHOWN.items():
        expected = own.get(name, defaults[name])
        assert said == expected or (name == "output_dir" and expected is None), name
    assert train_options.TrainArguments().copilot_epochs == COPILOT_EPOCHS
    assert f"{DEFAULT_COPILOT_LAYERS} by default" in train_options.short_help()
    assert main(["train", "--help-all"]) == 0
    printed = capsys.readouterr().out
    assert "--lr_scheduler_type" in printed and printed.index("examples:") < printed.index("--dataset_config")
    short = train_options.short_help()
    for kind in (train_options.PairArguments, train_options.DataArguments, train_options.TrainArguments):
        assert all(f"--{item.name} " in short for item in fields(kind) if item.name != "max_test_examples")
