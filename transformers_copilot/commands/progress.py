"""How a training speaks where no one looks on, and how it stops when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from .terminal import say


# Trainer takes a number below 1 as a share of the run: a hundred lines, and each step of a short run.
LOGGING_SHARE = 0.01
# Seconds without a line after which one is asked for.
MOST_SILENCE = 30.0


class LogLines(TrainerCallback):
    """Prints a line for each log: the step, the losses, the time that is left."""

    def __init__(self) -> None:
        self.began = self.spoke = time.monotonic()
        self.first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say how long the run is.

        Args:
            args, control, **kwargs: the Trainer's; not used.
            state (`TrainerState`): its `max_steps`, and `global_step` where a checkpoint is gone on from.
        """
        self.began = self.spoke = time.monotonic()
        self.first_step = state.global_step
        if state.is_world_process_zero:
            going_on = f", from step {state.global_step:,}" if state.global_step else ""
            say(f"training: {state.max_steps:,} steps{going_on}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a line where there was none for long.

        Args:
            args, state, **kwargs: the Trainer's; not used.
            control (`TrainerControl`): told to log.
        """
        if time.monotonic() - self.spoke > MOST_SILENCE:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Print one.

        Args:
            args, control, **kwargs: the Trainer's; not used.
            state (`TrainerState`): how far the run is.
            logs (`dict`, *optional*): holds the losses, in nats a token; nothing is printed without one.
        """
        given = logs or {}
        losses = {name: given[name] for name in ("loss", "pilot_loss", "copilot_loss") if name in given}
        if not losses or not state.is_world_process_zero:
            return
        self.spoke = time.monotonic()
        told = ", ".join(f"{name.replace('_', ' ')} {float(value):.4f}" for name, value in losses.items())
        done = state.global_step - self.first_step
        left = (state.max_steps - state.global_step) * (self.spoke - self.began) / max(done, 1)
        say(f"step {state.global_step:,} of {state.max_steps:,}: {told}; {duration(left)} left")


class StopOnInterrupt(TrainerCallback):
    """Ends a training with a whole checkpoint when Ctrl-C was pressed, or the process was told to end (SIGTERM, as
    schedulers of clusters do); a second time ends it at once.

    Attributes:
        stopped_by (`int`, *optional*): the signal that came, if one came.
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None

    @property
    def exit_code(self) -> int:
        """What shells say of a process that ended by the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.stopped_by or 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop.

        Args:
            args, state, **kwargs: the Trainer's; not used.
            control (`TrainerControl`): told to save and to stop.
        """
        if self.stopped_by is not None:
            control.should_save = control.should_training_stop = True

    @contextmanager
    def listening(self, besides: Collection[int] = ()) -> Iterator[None]:
        """Take the signals, in a training of one process; several would stop at different steps.

        Args:
            besides (collection of `int`, *optional*): signals that are left to others.

        Yields:
            Nothing.
        """
        alone = int(os.environ.get("WORLD_SIZE", "1")) <= 1
        taken = [number for number in (signal.SIGINT, signal.SIGTERM) if alone and number not in besides]
        before = {number: signal.getsignal(number) for number in taken}

        def stop(number: int, frame: Any) -> None:
            """Ask for the end once; the next time the system's own way holds."""
            self.stopped_by = number
            give_back()
            again = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            say(f"stopping after this step, with a checkpoint; {again} again stops at once")

        def give_back() -> None:
            """What was done on these signals before."""
            for number, handler in before.items():
                signal.signal(number, handler)

        for number in taken:
            signal.signal(number, stop)
        try:
            yield
        finally:
            give_back()


def duration(seconds: float) -> str:
    """A time in words.

    Args:
        seconds (`float`): how long.

    Returns:
        `str`: such as `"3 min"`.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


__all__ = ["LOGGING_SHARE", "LogLines", "StopOnInterrupt", "duration"]
