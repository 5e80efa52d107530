"""How a training speaks where no one looks on, and how it stops when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from .terminal import say


# Trainer takes a number below 1 as a share of the run: a hundred lines, and each step of a short run.
LOGGING_SHARE = 0.01
# Seconds without a line after which one is asked for.
MOST_SILENCE = 30.0


class LogLines(TrainerCallback):
    """Prints a line for each log: the step, the losses, the time that is left.

    Args:
        what (`str`, *optional*, defaults to `"training"`): what is being done, where a run has several steps.
    """

    def __init__(self, what: str = "training") -> None:
        self.what = what
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
            say(f"{self.what}: {state.max_steps:,} steps{going_on}")

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


class RecordLines:
    """Prints lines while a record is made, and times it.

    Args:
        shown (`bool`, *optional*, defaults to `True`): print them; a bar may be shown in their place.
    """

    def __init__(self, shown: bool = True) -> None:
        self.shown, self.seconds_a_text = shown, 0.0
        self.began = self.spoke = time.monotonic()
        self._started = seconds_now()

    def __call__(self, done: int, total: int) -> None:
        """Print one where there was none for long.

        Args:
            done (`int`): texts that are recorded.
            total (`int`): texts that are to be recorded; none where all are there already.
        """
        now = time.monotonic()
        if not done:
            self.began = self.spoke = now
            self._started = seconds_now()
            told = f"recording {total:,} texts" if total else "nothing is left to record here"
        else:
            self.seconds_a_text = (seconds_now() - self._started) / done
            told = f"recorded {done:,} of {total:,}; {duration((total - done) * (now - self.began) / done)} left"
        if self.shown and (not done or now - self.spoke > MOST_SILENCE):
            self.spoke = now
            say(told)


class StepClock(TrainerCallback):
    """Times a training, and stops one that only serves for that.

    Args:
        most_seconds (`float`, *optional*): stop after so many.
    """

    def __init__(self, most_seconds: float | None = None) -> None:
        self.most_seconds = most_seconds
        self._times: list[float] = []
        self._total = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start, anew where the batches are made smaller.

        Args:
            args, state, control, **kwargs: the Trainer's; not used.
        """
        self._times = [seconds_now()]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Time a step.

        Args:
            args, **kwargs: the Trainer's; not used.
            state (`TrainerState`): how many steps there were, before a checkpoint among them.
            control (`TrainerControl`): told to stop.
        """
        self._times.append(seconds_now())
        self._total = state.global_step
        if self.most_seconds is not None and self._times[-1] - self._times[0] > self.most_seconds:
            control.should_training_stop = True

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step, of which the first, that warms up, does not count; 0 where there was none."""
        timed = self._times[1:] if len(self._times) > 2 else self._times
        return (timed[-1] - timed[0]) / (len(timed) - 1) if len(timed) > 1 else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all steps, at the pace of those of this process; 0 where a run was finished before."""
        return self.step_seconds * self._total


def seconds_now() -> float:
    """The clock that models are compared by: processor seconds, or a GPU's wall clock once its work is done.

    Returns:
        `float`: only differences mean anything.
    """
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


class Interrupted(KeyboardInterrupt):
    """A training was stopped by a signal, after a whole checkpoint; the text says where.

    Args:
        told (`str`): how far the training was.
        signal_number (`int`): which one, such as `signal.SIGTERM`; the exit code follows from it.
    """

    def __init__(self, told: str, signal_number: int) -> None:
        super().__init__(told)
        # What shells say of a process that ended by the signal: 130 for Ctrl-C, 143 for SIGTERM.
        self.exit_code = 128 + signal_number


class StopOnInterrupt(TrainerCallback):
    """Ends a training with a whole checkpoint when Ctrl-C was pressed, or the process was told to end (SIGTERM, as
    schedulers of clusters do); a second time ends it at once.
    """

    def __init__(self) -> None:
        self._stopped_by: int | None = None
        self._training = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From here on there is something to save.

        Args:
            args, state, control, **kwargs: the Trainer's; not used.
        """
        self._training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop.

        Args:
            args, state, **kwargs: the Trainer's; not used.
            control (`TrainerControl`): told to save and to stop.
        """
        if self._stopped_by is not None:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what follows a training from being done.

        Args:
            args (`TrainingArguments`): where the checkpoint is.
            state (`TrainerState`): how far the run is.
            control, **kwargs: the Trainer's; not used.

        Raises:
            Interrupted: a signal came.
        """
        self._training = False
        if self._stopped_by is not None:
            folder = f"{args.output_dir}/checkpoint-{state.global_step}"
            told = f"stopped after step {state.global_step:,} of {state.max_steps:,}; checkpoint: {folder}"
            raise Interrupted(told, self._stopped_by)

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
            """Ask for the end once; the next time, and where nothing trains, the system's own way holds."""
            give_back()
            if not self._training:
                signal.raise_signal(number)
                return
            self._stopped_by = number
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


def speak(trainer: Trainer, what: str = "training") -> None:
    """Let a trainer say how far it is where no one looks on, in the place of Trainer's own prints.

    Args:
        trainer (`Trainer`): before it trains.
        what (`str`, *optional*, defaults to `"training"`): what is being done.
    """
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(LogLines(what))


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


__all__ = ["LOGGING_SHARE", "Interrupted", "LogLines", "RecordLines", "StepClock", "StopOnInterrupt", "duration"]
__all__ += ["seconds_now", "speak"]
