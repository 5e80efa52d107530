"""Rows of the table about training: whole steps of the real trainers, and the Mistake Log's own work."""

import argparse
import statistics
import tempfile
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from benchmarks.cost.measuring import Row, announce, compare, time_interleaved, time_now
from benchmarks.cost.models import Kind, random_tokens
from benchmarks.cost.work import Parameters
from transformers_copilot import (
    CopilotTrainer,
    CopilotTrainingArguments,
    MistakeBatch,
    MistakeLog,
    MistakeRecord,
    PilotCopilotForCausalLM,
)


MOST_LOG_PERCENT = 3.0
MOST_LOG_MEGABYTES = 500.0
LOG_ROUNDS = 128


class StepTimer(TrainerCallback):
    """Notes how long every optimizer step takes, from its first forward pass to its last callback.

    Args:
        clock: "wall" or "cpu".
        device: What the steps run on.
    """

    def __init__(self, clock: str, device: str) -> None:
        self.clock, self.device = clock, device
        self.started = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self.started = time_now(self.clock, self.device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds.append(time_now(self.clock, self.device) - self.started)


def supervised_rows(model: PreTrainedModel, rows: int, options: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """Training examples of `length` tokens, the last `supervised` of them with labels."""
    examples = []
    for ids in random_tokens(model, rows, options.length):
        labels = ids.clone()
        labels[: options.length - options.supervised] = -100
        examples.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return examples


def training_arguments(options: argparse.Namespace, steps: int, folder: str, **more: Any) -> CopilotTrainingArguments:
    """Full fine-tuning with Trainer's own optimizer, clipping and schedule, the same for all."""
    return CopilotTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        bf16=options.autocast == "bfloat16",
        use_cpu=options.device == "cpu",
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        **more,
    )


def train(
    model: PreTrainedModel,
    options: argparse.Namespace,
    steps: int,
    log: MistakeLog | None = None,
    frozen: bool = False,
) -> list[float]:
    """Train for some steps with the trainer that a user would take.

    Args:
        model: The Pilot, or a pair.
        options: The command line's options.
        steps: Optimizer steps.
        log: The Mistake Log to go on with; a pair without one learns from each batch once.
        frozen: Whether a pair's Pilot is only read.

    Returns:
        Seconds of each step but the first, which also makes the optimizer's state.
    """
    timer = StepTimer(options.clock, options.device)
    data = supervised_rows(model, options.batch * steps, options)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, PilotCopilotForCausalLM):
            arguments = training_arguments(options, steps, folder, use_mistake_log=log is not None, freeze_pilot=frozen)
            trainer: Trainer = CopilotTrainer(model=model, args=arguments, train_dataset=data, mistake_log=log)
        else:
            arguments = training_arguments(options, steps, folder)
            trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(timer)  # the last one, so that what the log's callback does is timed
        trainer.train()
    return timer.seconds[1:]


def training_rows(
    kind: Kind, pilot: PreTrainedModel, pair: PilotCopilotForCausalLM, work: Parameters, options: argparse.Namespace
) -> list[Row]:
    """Training steps of both together and of the Copilot beside a frozen Pilot, and the log's own time and size.

    Args:
        kind: Which pair.
        pilot: The Pilot alone, learning.
        pair: A pair of the same Pilot.
        work: Its weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    steps: dict[str, list[float]] = {"pilot": [], "joint": [], "frozen": []}
    logs = {"joint": MistakeLog(LOG_ROUNDS), "frozen": MistakeLog(LOG_ROUNDS)}
    for turn in range(options.training_blocks):  # blocks of steps in turn, so that all meet the same noise
        for name in [*list(steps)[turn % 3 :], *list(steps)[: turn % 3]]:
            model = pilot if name == "pilot" else pair
            steps[name] += train(model, options, 1 + options.block_steps, logs.get(name), name == "frozen")
            pair.freeze_pilot(False)
    shape = f"{options.batch} × {options.length} tokens, {options.supervised} supervised"
    joint = {"bound": work.training(options.length, options.supervised), "bound_by": "operations"}
    frozen = {"bound": work.teaching(options.length, options.supervised), "bound_by": "operations"}
    rows = [
        compare(kind.name, f"training step, {shape}", steps["pilot"], steps["joint"], target=kind.most(pilot), **joint),
        compare(kind.name, "training step, frozen Pilot", steps["pilot"], steps["frozen"], **frozen),
        *log_rows(kind, pair, statistics.median(steps["joint"]), options),
    ]
    return [announce(row) for row in rows]


def log_rows(kind: Kind, pair: PilotCopilotForCausalLM, step_seconds: float, options: argparse.Namespace) -> list[Row]:
    """What the Mistake Log itself takes: converting and appending a round, drawing one and padding it again.

    Args:
        kind: Which pair.
        pair: The pair.
        step_seconds: A training step of the pair.
        options: The command line's options.

    Returns:
        The rows.
    """
    rows = supervised_rows(pair, options.batch, options)
    pair.train()
    inputs = {name: torch.stack([row[name] for row in rows]).to(pair.device) for name in rows[0]}
    with torch.no_grad():
        mistakes: MistakeBatch = pair(**inputs, return_mistakes=True).mistakes
    pair.eval()
    log = MistakeLog(LOG_ROUNDS, max_bytes=2**40)

    def keep_and_draw() -> None:
        log.append(MistakeRecord.from_batch(mistakes))
        log.sample().to_batch(pair.device)

    repeats = max(LOG_ROUNDS, options.repeats)
    seconds = time_interleaved({"log": keep_and_draw}, repeats, options.clock, options.device)["log"]
    percent = 100.0 * statistics.median(seconds) / step_seconds
    size = log.nbytes / len(log) * LOG_ROUNDS / 1e6
    own_work, stored = "Mistake Log's own work in a step", f"Mistake Log of {LOG_ROUNDS} such rounds"
    return [
        Row(kind.name, own_work, None, percent, percent, percent, "%", target=MOST_LOG_PERCENT),
        Row(kind.name, stored, None, size, size, size, "MB", target=MOST_LOG_MEGABYTES),
    ]
