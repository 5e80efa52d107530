"""A training that speaks: lines in a log file, a verdict at its end, and Ctrl-C that loses nothing."""

import json
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.training_helpers import make_pilot
from transformers_copilot import CopilotTrainer
from transformers_copilot.commands import evaluate, progress, train, verdict
from transformers_copilot.commands.main import main
from transformers_copilot.commands.pair import load_texts
from transformers_copilot.commands.train_options import BASELINES, DataArguments, PairArguments
from transformers_copilot.commands.verdict import _warnings, in_words, rival_in_words
from transformers_copilot.data.training_data import encode_texts
from transformers_copilot.metrics import paired_gain
from transformers_copilot.metrics.likelihoods import LossGain, loss_gain
from transformers_copilot.training.checkpoints import what_is_broken


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: a Pilot, and 140 sums."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "pilot")
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    make_pilot("llama", vocab_size=len(tokenizer), **ends).save_pretrained(tmp_path / "pilot")
    rows = [{"prompt": f"{n}+1=", "target": f" {n + 1}"} for n in range(140)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ["train", "--pilot", "pilot", "--dataset", "sums.jsonl", "--output_dir", "run", "--use_cpu"]
TRAIN += ["--learning_rate", "1e-2", "--max_steps", "6", "--save_strategy", "no"]


def test_a_log_file_gets_lines_and_a_verdict(folder, capsys):
    assert main(TRAIN) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    steps = re.findall(r"^step (\d) of 6: loss [\d.]+.*copilot loss [\d.]+; \d+ s left$", printed, re.MULTILINE)
    assert steps == ["1", "2", "3", "4", "5", "6"]  # a short run speaks at every step
    assert "{'loss'" not in printed
    number = r"[+-]?[\d.]+"
    found = re.search(
        rf"dev loss: Pilot ({number}), with its Copilot ({number}) \(gain ({number}) \[({number}), ({number})\]\)",
        printed,
    )
    assert found is not None, printed
    before, after, gain, low, high = map(float, found.groups())
    assert low < gain < high and gain == pytest.approx(before - after, abs=2e-4)
    config = json.loads((folder / "run" / "config.json").read_text())
    fit = config["copilot_weight_fit"]
    assert -fit["scores"][f"{fit['weight']:g}"] == pytest.approx(after, abs=1e-4)  # as the fit itself measured
    assert -fit["scores"]["0"] == pytest.approx(before, abs=1e-4)


def test_a_line_is_asked_for_after_long_silence(monkeypatch, folder, capsys):
    monkeypatch.setattr(progress, "MOST_SILENCE", -1.0)
    assert main([*TRAIN, "--logging_steps", "500"]) == 0
    assert "step 1 of 6: loss" in capsys.readouterr().out


class _IsTold(TrainerCallback):
    def __init__(self, number):
        self.number = number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_a_whole_checkpoint_and_say_how_to_go_on(monkeypatch, folder, capsys, number, code):
    class Stopped(CopilotTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.add_callback(_IsTold(number))

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(train, "CopilotTrainer", Stopped)
        assert main(TRAIN) == code
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert what_is_broken(folder / "run" / "checkpoint-3") is None
    printed = capsys.readouterr().out
    assert "stopped after step 3 of 6; checkpoint: run/checkpoint-3" in printed
    command = printed.rpartition("transformers-copilot train ")[2].split()
    assert command[-1] == "--resume" and not (folder / "run" / "config.json").exists()
    assert main(["train", *command]) == 0
    assert "training: 6 steps, from step 3" in capsys.readouterr().out


def gain(before, after, low, high, total=200):
    return LossGain(before, after, low, high, 5 * total, total)


@pytest.mark.parametrize(
    ("found", "weight", "said"),
    [
        (
            gain(1.23, 1.2, 0.01, 0.05),
            0.8,
            "with its Copilot 1.2000 (gain +0.0300 [+0.0100, +0.0500]): keep it, λ = 0.8",
        ),
        (gain(1.23, 1.22, -0.01, 0.03, 30), 0.8, "no gain that 30 texts could show: dev loss: Pilot 1.2300"),
        (gain(1.23, 1.33, -0.2, -0.05), 0.8, "it makes things worse, leave it out"),
        (gain(1.23, 1.2, 0.03, 0.03, 1), 0.8, "1 text is too few to tell"),
        (gain(1.23, 1.23, 0.0, 0.0), 0.0, "the Copilot made it better at no λ, so λ = 0"),
    ],
)
def test_the_verdict_in_plain_words(found, weight, said):
    assert said in in_words(found, weight)


@pytest.mark.parametrize(
    ("found", "weight", "advised"),
    [
        (gain(1.23, 1.2, 0.01, 0.05), 0.8, False),
        (gain(1.23, 1.22, -0.01, 0.03), 0.8, True),
        (gain(1.23, 1.23, 0.0, 0.0), 0.0, True),
        (gain(1.23, 1.2, 0.03, 0.03, 1), 0.8, False),
    ],
)
def test_where_both_learnt_together_and_nothing_gained_it_says_what_to_try(monkeypatch, found, weight, advised):
    fit = {"method": "grid", "weight": weight, "scores": {"0": -1.0, "1.5": -0.9}}
    pair = SimpleNamespace(config=SimpleNamespace(copilot_weight_fit=fit))
    monkeypatch.setattr(verdict, "item_losses", lambda *_: ())
    monkeypatch.setattr(verdict, "loss_gain", lambda *_: found)
    said = verdict.verdict(pair, [], byte_tokenizer(), 4, verdict.TOGETHER)
    assert any("--copilot_data same" in line for line in said) == advised
    assert not any("--copilot_data" in line for line in verdict.verdict(pair, [], byte_tokenizer(), 4))


def test_what_a_verdict_rests_on_is_warned_of():
    fit = {"method": "grid", "weight": 12.0, "scores": {"0": -1.0, "12": -0.5}}
    edge, few = _warnings(gain(1, 0.5, 0.4, 0.6, 6), fit)
    assert "λ = 12 is the largest that was tried" in edge and "6 dev texts, which are few" in few
    assert not _warnings(gain(1, 0.5, 0.4, 0.6), {**fit, "weight": 3.0})
    assert "λ = 20" in _warnings(gain(1, 0.5, 0.4, 0.6), {**fit, "method": "least_squares", "weight": 20.0})[0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (gain(1.2, 1.19, 0.01, 0.02), "[+0.0100, +0.0200]): take that, it is in run/b"),
        (gain(1.2, 1.3, -0.2, -0.05), "the pair is better, keep it"),
        (gain(1.2, 1.19, -0.01, 0.03, 30), "no difference that 30 texts could show: dev loss: the pair 1.2000, LoRA "),
        (gain(1.2, 1.19, 0.01, 0.02, 4), "4 texts are too few to tell; both are kept, the other in run/b"),
    ],
)
def test_the_verdict_on_a_rival_in_plain_words(found, said):
    assert said in rival_in_words(found, "LoRA", "run/b")


@pytest.mark.parametrize(
    ("family", "kind", "words", "texts", "rate"),
    [
        ("llama", "longer", [], 126, "0.01, not tuned"),
        ("llama", "lora", [], 126, "0.1, not tuned"),
        ("llama", "longer", ["--copilot_share", "0.5", "--copilot_epochs", "1"], 63, "0.01, not tuned"),
        ("t5", "lora", ["--baseline_learning_rate", "1e-3"], 126, "0.001\n"),
    ],
)
def test_a_rival_is_trained_for_as_long(family, kind, words, texts, rate, folder, capsys):
    made = byte_tokenizer()
    made.padding_side = "right"  # padding on the left would stand before what a decoder writes
    made.save_pretrained(folder / "pilot")
    ends = {"pad_token_id": made.pad_token_id, "eos_token_id": made.eos_token_id}
    make_pilot(family, vocab_size=len(made), **ends).save_pretrained(folder / "pilot")
    assert main([*TRAIN, *words, "--form", "linear", "--baseline", kind]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    what = BASELINES[kind]
    told = re.search(
        rf"^{what} \(.+\): ([\d,]+) steps on {texts} texts, at learning rate {rate}", printed, re.MULTILINE
    )
    assert told is not None and f"baseline: {told[1]} steps" in printed, printed
    said = re.search(rf"dev loss: the pair ([\d.]+), {what} ([\d.]+) \(gain", printed)
    assert said is not None, printed
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    rival = auto.from_pretrained(f"run/baseline-{kind}")
    dev = load_texts(PairArguments(pilot="pilot"), DataArguments(dataset="sums.jsonl"), 42).dev
    batch = DataCollatorForSeq2Seq(made)(list(encode_texts(made, dev, 1024, family == "t5")))
    assert float(said[2]) == pytest.approx(rival.eval()(**batch).loss.item(), abs=1e-4)  # as the model counts itself
    assert main(["evaluate", "run", "--dataset", "sums.jsonl", "--baseline", kind, "--max_new_tokens", "3"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^{what} .* of 140", printed, re.MULTILINE) and f"the pair against {what}" in printed
    results = json.loads((folder / "run" / "evaluation.json").read_text())
    assert results["baseline"]["loss"]["after"] == results["loss"]["after"]
    assert {"baseline_reply", "baseline_correct"} <= results["rows"][0].keys()


def test_the_first_step_of_a_pace_does_not_count(monkeypatch):
    times = iter([0.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr(progress, "seconds_now", lambda: next(times))
    clock, control = progress.StepClock(most_seconds=13.0), TrainerControl()
    clock.on_train_begin(None, None, control)
    assert clock.seconds == 0
    for step in (5, 6, 7):  # gone on from step 4
        assert not control.should_training_stop
        clock.on_step_end(None, TrainerState(global_step=step), control)
    assert control.should_training_stop and clock.step_seconds == 2.0 and clock.seconds == 14.0


def test_questions_too_long_for_their_loss_are_counted(folder, capsys, monkeypatch):
    assert main([*TRAIN, "--form", "linear"]) == 0
    monkeypatch.setattr(evaluate, "_MAX_LENGTH", 8)  # bytes: "8+1= 9" and its end have 7, "9+1= 10" 8, "10+1= 11" 9
    assert main(["evaluate", "run", "--dataset", "sums.jsonl", "--max_new_tokens", "3"]) == 0
    assert "130 of them are longer than 8 tokens and not in this loss" in capsys.readouterr().out
    results = json.loads((folder / "run" / "evaluation.json").read_text())
    assert results["loss"]["left_out"] == 130 and results["loss"]["total"] == 10 and len(results["rows"]) == 140


def test_a_rival_that_was_not_trained_is_named(folder, capsys):
    assert main(["evaluate", "run", "--dataset", "sums.jsonl", "--baseline", "lora"]) == 1
    assert "no folder run/baseline-lora" in capsys.readouterr().err
    assert main(["train", "--pilot", "pilot", "--record", "run", "--output_dir", "x", "--baseline", "lora"]) == 1
    assert "without texts to train it on" in capsys.readouterr().err


@pytest.mark.parametrize("right", [[False] * 12, [True] * 12])
def test_no_interval_of_a_gain_has_no_width(right):
    same = paired_gain(right, right)
    assert same.low == pytest.approx(-same.high) and 0.2 < same.high < 0.3
    all_mended = paired_gain([False] * 12, [True] * 12)
    assert all_mended.low < all_mended.difference == 1.0
    assert loss_gain(np.array([2.0, 3.0]), np.array([1.0, 2.5]), np.array([1, 1])).low < 0.75
