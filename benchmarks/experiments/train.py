"""Training of an experiment's models, resumable, with its time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PrinterCallback, Trainer, TrainerCallback

from benchmarks.experiments.clock import seconds_now
from benchmarks.experiments.data import ExperimentData, is_encoder_decoder
from benchmarks.experiments.measure import supervised_of
from benchmarks.experiments.models import CorrectedHead
from benchmarks.experiments.pieces import Deadline, OutOfTime, StopInTime, TrainingInPieces
from benchmarks.experiments.precision import uses_bfloat16
from benchmarks.experiments.spec import Experiment
from benchmarks.process_memory import peak_bytes, reset_peak
from transformers_copilot import CopilotTrainingArguments
from transformers_copilot.training.checkpoints import last_whole_checkpoint


TIMED_STEPS = 12
# A large Pilot's steps are long, and vary less: after so many seconds a few of them are enough.
TIMED_SECONDS, FEWEST_STEPS = 30.0, 4


@dataclass
class Workplace:
    """Where and on what a run trains.

    Args:
        spec: The experiment.
        data: Its data.
        folder: The run's folder, for checkpoints.
        seed: The run's seed.
        device: `cpu` or `cuda`.
        deadline: When the runner has to end; `None`: when the run is made.
    """

    spec: Experiment
    data: ExperimentData
    folder: Path
    seed: int
    device: str = "cpu"
    deadline: Deadline | None = None

    def arguments(self, training: dict[str, Any]) -> CopilotTrainingArguments:
        """The training arguments of this run."""
        given = {"save_strategy": "no", "lr_scheduler_type": "cosine", "weight_decay": 0.0, **training}
        given["bf16"] = uses_bfloat16(self.spec, self.device)
        shared = {"report_to": "none", "disable_tqdm": True, "use_cpu": self.device == "cpu", "seed": self.seed}
        return CopilotTrainingArguments(str(self.folder), **shared, **given)

    def items(self, rows: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
        """Rows as token ids."""
        return self.data.encode(rows, self.spec.max_length, is_encoder_decoder(self.spec))

    def collator(self) -> DataCollatorForSeq2Seq:
        """Pads a batch, on the right."""
        return DataCollatorForSeq2Seq(self.data.tokenizer, padding=True)

    def trainer(self, kind: type[Trainer], model: PreTrainedModel, training: dict[str, Any], **more: Any) -> Trainer:
        """A trainer on this run's questions."""
        trainer = kind(
            model=model,
            args=self.arguments(training),
            train_dataset=self.items(self.data.train),
            data_collator=self.collator(),
            processing_class=self.data.tokenizer,
            **more,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


@dataclass(frozen=True)
class Cost:
    """What training took.

    Args:
        seconds: Time, as [`seconds_now`] counts it.
        memory_bytes: The most memory that the process held meanwhile; 0 where that was not measured.
    """

    seconds: float
    memory_bytes: int

    def __add__(self, later: Cost) -> Cost:
        """The cost of this and then another training."""
        return Cost(self.seconds + later.seconds, max(self.memory_bytes, later.memory_bytes))


def train(trainer: Trainer, deadline: Deadline | None = None) -> Cost:
    """Train to the end, from the last whole checkpoint if there is one; afterwards the model computes in its own type.

    Args:
        trainer: The trainer. Its output folder is this training's alone.
        deadline: When the runner has to end; `None`: when the training does.

    Returns:
        The cost of all of the training: where it goes on from a checkpoint, the seconds of the whole run by its pace.

    Raises:
        OutOfTime: The time is over before the training has ended; its last step is kept in a checkpoint.
    """
    pieces = None if deadline is None else TrainingInPieces(trainer)
    if pieces is not None and pieces.take_trained():
        return _whole_cost(trainer, *pieces.time())
    reset_peak()
    device = trainer.args.device.type
    started, before = seconds_now(device), 0
    has_checkpoints = pieces is not None or trainer.args.save_strategy != "no"
    checkpoint = last_whole_checkpoint(trainer.args.output_dir) if has_checkpoints else None
    if checkpoint is not None:
        before = int(Path(checkpoint).name.rpartition("-")[2])
    if deadline is not None:
        deadline.check()
        trainer.add_callback(StopInTime(deadline))
    trainer.train(resume_from_checkpoint=checkpoint)
    for left in ("forward", "_original_forward"):  # of Accelerate: with it a model goes on computing under autocast
        vars(trainer.model).pop(left, None)
    made = seconds_now(device) - started, trainer.state.global_step - before, peak_bytes()
    if pieces is not None:
        made = pieces.add_time(*made)
        if trainer.state.global_step < trainer.state.max_steps:
            raise OutOfTime
        pieces.keep_trained(trainer.model)
    return _whole_cost(trainer, *made)


def _whole_cost(trainer: Trainer, seconds: float, steps: int, memory_bytes: int) -> Cost:
    """The cost of all steps by the pace of those that were timed."""
    return Cost(seconds * trainer.state.global_step / max(1, steps), memory_bytes)


def pilot_step_seconds(place: Workplace, model: PreTrainedModel) -> float:
    """Seconds of a step of the Pilot alone, on the run's own batches, measured in the same run as the pair.

    Args:
        place: Where.
        model: A fresh Pilot.

    Returns:
        Mean seconds of some steps; the first, which warms up, does not count.
    """
    training = {**place.spec.training, "max_steps": TIMED_STEPS, "save_strategy": "no"}
    clock = StepClock()
    trainer = place.trainer(Trainer, model, training)
    trainer.add_callback(clock)
    trainer.train()
    return clock.mean()


class StepClock(TrainerCallback):
    """Times steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step has ended, on a GPU too."""
        self.times.append(seconds_now(args.device.type))
        if len(self.times) >= FEWEST_STEPS and self.times[-1] - self.times[0] > TIMED_SECONDS:
            control.should_training_stop = True

    def mean(self) -> float:
        """Mean seconds of a step; the first, which warms up, does not count."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


class HeadTrainer(Trainer):
    """Trains a Pilot as it would be trained alone, and the linear correction of its last hidden state beside it."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The Pilot's own loss, as Trainer computes it, plus that of the corrected logits, on disjoint parameters."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        head = self.model.lm_head
        if not isinstance(head, CorrectedHead) or head.parts is None:
            raise ValueError("the model has no linear correction; build it with `with_corrected_head`.")
        correction, labels = supervised_of(self.model, head.parts[1], inputs["labels"])
        logits, _ = supervised_of(self.model, head.parts[0].detach(), inputs["labels"])
        corrected = nn.functional.cross_entropy(logits + correction, labels, reduction="sum")
        loss = loss + corrected / (len(labels) if num_items_in_batch is None else num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip each by its own norm, as a pair's parts are: the correction must not shorten the Pilot's steps."""
        own = self.model.lm_head.map.weight
        nn.utils.clip_grad_norm_([own], self.args.max_grad_norm)
        return super()._clip_grad_norm(nn.ParameterList([each for each in model.parameters() if each is not own]))


def train_head(place: Workplace, model: PreTrainedModel) -> Cost:
    """Train the control that corrects the last hidden state.

    Args:
        place: Where.
        model: The Pilot with its corrected head.

    Returns:
        The cost.
    """
    args = place.arguments(place.spec.training)
    own = model.lm_head.map.weight
    groups = [
        {"params": [weight for weight in model.parameters() if weight is not own], "lr": args.learning_rate},
        {"params": [own], "lr": args.of_copilot("learning_rate")},
    ]
    # Trainer's own kind of optimizer, so that the Pilot learns to the last bit what it learns alone.
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = kind(groups, weight_decay=args.weight_decay, **options)
    # Where head and embedding are one, transformers can't save the model, so it is trained in one go.
    deadline = None if model.config.tie_word_embeddings else place.deadline
    return train(place.trainer(HeadTrainer, model, place.spec.training, optimizers=(optimizer, None)), deadline)
