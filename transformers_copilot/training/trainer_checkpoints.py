"""Checkpoints of a pair in training: the Mistake Log beside the weights, and only whole ones resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import last_whole_checkpoint


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object


class CopilotCheckpointsMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that writes and reads checkpoints."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; see `Trainer.train`. With `resume_from_checkpoint=True` from the last *whole* checkpoint.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint's folder, or `True` for the last one.
            *args: the base Trainer's.
            **kwargs: the base Trainer's.

        Returns:
            `TrainOutput`

        Raises:
            ValueError: there is no whole checkpoint to resume from.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"there is no whole checkpoint in {self.args.output_dir} to resume from. Leave "
                    "`resume_from_checkpoint` out to start anew, or give a checkpoint's folder."
                )
        self._forget_rounds: Any = None  # until the first try has begun
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Trainer writes the state last. Where a checkpoint is written over, the old state would call a torn one whole.
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.keeps_log:
            self.mistake_callback.save(output_dir, self.args.process_index)
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.keeps_log:
            self.mistake_callback.load(checkpoint, self.args.process_index)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights as `from_pretrained` does: families whose saved names differ from their modules' (mixtures of
        experts) would lose weights in Trainer's own way."""
        if self.is_fsdp_enabled or (model is not None and model is not self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        pair = self.pair
        loaded = type(pair).from_pretrained(resume_from_checkpoint, dtype="auto").state_dict()
        if loaded.keys() == pair.state_dict().keys():
            pair.load_state_dict(loaded)
        else:
            odd = sorted(loaded.keys() ^ pair.state_dict().keys())
            raise ValueError(
                f"{resume_from_checkpoint} holds another pair than the one that trains: {len(odd)} weights are in "
                f"one of them only, {odd[0]} first. If one of them has adapters that the other lacks, put the "
                "same ones in (`add_adapters`) before resuming."
            )

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(best)


__all__ = ["CopilotCheckpointsMixin"]
