"""A line of progress now and then, instead of a bar, for runs whose output is read or kept."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PrintProgress(TrainerCallback):
    """Prints step, losses and seconds at every log of the Trainer."""

    LOSSES = ("loss", "pilot_loss", "copilot_loss")

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print a line where the log has losses."""
        losses = {name: value for name, value in (logs or {}).items() if name in self.LOSSES}
        if losses and state.is_local_process_zero:
            shown = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
            seconds = time.perf_counter() - self._started
            print(f"  step {state.global_step:>6,}/{state.max_steps:,}  {shown}  {seconds:.0f} s", flush=True)
