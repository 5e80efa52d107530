"""The pair as a base Trainer's `compute_loss` sees it, so that whatever that makes of its model's output holds.

A base Trainer knows more of the Pilot's loss than a model does: label smoothing, a `compute_loss_func`, TRL's losses
and metrics, the share of a micro-batch or of a process. So the base Trainer computes the Pilot's loss itself, on this
view, and only the Copilot's loss is added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel


@dataclass
class LabelFigures(ModelOutput):
    """What TRL's trainers read of each label; zero where the label is -100.

    Args:
        log_probs (`torch.FloatTensor` of shape `(batch, labels)`): log-probability of the label.
        entropy (`torch.FloatTensor` of the same shape): of the distribution there, in nats.
        is_top1 (`torch.BoolTensor` of the same shape): whether the label is the likeliest token.
        label_mask (`torch.BoolTensor` of the same shape): where there is a label.
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): that they come from.
        aux_loss (`torch.FloatTensor`, *optional*): the Pilot's router's, where it gave one.
    """

    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    is_top1: Tensor | None = None
    label_mask: Tensor | None = None
    logits: Tensor | None = None
    aux_loss: Tensor | None = None


class PairView(nn.Module):
    """Answers the calls that a base Trainer makes to its model for one batch, with one forward pass of the pair.

    Args:
        model (`nn.Module`): what is called: the pair, in whatever wraps it (DDP, a compiled module).
        pair ([`PilotCopilotPreTrainedModel`]): the pair inside, by whose class Trainer knows whether to shift labels.
        labels (`torch.LongTensor`, *optional*): the Copilot's labels, which the base Trainer may take out of the batch.
        extra (`dict`): what the pair is called with beside the batch.
    """

    def __init__(
        self, model: Any, pair: PilotCopilotPreTrainedModel, labels: Tensor | None, extra: dict[str, Any]
    ) -> None:
        super().__init__()
        self._viewed = (model, pair)  # in a tuple: no child of this module
        self.training = pair.training
        self.labels, self.extra = labels, extra
        self.outputs: Any = None

    def _get_name(self) -> str:
        return self._viewed[1]._get_name()  # by which Trainer knows whether to shift labels

    def forward(self, fused_lm_head: bool = False, **inputs: Any) -> ModelOutput:
        """The Pilot's output for the batch while the pair trains, the rectified one in evaluation.

        Args:
            fused_lm_head (`bool`, *optional*, defaults to `False`): TRL's question for figures of each label instead
                of logits.
            **inputs: the batch, which is only run once: a second call is answered from the first one's output.

        Returns:
            `ModelOutput`; `loss` is the Pilot's own in training.
        """
        # TRL makes its loss of the figures, by the labels that it gives: the Pilot's, which held-out rows have none of.
        labels = inputs.pop("labels", None) if fused_lm_head else None
        if self.outputs is None:  # a base Trainer may ask twice about one batch
            lessons = {"mistake_targets": self.labels} if self.training else {}
            self.outputs = self._viewed[0](**inputs, **lessons, **self.extra)
        if fused_lm_head:
            return label_figures(self.outputs, inputs.get("shift_labels"), labels)
        if not self.training:
            return self.outputs
        shown = {name: value for name, value in self.outputs.items() if name not in ("loss", "mistakes")}
        return type(self.outputs)(loss=self.outputs.pilot_loss, **shown)


def label_figures(outputs: Any, shift_labels: Tensor | None, labels: Tensor | None) -> LabelFigures:
    """What TRL's trainers read of each label, from logits.

    Args:
        outputs ([`PilotCopilotOutput`]): with the logits of all positions.
        shift_labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): labels where they are predicted.
        labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): labels that are to be shifted.

    Returns:
        [`LabelFigures`], for `length` labels with `shift_labels`, for `length - 1` without.

    Raises:
        ValueError: there are no labels.
    """
    if shift_labels is None and labels is None:
        raise ValueError("a batch has no `labels`: TRL's losses and metrics need the true tokens.")
    logits = outputs.logits if shift_labels is not None else outputs.logits[:, :-1]
    targets = shift_labels if shift_labels is not None else labels[:, 1:]  # type: ignore[index]
    mask = targets != -100
    log_probabilities = torch.log_softmax(logits[mask].float(), dim=-1)
    chosen = log_probabilities.gather(-1, targets[mask].unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        right = log_probabilities.argmax(dim=-1) == targets[mask]
    figures = {"log_probs": chosen, "entropy": entropy, "is_top1": right}
    per_label = {name: value.new_zeros(mask.shape).masked_scatter(mask, value) for name, value in figures.items()}
    return LabelFigures(**per_label, label_mask=mask, logits=outputs.logits, aux_loss=outputs.get("aux_loss"))


__all__ = ["LabelFigures", "PairView", "label_figures"]
