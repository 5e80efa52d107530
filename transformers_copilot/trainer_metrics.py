"""What training and evaluation report of both parts: losses, gradient norms, the share of mistakes removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from .mistakes import mistake_size, share_removed


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
        self._sums: dict[str, Tensor] = {}
        self._summed_steps = 0
        self._sizes: Tensor | None = None

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def _add_losses(self, pilot_loss: Tensor, copilot_loss: Tensor) -> None:
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
            self._sums, self._summed_steps = {}, 0
            if self.args.use_mistake_log:
                logs.update(self.mistake_callback.statistics())
        super().log(logs, start_time)

    def _add_sizes(self, outputs: Any, labels: Tensor | None) -> None:
        """Sums of ‖p − p̂‖², ‖p − p̃‖² and both log-likelihoods over an evaluation's supervised tokens."""
        if labels is None or outputs.pilot_logits is None:
            return
        targets = self.pair.aligned_labels(labels)
        supervised = targets >= 0
        true = targets[supervised]
        columns = []
        for logits in (outputs.pilot_logits[supervised], outputs.logits[supervised]):
            columns += [
                mistake_size(logits, true).sum(),
                nn.functional.cross_entropy(logits.float(), true, reduction="sum"),
            ]
        sums = torch.stack([*columns, supervised.sum().float()]).double()
        self._sizes = sums if self._sizes is None else self._sizes + sums

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate, and add each part's loss and the share of mistake removed, 1 − E‖p − p̃‖² / E‖p − p̂‖².

        Args:
            *args: the base Trainer's.
            **kwargs: the base Trainer's.

        Returns:
            `EvalLoopOutput`
        """
        self._sizes = None
        output = super().evaluation_loop(*args, **kwargs)
        sums = self._gathered_sizes()
        if sums is not None and output.metrics is not None:
            prefix = kwargs.get("metric_key_prefix", "eval")
            pilot, pilot_nll, pair, pair_nll, count = sums
            output.metrics[f"{prefix}_pilot_loss"] = pilot_nll / max(count, 1.0)
            output.metrics[f"{prefix}_rectified_loss"] = pair_nll / max(count, 1.0)
            output.metrics[f"{prefix}_pilot_mistake_size"] = pilot / max(count, 1.0)
            output.metrics[f"{prefix}_mistake_size"] = pair / max(count, 1.0)
            output.metrics[f"{prefix}_mistake_removed"] = share_removed(pilot, pair)
            output.metrics[f"{prefix}_copilot_weight"] = self.pair.config.copilot_weight
        return output

    def _gathered_sizes(self) -> list[float] | None:
        """The sums of all processes, or `None` where the evaluation had no labels."""
        if self._sizes is None:
            return None
        return self.accelerator.gather(self._sizes.unsqueeze(0)).sum(dim=0).tolist()


__all__ = ["CopilotMetricsMixin"]
