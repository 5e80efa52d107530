"""Checkpoints: a training that was stopped, or killed, goes on as if it had not been."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from tests.conftest import make_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import (
    largest_difference,
    logged,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from transformers_copilot import MistakeLog, PilotCopilotForCausalLM
from transformers_copilot.mistake_log.export import count_rows
from transformers_copilot.training.checkpoints import (
    check_whole,
    checkpoints_of,
    last_whole_checkpoint,
    what_is_broken,
    what_rows_are_missing,
)


LOG = "mistake_log.safetensors"


def run(folder, pair, resume=None, **arguments):
    given = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, **arguments}
    trainer = make_trainer(folder, pair, **given)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def optimizer_state(trainer):
    names = {id(parameter): name for name, parameter in trainer.pair.named_parameters()}
    return {
        f"{names[id(parameter)]}.{key}": value.clone()
        for parameter, values in trainer.optimizer.state.items()
        for key, value in values.items()
    }


def saved_log(folder):
    with safe_open(Path(folder) / LOG, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


RESUMED = [
    ("llama", {}, {}),
    ("llama", {"head": "pilot"}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
    ("llama", {}, {"copilot_steps_per_round": 3, "mistake_log_rounds": 2, "mistake_log_dtype": "float32"}),
    ("llama", {}, {"copilot_lr_scheduler_type": "cosine", "copilot_warmup_steps": 2, "lr_scheduler_type": "linear"}),
    ("llama", {"copilot": {"num_hidden_layers": 2, "dropout": 0.2}}, {"held_out_mistakes": 0.3, "num_train_epochs": 1}),
    ("llama", {}, {"freeze_pilot": True, "copilot_steps_per_round": 2}),
    ("llama-tied", {"head": "pilot"}, {"bf16": True}),
    ("gpt2-dropout", {}, {}),
    ("t5", {}, {"gradient_accumulation_steps": 2}),
    ("mixtral", {}, {}),
    (
        "llama",
        {"copilot": {"num_hidden_layers": 2, "rationale": "depths"}, "error_feedback": "token", "head": "pilot"},
        {"gradient_accumulation_steps": 2},
    ),
    ("llama-tied", {"copilot": {"form": "linear"}}, {"copilot_steps_per_round": 2, "held_out_mistakes": 0.3}),
    ("gpt2-dropout", {"copilot": {"form": "branch", "num_hidden_layers": 1}}, {}),
    ("t5", {"copilot": {"form": "branch", "num_hidden_layers": 1}}, {}),
]


def resumable(family, options):
    changes = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2} if "dropout" in family else {}
    return make_pair(pilot=make_pilot(family.removesuffix("-dropout"), **changes), **options)


@pytest.mark.parametrize(("family", "options", "arguments"), RESUMED)
def test_a_resumed_training_is_an_uninterrupted_one(tmp_path, family, options, arguments):
    """Weights, optimiser, schedule, log and draws: bit by bit."""
    whole = run(tmp_path, resumable(family, options), **arguments)
    fresh = make_pair(pilot=make_pilot(family.removesuffix("-dropout"), seed=9), **options)
    if "dropout" in family:
        fresh = make_pair(pilot=make_pilot("gpt2", seed=9, resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2), **options)
    expected_log = saved_log(tmp_path / "checkpoint-6")
    again = run(tmp_path, fresh, resume=str(tmp_path / "checkpoint-3"), **arguments)
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0
    assert largest_difference(optimizer_state(whole), optimizer_state(again)) == 0.0
    steps = arguments.get("copilot_steps_per_round", 1)
    assert again.drawn == whole.drawn[3 * steps :]
    assert whole.lr_scheduler.get_last_lr() == again.lr_scheduler.get_last_lr()
    assert whole.mistake_log.round_numbers == again.mistake_log.round_numbers
    tensors, about = saved_log(tmp_path / "checkpoint-6")
    assert json.loads(about["log"]) == json.loads(expected_log[1]["log"])
    assert all(torch.equal(tensors[name], expected_log[0][name]) for name in {**tensors, **expected_log[0]})
    for name in ("loss", "pilot_loss", "copilot_loss", "grad_norm"):
        assert logged(again, name)[-3:] == logged(whole, name)[-3:], name


def test_in_the_second_epoch_too(tmp_path):
    given = {"rows": reversal_rows(12), "max_steps": -1, "num_train_epochs": 3, "save_steps": 4}
    whole = run(tmp_path, make_pair(), **given)
    again = run(tmp_path, make_pair(), resume=str(tmp_path / "checkpoint-4"), **given)
    assert whole.state.global_step == again.state.global_step == 9
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0


def test_a_checkpoint_is_a_pair_with_its_log(tmp_path):
    trainer = run(tmp_path, make_pair())
    loaded = PilotCopilotForCausalLM.from_pretrained(tmp_path / "checkpoint-6")
    assert largest_difference(state(loaded), state(trainer.pair)) == 0.0
    assert len(MistakeLog.load(tmp_path / "checkpoint-6" / LOG)) == 6
    trainer.save_model(tmp_path / "final")
    loaded = PilotCopilotForCausalLM.from_pretrained(tmp_path / "final")
    assert largest_difference(state(loaded), state(trainer.pair)) == 0.0
    assert not (tmp_path / "final" / LOG).exists()


def test_without_a_log_there_is_none_to_save(tmp_path):
    whole = run(tmp_path, make_pair(), use_mistake_log=False)
    assert not (tmp_path / "checkpoint-3" / LOG).exists()
    again = run(tmp_path, make_pair(), resume=str(tmp_path / "checkpoint-3"), use_mistake_log=False)
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0


def test_only_the_model_is_saved_where_only_the_model_is_wanted(tmp_path):
    run(tmp_path, make_pair(), save_only_model=True)
    assert not (tmp_path / "checkpoint-3" / LOG).exists()


def test_the_best_model_is_loaded_whole(tmp_path):
    """A mixture of experts is saved under other names than its modules have."""
    pair = make_pair("mixtral")
    given = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer = run(tmp_path, pair, greater_is_better=True, **given)
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-3")  # the loss falls, and the largest was asked for
    assert largest_difference(state(pair), state(PilotCopilotForCausalLM.from_pretrained(best))) == 0.0


def test_a_folder_that_a_state_names_as_the_best_is_not_followed(tmp_path, caplog):
    given = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "metric_for_best_model": "loss"}
    given |= {"greater_is_better": True}  # the loss falls: the first is the best
    run(tmp_path / "elsewhere", make_pair(random_head=True), max_steps=3, **given)
    run(tmp_path / "run", make_pair(), **given)
    file = tmp_path / "run" / "checkpoint-6" / "trainer_state.json"
    named = str(tmp_path / "elsewhere" / "checkpoint-3")
    file.write_text(json.dumps({**json.loads(file.read_text()), "best_model_checkpoint": named}))
    resumed = run(tmp_path / "run", make_pair(), resume=str(file.parent), **given)
    last = state(PilotCopilotForCausalLM.from_pretrained(file.parent))
    assert largest_difference(state(resumed.pair), last) == 0.0
    assert "It is not followed: the last weights stay" in caplog.text


# ---- logs that cannot be gone on with ----


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
def test_a_log_that_is_cut_off_is_refused(tmp_path, share):
    run(tmp_path, make_pair(), max_steps=3)
    path = tmp_path / "checkpoint-3" / LOG
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        ValueError, match=r"checkpoint-3 is not whole \(mistake_log.safetensors: .*resume_from_checkpoint=True"
    ):
        run(tmp_path, make_pair(), resume=str(path.parent))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"family": "gpt2"}, "its architecture is 'GPT2LMHeadModel', this Pilot's is 'LlamaForCausalLM'"),
        ({"hidden_size": 32}, "its hidden_size is 32, this Pilot's is 16"),
        ({"vocab_size": 29}, "its vocab_size is 29, this Pilot's is 23"),
        ({"num_hidden_layers": 3}, "its decoder_layers is 3, this Pilot's is 2"),
    ],
)
def test_a_log_of_another_model_is_refused(tmp_path, other, message):
    run(tmp_path, make_pair(), max_steps=3)
    other = dict(other)
    foreign = make_trainer(tmp_path / "other", make_pair(pilot=make_pilot(other.pop("family", "llama"), **other)))
    foreign.train()
    foreign.mistake_log.save(tmp_path / "checkpoint-3" / LOG)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, make_pair(), resume=str(tmp_path / "checkpoint-3"))
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, make_pair(), trainer_kwargs={"mistake_log": foreign.mistake_log})


def test_a_checkpoint_without_its_copilot_is_refused(tmp_path):
    trainer = run(tmp_path, make_pair(), max_steps=3)
    trainer.pair.pilot.save_pretrained(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="holds a model of type 'llama', not a pair"):
        run(tmp_path, make_pair(), resume=str(tmp_path / "checkpoint-3"))


# ---- killed while writing ----


def test_the_last_whole_checkpoint_is_found(tmp_path, caplog):
    run(tmp_path, make_pair(), save_steps=1, max_steps=4)
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0.')
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-3")
    weights = tmp_path / "checkpoint-3" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-1").rename(tmp_path / "checkpoint-10")  # the tenth step comes after the second
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")


def test_where_no_checkpoint_is_whole_that_is_said(tmp_path):
    run(tmp_path, make_pair(), max_steps=3)
    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"no whole checkpoint .*resume_from_checkpoint"):
        run(tmp_path, make_pair(), resume=True)
    with pytest.raises(ValueError, match=r"no whole checkpoint .*resume_from_checkpoint"):
        run(tmp_path / "empty", make_pair(), resume=True)


def test_a_checkpoint_that_is_written_anew_is_not_whole_meanwhile(tmp_path, monkeypatch):
    run(tmp_path, make_pair())
    trainer = make_trainer(tmp_path, make_pair(), max_steps=6, save_strategy="steps", save_steps=3)

    def killed(output_dir):
        assert Path(output_dir).name == "checkpoint-6"
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-3")


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A run with three checkpoints, exported rows and a tokenizer; tests change a copy of it."""
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, make_pair(), **A_RUN, trainer_kwargs={"processing_class": make_tokenizer()})
    trainer.train()
    return folder, state(trainer.pair)


A_RUN = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "mistake_log_export_rows": 1000}
# Without its list of files, a checkpoint is one of a former version: what it should have is not known of all of them.
KNOWN = ["config.json", "mistake_log.safetensors", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"]


def copy_of(run, folder, listed=True):
    shutil.copytree(run, folder)
    if not listed:
        for listing in folder.glob("checkpoint-*/checkpoint_files.json"):
            listing.unlink()
    return folder / "checkpoint-6"


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "of a former version"])
def test_a_checkpoint_of_which_a_file_is_missing_or_cut_is_passed_over(tmp_path, a_run, caplog, listed):
    names = sorted(path.name for path in (a_run[0] / "checkpoint-6").iterdir())
    names = [name for name in names if not name.endswith(".py") or name == "options.py"]  # one for all the code
    names.remove("training_args.bin")
    names = names if listed else [*KNOWN, "trainer_state.json"]
    assert set(KNOWN) < set(names) or not listed
    for place, name in enumerate(names):
        for share in (None, 0.0, 0.4, 0.999):
            folder = tmp_path / f"{place}-{share}"
            file = copy_of(a_run[0], folder, listed) / name
            content = file.read_bytes()
            if share is None:
                file.unlink()
            else:
                file.write_bytes(content[: min(int(share * len(content)), len(content) - 3)])
            known_to_be_needed = listed or share is not None or name != "mistake_log.safetensors"
            if name == "checkpoint_files.json" and share is None or not known_to_be_needed:
                assert what_is_broken(file.parent) is None  # as in a former version
                continue
            caplog.clear()
            assert last_whole_checkpoint(str(folder)) == str(folder / "checkpoint-4"), (name, share)
            (warning,) = caplog.messages
            assert f"{file.parent} is not whole ({name}: " in warning
            with pytest.raises(ValueError, match=rf"checkpoint-6 is not whole \({name}: .*resume_from_checkpoint=True"):
                check_whole(file.parent)
            shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_training_goes_on_from_the_newest_whole_checkpoint(tmp_path, a_run, name):
    (copy_of(a_run[0], tmp_path / "run") / name).unlink()
    again = make_trainer(tmp_path / "run", make_pair(), **A_RUN)
    with pytest.raises(ValueError, match=rf"checkpoint-6 is not whole \({name}: it is missing\)"):
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    again.train(resume_from_checkpoint=True)
    assert len(again.drawn) == 2
    assert largest_difference(a_run[1], state(again.pair)) == 0.0


def change_rows(folder, how):
    first, second, *_ = sorted((folder / "mistake_rows").rglob("*.parquet"))
    cut = second.read_bytes()[:-9]
    {"missing": second.unlink, "cut": lambda: second.write_bytes(cut)}.get(how, first.unlink)()


@pytest.mark.parametrize("how", ["missing", "cut", "the first ones missing"])
def test_rows_that_are_missing_or_cut_are_noticed(tmp_path, a_run, caplog, how):
    folder = tmp_path / "run"
    newest = copy_of(a_run[0], folder)
    change_rows(folder, how)
    assert what_is_broken(newest) is None  # the pair in it is whole
    with pytest.raises(ValueError, match=r"checkpoint-6 can't be resumed from with all its exported rows \(.*delete"):
        make_trainer(folder, make_pair(), **A_RUN).train(resume_from_checkpoint=str(newest))
    trainer = make_trainer(folder, make_pair(), **A_RUN)
    trainer.train(resume_from_checkpoint=True)
    told = r"mistake_rows/rank-00000/rounds-\S+: " if how == "cut" else "rows are missing in mistake_rows/rank-00000"
    assert re.search(rf"checkpoint-6 is not whole \(.*{told}", caplog.text)
    assert largest_difference(a_run[1], state(trainer.pair)) == 0.0
    if how != "the first ones missing":  # those of rounds 2 and 3 are made again
        assert len(trainer.drawn) == 4 and what_rows_are_missing(newest) is None
    else:  # no checkpoint is from before them
        assert len(trainer.drawn) == 0 and "without those rows" in caplog.text


def test_rows_may_be_gone_where_none_are_asked_for_or_they_are_elsewhere(tmp_path, a_run):
    folder = tmp_path / "run"
    newest = copy_of(a_run[0], folder)
    change_rows(folder, "missing")
    elsewhere = make_trainer(tmp_path / "other", make_pair(), **A_RUN)
    elsewhere.train(resume_from_checkpoint=str(newest))
    without = make_trainer(folder, make_pair(), **{**A_RUN, "mistake_log_export_rows": 0})
    without.train(resume_from_checkpoint=True)
    for trainer in (elsewhere, without):
        assert trainer.state.global_step == 6 and len(trainer.drawn) == 0


def test_a_run_that_is_done_is_done(tmp_path):
    """Trainer makes one more step of a run that is gone on with from its end."""
    given = {"lr_scheduler_type": "constant", "mistake_log_export_rows": 1000}
    whole = run(tmp_path, make_pair(), **given)
    again = run(tmp_path, make_pair(), resume=True, **given)
    assert (again.state.global_step, len(again.drawn)) == (6, 0)
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0
    assert whole.mistake_log.round_numbers == again.mistake_log.round_numbers


@pytest.mark.parametrize("save_steps", [100, 1])
def test_sigterm_leaves_a_whole_checkpoint_where_the_trainer_is_asked_for_one(tmp_path, save_steps):
    """`enable_jit_checkpoint` is the Trainer's own; it may come in the middle of a step, which is then made anew."""
    given = {"max_steps": 8, "save_steps": save_steps, "mistake_log_export_rows": 1000}
    whole = run(tmp_path / "whole", make_pair(), **given)
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(tmp_path / "told", make_pair(), save_strategy="steps", enable_jit_checkpoint=True, **given)
    (own,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, JITCheckpointCallback)]
    own.jit_manager.kill_wait = 0.0

    class IsTold(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)

    trainer.add_callback(IsTold())
    trainer.train()
    assert signal.getsignal(signal.SIGTERM) is before
    checkpoint = checkpoints_of(tmp_path / "told")[-1]
    assert checkpoint.name in ("checkpoint-3", "checkpoint-4") and what_is_broken(checkpoint) is None
    again = run(tmp_path / "told", make_pair(), resume=True, **given)
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0
    assert whole.mistake_log.round_numbers == again.mistake_log.round_numbers
    rows = [count_rows(tmp_path / name / "mistake_rows" / "rank-00000", 8) for name in ("whole", "told")]
    assert rows[0] == rows[1]


_SLOW_WRITER = """
import os, sys, time
from tests.helpers.training_helpers import make_pair, make_trainer
folder, slow, resume = sys.argv[1], sys.argv[2], sys.argv[3] == "resume"

def slowly(function):  # a file system that takes its time: half of the file, a pause, the rest
    def write(tensors, path, *args, **kwargs):
        function(tensors, path, *args, **kwargs)
        if "checkpoint-6" in str(path) and not resume:
            content = open(path, "rb").read()
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                print("writing", flush=True)
                time.sleep(60)
    return write

import transformers.modeling_utils, transformers_copilot.mistake_log.log
module = transformers.modeling_utils if slow == "model" else transformers_copilot.mistake_log.log
name = "safe_save_file" if slow == "model" else "save_file"
setattr(module, name, slowly(getattr(module, name)))
trainer = make_trainer(folder, make_pair(), max_steps=6, save_strategy="steps", save_steps=3)
trainer.train(resume_from_checkpoint=resume or None)
trainer.save_model(folder + "/final")
print("done", flush=True)
"""


@pytest.mark.parametrize("file", ["log", pytest.param("model", marks=pytest.mark.slow)])
def test_killed_while_writing(tmp_path, file):
    """SIGKILL in the middle of a file of checkpoint 6: the training goes on from checkpoint 3, all the same."""
    script, folder = tmp_path / "train.py", tmp_path / "run"
    script.write_text(_SLOW_WRITER)
    command = [sys.executable, str(script), str(folder), file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "start"], env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("writing"):
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()
    assert (folder / "checkpoint-6").is_dir() and not (folder / "checkpoint-6" / "trainer_state.json").exists()
    assert last_whole_checkpoint(str(folder)) == str(folder / "checkpoint-3")
    resumed = run(folder, make_pair(), resume=True)
    assert resumed.state.global_step == 6 and len(resumed.drawn) == 3
    whole = run(tmp_path / "whole", make_pair())
    assert largest_difference(state(whole.pair), state(resumed.pair)) == 0.0
    assert last_whole_checkpoint(str(folder)) == str(folder / "checkpoint-6")
    assert whole.mistake_log.round_numbers == MistakeLog.load(folder / "checkpoint-6" / LOG).round_numbers
    assert not list(folder.glob("**/*.partial"))
