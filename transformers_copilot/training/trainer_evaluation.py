"""What an evaluation measures of both parts, at which λ: losses, and the share of mistakes removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..pair.fusion import weight_in_force, weight_of_pass
from ..pair.mistakes import mistake_size, share_removed
from ..pair.options import check_copilot_weight
from .arguments import METRIC_SCHEDULES


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object


class CopilotEvaluationMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that evaluates: λ of an evaluation, each part's losses, the share removed.

    Losses, predictions and generated text of one evaluation are at one λ, that of `evaluate(copilot_weight=…)` or the
    pair's own.
    """

    _evaluated_at: float | None = None  # λ of the evaluation under way, where the user gave one

    def _begin_evaluation(self) -> None:
        """Forget what was measured before."""
        self._sizes: Any = None  # sums over the rows so far
        self._sizes_of_batch: Any = None
        self._pilot_losses: list[Tensor] = []

    def evaluate(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> dict[str, float]:
        """Evaluate; see `Trainer.evaluate`.

        Args:
            *args, **kwargs: as of `Trainer.evaluate`.
            copilot_weight (`float`, *optional*): λ of this evaluation; defaults to the pair's. 0: the Pilot alone.

        Returns:
            `dict`: the metrics, each part's losses among them, and λ.

        Raises:
            ValueError: λ is out of range.
        """
        with self._at_weight(copilot_weight):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> Any:
        """Predict; see `Trainer.predict`.

        Args:
            *args, **kwargs: as of `Trainer.predict`.
            copilot_weight (`float`, *optional*): λ of this pass; defaults to the pair's. 0: the Pilot alone.

        Returns:
            `PredictionOutput`

        Raises:
            ValueError: λ is out of range.
        """
        with self._at_weight(copilot_weight):
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _at_weight(self, weight: float | None) -> Iterator[None]:
        """λ of every pass inside; `None`: what holds already, since an evaluation of several sets calls itself."""
        if weight is None:
            yield
            return
        before, self._evaluated_at = self._evaluated_at, check_copilot_weight(weight)
        try:
            with weight_in_force(self.pair, self._evaluated_at):
                yield
        finally:
            self._evaluated_at = before

    def _add_sizes(self, outputs: Any, batch: dict[str, Any]) -> None:
        """‖p − p̂‖², ‖p − p̃‖² and both log-likelihoods of an evaluation's supervised tokens, summed by row."""
        labels = batch.get("labels")
        if labels is None or outputs.pilot_logits is None:
            return
        targets = self.pair.targets_of(labels, batch)
        supervised = targets >= 0
        true = targets[supervised]
        columns = []
        for logits in (outputs.pilot_logits[supervised], outputs.logits[supervised]):
            columns += [mistake_size(logits, true), nn.functional.cross_entropy(logits.float(), true, reduction="none")]
        of_token = torch.stack([*columns, torch.ones_like(columns[0])], dim=-1).double()
        sums = of_token.new_zeros(len(targets), of_token.shape[-1])
        sums = sums.index_add(0, supervised.nonzero()[:, 0], of_token)
        self._sizes_of_batch = (sums, outputs.pilot_loss)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """One batch of an evaluation; what was measured of its rows is collected from all processes.

        Args:
            *args, **kwargs: as of `Trainer.prediction_step`.

        Returns:
            Loss, predictions and labels.
        """
        self._sizes_of_batch = None
        result = super().prediction_step(*args, **kwargs)
        if self._sizes_of_batch is not None:
            sums, loss = self._sizes_of_batch
            # Without the rows that the sampler repeats so that all processes have as many.
            sums = self.accelerator.gather_for_metrics(sums).sum(dim=0)
            self._sizes = sums if self._sizes is None else self._sizes + sums
            if loss is not None:
                self._pilot_losses.append(self.gather_function(loss.mean().repeat(self.args.eval_batch_size)).cpu())
            self._sizes_of_batch = None
        return result

    def pilot_loss_as_alone(self) -> float | None:
        """The Pilot's loss in the last evaluation, averaged over batches as transformers averages `eval_loss`.

        Returns:
            `float`, or `None` where there were no labels.
        """
        return float(torch.cat(self._pilot_losses).float().numpy().mean()) if self._pilot_losses else None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate, and add to the metrics each part's loss in nats a token and its mean mistake, the share of mistake
        removed, 1 − E‖p − p̃‖² / E‖p − p̂‖², and λ.

        Args:
            *args, **kwargs: as of `Trainer.evaluation_loop`.

        Returns:
            `EvalLoopOutput`: without these metrics where no row had labels.
        """
        self._begin_evaluation()
        output = super().evaluation_loop(*args, **kwargs)
        if self._sizes is not None and output.metrics is not None:
            prefix = kwargs.get("metric_key_prefix", "eval")
            pilot, pilot_nll, pair, pair_nll, count = self._sizes.tolist()
            output.metrics[f"{prefix}_pilot_loss"] = pilot_nll / max(count, 1.0)
            output.metrics[f"{prefix}_rectified_loss"] = pair_nll / max(count, 1.0)
            output.metrics[f"{prefix}_pilot_mistake_size"] = pilot / max(count, 1.0)
            output.metrics[f"{prefix}_mistake_size"] = pair / max(count, 1.0)
            output.metrics[f"{prefix}_mistake_removed"] = share_removed(pilot, pair)
            output.metrics[f"{prefix}_copilot_weight"] = weight_of_pass(self.pair, None)
        return output

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """A schedule that follows the loss follows the Pilot's own, as it would alone; another metric is the pair's."""
        by_loss = self.args.schedule_name("lr_scheduler_type") in METRIC_SCHEDULES and (
            self.args.metric_for_best_model in ("loss", "eval_loss") and not isinstance(self.eval_dataset, dict)
        )
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler or by_loss)
        if by_loss and not skip_scheduler:
            pilot = self.pilot_loss_as_alone()
            self.lr_scheduler.step(metrics["eval_loss"] if pilot is None else pilot)
        return metrics


__all__ = ["CopilotEvaluationMixin"]
