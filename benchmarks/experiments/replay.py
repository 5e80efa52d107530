"""Copilots that learn from a recorded log: the Pilot's training does not depend on them, so it is run once a seed.

A logged state is made into logits by the Pilot's head as it is when it is read, so the vocabulary matrices of every
step are recorded too. One case differs from the joint training: where a log keeps all of p̂ (`mistake_top_k=None`) and
the Pilot's head learns, the joint training takes p̂ as it was, and a replay makes it again with the later head.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from benchmarks.experiments.spec import Variant
from benchmarks.experiments.train import Cost, Workplace, train
from transformers_copilot import CopilotTrainer, MistakeLog


PILOT_FILE = "pilot.safetensors"


def vocabulary_weights(pilot: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a Pilot's head and embedding, which its Copilot reads.

    Args:
        pilot: The Pilot.

    Returns:
        Name to tensor; shared weights once.
    """
    parts = {"head": pilot.get_output_embeddings(), "embedding": pilot.get_input_embeddings()}
    weights = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}
    first = {id(value): name for name, value in reversed(weights.items())}
    return {name: value.detach() for name, value in weights.items() if first[id(value)] == name}


def vocabulary_file(folder: Path, step: int) -> Path:
    """Where a recording has the vocabulary matrices that a step begins with."""
    return folder / f"vocabulary-{step:06d}.safetensors"


class Rounds(Dataset):
    """The numbers of the recorded rounds, which a step's batch is made of."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"round": index}


class ReplayTrainer(CopilotTrainer):
    """Algorithm 1 without the Pilot: at step t the Copilot reads the rounds that the log held at step t.

    Args:
        *args: CopilotTrainer's.
        recorded: All rounds of the Pilot's training.
        folder: The recording.
        **kwargs: CopilotTrainer's.
    """

    def __init__(self, *args: Any, recorded: MistakeLog, folder: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorded, self.folder = recorded, folder

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Copilot's loss on a round drawn as the joint training draws it."""
        # The trainer's own log holds what it would hold now: the rounds before this one.
        self._take_vocabulary()
        drawn = self._draw()
        record = self.recorded[self.state.global_step] if drawn is None else drawn
        outputs = model(mistake_round=record.to_batch(self.args.device))
        self.mistake_callback.hand(self.recorded[self.state.global_step])
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    @torch.no_grad()
    def _take_vocabulary(self) -> None:
        """Give the Pilot the vocabulary matrices that the recorded run's has now."""
        recorded = load_file(vocabulary_file(self.folder, self.state.global_step))
        for name, weight in vocabulary_weights(self.pair.pilot).items():
            weight.copy_(recorded[name])

    def _further_copilot_steps(self) -> None:
        self._take_vocabulary()  # the Pilot has made its step by then
        super()._further_copilot_steps()

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """One round's number a step; nothing of it is read."""
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=1)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        return None


class Recorder(TrainerCallback):
    """Keeps every round that a trainer commits to its own, bounded log. Added after the trainer's own callback.

    Args:
        trainer: The trainer.
        folder: Where the recording is to be.
    """

    def __init__(self, trainer: CopilotTrainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self.all = MistakeLog(1_000_000, 1 << 40, trainer.mistake_log.fingerprint)

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep what the step begins with."""
        self._keep_vocabulary(state.global_step)

    def _keep_vocabulary(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = vocabulary_weights(self.trainer.pair.pilot)
        copies = {name: weight.to("cpu", copy=True).contiguous() for name, weight in weights.items()}
        save_file(copies, vocabulary_file(self.folder, step))

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The step's round is the newest one."""
        log = self.trainer.mistake_log
        self.all.append(log[len(log) - 1], state.global_step - 1)

    def save(self, pair: PreTrainedModel) -> None:
        """Write all rounds and the trained Pilot.

        Args:
            pair: The trained pair.

        Raises:
            ValueError: Rounds are missing, for instance because the run went on from a checkpoint.
        """
        if len(self.all) != self.trainer.state.global_step:
            raise ValueError(
                f"{len(self.all)} of {self.trainer.state.global_step} rounds were recorded; a run that others are to "
                "replay has to be made in one go, and every round needs a supervised token."
            )
        self._keep_vocabulary(self.trainer.state.global_step)
        self.all.save(self.folder / "log.safetensors")
        weights = {name: value.contiguous().clone() for name, value in pair.pilot.state_dict().items()}
        # The last file of a recording, and whole at once: where it stands, the log stands.
        partial = self.folder / "pilot.partial"
        save_file(weights, partial)
        os.replace(partial, self.folder / PILOT_FILE)


def recording_of(place: Workplace) -> Path:
    """Where a seed's recording is, for all runs of an experiment."""
    return place.folder.parent / f"recording-{place.seed}"


def is_recorded(folder: Path) -> bool:
    """Whether a folder holds a whole recording."""
    return (folder / PILOT_FILE).is_file()


def take_recorded(pilot: PreTrainedModel, folder: Path) -> None:
    """Give a Pilot the weights that the recorded run's had at the end.

    Args:
        pilot: The Pilot, as it is built for the experiment.
        folder: The recording.
    """
    pilot.load_state_dict(load_file(folder / PILOT_FILE))


def replay(place: Workplace, variant: Variant, pair: PreTrainedModel, folder: Path) -> tuple[int, Cost]:
    """Train a pair's Copilot from a recorded log, and put the recorded run's Pilot beside it.

    Args:
        place: Where.
        variant: What differs in the Copilot's training.
        pair: The pair before training.
        folder: The recording.

    Returns:
        Steps and cost of the Copilot alone.

    Raises:
        ValueError: There is no recording.
    """
    if not is_recorded(folder):
        raise ValueError(f"there is no recording in {folder}: run the experiment's first variant of this seed again.")
    recorded = MistakeLog.load(folder / "log.safetensors", 1_000_000, 1 << 40)
    training = {**place.spec.training, **variant.training}
    for name in ("per_device_train_batch_size", "num_train_epochs", "gradient_accumulation_steps"):
        training.pop(name, None)
    args = place.arguments({**training, "max_steps": len(recorded), "freeze_pilot": True, "save_strategy": "no"})
    rounds = Rounds(len(recorded))
    trainer = ReplayTrainer(model=pair, args=args, train_dataset=rounds, recorded=recorded, folder=folder)
    cost = train(trainer)
    take_recorded(pair.pilot, folder)
    return len(recorded), cost
