"""Kills small trainings at every place and looks whether each, gone on with, ends as if it had not been killed.

One warm process forks a child for each training, so that none of them has to import anything. It is run as a program
of its own, with a description in JSON, and prints a report in JSON: `python -m tests.helpers.crash_harness '{…}'`.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import configuration_utils, modeling_utils

from tests.conftest import make_tokenizer
from tests.helpers.file_operations import FileOperations
from tests.helpers.training_helpers import make_pair, make_trainer
from transformers_copilot.mistake_log.export import row_streams
from transformers_copilot.training.callback import MistakeLogCallback
from transformers_copilot.training.checkpoints import last_whole_checkpoint


_CHECKPOINT = re.compile(r"checkpoint-\d+/")
MOST_SECONDS = 90.0  # of a training that takes one or two
ARGUMENTS: dict[str, Any] = {
    "max_steps": 6,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
    "mistake_log_rounds": 3,
    "mistake_log_export_rows": 100,  # thinned twice
}
PAIRS: dict[str, Callable[[], Any]] = {
    "llama": lambda: make_pair(copilot={"num_hidden_layers": 2, "dropout": 0.2}),
    "adapters": lambda: _adapted(),
    "t5": lambda: make_pair("t5", copilot={"num_hidden_layers": 1, "dropout": 0.2}),
}


class Point(NamedTuple):
    """Where a training is killed: at an operation, by its number and name or by its name alone, or after some time."""

    operation: int | None
    manner: str
    name: str
    seconds: float = 0.0
    again: float = 0.0  # the run that goes on is killed too, after so many seconds


def _adapted() -> Any:
    from peft import LoraConfig

    pair = make_pair(copilot={"num_hidden_layers": 2, "dropout": 0.2})
    pair.add_adapters(*(LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.1) for _ in range(2)))
    return pair


def train(kind: str, folder: Path, resume: bool) -> dict[str, Any]:
    """One training: what came of it, in short numbers."""
    with_tokenizer = {"processing_class": make_tokenizer()}
    trainer = make_trainer(folder, PAIRS[kind](), trainer_kwargs=with_tokenizer, **ARGUMENTS)
    # What the error of a run without a whole checkpoint says: leave `resume_from_checkpoint` out.
    found = last_whole_checkpoint(str(folder), with_rows=True) if resume else None
    trainer.train(resume_from_checkpoint=True if found else None)
    names = {id(parameter): name for name, parameter in trainer.pair.named_parameters()}
    optimizer = {
        f"{names[id(parameter)]}.{key}": value
        for parameter, values in trainer.optimizer.state.items()
        for key, value in values.items()
    }
    log = trainer.mistake_log
    tables = [pq.read_table(stream.path) for stream in row_streams(folder)]
    rows = pa.concat_tables(tables).sort_by([("round", "ascending")]).to_pydict()
    shown = [{k: v for k, v in entry.items() if "loss" in k or "norm" in k} for entry in trainer.state.log_history]
    inside = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        "from": Path(found).name if found else "anew",
        "weights": _digest(trainer.pair.state_dict()),
        "optimizer": _digest(optimizer) + json.dumps(trainer.lr_scheduler.state_dict(), default=str),
        "log": _digest({f"{n}.{k}": v for n, each in enumerate(log) for k, v in each.tensors().items()})
        + json.dumps([log.round_numbers, log.total_rounds, log.skipped_rounds]),
        "losses": [entry for entry in shown if "loss" in entry],
        "rows": {str(number): rows["round"].count(number) for number in sorted(set(rows["round"]))},
        "rows_digest": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "files": [name for name in inside if not name.startswith(("mistake_rows/", "_mistake_rows-"))],
    }


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(
            name.encode() + tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def in_child(work: Callable[[], dict[str, Any]], answer: Path, kill_after: float | None = None) -> tuple[str, float]:
    """Run something in a forked child, which may be killed. Its result, or its traceback, is written to a file.

    Returns:
        How it ended (`"done"`, `"killed"`, `"error"` or `"hang"`), and after how many seconds.
    """
    answer.unlink(missing_ok=True)
    started = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            answer.write_text(json.dumps(work()))
            code = 0
        except BaseException:  # noqa: BLE001 (a child of a fork must end here whatever happens)
            answer.write_text(json.dumps({"error": traceback.format_exc()}))
        finally:
            os._exit(code)
    ended, status = 0, 0
    while not ended:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - started
        if not ended and kill_after is not None and seconds >= kill_after:
            os.kill(child, signal.SIGKILL)
            kill_after = None
        elif not ended and seconds > MOST_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hang", seconds
        time.sleep(0.002)
    if os.WIFSIGNALED(status):
        return "killed", time.monotonic() - started
    return ("done" if os.WEXITSTATUS(status) == 0 else "error"), time.monotonic() - started


class Harness:
    """Trainings of one kind of pair in a folder."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.answer = kind, folder, folder / "answer.json"
        self.outcomes: Counter[str] = Counter()
        self.resumed_from: Counter[str] = Counter()
        self.remnants = 0
        self.failures: list[dict[str, Any]] = []

    def unbroken(self) -> tuple[list[str], float]:
        """The run that is not killed: its operations, and its time."""
        operations = FileOperations(self.folder / "unbroken")

        def work() -> dict[str, Any]:
            operations.watch()
            found = train(self.kind, operations.folder, resume=False)
            operations.end()
            return {**found, "operations": operations.names}

        how, seconds = in_child(work, self.answer)
        self.whole = json.loads(self.answer.read_text())
        if how != "done":
            raise RuntimeError(f"the run that is not killed ended with {how}: {self.whole}")
        return self.whole.pop("operations"), seconds

    def kill_and_resume(self, point: Point, fault: bool = False) -> str:
        """One point."""
        run = self.folder / "killed"
        shutil.rmtree(run, ignore_errors=True)
        operations = FileOperations(run, point.operation, point.name, point.manner)

        def work() -> dict[str, Any]:
            if fault:
                _flush_late()
            if point.name:
                operations.watch()
            found = train(self.kind, run, resume=False)
            operations.end()
            return found

        how, _ = in_child(work, self.answer, point.seconds or None)
        if how != "killed" and (point.name or how != "done"):
            outcome = "not killed" if how == "done" else how
            return self._count(point, outcome, self.answer.read_text() if how == "error" else "")
        if point.again:
            in_child(lambda: train(self.kind, run, resume=True), self.answer, point.again)
        left = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
        how, _ = in_child(lambda: train(self.kind, run, resume=True), self.answer)
        if how != "done":
            return self._count(point, "hang" if how == "hang" else "error", self.answer.read_text())
        found = json.loads(self.answer.read_text())
        self.resumed_from[found.pop("from")] += 1
        # A checkpoint that was to be removed when the process died; nothing is removed where no later one is written.
        kept = {name.partition("/")[0] for name in self.whole["files"]}
        files = [name for name in found["files"] if name.partition("/")[0] in kept or not _CHECKPOINT.match(name)]
        self.remnants += files != found["files"]
        found["files"] = files
        expected = {name: value for name, value in self.whole.items() if name != "from"}
        wrong = [name for name in expected if found[name] != expected[name]]
        lost = any(found["rows"].get(number, 0) < rows for number, rows in expected["rows"].items())
        outcome = "rows lost" if lost else "silent difference" if wrong else "equal"
        return self._count(point, outcome, {"wrong": {n: (expected[n], found[n]) for n in wrong}, "left": left})

    def _count(self, point: Point, outcome: str, about: Any) -> str:
        self.outcomes[outcome] += 1
        if outcome != "equal":
            self.failures.append({"point": point._asdict(), "outcome": outcome, "about": about})
        return outcome


def _flush_late() -> None:
    """The fault that the harness has to find: rows are written after the checkpoint counts as whole."""
    flush = MistakeLogCallback.flush_rows
    MistakeLogCallback.flush_rows = lambda self: None  # type: ignore[method-assign]
    MistakeLogCallback.on_save = lambda self, *args, **kwargs: flush(self)  # type: ignore[method-assign]


def kind_of(name: str) -> str:
    """An operation's name without the numbers of step and round; the code that goes along is of one kind, and so is
    whatever a checkpoint that goes has in it."""
    name = re.sub(r"\d{9}", "N", re.sub(r"checkpoint-\d+", "checkpoint-N", name))
    name = re.sub(r"^remove checkpoint-N/.*", "remove checkpoint-N/file", name)
    return re.sub(r"/\w+\.py$", "/code.py", name)


def every_point(operations: list[str]) -> list[Point]:
    """Before each operation, after it, and in the middle of each that writes."""
    points = []
    for number, name in enumerate(operations[:-1]):
        points.append(Point(number, "before", name))
        if name.startswith("write"):
            points.append(Point(number, "half", name))
    return [*points, Point(len(operations) - 2, "after", operations[-2])]


def some_points(points: list[Point], most: int) -> list[Point]:
    """One of each kind, of writing ones in the middle, then more by chance; always the same ones."""
    order = random.Random(0).sample(points, len(points))
    firsts: dict[str, Point] = {}
    for point in sorted(order, key=lambda point: point.manner == "before"):
        firsts.setdefault(kind_of(point.name), point)
    chosen = [*firsts.values(), *(point for point in order if point not in firsts.values())]
    return chosen[:most]


def _leave_code_out() -> None:
    """Save checkpoints without the code that goes along: most of a tiny checkpoint's time."""
    for module in (configuration_utils, modeling_utils):
        module.custom_object_save = lambda *args, **kwargs: []


def main() -> None:
    """Do what the description says, and print the report."""
    wanted = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if not wanted["code"]:
        _leave_code_out()
    harness = Harness(wanted["kind"], Path(wanted["folder"]))
    in_child(lambda: {}, harness.answer)
    gc.collect()
    gc.freeze()  # Trainer has all garbage collected; what is there already need not be looked at each time
    operations, seconds = harness.unbroken()
    points = every_point(operations)
    named = some_points(points, wanted["named"])
    chance = random.Random(wanted["seed"])
    at_random = [Point(None, "at random", "", seconds * chance.random()) for _ in range(wanted["random"])]
    twice = [chance.choice(points)._replace(again=seconds * chance.random()) for _ in range(wanted["twice"])]
    started = time.monotonic()
    for point in [*named, *at_random, *twice]:
        harness.kill_and_resume(point)
    report = {
        "operations": len(operations) - 1,
        "files": sorted({name.partition(" ")[2] for name in operations}),
        "kinds": sorted({f"{point.manner} {kind_of(point.name)}" for point in named}),
        "points": len(points),
        "named": len(named),
        "random": len(at_random),
        "twice": len(twice),
        "outcomes": dict(harness.outcomes),
        "resumed_from": dict(harness.resumed_from),
        "failures": harness.failures[:3],
        "remnants": harness.remnants,
        "seconds": round(time.monotonic() - started, 1),
        "whole_files": harness.whole["files"],
    }
    if wanted.get("fault"):
        point = Point(None, "after", "write checkpoint-2/trainer_state.json")
        report["with_the_fault"] = harness.kill_and_resume(point, fault=True)
    print("REPORT " + json.dumps(report))  # noqa: T201 (a program's result)


if __name__ == "__main__":
    main()
