"""What training and evaluation report of both parts: losses, gradient norms, the share of mistakes removed."""

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


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object


class CopilotMetricsMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that reports.

    Args:
        *args: the base Trainer's.
        **kwargs: the base Trainer's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.forget_losses()
        self._sizes: Any = None  # of the evaluation under way
        self._sizes_of_batch: Any = None
        self._pilot_losses: list[Tensor] = []
        self._evaluated_at: float | None = None

    def forget_losses(self) -> None:
        """Forget what training has summed up and not logged yet: it begins anew."""
        self._sums: dict[str, Tensor] = {}
        self._summed_steps = 0

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def _add_losses(self, pilot_loss: Tensor | None, copilot_loss: Tensor) -> None:
        if pilot_loss is not None:
            self._add("pilot_loss", pilot_loss)
        self._add("copilot_loss", copilot_loss)
        self._summed_steps += self._micro_step == 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log, with each part's loss and the Mistake Log's size.

        Args:
            logs (`dict`): values.
            start_time (`float`, *optional*): start of training.
        """
        if "loss" in logs and self._summed_steps:
            for name, total in self._sums.items():
                logs[name] = round(self.accelerator.gather(total.reshape(1)).mean().item() / self._summed_steps, 4)
            self.forget_losses()
            if self.keeps_log:
                logs.update(self.mistake_callback.statistics())
        super().log(logs, start_time)

    # ---- evaluation ----

    def evaluate(self, *args: Any, copilot_weight: float | None = None, **kwargs: Any) -> dict[str, float]:
        """Evaluate; see `Trainer.evaluate`.

        Args:
            *args: the base Trainer's.
            copilot_weight (`float`, *optional*): λ of this evaluation; defaults to the pair's. 0: the Pilot alone.
            **kwargs: the base Trainer's.

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
            *args: the base Trainer's.
            copilot_weight (`float`, *optional*): λ of this pass; defaults to the pair's. 0: the Pilot alone.
            **kwargs: the base Trainer's.

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
            *args: the base Trainer's.
            **kwargs: the base Trainer's.

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
        """Evaluate, and add each part's loss and the share of mistake removed, 1 − E‖p − p̃‖² / E‖p − p̂‖².

        Args:
            *args: the base Trainer's.
            **kwargs: the base Trainer's.

        Returns:
            `EvalLoopOutput`
        """
        self._sizes, self._pilot_losses = None, []
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


__all__ = ["CopilotMetricsMixin"]
