"""Teaching from a record: batches of recorded sequences, in which the Pilot's layers have no part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from ..mistake_log.record import MistakeRecord
from ..mistake_log.record_checks import record_for_pair
from ..mistake_log.recorded_mistakes import RecordCollator, RecordedMistakes


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object

# Arguments of rounds under way, which there are none of, and the value that each has to have.
_SENSELESS: dict[str, Any] = {
    "held_out_mistakes": 0.0,
    "copilot_steps_per_round": 1,
    "mistake_log_draw": "newest",
    "mistake_log_export_rows": 0,
    "mistake_log_layers": 0,
    "mistake_picture_steps": 0,
}
_SAMPLING_BY_LENGTH = ("group_by_length", "batch_rebalance")


class CopilotRecordedMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that teaches from [`RecordedMistakes`]."""

    train_dataset: Any
    data_collator: Any
    _lessons: Any
    _micro_step: int

    @property
    def learns_from_record(self) -> bool:
        """Whether the training set is a record."""
        return isinstance(self.train_dataset, RecordedMistakes)

    @property
    def keeps_log(self) -> bool:
        """Whether a Mistake Log is kept."""
        return bool(self.args.use_mistake_log) and not self.learns_from_record

    def _begin_with_record(self, log_is_given: bool) -> None:
        """Check a record against the pair and the arguments, before anything is learnt from it."""
        if not self.learns_from_record:
            return
        self._check_recorded_arguments(log_is_given)
        pair = self.pair
        self.train_dataset = record_for_pair(self.train_dataset, pair, self.processing_class)
        pair.adopt_head_map(self.train_dataset.header.known_head_map())
        if not isinstance(self.data_collator, RecordCollator):
            self.data_collator = RecordCollator(self.data_collator)

    def _check_recorded_arguments(self, log_is_given: bool) -> None:
        if not self.pair.pilot_is_frozen:
            raise ValueError(
                "`train_dataset` is a record of what the Pilot got wrong as it was, so it must not learn meanwhile: "
                "set `freeze_pilot=True`. To train both, give the data itself."
            )
        wrong = [
            f"`{name}={getattr(self.args, name)!r}`"
            for name, value in _SENSELESS.items()
            if getattr(self.args, name) != value
        ]
        if log_is_given:
            wrong.append("`mistake_log`")
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: these are about rounds of the Pilot's own training, and a record has none. Leave "
                "them out; epochs (`num_train_epochs`) are how often a record is read."
            )
        sampling = str(getattr(self.args, "train_sampling_strategy", ""))
        if sampling in _SAMPLING_BY_LENGTH:
            raise ValueError(
                f"`train_sampling_strategy` is {sampling!r}, but recorded sequences are not sorted by length: leave it "
                "out, or give 'sequential'."
            )
        if getattr(self.args.accelerator_config, "dispatch_batches", None):
            raise ValueError(
                "`accelerator_config` has `dispatch_batches=True`, which cuts batches into rows, and recorded "
                "sequences stand in one row: leave it out."
            )
        sets = self.eval_dataset.values() if isinstance(self.eval_dataset, Mapping) else [self.eval_dataset]
        if any(isinstance(one, RecordedMistakes) for one in sets):
            raise ValueError(
                "`eval_dataset` is a record, but an evaluation runs the Pilot on text: give examples with `input_ids` "
                "and `labels`."
            )

    def _count_recorded(self, batches: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Lessons of the whole step, in all processes. Each process divides its sums by its even share of them, since
        gradients are averaged over processes."""
        mistakes_from = self.pair.config.mistakes_from
        own = sum(MistakeRecord(**batch).count_supervised(mistakes_from) for batch in batches)
        items = torch.tensor(float(own), device=device)
        if self.args.world_size > 1:
            items = self.accelerator.gather(items.reshape(1)).sum()
        self._lessons = items.clamp_min(1.0) / self.args.world_size
        return items

    def _recorded_loss(self, model: nn.Module, batch: dict[str, Tensor], return_outputs: bool) -> Any:
        """The Copilot's loss on recorded sequences."""
        micro_steps = max(1, self.current_gradient_accumulation_steps)
        self._micro_step = (self._micro_step + 1) % micro_steps
        lessons = MistakeRecord(**batch).to_batch(self.args.device)
        outputs = model(mistake_round=lessons, copilot_items=self._lessons)
        self._add_losses(None, outputs.copilot_loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def is_recorded(batch: Any) -> bool:
    """Whether a batch is of recorded sequences.

    Returns:
        `bool`
    """
    return isinstance(batch, Mapping) and "lessons" in batch and "token_ids" in batch


__all__ = ["CopilotRecordedMixin", "is_recorded"]
