"""`train --copilot_share` and `--copilot_data`: the Copilot learns after its Pilot, on what is new to that."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, TrainerCallback

from tests.helpers.byte_tokenizer import byte_tokenizer
from transformers_copilot import MistakeLog, analyse_mistakes
from transformers_copilot.commands import finish
from transformers_copilot.commands.main import main
from transformers_copilot.commands.progress import speak


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a Pilot and questions; the current one."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "pilot")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ends)).save_pretrained(tmp_path / "pilot")
    for name, numbers in (("all", range(40)), ("new", range(40, 60))):
        rows = [{"prompt": f"{n}+1=", "target": f" {n + 1}"} for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*words: str) -> int:
    fixed = ["--pilot", "pilot", "--output_dir", "run", "--use_cpu", "--form", "linear", "--learning_rate", "1e-2"]
    return main(["train", *fixed, "--per_device_train_batch_size", "8", "--copilot_epochs", "2", *words])


def test_a_share_of_the_texts_is_the_copilots(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert train("--dataset", "all.jsonl", "--copilot_share", "0.5", "--num_train_epochs", "1") == 0
    printed = capsys.readouterr().out
    assert "the Pilot learnt from 18 texts, the Copilot from 18" in printed  # and 4 are dev
    # Each part says how far it is.
    spoken = r"training the Pilot: 3 steps\n(step \d of 3: loss [\d.]+; .*\n){3}recording 18 texts\n"
    spoken += r"teaching the Copilot: 6 steps\n(step \d of 6: .*copilot loss [\d.]+; .*\n){6}"
    assert re.search(spoken, printed), printed
    said = re.search(
        r"dev loss: Pilot ([\d.]+), with its Copilot ([\d.]+) \(gain .*: 4 texts are too few to tell, λ = ", printed
    )
    assert said is not None and float(said[2]) <= float(said[1])
    pair = AutoModelForCausalLM.from_pretrained("run")
    assert pair.config.copilot.form == "linear" and pair.config.copilot_weight_fit["set_size"] == 4
    assert len(MistakeLog.open("run/record")) == 18
    assert analyse_mistakes("run") is not None  # the report has its rows
    assert train("--dataset", "all.jsonl", "--copilot_share", "0.5", "--num_train_epochs", "1") == 0  # all is there
    again = AutoModelForCausalLM.from_pretrained("run")
    assert torch.equal(again.copilot.map.weight, pair.copilot.map.weight)


def test_new_texts_for_a_pilot_that_is_in_use(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert train("--copilot_data", "new.jsonl") == 0
    assert "the Pilot learnt from 0 texts, the Copilot from 18" in capsys.readouterr().out
    before, after = LlamaForCausalLM.from_pretrained("pilot"), AutoModelForCausalLM.from_pretrained("run").pilot
    assert all(torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True))


def test_all_texts_for_the_pilot_and_others_for_the_copilot(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert train("--dataset", "all.jsonl", "--copilot_data", "new.jsonl", "--num_train_epochs", "1") == 0
    assert "the Pilot learnt from 36 texts, the Copilot from 20" in capsys.readouterr().out


def test_the_same_texts_for_both(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert train("--dataset", "all.jsonl", "--copilot_data", "same", "--num_train_epochs", "1") == 0
    assert "the Pilot learnt from 36 texts, the Copilot from 36" in capsys.readouterr().out
    assert len(MistakeLog.open("run/record")) == 36


@pytest.mark.parametrize("part", ["pilot", "copilot"])
def test_ctrl_c_leaves_a_whole_checkpoint_of_the_part_under_way(
    part: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Pressed(TrainerCallback):
        """Ctrl-C in the second step of one part."""

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1 and args.output_dir == f"run/{part}":
                os.kill(os.getpid(), signal.SIGINT)

    def speaks(trainer, what):
        speak(trainer, what)
        trainer.add_callback(Pressed())

    words = ["--dataset", "all.jsonl", "--copilot_share", "0.5", "--num_train_epochs", "1", "--save_strategy", "no"]
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(finish, "speak", speaks)
        assert train(*words) == 130
    assert signal.getsignal(signal.SIGINT) is before
    printed = capsys.readouterr().out
    assert f"stopped after step 2 of {3 if part == 'pilot' else 6}; checkpoint: run/{part}/checkpoint-2" in printed
    assert "To go on, give the same command again." in printed and not (folder / "run" / "config.json").exists()
    assert train(*words) == 0
    printed = capsys.readouterr().out
    assert f"{3 if part == 'pilot' else 6} steps, from step 2" in printed and "dev loss" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "all.jsonl", "--copilot_share", "1.5"], "above 0 and below 1"),
        (["--dataset", "all.jsonl", "--copilot_share", "0.5", "--record", "run/record"], "Leave one of them out"),
        (["--dataset", "all.jsonl", "--copilot_share", "0.5", "--held_out_mistakes", "0.2"], "held_out_mistakes=0.2"),
        (["--copilot_data", "none.jsonl"], "no file or folder none.jsonl"),
        (["--copilot_data", "same"], "--dataset"),
    ],
)
def test_wrong_words_are_named(folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert train(*words) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (folder / "run").exists()
