"""Runs in pieces: a runner that has to end after some minutes keeps what is done, and a later one goes on there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer, TrainerCallback


TRAINED_FILE, TIME_FILE = "trained.safetensors", "training_time.json"


class OutOfTime(Exception):
    """The runner's time is over. What is done is kept."""


class Deadline:
    """When a runner has to end.

    Args:
        minutes: So many minutes from now.
    """

    def __init__(self, minutes: float) -> None:
        self._ends = time.monotonic() + 60 * minutes

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends

    def check(self) -> None:
        """See that there is time left.

        Raises:
            OutOfTime: There is none.
        """
        if self.passed:
            raise OutOfTime


class StopInTime(TrainerCallback):
    """Ends a training with a checkpoint when the time is over.

    Args:
        deadline: When that is.
    """

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        if self.deadline.passed and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def kept(folder: Path, deadline: Deadline | None, name: str, make: Callable[[], Any]) -> Any:
    """A part of a run that an earlier piece has made, or make it now.

    Args:
        folder: The run's folder.
        deadline: When the runner has to end; `None` where the run is made in one go, and nothing is kept.
        name: What is made.
        make: Makes it: anything that JSON can hold.

    Returns:
        What was made.

    Raises:
        OutOfTime: It is not made yet, and the time is over.
    """
    if deadline is None:
        return make()
    path = folder / f"{name}.json"
    if not path.is_file():
        deadline.check()
        _write(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


def check_same(folder: Path, description: str) -> None:
    """Refuse to go on with a run that was begun from another description.

    Args:
        folder: The run's folder.
        description: What the run depends on, in words.

    Raises:
        ValueError: An earlier piece had another one.
    """
    path = folder / "description.json"
    if not path.is_file():
        _write(path, description)
    if json.loads(path.read_text(encoding="utf-8")) != description:
        raise ValueError(
            f"{folder} holds a part of a run whose description was another one. Delete the folder to begin the run "
            "anew, or put the description back."
        )


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    os.replace(partial, path)


class TrainingInPieces:
    """What a training leaves in its folder for the next piece: its time, and at its end the weights that it changed.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.folder = trainer, Path(trainer.args.output_dir)

    def time(self) -> tuple[float, int, int]:
        """Seconds, steps and the most bytes of all pieces that ended well."""
        path = self.folder / TIME_FILE
        made = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return made.get("seconds", 0.0), made.get("steps", 0), made.get("memory_bytes", 0)

    def add_time(self, seconds: float, steps: int, memory_bytes: int) -> tuple[float, int, int]:
        """Add a piece.

        Args:
            seconds: What it took.
            steps: Its steps.
            memory_bytes: The most memory that it held.

        Returns:
            The same of all pieces.
        """
        before = self.time()
        total = (before[0] + seconds, before[1] + steps, max(before[2], memory_bytes))
        _write(self.folder / TIME_FILE, dict(zip(("seconds", "steps", "memory_bytes"), total, strict=True)))
        return total

    def take_trained(self) -> bool:
        """Give the model what an earlier piece has trained to its end.

        Returns:
            Whether there is such a thing.
        """
        path = self.folder / TRAINED_FILE
        if not path.is_file():
            return False
        weights = dict(self.trainer.model.named_parameters())
        for name, value in load_file(path).items():
            weights[name].data.copy_(value)
        self.trainer.state.global_step = int(json.loads((self.folder / "steps.json").read_text(encoding="utf-8")))
        return True

    def keep_trained(self, model: PreTrainedModel) -> None:
        """Keep what has learnt, and no checkpoint any more.

        Args:
            model: The trained model.
        """
        _write(self.folder / "steps.json", self.trainer.state.global_step)
        learnt = {name: value for name, value in model.named_parameters() if value.requires_grad}
        partial = self.folder / f"{TRAINED_FILE}.partial"
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in learnt.items()}, partial)
        os.replace(partial, self.folder / TRAINED_FILE)
        for checkpoint in self.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
