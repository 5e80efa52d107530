"""Arguments of [`CopilotTrainer`], beside all of TrainingArguments."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from transformers import SchedulerType, Seq2SeqTrainingArguments, TrainingArguments

from ..pair.options import TRAINING_VALUES, check_positive, chosen


# Schedules that follow a metric, not the step.
METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")


@dataclass
class CopilotArguments:
    r"""
    What a Copilot's training has that others' has not; to be mixed into any TrainingArguments
    (`class Arguments(CopilotArguments, SFTConfig)`).

    Args:
        copilot_learning_rate (`float`, *optional*):
            Peak learning rate of the Copilot. Defaults to `learning_rate`. The paper: 5e-4 beside a Pilot's 3e-4.
        copilot_lr_scheduler_type (`str`, *optional*):
            Schedule of the Copilot's learning rate. Defaults to `lr_scheduler_type`.
        copilot_lr_scheduler_kwargs (`dict`, *optional*):
            Arguments of its schedule; absolute ones (`min_lr`, `lr_end`) are for the Copilot's rate. Defaults to
            `lr_scheduler_kwargs` where both parts have the same schedule, else to none.
        copilot_warmup_steps (`float`, *optional*):
            Its warm-up: a number of steps, or below 1 a share of them. Defaults to `warmup_steps`.
        copilot_weight_decay (`float`, *optional*):
            Its weight decay. Defaults to `weight_decay`.
        copilot_max_grad_norm (`float`, *optional*):
            Each part is clipped by its own norm; this is the Copilot's. Defaults to `max_grad_norm`.
        use_mistake_log (`bool`, *optional*, defaults to `True`):
            Keep a Mistake Log and learn from rounds drawn from it. `False`: the Copilot learns from each batch once.
        mistake_log_rounds (`int`, *optional*, defaults to 128):
            Rounds that the log keeps.
        mistake_log_max_bytes (`int`, *optional*, defaults to 500,000,000):
            Bytes that the log keeps.
        mistake_log_draw (`str`, *optional*, defaults to `"newest"`):
            Which round a step of the Copilot reads. `"newest"`: the first step of a round the round under way, so that
            none is missed, and further steps (`copilot_steps_per_round`) rounds of the log, each with the same
            probability. `"uniform"`: every step draws like that (Algorithm 1).
        mistake_log_dtype (`str`, *optional*, defaults to `"bfloat16"`):
            Type of logged hidden states, `"bfloat16"` (or float16, which is finer, where its range suffices) or
            `"float32"`.
        mistake_log_layers (`int`, *optional*, defaults to 0):
            For so many sequences of a round every layer's output is logged beside their mean, for looking into.
        mistake_log_export_rows (`int`, *optional*, defaults to 0):
            Write up to so many rows (a row a token, some 20 bytes) of every round into Parquet files in
            `{output_dir}/mistake_rows`, where [`analyse_mistakes`] and the report find them; a longer run keeps every
            second round, or fourth, and so on. 0: nothing is written.
        mistake_picture_steps (`int`, *optional*, defaults to 0):
            Every so many steps, send the heat map of the latest round's mistakes to TensorBoard, trackio, wandb or
            MLflow, where `report_to` names them. 0: never.
        copilot_steps_per_round (`int`, *optional*, defaults to 1):
            Optimiser steps of the Copilot for each of the Pilot's, each on a round drawn anew.
        freeze_pilot (`bool`, *optional*, defaults to `False`):
            Only read the Pilot: no gradient and no optimiser state.
        held_out_mistakes (`float`, *optional*, defaults to 0.0):
            Share of the training set that the Pilot only reads, so that its mistakes there stay fresh.
        mistakes_from (`str`, *optional*):
            `"labels"` or `"all"`; defaults to the pair's own setting.

    Raises:
        ValueError: a value is out of range.
    """

    copilot_learning_rate: float | None = field(default=None, metadata={"help": "The Copilot's peak learning rate."})
    copilot_lr_scheduler_type: str | None = field(default=None, metadata={"help": "The Copilot's schedule."})
    copilot_lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of the Copilot's schedule, as JSON."}
    )
    copilot_warmup_steps: float | None = field(default=None, metadata={"help": "The Copilot's warm-up."})
    copilot_weight_decay: float | None = field(default=None, metadata={"help": "The Copilot's weight decay."})
    copilot_max_grad_norm: float | None = field(default=None, metadata={"help": "The Copilot's clipping norm."})
    use_mistake_log: bool = field(default=True, metadata={"help": "Learn from rounds drawn from a Mistake Log."})
    mistake_log_rounds: int = field(default=128, metadata={"help": "Rounds that the log keeps."})
    mistake_log_max_bytes: int = field(default=500_000_000, metadata={"help": "Bytes that the log keeps."})
    mistake_log_draw: str = field(default="newest", metadata={"help": "First read the 'newest' round, or 'uniform'."})
    mistake_log_dtype: str = field(default="bfloat16", metadata={"help": "Type of logged hidden states."})
    mistake_log_layers: int = field(default=0, metadata={"help": "Sequences a round with every layer logged."})
    mistake_log_export_rows: int = field(default=0, metadata={"help": "Rows of mistakes written to disk; 0: none."})
    mistake_picture_steps: int = field(default=0, metadata={"help": "Steps between two pictures of mistakes; 0: none."})
    copilot_steps_per_round: int = field(default=1, metadata={"help": "The Copilot's steps for each of the Pilot's."})
    freeze_pilot: bool = field(default=False, metadata={"help": "Only read the Pilot."})
    held_out_mistakes: float = field(default=0.0, metadata={"help": "Share of the data that the Pilot only reads."})
    mistakes_from: str | None = field(default=None, metadata={"help": "Lessons from 'labels' or 'all' positions."})

    def __post_init__(self) -> None:
        if isinstance(self.copilot_lr_scheduler_kwargs, str):
            self.copilot_lr_scheduler_kwargs = json.loads(self.copilot_lr_scheduler_kwargs)
        self.check_copilot_arguments()
        super().__post_init__()  # type: ignore[misc]

    def check_copilot_arguments(self) -> None:
        """Check the values; a search for hyperparameters sets them one by one.

        Raises:
            ValueError: a value is out of range, or two don't go together.
        """
        for name in ("mistake_log_rounds", "mistake_log_max_bytes", "copilot_steps_per_round"):
            check_positive(name, getattr(self, name))
        for name in TRAINING_VALUES:
            chosen(name, getattr(self, name))
        if self.mistakes_from is not None:
            chosen("mistakes_from", self.mistakes_from)
        if not 0.0 <= self.held_out_mistakes < 1.0:
            raise ValueError(
                f"`held_out_mistakes` is {self.held_out_mistakes}; it is the share of the training set that the Pilot "
                "only reads, from 0 to below 1."
            )
        for name in ("mistake_log_export_rows", "mistake_picture_steps"):
            value = getattr(self, name)
            if value < 0 or (value and not self.use_mistake_log):
                raise ValueError(f"`{name}` is {value}; give 0 or more, and `use_mistake_log=True` if above 0.")
        if self.copilot_steps_per_round > 1 and not self.use_mistake_log:
            raise ValueError(
                f"`copilot_steps_per_round` is {self.copilot_steps_per_round}, but without a Mistake Log there is only "
                "one round to read. Set `use_mistake_log=True`."
            )
        self._check_schedules()

    def _check_schedules(self) -> None:
        for name in ("copilot_learning_rate", "copilot_warmup_steps", "copilot_weight_decay"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` is {value}; give a number of 0 or more.")
        kind = self.schedule_name("lr_scheduler_type")
        own = self.given_for_copilot(("copilot_lr_scheduler_type", "copilot_lr_scheduler_kwargs"))
        own += self.given_for_copilot(("copilot_warmup_steps",))
        both = {kind} if self.copilot_lr_scheduler_type is None else {kind, self.copilot_schedule()[0]}
        if own and (by_metric := sorted(both.intersection(METRIC_SCHEDULES))):
            raise ValueError(
                f"the schedule {by_metric[0]!r} follows a metric and is not a function of the step alone, so Pilot and "
                f"Copilot cannot have schedules of their own beside it. Leave {', '.join(f'`{n}`' for n in own)} out, "
                "or use e.g. 'cosine'."
            )
        rate = self.copilot_learning_rate
        if kind == "greedy" and rate is not None and rate != self.learning_rate:  # type: ignore[attr-defined]
            raise ValueError(
                f"`copilot_learning_rate` is {rate}, but the schedule 'greedy' starts again when all rates are at "
                "their lower bound: the Copilot's would change the Pilot's. Leave it out, or use another schedule."
            )

    def given_for_copilot(self, names: Iterable[str]) -> list[str]:
        """Which arguments of the Copilot's own are set.

        Args:
            names (iterable of `str`): arguments that are `None` unless the user sets them.

        Returns:
            list of `str`
        """
        return [name for name in names if getattr(self, name) is not None]

    def schedule_name(self, name: str) -> str:
        """A schedule's plain name.

        Args:
            name (`str`): the argument that holds the schedule, such as `"copilot_lr_scheduler_type"`.

        Returns:
            `str`, such as `"cosine"`.

        Raises:
            ValueError: there is no such schedule.
        """
        return str(SchedulerType(getattr(self, name)).value)

    def copilot_schedule(self) -> tuple[str, dict[str, Any] | None]:
        """The Copilot's schedule and its arguments.

        Returns:
            `tuple`: its name, and `copilot_lr_scheduler_kwargs`, or `lr_scheduler_kwargs` where the Pilot's schedule is
            the same.
        """
        pilot = self.schedule_name("lr_scheduler_type")
        own = pilot if self.copilot_lr_scheduler_type is None else self.schedule_name("copilot_lr_scheduler_type")
        kwargs: Any = self.copilot_lr_scheduler_kwargs
        if kwargs is None and own == pilot:
            kwargs = self.lr_scheduler_kwargs  # type: ignore[attr-defined]
        return own, kwargs

    def copilot_warmup(self, num_training_steps: int) -> int:
        """The Copilot's warm-up.

        Args:
            num_training_steps (`int`): steps of the whole training, which a warm-up below 1 is a share of.

        Returns:
            `int`: its steps, counted as transformers counts `warmup_steps`.
        """
        warmup = self.copilot_warmup_steps
        if warmup is None:
            return self.get_warmup_steps(num_training_steps)  # type: ignore[attr-defined]
        return int(warmup) if warmup >= 1 else math.ceil(num_training_steps * warmup)

    def of_copilot(self, name: str) -> Any:
        """A training argument as it holds for the Copilot.

        Args:
            name (`str`): of an argument that both parts have, such as `"learning_rate"`.

        Returns:
            The value of `copilot_{name}` if it is set, else that of `{name}`.
        """
        own = getattr(self, f"copilot_{name}")
        return getattr(self, name) if own is None else own


@dataclass
class CopilotTrainingArguments(CopilotArguments, TrainingArguments):
    """TrainingArguments with those of [`CopilotArguments`], for [`CopilotTrainer`]."""


@dataclass
class CopilotSeq2SeqTrainingArguments(CopilotArguments, Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments with those of [`CopilotArguments`], for [`CopilotSeq2SeqTrainer`]."""


__all__ = ["CopilotArguments", "CopilotSeq2SeqTrainingArguments", "CopilotTrainingArguments"]
