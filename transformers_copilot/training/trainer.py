"""Trainers that fine-tune a Pilot, keep its Mistake Log, and teach the Copilot from it (Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Seq2SeqTrainer, Trainer

from ..adapters.adapters import check_trained_model
from ..mistake_log.log import MistakeLog
from ..mistake_log.record import MistakeRecord
from ..mistake_log.record_size import batch_lessons
from ..pair.fusion import named_weight
from ..pair.mistake_batch import MistakeBatch
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.options import chosen
from .callback import MistakeLogCallback
from .checkpoints import checkpoint_to_resume
from .optimization import check_given_optimizer, copilot_groups_alone
from .pair_view import PairView
from .trainer_evaluation import CopilotMetricsMixin
from .trainer_optimizers import CopilotOptimizersMixin
from .trainer_recorded import CopilotRecordedMixin, is_recorded
from .trainer_runs import CopilotRunsMixin, check_arguments
from .trainer_saving import CopilotSavingMixin


class CopilotTrainerMixin(
    CopilotMetricsMixin,
    CopilotSavingMixin,
    CopilotOptimizersMixin,
    CopilotRecordedMixin,
    CopilotRunsMixin,
):
    """Put before a Trainer class: `class MyTrainer(CopilotTrainerMixin, SFTTrainer)`.

    One forward pass of the wrapped model a step does both parts: the Pilot on the batch, the Copilot on a round drawn
    from the log, the batch's own among them. The two losses are on disjoint parameters and are added.

    With [`RecordedMistakes`] as `train_dataset` and `freeze_pilot=True` only the Copilot runs, on recorded rounds.

    Args:
        *args: the base Trainer's.
        mistake_log ([`MistakeLog`], *optional*): a log to go on with; a new one by default. Not with `model_init`,
            whose every model gets a new one.
        **kwargs: the base Trainer's; `args` must have the fields of [`CopilotArguments`].

    Raises:
        TypeError: the model is no pair, or the arguments lack the Copilot's.
        ValueError: an argument can't be used with the model or the data.
    """

    # The base Trainer's, which is set here too.
    _signature_columns: Any
    loss_is_scaled_for_ga: bool | None

    def __init__(self, *args: Any, mistake_log: MistakeLog | None = None, **kwargs: Any) -> None:
        check_trained_model(args[0] if args else kwargs.get("model"), kwargs.get("peft_config"))
        super().__init__(*args, **kwargs)
        check_arguments(self.args)
        if mistake_log is not None and self.model_init is not None:
            raise ValueError(
                "`mistake_log` is given beside `model_init`: every training makes a new model, which can't go on with "
                "an old one's log. Leave `mistake_log` out (its bounds are `mistake_log_rounds` and "
                "`mistake_log_max_bytes`), or give `model` in place of `model_init`."
            )
        check_given_optimizer(self.optimizer, self.lr_scheduler, self.pair.copilot, self.args)
        self._held_out, self._pictures = (), None
        self.mistake_callback = MistakeLogCallback(MistakeLog(), self._further_copilot_steps)
        self.add_callback(self.mistake_callback)
        self._begin_with_model(mistake_log)
        # Both losses are scaled here, so Trainer must not scale them again.
        self._pilot_loss_is_scaled = self.loss_is_scaled_for_ga
        self.loss_is_scaled_for_ga = True
        self._micro_step = 0
        self._drawn: MistakeRecord | None = None
        self._lessons: Tensor | int = 0

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

    # ---- a run ----

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> Any:
        """Train, and push what came of it; see `Trainer.train`, which leaves the last push to the user.

        A push that fails then is logged and does not undo the training: the pair lies in `output_dir`, and
        `push_to_hub()` tries again.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint's folder, or `True` for the last *whole*
                one: a training that was killed while it wrote a checkpoint goes on from the one before.
            trial (*optional*): a trial of a hyperparameter search, which is not pushed.
            **kwargs: the base Trainer's.

        Returns:
            `TrainOutput`

        Raises:
            ValueError: there is no whole checkpoint to resume from.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoint_to_resume(self.args.output_dir)
        self._forget_rounds = None  # until the first try has begun
        output = super().train(resume_from_checkpoint, trial, **kwargs)
        if self.args.push_to_hub and trial is None:
            self._push_result()
        return output

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
        if model.training and is_recorded(inputs):
            return self._recorded_loss(model, inputs, return_outputs)
        labels, base = inputs.get("labels"), super().compute_loss
        if model.training:
            inputs = self._pilots_batch(inputs)
        view = PairView(model, self.pair, labels, self._extra_arguments(labels, inputs, model.training))
        try:
            # A copy: the base Trainer takes the labels out of it where it smooths them.
            loss = base(view, dict(inputs), num_items_in_batch=num_items_in_batch)
        except ValueError as error:
            if not model.training:
                raise
            raise ValueError(f"round {self.state.global_step}: {error}") from error
        if model.training:
            loss = self._both_losses(view.outputs, loss, num_items_in_batch)
        else:
            self._add_sizes(view.outputs, inputs)
        return (loss, view.outputs) if return_outputs else loss

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

    def _pilots_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with the labels that the Pilot learns from; held-out rows are not its own."""
        if "held_out" not in batch:
            return batch
        held_out = batch["held_out"].bool().unsqueeze(-1)
        own: dict[str, Any] = {
            name: batch[name].masked_fill(held_out, -100) for name in ("labels", "shift_labels") if name in batch
        }
        return {**batch, **own}

    def _draw(self, again: int = 0) -> MistakeRecord | None:
        """A round of the log, or `None` for the one under way. What is drawn depends on seed and step only, so that a
        resumed run draws as an uninterrupted one."""
        if not again and chosen("mistake_log_draw", self.args.mistake_log_draw) == "newest":
            return None
        step = self.state.global_step
        seed = (self.args.seed * 1_000_003 + step) * 1009 + again + self.args.process_index * 7_919
        generator = torch.Generator().manual_seed(seed % 2**63)
        return self.mistake_log.sample(generator) if again else self.mistake_log.sample_with_next(generator)

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
            with copilot_groups_alone(self.optimizer, self.pair.copilot):
                self.optimizer.step()
            self.model_wrapped.zero_grad()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Supervised tokens of the Pilot in the step; held-out rows are not its own."""
        self._micro_step = 0  # a step begins, whatever became of the one before
        if batch_samples and is_recorded(batch_samples[0]):
            return self._count_recorded(batch_samples, device)
        self._lessons = max(sum(self._count_lessons(batch) for batch in batch_samples if "labels" in batch), 1)
        items = super()._get_num_items_in_batch([self._pilots_batch(batch) for batch in batch_samples], device)
        return items.clamp_min(1) if isinstance(items, Tensor) else items

    def _set_signature_columns_if_needed(self) -> None:
        """The flags of held-out rows are the model's to see; TRL's trainers drop every column but their own."""
        super()._set_signature_columns_if_needed()
        if "held_out" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "held_out"]

    def _count_lessons(self, batch: dict[str, Any]) -> Tensor:
        """Positions of a batch that the Copilot is to learn from, as the pair will find them."""
        return batch_lessons(self.pair, batch)[1].sum()


class CopilotTrainer(CopilotTrainerMixin, Trainer):
    """[`CopilotTrainerMixin`] on `Trainer`, for causal language models."""


class CopilotSeq2SeqTrainer(CopilotTrainerMixin, Seq2SeqTrainer):
    """[`CopilotTrainerMixin`] on `Seq2SeqTrainer`, for encoder-decoders and `predict_with_generate`."""

    _gen_kwargs: dict[str, Any]

    def evaluate(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> dict[str, float]:
        """Evaluate; see `Seq2SeqTrainer.evaluate`. Losses, metrics and generated text are at one λ.

        Args:
            *args: the base Trainer's.
            copilot_weight (`float`, *optional*): λ of this evaluation. Defaults to that of the `generation_config`
                where text is generated and it has one, else to the pair's.
            **kwargs: the base Trainer's, and those of `generate`.

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
            *args: the base Trainer's.
            copilot_weight (`float`, *optional*): as of `evaluate`.
            **kwargs: the base Trainer's, and those of `generate`.

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
        if self._evaluated_at is not None:  # above any generation configuration
            self._gen_kwargs = {**self._gen_kwargs, "copilot_weight": self._evaluated_at}
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, *args, **kwargs)
        finally:
            hook.remove()

    def _measure(self, module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        self._add_sizes(outputs, kwargs)


__all__ = ["CopilotSeq2SeqTrainer", "CopilotTrainer", "CopilotTrainerMixin"]
