"""What a pair returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .configuration_pilot_copilot import PILOT_OUTPUTS
from .mistake_batch import MistakeBatch


@dataclass
class PilotCopilotOutput(CausalLMOutputWithPast):
    """Output of [`PilotCopilotForCausalLM`] and [`PilotCopilotForSeq2SeqLM`].

    Args:
        loss (`torch.FloatTensor`, *optional*): with labels. Training: `pilot_loss + copilot_loss`, on disjoint
            parameters. Evaluation: the Pilot's own loss with the cross-entropy of the rectified logits in the place of
            that of its logits, so that a router's loss and the like stay in it.
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): rectified. While training with labels, and during
            `generate` where a logits processor rectifies, the Pilot's own.
        pilot_logits (`torch.Tensor` of shape `(batch, length, vocab)`, *optional*): the Pilot's own.
        pilot_loss (`torch.FloatTensor`, *optional*): the loss that the Pilot itself returns: its cross-entropy (Eq. 2)
            and whatever its family adds. `None` where the labels were for the Copilot alone.
        copilot_loss (`torch.FloatTensor`, *optional*): the Copilot's objective (Eq. 7).
        cache (`Cache`, *optional*): a [`PilotCopilotCache`], or the Pilot's own at λ = 0. Before transformers 5.24 its
            name is `past_key_values`, which later releases understand too.
        hidden_states (tuple, *optional*): the Pilot's (its decoder's), with `output_hidden_states=True`.
        attentions (tuple, *optional*): the Pilot's (its decoder's), with `output_attentions=True`.
        encoder_last_hidden_state (`torch.Tensor`, *optional*): encoder-decoder: the encoder's output.
        encoder_hidden_states (tuple, *optional*): encoder-decoder, with `output_hidden_states=True`.
        encoder_attentions (tuple, *optional*): encoder-decoder, with `output_attentions=True`.
        decoder_hidden_states (tuple, *optional*): encoder-decoder, with `output_hidden_states=True`.
        decoder_attentions (tuple, *optional*): encoder-decoder, with `output_attentions=True`.
        cross_attentions (tuple, *optional*): encoder-decoder, with `output_attentions=True`.
        aux_loss, router_logits, encoder_aux_loss, decoder_aux_loss, encoder_z_loss, decoder_z_loss,
            encoder_router_logits, decoder_router_logits (*optional*): the Pilot's own, of a mixture of experts.
        image_hidden_states, video_hidden_states, audio_hidden_states, image_outputs, video_outputs, audio_outputs
            (*optional*): the Pilot's own, where it reads more than text.
        correction (`torch.FloatTensor` of shape `(batch, length, vocab)`, *optional*): f, with
            `return_correction=True`.
        mistakes ([`MistakeBatch`], *optional*): this round's, with `return_mistakes=True`.
    """

    pilot_logits: torch.Tensor | None = None
    pilot_loss: torch.Tensor | None = None
    copilot_loss: torch.Tensor | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    encoder_aux_loss: torch.Tensor | None = None
    decoder_aux_loss: torch.Tensor | None = None
    encoder_z_loss: torch.Tensor | None = None
    decoder_z_loss: torch.Tensor | None = None
    encoder_router_logits: tuple[torch.Tensor, ...] | None = None
    decoder_router_logits: tuple[torch.Tensor, ...] | None = None
    image_hidden_states: Any = None
    video_hidden_states: Any = None
    audio_hidden_states: Any = None
    image_outputs: Any = None
    video_outputs: Any = None
    audio_outputs: Any = None
    correction: torch.Tensor | None = None
    mistakes: MistakeBatch | None = None

    @classmethod
    def passed_on(cls, outputs: ModelOutput) -> dict[str, Any]:
        """The fields that are the Pilot's own and are handed on as they are.

        Args:
            outputs (`ModelOutput`): the Pilot's output.

        Returns:
            `dict`: field name to value, for those that the Pilot set.
        """
        return {name: outputs[name] for name in PILOT_OUTPUTS if name in outputs}


__all__ = ["PilotCopilotOutput"]
