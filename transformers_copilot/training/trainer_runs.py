"""What a training begins with: once, for each model that `model_init` makes, and for each try at a batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import Trainer

from ..hub.pilot_fingerprint import pair_fingerprint, round_contents
from ..mistake_log.log import MistakeLog, check_fingerprint
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from .arguments import CopilotArguments
from .callback import rows_writer
from .held_out import HeldOutCollator, hold_out
from .live_metrics import MistakePicturesCallback


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object


class CopilotRunsMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that begins with a model, and anew with the next one."""

    train_dataset: Any
    data_collator: Any
    _begin_with_record: Any
    _held_out: Any
    _pictures: Any
    _forget_rounds: Any

    def _begin_with_model(self, log: MistakeLog | None = None, folder: str | None = None) -> None:
        """What hangs on the arguments and the model: a search for hyperparameters has others for each trial."""
        _set_up(self.pair, self.args)
        self._check_parallel()
        self._begin_with_record(log is not None)
        self._hold_out()
        if log is None:  # an empty one is false, and kept all the same
            log = MistakeLog(self.args.mistake_log_rounds, self.args.mistake_log_max_bytes)
        # What a round holds is the log's matter too, not only whose it is.
        expected = {**pair_fingerprint(self.pair), **round_contents(self.pair)}
        check_fingerprint("given", log.fingerprint, expected)
        log.fingerprint = {**log.fingerprint, **expected}
        self.mistake_callback.begin(log, rows_writer(self.args, folder))
        if self._pictures is not None:
            self.remove_callback(self._pictures)
            self._pictures = None
        if self.args.mistake_picture_steps:
            found = (lambda: self.mistake_log, lambda: self.callback_handler.callbacks)
            every = self.args.mistake_picture_steps
            self._pictures = MistakePicturesCallback(*found, every, self.processing_class)
            self.add_callback(self._pictures)

    def _hold_out(self) -> None:
        """Set examples aside; where the share or the seed has changed since, of the whole set again."""
        wanted = (self.args.held_out_mistakes, self.args.seed)
        if self._held_out and self._held_out[0] != wanted:
            _, whole, flagged = self._held_out
            if self.train_dataset is flagged:
                self.train_dataset = whole
                self.data_collator = self.data_collator.collator
            self._held_out = ()
        if not self._held_out and wanted[0] > 0.0 and self.train_dataset is not None:
            whole = self.train_dataset
            self.train_dataset = hold_out(whole, *wanted)
            self.data_collator = HeldOutCollator(self.data_collator)
            self._held_out = (wanted, whole, self.train_dataset)

    def _hp_search_setup(self, trial: Any) -> None:
        # `train` calls this for each training, after `model_init` has made a new model, and the trial's arguments are
        # set here: what a model is to be is known only now.
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self.args.check_copilot_arguments()
            self._begin_with_model(folder=self._get_output_dir(trial))

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        # `auto_find_batch_size` calls this again with smaller batches; the log forgets the rounds of the try before.
        if self._forget_rounds is None:
            self._forget_rounds = self.mistake_log.mark()
        else:
            self._forget_rounds()
        self.forget_losses()
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def _check_parallel(self) -> None:
        steps, frozen = self.args.copilot_steps_per_round, self.args.freeze_pilot
        if self.args.n_gpu > 1:
            raise ValueError(
                f"{self.args.n_gpu} devices in one process would use DataParallel, which splits logged rounds wrongly. "
                "Start one process a device with `torchrun` or `accelerate launch`, or show this one a single device."
            )
        if self.args.world_size > 1 and steps > 1 and not frozen and not self.args.ddp_find_unused_parameters:
            raise ValueError(
                f"`copilot_steps_per_round={steps}` trains the Copilot alone between the Pilot's steps; under "
                "distributed training that needs `ddp_find_unused_parameters=True` (or `freeze_pilot=True`)."
            )


def _set_up(pair: PilotCopilotPreTrainedModel, args: CopilotArguments) -> None:
    """Those arguments that a pair keeps itself."""
    if args.freeze_pilot:
        pair.freeze_pilot()
    if args.mistakes_from is not None:
        pair.config.mistakes_from = args.mistakes_from


def check_arguments(args: Any) -> None:
    """Refuse arguments that lack the Copilot's.

    Args:
        args ([`CopilotArguments`]): what the Trainer was given.

    Raises:
        TypeError: they are of another class.
    """
    if not isinstance(args, CopilotArguments):
        raise TypeError(
            f"`args` is a {type(args).__name__}; give CopilotTrainingArguments, or mix CopilotArguments into your own "
            "arguments' class."
        )


__all__ = ["CopilotRunsMixin", "check_arguments"]
