"""Trainers that fine-tune a Pilot, keep its Mistake Log, and teach the Copilot from it (Algorithm 1)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Seq2SeqTrainer, Trainer
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.utils import logging

from ..adapters.adapter_checks import check_not_around_pair
from ..adapters.adapters import adapter_of_trainer
from ..hub.pilot_fingerprint import pair_fingerprint, round_contents
from ..mistake_log.device_memory import memory_explained, pilot_logits
from ..mistake_log.export import set_rows_aside
from ..mistake_log.log import MistakeLog, check_fingerprint
from ..mistake_log.record import MistakeRecord
from ..mistake_log.record_checks import record_for_pair
from ..mistake_log.record_size import batch_lessons
from ..mistake_log.recorded_mistakes import RecordCollator, RecordedMistakes
from ..mistake_log.run_lock import own_folder
from ..pair.fusion import named_weight
from ..pair.installed_package import advice_for_own_code
from ..pair.mistake_batch import MistakeBatch
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.objectives import check_copilot_loss
from ..pair.options import check_labels, chosen
from ..pair.trl_trainers import check_trl_trainer, trainer_that_teaches_both
from .argument_checks import check_arguments, check_devices, check_recorded_training
from .callback import MistakeLogCallback, rows_writer
from .checkpoints import check_kept_alike, check_whole, checkpoint_to_resume, checkpoints_of
from .held_out import HeldOutCollator, hold_out, pilots_batch
from .live_metrics import MistakePicturesCallback
from .optimization import (
    GROUP_ARGUMENTS,
    check_given_optimizer,
    copilot_groups_alone,
    pair_scheduler,
    split_parameter_groups,
)
from .pair_view import PairView
from .process_checks import check_launch, check_same_data, spread_errors_explained
from .trainer_evaluation import CopilotEvaluationMixin
from .trainer_saving import STAGING, CopilotSavingMixin
from .training_memory import LOWER, check_training_fits, needed_by_weights


logger = logging.get_logger(__name__)

# What Gloo and NCCL say when a process at the other end is gone.
_LOST = ("closed by peer", "reset by peer", "Connection refused", "remote process exited", "Broken pipe")


class CopilotTrainerMixin(CopilotEvaluationMixin, CopilotSavingMixin):
    """Put before a Trainer class: `class MyTrainer(CopilotTrainerMixin, SFTTrainer)`.

    One forward pass of the wrapped model a step does both parts: the Pilot on the batch, the Copilot on a round drawn
    from the log, the batch's own among them. The two losses are on disjoint parameters and are added.

    With [`RecordedMistakes`] as `train_dataset` and `freeze_pilot=True` only the Copilot runs, on recorded rounds.

    Three classes stand before the Trainer's own: this one (a run and its steps), [`CopilotEvaluationMixin`] (what is
    measured) and [`CopilotSavingMixin`] (what is written). No method stands in two of them, so their order among
    themselves makes no difference. The Trainer's class comes last: `super()` in any of the three reaches its method.
    Behind a Trainer's class they would do nothing, which is refused.

    Args:
        *args, **kwargs: the base Trainer's; `args` must have the fields of [`CopilotArguments`].
        mistake_log ([`MistakeLog`], *optional*): a log to go on with; a new one by default. Not with `model_init`,
            whose every model gets a new one.
        peft_config (`peft.PeftConfig`, *optional*): an adapter for the Pilot, put in by `pair.add_adapters`; TRL's
            argument, for every Trainer.

    Raises:
        TypeError: the model is no pair, the arguments lack the Copilot's, or a class puts a Trainer's before this one.
        ValueError: an argument can't be used with the model or the data, or the Trainer's class is one of TRL's other
            than SFTTrainer.
    """

    # The base Trainer's, which are set here too.
    train_dataset: Any
    data_collator: Any
    lr_scheduler: Any
    _signature_columns: Any
    loss_is_scaled_for_ga: bool | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(CopilotTrainerMixin):
            raise TypeError(
                f"{cls.__name__} has its Trainer's class before CopilotTrainerMixin, which then would do nothing. "
                "Put CopilotTrainerMixin first: `class MyTrainer(CopilotTrainerMixin, SFTTrainer)`."
            )

    def __init__(
        self, *args: Any, mistake_log: MistakeLog | None = None, peft_config: Any = None, **kwargs: Any
    ) -> None:
        model = args[0] if args else kwargs.get("model")
        check_not_around_pair(model)
        given: Any = args[1] if len(args) > 1 else kwargs.get("args")
        check_arguments(given)
        with trainer_that_teaches_both(), adapter_of_trainer(model, peft_config, given.seed, given.freeze_pilot):
            check_trl_trainer(getattr(type(self), "_tag_names", ()))
            super().__init__(*args, **kwargs)
        if mistake_log is not None and self.model_init is not None:
            raise ValueError(
                "`mistake_log` is given beside `model_init`: every training makes a new model, which can't go on with "
                "an old one's log. Leave `mistake_log` out (its bounds are `mistake_log_rounds` and "
                "`mistake_log_max_bytes`), or give `model` in place of `model_init`."
            )
        check_given_optimizer(self.optimizer, self.lr_scheduler, self.pair.copilot, self.args)
        self._held_out: tuple[Any, ...] = ()
        self._pictures: MistakePicturesCallback | None = None
        self._forget_rounds: Callable[[], None] | None = None
        self.mistake_callback = MistakeLogCallback(MistakeLog(), self._further_copilot_steps)
        self.add_callback(self.mistake_callback)
        self._begin_with_model(mistake_log)
        # Both losses are scaled here, so Trainer must not scale them again.
        self._pilot_loss_is_scaled = self.loss_is_scaled_for_ga
        self.loss_is_scaled_for_ga = True
        self._micro_step = 0
        self._drawn: MistakeRecord | None = None
        self._draws_nothing = False  # whether other processes have all of the round that was drawn
        self._latest: MistakeRecord | None = None  # this process's latest, with lessons in it or not
        self._batch_shape: tuple[int, ...] = ()  # of the latest batch
        self._drawn_lessons: Any = None
        self._lessons: Any = 0
        self.forget_losses()
        self._begin_evaluation()

    @property
    def mistake_log(self) -> MistakeLog:
        """The log that the Copilot learns from; it stays empty where none is kept."""
        return self.mistake_callback.log

    @property
    def pair(self) -> PilotCopilotPreTrainedModel:
        """The pair inside whatever wraps it.

        Raises:
            TypeError: the model is no pair.
        """
        model = self.model
        if not isinstance(model, PilotCopilotPreTrainedModel):
            model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if not isinstance(model, PilotCopilotPreTrainedModel):
            raise TypeError(
                advice_for_own_code(model)
                or f"the model is a {type(model).__name__}; give a pair, for instance "
                "PilotCopilotForCausalLM.from_pilot(model, {'num_hidden_layers': 6})."
            )
        return model

    @property
    def learns_from_record(self) -> bool:
        """Whether the training set is a record."""
        return isinstance(self.train_dataset, RecordedMistakes)

    @property
    def keeps_log(self) -> bool:
        """Whether rounds are put into the Mistake Log: as `use_mistake_log` says, and never from a record."""
        return bool(self.args.use_mistake_log) and not self.learns_from_record

    # ---- a run: what it begins with, once or for each model that `model_init` makes ----

    def _begin_with_model(self, log: MistakeLog | None = None, folder: str | None = None) -> None:
        """What hangs on the arguments and the model: a search for hyperparameters has others for each trial."""
        if self.args.freeze_pilot:
            self.pair.freeze_pilot()
        if self.args.mistakes_from is not None:
            self.pair.config.mistakes_from = self.args.mistakes_from
        check_devices(self.args)
        check_launch(self.args, self.accelerator)
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

    def _begin_with_record(self, log_is_given: bool) -> None:
        """Check a record against the pair and the arguments, before anything is learnt from it."""
        if not self.learns_from_record:
            return
        pair = self.pair
        check_recorded_training(self.args, pair.pilot_is_frozen, self.eval_dataset, log_is_given)
        self.train_dataset = record_for_pair(self.train_dataset, pair, self.processing_class)
        pair.adopt_head_map(self.train_dataset.header.known_head_map())
        if not isinstance(self.data_collator, RecordCollator):
            self.data_collator = RecordCollator(self.data_collator)

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

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> Any:
        """Train, and push what came of it; see `Trainer.train`, which leaves the last push to the user.

        A push that fails then is logged and does not undo the training: the pair lies in `output_dir`, and
        `push_to_hub()` tries again.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint's folder, or `True` for the last *whole*
                one: a training that was killed while it wrote a checkpoint goes on from the one before.
            trial (*optional*): a trial of a hyperparameter search, which is not pushed.
            **kwargs: handed on to `Trainer.train` as they are.

        Returns:
            `TrainOutput`

        Raises:
            ValueError: there is no whole checkpoint to resume from, or the one that was named is not whole; or the
                training clearly doesn't fit into the device's memory.
            RuntimeError: another run owns the folder; or the device's memory is full, and a note says what to lower.
        """
        folder = self._get_output_dir(trial)
        with (
            own_folder(folder, self.is_world_process_zero()),
            self._lost_process_named(folder),
            spread_errors_explained(),
            memory_explained(self.args.device, "Training this pair", self._needed_memory, LOWER),
        ):
            self._check_memory()
            check_same_data(self.accelerator, self._data_sets())
            checkpoint = self._checkpoint_of(folder, resume_from_checkpoint)
            self._resumed_beside = () if checkpoint is None else (Path(checkpoint).parent,)
            self._clear_up(folder, checkpoint is None)
            self._forget_rounds = None  # until the first try has begun
            output = super().train(checkpoint, trial, **kwargs)
            if self.args.push_to_hub and trial is None:
                self._push_result()
        return output

    def _data_sets(self) -> dict[str, Any]:
        """What is trained and evaluated on, by the names of the arguments."""
        several = isinstance(self.eval_dataset, Mapping)
        named = {f"eval_dataset[{name!r}]": data for name, data in self.eval_dataset.items()} if several else {}
        found = {"train_dataset": self.train_dataset, **(named if several else {"eval_dataset": self.eval_dataset})}
        return {name: data for name, data in found.items() if data is not None}

    @contextmanager
    def _lost_process_named(self, folder: str) -> Iterator[None]:
        """Where another process has ended, say so: the library that connects them names a socket."""
        try:
            yield
        except RuntimeError as error:
            if self.args.world_size > 1 and any(sign in str(error) for sign in _LOST):
                error.add_note(
                    f"Another process of this run has ended, so process {self.args.process_index} stops as well; the "
                    f"other's own message says why. Checkpoints in {folder} are whole: `resume_from_checkpoint=True` "
                    "goes on from the last."
                )
            raise

    def _needed_memory(self) -> dict[str, int]:
        needed = needed_by_weights(self.pair, self.args, self.optimizer)
        return {**needed, **pilot_logits(self.pair, self._batch_shape)}

    def _check_memory(self) -> None:
        """Where weights, gradients or moments are spread or lie elsewhere, what is needed here isn't known."""
        spread = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not spread and (self.optimizer is None or not getattr(self.optimizer, "state", None)):
            check_training_fits(needed_by_weights(self.pair, self.args, self.optimizer), self.args.device)

    def _checkpoint_of(self, folder: str, given: str | bool | None) -> str | None:
        """The checkpoint to go on from, which is whole."""
        with_rows = bool(self.args.mistake_log_export_rows)
        if not given:
            return None
        if given is True:
            given = checkpoint_to_resume(folder, with_rows)
        else:
            check_whole(given, folder if with_rows else None)
        fsdp = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        check_kept_alike(given, fsdp, self.args.world_size if self.is_deepspeed_enabled else None)
        return given

    def _clear_up(self, folder: str, is_new: bool) -> None:
        """Remove what a killed run had staged for a push, and put aside rows that are not this run's."""
        if self.is_local_process_zero():
            for left in Path(folder).glob(f"{STAGING}*"):
                shutil.rmtree(left, ignore_errors=True)
            if is_new and (aside := set_rows_aside(folder)) is not None:
                logger.warning(
                    f"{folder} holds the exported rows of an earlier run, and this one begins anew: they are now in "
                    f"{aside}. `resume_from_checkpoint=True` would have gone on with that run."
                )
            if is_new and (old := checkpoints_of(folder)):
                logger.warning(
                    f"{folder} holds {old[-1].name} of an earlier run, and this one begins anew. Until it has saved a "
                    "checkpoint of its own, `resume_from_checkpoint=True` would go on with that run."
                )
        self.accelerator.wait_for_everyone()

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

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer looks whether it is done after each step: gone on with from its end, a run would make one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    # ---- one optimizer and one schedule for both parts ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimiser with groups of the Pilot's and the Copilot's own.

        Args:
            model (`nn.Module`, *optional*): the model to optimise, if it is not the trainer's.

        Returns:
            `torch.optim.Optimizer`
        """
        fresh = self.optimizer is None
        optimizer: Any = super().create_optimizer(model)
        if not isinstance(optimizer, torch.optim.Optimizer) and (given := self.args.given_for_copilot(GROUP_ARGUMENTS)):
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in given)} can't be honoured: the optimizer is a "
                f"{type(optimizer).__name__}, made elsewhere. Leave them out, or let the trainer make the optimizer."
            )
        made_by = None if self.optimizer_cls_and_kwargs is None else self.optimizer_cls_and_kwargs[0]
        if made_by is not None and is_optimizer_factory(made_by):
            check_given_optimizer(optimizer, None, self.pair.copilot, self.args)
        elif fresh and isinstance(optimizer, torch.optim.Optimizer):
            names = set(self.get_decay_parameter_names(self.model))
            decay = {id(parameter) for name, parameter in self.model.named_parameters() if name in names}
            split_parameter_groups(optimizer, self.pair.copilot, decay, self.args)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The Pilot's schedule for its groups, the Copilot's for its own.

        Args:
            num_training_steps (`int`): steps of the Pilot.
            optimizer (`torch.optim.Optimizer`, *optional*): defaults to the trainer's.

        Returns:
            A learning rate scheduler.
        """
        optimizer = optimizer or self.optimizer
        if self.lr_scheduler is None:
            own = pair_scheduler(optimizer, self.pair.copilot, self.args, num_training_steps)
            if own is not None:
                self.lr_scheduler, self._created_lr_scheduler = own, True
        return super().create_scheduler(num_training_steps, optimizer)

    # ---- a step, in the order in which Trainer calls it ----
    #
    # 1. `_get_num_items_in_batch` counts what both parts are to learn from.
    # 2. `compute_loss`, for each micro-batch, then its backward pass.
    # 3. `_clip_grad_norm`, then the optimizer's step.
    # 4. `MistakeLogCallback.on_step_end` puts the round into the log, then calls `_further_copilot_steps`.
    # 5. `log`, every `logging_steps`.

    def _set_signature_columns_if_needed(self) -> None:
        """The flags of held-out rows are the model's to see; TRL's trainers drop every column but their own."""
        super()._set_signature_columns_if_needed()
        if "held_out" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "held_out"]

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Supervised tokens of the Pilot in the step; held-out rows are not its own."""
        self._micro_step = 0  # a step begins, whatever became of the one before
        if batch_samples and _is_recorded(batch_samples[0]):
            return self._count_recorded(batch_samples, device)
        lessons = sum(self._count_lessons(batch) for batch in batch_samples if "labels" in batch)
        self._lessons = self._even_share(lessons, device)
        items = super()._get_num_items_in_batch([pilots_batch(batch) for batch in batch_samples], device)
        return items.clamp_min(1) if isinstance(items, Tensor) else items

    def _count_lessons(self, batch: dict[str, Any]) -> Tensor:
        """Positions of a batch that the Copilot is to learn from, as the pair will find them."""
        return batch_lessons(self.pair, batch)[1].sum()

    def _count_recorded(self, batches: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Lessons of the whole step, in all processes."""
        mistakes_from = self.pair.config.mistakes_from
        own = sum(MistakeRecord(**batch).count_supervised(mistakes_from) for batch in batches)
        self._lessons = self._even_share(own, device)
        return self._lessons * self.args.world_size

    def _even_share(self, own: Tensor | int, device: torch.device) -> Tensor:
        """What this process divides its sum of losses by, so that the average over processes, which is taken of
        gradients, is the sum over all lessons divided by their number."""
        items = torch.as_tensor(own, dtype=torch.float32, device=device)
        if self.args.world_size > 1:
            items = self.accelerator.gather(items.reshape(1)).sum()
        return items.clamp_min(1.0) / self.args.world_size

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Both losses of a (micro-)batch in one forward pass.

        Args:
            model (`nn.Module`): the pair, in whatever wraps it.
            inputs (`dict`): a batch of examples, with `held_out` of shape `(batch,)` where some are set aside; in a
                training from a record, one of recorded sequences.
            return_outputs (`bool`, *optional*, defaults to `False`): return the output too.
            num_items_in_batch (`int` or tensor, *optional*): supervised tokens of the Pilot in the whole step.

        Returns:
            The loss, or the loss and the output.

        Raises:
            ValueError: the Pilot's logits or the Copilot's loss are NaN or infinite; the round is named and not logged.
        """
        if model.training and _is_recorded(inputs):
            return self._recorded_loss(model, inputs, return_outputs)
        labels, base = inputs.get("labels"), super().compute_loss
        self._batch_shape = () if labels is None else tuple(labels.shape)
        self._check_numbers(inputs)
        if model.training:
            inputs = pilots_batch(inputs)
        view = PairView(model, self.pair, labels, self._extra_arguments(labels, inputs, model.training))
        with self._round_named() if model.training else nullcontext():
            # A copy: the base Trainer takes the labels out of it where it smooths them.
            loss = base(view, dict(inputs), num_items_in_batch=num_items_in_batch)
            if model.training:
                self._check_loss(view.outputs.copilot_loss)
        if model.training:
            loss = self._both_losses(view.outputs, loss, num_items_in_batch)
        else:
            self._add_sizes(view.outputs, inputs)
        return (loss, view.outputs) if return_outputs else loss

    @contextmanager
    def _round_named(self) -> Iterator[None]:
        """An error of the data or the numbers says in which round it was."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"round {self.state.global_step}: {error}") from error

    def _check_numbers(self, inputs: Mapping[str, Any]) -> None:
        """What the pair itself looks at, but for a compiled pass."""
        if not self.args.torch_compile:
            return
        self.pair.check_tokens(input_ids=inputs.get("input_ids"))
        if inputs.get("labels") is not None:
            check_labels(inputs["labels"], self.pair.config.vocab_size)

    def _check_loss(self, copilot_loss: Tensor) -> None:
        """The same of the Copilot's loss."""
        if self.args.torch_compile:
            check_copilot_loss(copilot_loss)

    def _recorded_loss(self, model: nn.Module, batch: dict[str, Tensor], return_outputs: bool) -> Any:
        """The Copilot's loss on recorded sequences."""
        micro_steps = max(1, self.current_gradient_accumulation_steps)
        self._micro_step = (self._micro_step + 1) % micro_steps
        lessons = MistakeRecord(**batch).to_batch(self.args.device)
        with self._round_named():
            outputs = model(mistake_round=lessons, copilot_items=self._lessons)
            self._check_loss(outputs.copilot_loss)
        self._add_losses(None, outputs.copilot_loss)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _extra_arguments(self, labels: Tensor | None, inputs: dict[str, Any], training: bool) -> dict[str, Any]:
        """What the pair is called with beside a batch: in training the round to learn from."""
        if not training:
            return {}
        if labels is None:
            raise ValueError(
                f"a training batch has no `labels`, only {sorted(inputs)}: without the true tokens there is neither a "
                "loss nor a mistake. Let the data or its collator give them, -100 where nothing is supervised."
            )
        micro_steps = max(1, self.current_gradient_accumulation_steps)
        index, self._micro_step = self._micro_step, (self._micro_step + 1) % micro_steps
        logging = self.keeps_log
        extra: dict[str, Any] = {"return_mistakes": logging, "keep_layers": self.args.mistake_log_layers}
        if logging:
            if index == 0:
                self._drawn = self._draw()
            extra.update(self._part_of_round(index, micro_steps))
        extra.setdefault("copilot_items", self._lessons)
        extra.setdefault("copilot_scale", 1.0)
        return extra

    def _draw(self, again: int = 0) -> MistakeRecord | None:
        """A round of the log, or `None` for the one under way. What is drawn depends on seed and step only, so that a
        resumed run draws as an uninterrupted one. Several processes draw the same round, of which each has a part."""
        self._draws_nothing = False
        if not again and chosen("mistake_log_draw", self.args.mistake_log_draw) == "newest":
            return None
        seed = (self.args.seed * 1_000_003 + self.state.global_step) * 1009 + again
        generator = torch.Generator().manual_seed(seed % 2**63)
        log = self.mistake_log
        if self.args.world_size == 1:
            return log.sample(generator) if again else log.sample_with_next(generator)
        numbers = self._kept_rounds()
        place = log.drawn_place(len(numbers), generator, with_next=not again)
        if place == len(numbers):
            return None
        record = log.newest_of(numbers[place])
        self._draws_nothing = record is None
        return record

    def _kept_rounds(self) -> list[int]:
        """The numbers of the rounds of which any process keeps a part, as one process would keep them."""
        own = torch.tensor(self.mistake_log.round_numbers, dtype=torch.long, device=self.args.device)
        padded = self.accelerator.pad_across_processes(own, pad_index=-1)
        numbers = set(self.accelerator.gather(padded).tolist()) - {-1}
        return sorted(numbers)[-self.mistake_log.max_rounds :]

    def _part_of_round(self, index: int, micro_steps: int) -> dict[str, Any]:
        """The drawn round's part for this micro-batch, and what its sum is to be divided by."""
        if index == 0:
            self._drawn_lessons = self._lessons_of_drawn(self._drawn)
        if self._drawn is None:  # the round under way, or one of which other processes have all
            return {"copilot_scale": 0.0} if self._draws_nothing else {}
        part = self._drawn.part(index, micro_steps)
        if len(part.lengths) == 0:
            part = self._drawn.part(0, len(self._drawn.lengths))
            return {"mistake_round": part.to_batch(self.args.device), "copilot_scale": 0.0}
        items = self._drawn_lessons
        return {"mistake_round": part.to_batch(self.args.device), "copilot_items": items, "copilot_scale": 1.0}

    def _lessons_of_drawn(self, record: MistakeRecord | None) -> Any:
        """What the losses of a drawn round are divided by; `None` where the round under way was drawn."""
        if record is None and not self._draws_nothing:
            return None
        own = 0 if record is None else record.count_supervised(self.pair.config.mistakes_from)
        return self._even_share(own, self.args.device)

    def _both_losses(self, outputs: Any, pilot_loss: Tensor, num_items: Any) -> Tensor:
        """The Pilot's loss as the base Trainer would scale it, and the Copilot's, which is scaled already."""
        scaled = self._pilot_loss_is_scaled
        if scaled is None:  # as Trainer judges it
            by_items = self.model_accepts_loss_kwargs and num_items is not None
            scaled = by_items or self.compute_loss_func is not None
        if not scaled:
            pilot_loss = pilot_loss / self.current_gradient_accumulation_steps
        if self.keeps_log:
            self._hand_over(outputs.mistakes)
        self._add_losses(pilot_loss, outputs.copilot_loss)
        return outputs.copilot_loss if self.pair.pilot_is_frozen else pilot_loss + outputs.copilot_loss

    def _hand_over(self, mistakes: MistakeBatch) -> None:
        dtype = getattr(torch, chosen("mistake_log_dtype", self.args.mistake_log_dtype))
        keep_question = self.pair.pilot.get_input_embeddings().weight.requires_grad
        empty = not mistakes.supervised(self.pair.config.mistakes_from).any()
        several = self.args.world_size > 1
        record = None if empty and not several else MistakeRecord.from_batch(mistakes, dtype, keep_question)
        self._latest = record if several else None
        self.mistake_callback.hand(None if empty else record)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip each part by its own norm; the Pilot's is returned, or the Copilot's beside a frozen Pilot. DeepSpeed
        has stepped already, and knows the norm of all that learns."""
        if self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        pair, norm = self.pair, None
        if pair.pilot_is_frozen:
            self.accelerator.unscale_gradients()
        elif self.args.max_grad_norm > 0:
            norm = super()._clip_grad_norm(pair.pilot)
        else:
            norm = super()._get_grad_norm(pair.pilot)
        own = self._clip_copilot()
        self._add("copilot_grad_norm", own)
        return own if norm is None else _whole(norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # With `max_grad_norm=0` Trainer only asks for the norm; the Copilot may have a bound of its own all the same.
        return super()._get_grad_norm(model, self._clip_grad_norm(model) if grad_norm is None else grad_norm)

    def _clip_copilot(self) -> Tensor:
        limit = self.args.of_copilot("max_grad_norm")
        return _whole(nn.utils.clip_grad_norm_(self.pair.copilot.parameters(), limit if limit > 0 else float("inf")))

    def _further_copilot_steps(self) -> None:
        """The second and later steps of the Copilot in a round: only its own parameters have gradients."""
        further = range(1, self.args.copilot_steps_per_round)
        if not further or not (len(self.mistake_log) if self.args.world_size == 1 else self._kept_rounds()):
            return
        for again in further:
            record = self._draw(again)
            lessons = self._lessons_of_drawn(record)
            if self._draws_nothing:  # the processes run together, so this one runs too, and what it finds is left out
                record, lessons = self._latest, math.inf
            if record is None:  # only a round's first draw can be the round under way
                break
            self.model_wrapped.train()
            with self.compute_loss_context_manager(), self._round_named():
                lesson = record.to_batch(self.args.device)
                loss = self.model_wrapped(mistake_round=lesson, copilot_items=lessons).loss
                self._check_loss(loss)
            self.accelerator.backward(loss)
            self.accelerator.unscale_gradients()
            self._clip_copilot()
            with copilot_groups_alone(self.optimizer, self.pair.copilot):
                self.optimizer.step()
            self.model_wrapped.zero_grad()

    # ---- what a step is logged with ----

    def _add_losses(self, pilot_loss: Tensor | None, copilot_loss: Tensor) -> None:
        if pilot_loss is not None:
            self._add("pilot_loss", pilot_loss)
        self._add("copilot_loss", copilot_loss)
        self._summed_steps += self._micro_step == 0

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log, with each part's loss and the Mistake Log's size.

        Args:
            logs (`dict`): what Trainer logs; changed in place. Values are added beside a training `loss` only, means
                over the steps since the last one.
            start_time (`float`, *optional*): seconds since the epoch, when training began; for the speed.
        """
        if "loss" in logs and self._summed_steps:
            for name, total in self._sums.items():
                logs[name] = round(self.accelerator.gather(total.reshape(1)).mean().item() / self._summed_steps, 4)
            self.forget_losses()
            if self.keeps_log:
                logs.update(self.mistake_callback.statistics())
        super().log(logs, start_time)

    def forget_losses(self) -> None:
        """Forget what training has summed up and not logged yet: it begins anew."""
        self._sums: dict[str, Tensor] = {}
        self._summed_steps = 0


def _whole(norm: Any) -> Any:
    """A gradient's norm over all processes, where each has a share of the gradient."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _is_recorded(batch: Any) -> bool:
    """Whether a batch is of recorded sequences."""
    return isinstance(batch, Mapping) and "lessons" in batch and "token_ids" in batch


class CopilotTrainer(CopilotTrainerMixin, Trainer):
    """[`CopilotTrainerMixin`] on `Trainer`, for causal language models."""


class CopilotSeq2SeqTrainer(CopilotTrainerMixin, Seq2SeqTrainer):
    """[`CopilotTrainerMixin`] on `Seq2SeqTrainer`, for encoder-decoders and `predict_with_generate`."""

    _gen_kwargs: dict[str, Any]

    def evaluate(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> dict[str, float]:
        """Evaluate; see `Seq2SeqTrainer.evaluate`. Losses, metrics and generated text are at one λ.

        Args:
            *args, **kwargs: as of `Seq2SeqTrainer.evaluate`, with those of `generate`.
            copilot_weight (`float`, *optional*): λ of this evaluation. Defaults to that of the `generation_config`
                where text is generated and it has one, else to the pair's.

        Returns:
            `dict`: the metrics.

        Raises:
            ValueError: λ is out of range.
        """
        weight = self._weight_of_generation(copilot_weight, kwargs)
        return super().evaluate(*args, copilot_weight=weight, **kwargs)

    def predict(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> Any:
        """Predict; see `Seq2SeqTrainer.predict`. Losses, metrics and generated text are at one λ.

        Args:
            *args, **kwargs: as of `Seq2SeqTrainer.predict`, with those of `generate`.
            copilot_weight (`float`, *optional*): λ of this pass. Defaults to that of the `generation_config` where text
                is generated and it has one, else to the pair's.

        Returns:
            `PredictionOutput`

        Raises:
            ValueError: λ is out of range.
        """
        weight = self._weight_of_generation(copilot_weight, kwargs)
        return super().predict(*args, copilot_weight=weight, **kwargs)

    def _weight_of_generation(self, weight: float | None, generation: dict[str, Any]) -> float | None:
        if weight is not None or self._evaluated_at is not None or not self.args.predict_with_generate:
            return weight
        return named_weight(generation.get("generation_config") or self.pair.generation_config, None)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """One batch of an evaluation. Where the base Trainer generates, it scores the labels without `compute_loss`;
        that pass is measured here.

        Args:
            model, inputs, *args, **kwargs: as of `Seq2SeqTrainer.prediction_step`.
            prediction_loss_only (`bool`): whether only the loss is wanted; then nothing is generated.

        Returns:
            Loss, predictions and labels.
        """
        if prediction_loss_only or not self.args.predict_with_generate:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        hook = model.register_forward_hook(self._measure, with_kwargs=True)
        if self._evaluated_at is not None:  # above any generation configuration
            self._gen_kwargs = {**self._gen_kwargs, "copilot_weight": self._evaluated_at}
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            hook.remove()

    def _measure(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        self._add_sizes(outputs, kwargs)


__all__ = ["CopilotSeq2SeqTrainer", "CopilotTrainer", "CopilotTrainerMixin"]
