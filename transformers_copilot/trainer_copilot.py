"""Trainers that fine-tune a Pilot, keep its Mistake Log, and teach the Copilot from it (Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Seq2SeqTrainer, Trainer

from .held_out import HeldOutCollator, hold_out
from .masks import packed_segments
from .mistake_batch import MistakeBatch, lesson_positions, target_mask
from .mistake_live import MistakePicturesCallback
from .mistake_log import MistakeLog, check_fingerprint
from .mistake_record import MistakeRecord
from .modeling_pair_base import PilotCopilotPreTrainedModel
from .optimization import has_own_schedule, joint_scheduler, split_parameter_groups
from .pilot_fingerprint import pair_fingerprint
from .trainer_callback_copilot import MistakeLogCallback, rows_writer
from .trainer_card import CopilotCardMixin
from .trainer_checkpoints import CopilotCheckpointsMixin
from .trainer_hub import CopilotHubMixin
from .trainer_metrics import CopilotMetricsMixin
from .training_args_copilot import CopilotArguments
from .validation import chosen


class CopilotTrainerMixin(CopilotCardMixin, CopilotHubMixin, CopilotMetricsMixin, CopilotCheckpointsMixin):
    """Put before a Trainer class: `class MyTrainer(CopilotTrainerMixin, SFTTrainer)`.

    One forward pass of the wrapped model a step does both parts: the Pilot on the batch, the Copilot on a round drawn
    from the log, the batch's own among them. The two losses are on disjoint parameters and are added.

    Args:
        *args: the base Trainer's.
        mistake_log ([`MistakeLog`], *optional*): a log to go on with; a new one by default.
        **kwargs: the base Trainer's; `args` must have the fields of [`CopilotArguments`].

    Raises:
        TypeError: the model is no pair, or the arguments lack the Copilot's.
        ValueError: an argument can't be used with the model or the data.
    """

    # The base Trainer's, which are set here too.
    train_dataset: Any
    data_collator: Any
    lr_scheduler: Any
    _signature_columns: Any

    def __init__(self, *args: Any, mistake_log: MistakeLog | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_arguments(self.args)
        pair = self.pair
        if self.args.freeze_pilot:
            pair.freeze_pilot()
        if self.args.mistakes_from is not None:
            pair.config.mistakes_from = self.args.mistakes_from
        if self.args.held_out_mistakes > 0.0 and self.train_dataset is not None:
            self.train_dataset = hold_out(self.train_dataset, self.args.held_out_mistakes, self.args.seed)
            self.data_collator = HeldOutCollator(self.data_collator)
        self._check_parallel()
        log = mistake_log  # an empty one is false, and kept all the same
        if log is None:
            log = MistakeLog(self.args.mistake_log_rounds, self.args.mistake_log_max_bytes)
        # What a round holds is the log's matter too, not only whose it is.
        holds = {name: getattr(pair.config, name) for name in ("rationale_pooling", "mistakes_from")}
        expected = {**pair_fingerprint(pair), **holds}
        check_fingerprint("given", log.fingerprint, expected)
        log.fingerprint = {**log.fingerprint, **expected}
        self.mistake_callback = MistakeLogCallback(log, self._further_copilot_steps, rows_writer(self.args))
        self.add_callback(self.mistake_callback)
        if self.args.mistake_picture_steps:
            found = (lambda: self.mistake_log, lambda: self.callback_handler.callbacks)
            self.add_callback(MistakePicturesCallback(*found, self.args.mistake_picture_steps, self.processing_class))
        # Both losses are divided by whole-step counts here, so Trainer must not divide them again.
        self.loss_is_scaled_for_ga = True
        self._micro_step = 0
        self._drawn: MistakeRecord | None = None
        self._lessons: Tensor | int = 0

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

    @property
    def mistake_log(self) -> MistakeLog:
        """The log."""
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
                f"the model is a {type(model).__name__}; give a pair, for instance "
                "PilotCopilotForCausalLM.from_pilot(model, {'num_hidden_layers': 6})."
            )
        return model

    # ---- the losses ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Both losses of a (micro-)batch in one forward pass.

        Args:
            model (`nn.Module`): the pair, wrapped.
            inputs (`dict`): the batch.
            return_outputs (`bool`, *optional*, defaults to `False`): return the output too.
            num_items_in_batch (`int` or tensor, *optional*): supervised tokens of the Pilot in the whole step.

        Returns:
            The loss, or the loss and the output.

        Raises:
            ValueError: the Pilot's logits hold NaN or inf; the round is named and not logged.
        """
        if not model.training:
            outputs = model(**inputs)
            self._add_sizes(outputs, inputs.get("labels"))
            loss = outputs.loss
        else:
            outputs, loss = self._training_loss(model, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _training_loss(self, model: nn.Module, inputs: dict[str, Any], num_items: Any) -> tuple[Any, Tensor]:
        if inputs.get("labels") is None:
            raise ValueError(
                f"a training batch has no `labels`, only {sorted(inputs)}: without the true tokens there is neither a "
                "loss nor a mistake. Let the data or its collator give them, -100 where nothing is supervised."
            )
        micro_steps = max(1, self.current_gradient_accumulation_steps)
        index, self._micro_step = self._micro_step, (self._micro_step + 1) % micro_steps
        logging = self.args.use_mistake_log
        extra: dict[str, Any] = {"return_mistakes": logging, "keep_layers": self.args.mistake_log_layers}
        if logging:
            if index == 0:
                self._drawn = self._draw()
            extra.update(self._part_of_round(index, micro_steps))
        if num_items is not None and self.args.average_tokens_across_devices:
            num_items = num_items / self.accelerator.num_processes  # gradients are averaged over processes
        extra["num_items_in_batch"] = num_items
        extra["label_smoothing"] = self.args.label_smoothing_factor
        extra.setdefault("copilot_items", self._lessons)
        extra.setdefault("copilot_scale", 1.0)
        try:
            outputs = model(**inputs, **extra)
        except ValueError as error:
            raise ValueError(f"round {self.state.global_step}: {error}") from error
        if logging:
            self._hand_over(outputs.mistakes)
        self._add_losses(outputs)
        loss = outputs.loss
        return outputs, loss if num_items is not None or self.pair.pilot_is_frozen else loss / micro_steps

    def _draw(self, again: int = 0) -> MistakeRecord | None:
        """A round of the log, or `None` for the one under way. Where it is drawn, each has the same probability
        (Algorithm 1 appends before it draws), by seed and step only: a resumed run draws as an uninterrupted one."""
        if not again and chosen("mistake_log_draw", self.args.mistake_log_draw) == "newest":
            return None
        log, step = self.mistake_log, self.state.global_step
        oldest = 1 if not again and len(log) == log.max_rounds else 0
        choices = len(log) - oldest + (0 if again else 1)
        seed = (self.args.seed * 1_000_003 + step) * 1009 + again + self.args.process_index * 7_919
        generator = torch.Generator().manual_seed(seed % 2**63)
        choice = oldest + int(torch.randint(choices, (), generator=generator))
        return log[choice] if choice < len(log) else None

    def _part_of_round(self, index: int, micro_steps: int) -> dict[str, Any]:
        """The drawn round's part for this micro-batch, and what its sum is to be divided by."""
        if self._drawn is None:  # the round under way
            return {}
        part = self._drawn.part(index, micro_steps)
        if len(part.lengths) == 0:
            part = self._drawn.part(0, len(self._drawn.lengths))
            return {"mistake_round": part.to_batch(self.args.device), "copilot_scale": 0.0}
        items = max(1, self._drawn.count_supervised(self.pair.config.mistakes_from))
        return {"mistake_round": part.to_batch(self.args.device), "copilot_items": items, "copilot_scale": 1.0}

    def _hand_over(self, mistakes: MistakeBatch) -> None:
        dtype = getattr(torch, chosen("mistake_log_dtype", self.args.mistake_log_dtype))
        keep_question = self.pair.pilot.get_input_embeddings().weight.requires_grad
        empty = not mistakes.supervised(self.pair.config.mistakes_from).any()
        self.mistake_callback.hand(None if empty else MistakeRecord.from_batch(mistakes, dtype, keep_question))

    def _further_copilot_steps(self) -> None:
        """The second and later steps of the Copilot in a round: only its own parameters have gradients."""
        if not len(self.mistake_log):
            return
        for again in range(1, self.args.copilot_steps_per_round):
            record = self._draw(again)
            if record is None:  # only a round's first draw can be the round under way
                break
            self.model_wrapped.train()
            with self.compute_loss_context_manager():
                loss = self.model_wrapped(mistake_round=record.to_batch(self.args.device)).loss
            self.accelerator.backward(loss)
            self.accelerator.unscale_gradients()
            self._clip_copilot()
            self.optimizer.step()
            self.model_wrapped.zero_grad()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Supervised tokens of the Pilot in the step; held-out rows are not its own."""
        own = []
        self._micro_step = 0  # a step begins, whatever became of the one before
        self._lessons = max(sum(self._count_lessons(batch) for batch in batch_samples if "labels" in batch), 1)
        for batch in batch_samples:
            if "held_out" in batch and "labels" in batch:
                labels = batch["labels"].masked_fill(batch["held_out"].bool().unsqueeze(-1), -100)
                batch = {**batch, "labels": labels}
            own.append(batch)
        items = super()._get_num_items_in_batch(own, device)
        return items.clamp_min(1) if isinstance(items, Tensor) else items

    def _set_signature_columns_if_needed(self) -> None:
        """The flags of held-out rows are the model's to see; TRL's trainers drop every column but their own."""
        super()._set_signature_columns_if_needed()
        if "held_out" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "held_out"]

    def _count_lessons(self, batch: dict[str, Any]) -> Tensor:
        """Positions of a batch that the Copilot is to learn from, as the pair will find them."""
        targets, segments = self.pair.aligned_labels(batch["labels"]), None
        if self.pair.config.is_encoder_decoder:
            real = batch.get("decoder_attention_mask", target_mask(targets))
        else:
            real = batch.get("attention_mask")
            segments = packed_segments(batch.get("position_ids"), real, 0)
        real = torch.ones_like(targets) if real is None else real
        return lesson_positions(targets, real.bool(), segments, self.pair.config.mistakes_from).sum()

    # ---- optimiser and schedule ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimiser with groups of the Pilot's and the Copilot's own.

        Args:
            model (`nn.Module`, *optional*): the model to optimise, if it is not the trainer's.

        Returns:
            `torch.optim.Optimizer`
        """
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
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
        if self.lr_scheduler is None and has_own_schedule(self.args):
            self.lr_scheduler = joint_scheduler(optimizer or self.optimizer, self.args, num_training_steps)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip each part by its own norm; the Pilot's is returned, or the Copilot's beside a frozen Pilot."""
        pair, norm = self.pair, None
        if pair.pilot_is_frozen:
            self.accelerator.unscale_gradients()
        elif self.args.max_grad_norm > 0:
            norm = super()._clip_grad_norm(pair.pilot)
        else:
            norm = super()._get_grad_norm(pair.pilot)
        own = self._clip_copilot()
        self._add("copilot_grad_norm", own)
        return own if norm is None else norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # With `max_grad_norm=0` Trainer only asks for the norm; the Copilot may have a bound of its own all the same.
        return super()._get_grad_norm(model, self._clip_grad_norm(model) if grad_norm is None else grad_norm)

    def _clip_copilot(self) -> Tensor:
        limit = self.args.of_copilot("max_grad_norm")
        return nn.utils.clip_grad_norm_(self.pair.copilot.parameters(), limit if limit > 0 else float("inf"))


def _check_arguments(args: Any) -> None:
    if not isinstance(args, CopilotArguments):
        raise TypeError(
            f"`args` is a {type(args).__name__}; give CopilotTrainingArguments, or mix CopilotArguments into your own "
            "arguments' class."
        )


class CopilotTrainer(CopilotTrainerMixin, Trainer):
    """[`CopilotTrainerMixin`] on `Trainer`, for causal language models."""


class CopilotSeq2SeqTrainer(CopilotTrainerMixin, Seq2SeqTrainer):
    """[`CopilotTrainerMixin`] on `Seq2SeqTrainer`, for encoder-decoders and `predict_with_generate`."""

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> Any:
        """One batch of an evaluation. Where the base Trainer generates, it scores the labels without `compute_loss`;
        that pass is measured here.

        Args:
            model (`nn.Module`): the pair, wrapped.
            inputs (`dict`): the batch.
            prediction_loss_only (`bool`): whether only the loss is wanted.
            *args: the base Trainer's.
            **kwargs: the base Trainer's, and those of `generate`.

        Returns:
            Loss, predictions and labels.
        """
        if prediction_loss_only or not self.args.predict_with_generate:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        hook = model.register_forward_hook(self._measure, with_kwargs=True)
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            hook.remove()

    def _measure(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        self._add_sizes(outputs, kwargs.get("labels"))


__all__ = ["CopilotSeq2SeqTrainer", "CopilotTrainer", "CopilotTrainerMixin"]
