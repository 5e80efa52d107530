"""Side by side: a run owns its folder, a new run keeps an old one's rows, readers beside a writer see a whole state."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainerCallback

from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from tests.report.test_mistake_analysis import record_of_rows, rounds_on_disk
from transformers_copilot import (
    CopilotTrainingArguments,
    MistakeLog,
    PilotCopilotForCausalLM,
    analyse_mistakes,
    finish_then_record,
    record_mistakes,
)
from transformers_copilot.mistake_log import run_lock
from transformers_copilot.mistake_log.export import MistakeRowsWriter, read_rows, row_tables
from transformers_copilot.mistake_log.run_lock import LOCK_NAME, OWNER_NAME, own_folder
from transformers_copilot.report.run_folder import RunFolder
from transformers_copilot.training.checkpoints import checkpoints_of, what_is_broken, what_rows_are_missing


ROWS = {"mistake_log_export_rows": 10_000}
SAVED = {"save_strategy": "steps", "save_steps": 2}


# ---- one run owns its folder ----


def owner_in_another_process(folder):
    """A process that owns a folder until it is killed."""
    ready, says = os.pipe()
    child = os.fork()
    if not child:
        try:
            with own_folder(folder):
                os.write(says, b"!")
                time.sleep(60)
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(says)
    return child


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock.socket, "gethostname", lambda: "this-host")
    make_trainer(tmp_path, make_pair(), max_steps=2, **SAVED, **ROWS).train()
    child = owner_in_another_process(tmp_path)
    before = contents(tmp_path)
    try:
        for resume in (None, True):
            with pytest.raises(
                RuntimeError, match=rf"{tmp_path} belongs to .* process {child} on this-host.*output_dir"
            ):
                make_trainer(tmp_path, make_pair(), **SAVED, **ROWS).train(resume_from_checkpoint=resume)
        assert contents(tmp_path) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (tmp_path / LOCK_NAME).exists()  # a killed process leaves its files, but no lock
    make_trainer(tmp_path, make_pair(), **SAVED, **ROWS).train(resume_from_checkpoint=True)
    assert not (tmp_path / LOCK_NAME).exists() and not (tmp_path / OWNER_NAME).exists()


def test_of_two_trainings_in_two_threads_one_is_refused(tmp_path):
    first, second = (make_trainer(tmp_path, make_pair(), max_steps=2) for _ in range(2))
    began, done = threading.Event(), threading.Event()

    class Waits(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            began.set()
            done.wait(60)

    first.add_callback(Waits())
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(first.train)
        assert began.wait(60)
        with pytest.raises(RuntimeError, match=f"process {os.getpid()} on"):
            second.train()
        done.set()
        assert training.result().global_step == 2
    assert second.train().global_step == 2


def test_the_owner_is_in_no_checkpoint_and_in_nothing_that_stays(tmp_path, monkeypatch):
    name = "a-host-name-that-nobody-else-has"
    monkeypatch.setattr(run_lock.socket, "gethostname", lambda: name)
    seen = []

    class Looks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(json.loads((tmp_path / OWNER_NAME).read_text()))

    trainer = make_trainer(tmp_path, make_pair(), max_steps=2, **SAVED, **ROWS)
    trainer.add_callback(Looks())
    trainer.train()
    trainer.save_model()
    assert seen == [{"host": name, "pid": os.getpid()}] * 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if name.encode() in path.read_bytes() or path.name.startswith("_")]


def test_an_error_gives_the_folder_free(tmp_path):
    with pytest.raises(ZeroDivisionError), own_folder(tmp_path):
        raise ZeroDivisionError
    with own_folder(tmp_path), own_folder(tmp_path, is_main_process=False):  # of several processes one owns it
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_locked_is_trained_in_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_lock(self, timeout):
        raise OSError("no locks available")

    monkeypatch.setattr(run_lock.FileLock, "acquire", no_lock)
    with own_folder(tmp_path):
        pass
    assert "can't be locked (no locks available)" in caplog.text


def test_what_a_killed_run_had_staged_for_a_push_goes(tmp_path):
    (tmp_path / "_push-abc").mkdir()
    (tmp_path / "_push-abc" / "model.safetensors").write_bytes(b"x")
    make_trainer(tmp_path, make_pair(), max_steps=1).train()
    assert not (tmp_path / "_push-abc").exists()


def test_one_record_and_one_finishing_run_own_their_folders_too(tmp_path):
    rows = reversal_rows(4)
    args = CopilotTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with own_folder(tmp_path):
        with pytest.raises(RuntimeError, match="belongs to another run"):
            record_mistakes(make_pair(), rows, tmp_path, progress=False)
        with pytest.raises(RuntimeError, match="belongs to another run"):
            finish_then_record(make_pilot(), args, rows, data_collator=collate)
        with pytest.raises(RuntimeError, match="belongs to another run"):
            record_mistakes(make_pair(), rows, tmp_path, shard=(0, 2), progress=False)
    record_mistakes(make_pair(), rows, tmp_path, progress=False)
    assert len(MistakeLog.open(tmp_path)) == 4 and not list(tmp_path.glob("_run*"))


# ---- a new run in an old one's folder ----


def test_a_new_run_puts_an_old_ones_rows_aside(tmp_path, caplog):
    make_trainer(tmp_path, make_pair(), max_steps=3, **ROWS).train()
    other = MistakeRowsWriter(tmp_path, 100, rank=1)  # that run had two processes
    other.start(0)
    other.add(0, record_of_rows(5))
    other.flush()
    old = {path.name: path.read_bytes() for path in (tmp_path / "mistake_rows").rglob("*.parquet")}
    make_trainer(tmp_path, make_pair(), max_steps=2, **ROWS).train()
    assert f"they are now in {tmp_path / '_mistake_rows-1'}" in caplog.text
    assert rounds_on_disk(tmp_path) == [0, 1] and analyse_mistakes(tmp_path).totals["last_round"] == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "_mistake_rows-1").rglob("*.parquet")} == old
    # A run that writes none must not be taken for the one that did.
    make_trainer(tmp_path, make_pair(), max_steps=1).train()
    assert (tmp_path / "_mistake_rows-2").is_dir() and not list((tmp_path / "mistake_rows").rglob("*.parquet"))


def test_a_finishing_run_puts_another_ones_rows_aside_and_writes_its_own_anew(tmp_path, caplog):
    make_trainer(tmp_path, make_pair(), max_steps=3, **ROWS).train()
    args = CopilotTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, max_steps=1, disable_tqdm=True, **ROWS)
    for _ in range(2):
        finish_then_record(make_pilot(), args, reversal_rows(8), data_collator=collate, copilot_epochs=1.0)
    assert rounds_on_disk(tmp_path / "_mistake_rows-1") == [0, 1, 2] and not (tmp_path / "_mistake_rows-2").exists()
    assert analyse_mistakes(tmp_path).totals["replies"] == 4
    assert "not of this record" in caplog.text


def test_a_new_runs_checkpoints_come_before_an_old_ones_of_higher_steps(tmp_path, caplog):
    make_trainer(tmp_path, make_pair(), max_steps=6, **SAVED).train()
    given = {"max_steps": 8, "learning_rate": 1e-3, **SAVED}

    class Dies(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    new = make_trainer(tmp_path, make_pair(), **given)
    new.add_callback(Dies())
    with pytest.raises(KeyboardInterrupt):
        new.train()
    assert "holds checkpoint-6 of an earlier run" in caplog.text
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-4", "checkpoint-6", "checkpoint-2"]
    again = make_trainer(tmp_path, make_pair(), **given)
    again.train(resume_from_checkpoint=True)
    whole = make_trainer(tmp_path / "whole", make_pair(), **given)
    whole.train()
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0
    assert len(again.drawn) == 6  # from its own checkpoint 2


def test_rows_of_processes_that_are_no_more_are_cut_too(tmp_path):
    for rank in range(3):
        writer = MistakeRowsWriter(tmp_path, 100, rank=rank, world_size=3)
        writer.start(0)
        for number in range(6):
            writer.add(number, record_of_rows(2))
        writer.flush()
    MistakeRowsWriter(tmp_path, 100).start(4)
    for rank in range(3):
        (file,) = (tmp_path / "mistake_rows" / f"rank-{rank:05d}").glob("*.parquet")
        assert sorted(set(pq.read_table(file)["round"].to_pylist())) == [0, 1, 2, 3]


# ---- readers beside a writer ----


def test_an_analysis_beside_a_thinning_sees_a_whole_state(tmp_path):
    """Rounds of five rows each: what is counted must be all multiples of one stride."""
    writer, stop = MistakeRowsWriter(tmp_path, max_rows=300, rounds_per_file=8), threading.Event()

    def write():
        writer.start(0)
        for number in range(4000):  # the stride grows at rounds 60, 120, 240, …
            writer.add(number, record_of_rows(5))
            if stop.wait(0.02):
                return

    thread = threading.Thread(target=write)
    thread.start()
    seen, wrong, reads = set(), [], 0
    try:
        ends = time.monotonic() + 60.0
        while (len(seen) < 2 or reads < 5) and time.monotonic() < ends:
            if not list((tmp_path / "mistake_rows").rglob("*.parquet")):
                continue
            tables = read_rows(tmp_path, lambda streams: [list(row_tables(s, ["round"], 50)) for s in streams])
            rounds = [number for each in tables for table in each for number in table["round"].to_pylist()]
            totals = analyse_mistakes(tmp_path).totals
            stride = max(1, sorted(set(rounds))[1] if len(set(rounds)) > 1 else 1)
            expected = [number for number in range(0, rounds[-1] + 1, stride) for _ in range(5)]
            if rounds != expected or totals["rows"] % 5 or totals["tokens"] != totals["rows"]:
                wrong.append((stride, rounds, totals))
            seen.add(stride)
            reads += 1
    finally:
        stop.set()
        thread.join()
    assert not wrong, wrong[0]
    assert len(seen) >= 2, "the writer thinned meanwhile"


def test_a_reader_begins_again_where_a_file_went(tmp_path):
    writer = MistakeRowsWriter(tmp_path, max_rows=1000, rounds_per_file=2)
    writer.start(0)
    for number in range(6):
        writer.add(number, record_of_rows(5))
    calls = []

    def read(streams):
        if not calls:
            streams[-1].path.unlink()
        calls.append(len(streams))
        return [
            number for s in streams for table in row_tables(s, ["round"], 50) for number in table["round"].to_pylist()
        ]

    assert sorted(set(read_rows(tmp_path, read))) == [0, 1, 2, 3] and calls == [3, 2]


def test_a_set_that_was_thinned_by_half_is_read_as_one_that_is_thinned(tmp_path, monkeypatch):
    writer = MistakeRowsWriter(tmp_path, max_rows=40, rounds_per_file=2)
    writer.start(0)
    replaced = []

    def killed_after_two(source, target):
        if len(replaced) == 4:
            raise KeyboardInterrupt
        replaced.append(target)
        rename(source, target)

    rename = os.replace
    for number in range(7):
        writer.add(number, record_of_rows(5))
    replaced.clear()
    monkeypatch.setattr(os, "replace", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        for number in range(7, 9):  # two files of rows that were collected, then those that are thinned
            writer.add(number, record_of_rows(5))
    monkeypatch.undo()
    assert list((tmp_path / "mistake_rows").rglob("*.partial"))
    assert rounds_on_disk(tmp_path) == [0, 2, 4, 6, 8]  # two files still hold 5 and 7
    again = MistakeRowsWriter(tmp_path, max_rows=40)
    again.start(7)
    assert (again.stride, again.rows, rounds_on_disk(tmp_path)) == (2, 20, [0, 2, 4, 6])
    assert not list((tmp_path / "mistake_rows").rglob("*.partial"))


def test_a_run_is_looked_at_while_its_checkpoints_come_and_go(tmp_path):
    trainer = make_trainer(tmp_path, make_pair(), max_steps=12, save_strategy="steps", save_steps=1, save_total_limit=1)
    errors, looked = [], []

    class Looks(threading.Thread):
        def run(self):
            while not looked or trainer.is_in_train:
                try:
                    looked.append(RunFolder.read(tmp_path).state.get("global_step"))
                except FileNotFoundError as error:
                    if "there is no Mistake Log" not in str(error):  # before the first checkpoint
                        errors.append(error)

    trainer.is_in_train = True
    thread = Looks()
    thread.start()
    trainer.train()
    thread.join()
    assert not errors, errors[0]
    assert set(looked) - {None}


# ---- savers of one pair ----


def adapted_pair():
    from peft import LoraConfig

    pair = make_pair(random_head=True)
    pair.add_adapters(LoraConfig(target_modules=["q_proj"]), LoraConfig(target_modules=["v_proj"]))
    return pair


@pytest.mark.parametrize("make", [lambda: make_pair(random_head=True), adapted_pair], ids=["plain", "adapters"])
def test_threads_that_save_one_pair_each_write_all_of_it(tmp_path, make):
    pair = make().eval()
    has_adapters = any("lora_" in name for name, _ in pair.named_parameters())
    saves = [pair.save_pretrained, pair.save_adapters if has_adapters else pair.save_copilot]
    ids = torch.tensor([[3, 4, 5, 6]])
    expected = pair(input_ids=ids).logits
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(saves[number % 2], tmp_path / str(number)) for number in range(16)]
        answers = [pool.submit(lambda: pair(input_ids=ids).logits) for _ in range(4)]
        for job in jobs:
            job.result()
    assert all(torch.equal(answer.result(), expected) for answer in answers)
    assert "auto_map" not in vars(pair.config)  # it is there while the pair is saved
    names = [
        sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        for folder in (tmp_path / str(number) for number in range(16))
    ]
    assert all(each == names[number % 2] for number, each in enumerate(names))
    for number in range(0, 16, 2):
        again = PilotCopilotForCausalLM.from_pretrained(tmp_path / str(number))
        assert torch.equal(again(input_ids=ids).logits, expected)
        assert "auto_map" in json.loads((tmp_path / str(number) / "config.json").read_text())


# ---- several processes ----

_DDP = """
import json, sys
import torch
from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows, state
folder, resume = sys.argv[1], sys.argv[2] == "resume"
torch.set_num_threads(1)
trainer = make_trainer(folder, make_pair(copilot={"num_hidden_layers": 2, "dropout": 0.2}), max_steps=6,
                       per_device_train_batch_size=2, save_strategy="steps", save_steps=2, mistake_log_rounds=3,
                       mistake_log_export_rows=60, ddp_find_unused_parameters=False)
trainer.train(resume_from_checkpoint=resume or None)
torch.save(state(trainer.pair), f"{folder}/state-{trainer.args.process_index}.pt")
"""


def launch(tmp_path, folder, resume="start"):
    script = tmp_path / "ddp.py"
    script.write_text(_DDP)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*run, str(script), str(folder), resume],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_own_one_folder_and_go_on_from_a_whole_checkpoint(tmp_path):
    folder = tmp_path / "run"
    done = launch(tmp_path, folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("_run*"))
    checkpoint = folder / "checkpoint-6"
    listed = json.loads((checkpoint / "checkpoint_files.json").read_text())["files"]
    assert {"mistake_log-00001.safetensors", "mistake_rows-00001.json", "rng_state_1.pth"} <= set(listed)
    assert what_is_broken(checkpoint) is None and what_rows_are_missing(checkpoint) is None
    states = [torch.load(folder / f"state-{rank}.pt") for rank in range(2)]
    rows = {path.name: path.read_bytes() for path in (folder / "mistake_rows").rglob("*.parquet")}
    (checkpoint / "mistake_log-00001.safetensors").unlink()
    done = launch(tmp_path, folder, "resume")
    assert done.returncode == 0, done.stderr
    assert "checkpoint-6 is not whole (mistake_log-00001.safetensors: it is missing)" in done.stderr
    for rank in range(2):
        assert largest_difference(states[rank], torch.load(folder / f"state-{rank}.pt")) == 0.0
    assert {path.name: path.read_bytes() for path in (folder / "mistake_rows").rglob("*.parquet")} == rows
    child = owner_in_another_process(folder)
    try:
        done = launch(tmp_path, folder, "resume")
        assert done.returncode != 0 and f"process {child} on" in done.stderr
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
