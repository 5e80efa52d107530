"""What a call of a pair asks for, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .configuration_pilot_copilot import PILOT_OUTPUTS
from .generation_pilot_copilot import RectifyState
from .mistake_batch import MistakeBatch


@dataclass
class PairCall:
    """What a call of `forward` asks for, whichever kind of pair it is.

    Args:
        weight (`float`): λ in force.
        training (`bool`): the Copilot is to learn from it.
        reading (`bool`): only the mistakes are asked for; the Copilot does not run.
        keep (`slice` or tensor): positions whose logits are wanted.
        keeps_logits (`bool`): the Pilot makes the logits of these alone.
        cache (`Cache`, *optional*): as it was given, and the pair's own when the pass begins.
        use_cache (`bool`, *optional*): whether the Pilot is to keep one; its own choice by default.
        pilot_labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): what the Pilot learns from.
        targets (`torch.LongTensor` of shape `(batch, length)`, *optional*): the token that each position predicts, or
            -100: what mistakes are counted against.
        mistake_round ([`MistakeBatch`], *optional*): the round that the Copilot learns from; this one by default.
        return_mistakes (`bool`, *optional*, defaults to `False`): this round's are asked for.
        state ([`RectifyState`], *optional*): what `generate` shares with its passes; `None`: nothing is written.
        options (`dict`): further keywords of the call.
    """

    weight: float
    training: bool
    reading: bool
    keep: slice | Tensor
    keeps_logits: bool
    cache: Cache | None = None
    use_cache: bool | None = None
    pilot_labels: Tensor | None = None
    targets: Tensor | None = None
    mistake_round: MistakeBatch | None = None
    return_mistakes: bool = False
    state: RectifyState | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_the_pilots(self) -> bool:
        """Whether the Pilot answers alone: λ = 0, and nobody learns from it."""
        return self.weight == 0.0 and not self.training and not self.reading

    @property
    def prompt_length(self) -> int | None:
        """Tokens that were given to `generate`; `None`: nothing is written."""
        return None if self.state is None else self.state.prompt_length


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


__all__ = ["PairCall", "PilotCopilotOutput"]
