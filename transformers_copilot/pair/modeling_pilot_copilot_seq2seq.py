"""An encoder-decoder Pilot and its Copilot as one sequence-to-sequence language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, Cache, GenerationMixin
from transformers.utils import can_return_tuple

from .compat import given_cache
from .configuration_pilot_copilot import PilotCopilotSeq2SeqConfig
from .fused_head import GeneratedStep
from .generation_pilot_copilot import RectifyState
from .mistake_batch import MistakeBatch, target_mask
from .modeling_outputs import PilotCopilotOutput
from .modeling_pair_base import PilotCopilotPreTrainedModel
from .options import check_labels
from .pilot import PilotInputs


class PilotCopilotForSeq2SeqLM(PilotCopilotPreTrainedModel, GenerationMixin):
    """A sequence-to-sequence model with a Copilot: the question X̃ is the encoder's output (App. A.1).

    Args:
        config ([`PilotCopilotSeq2SeqConfig`]): both configurations and the choices of how they work together.
        pilot (`PreTrainedModel`, *optional*): a Pilot that exists already.
        copilot ([`CopilotModel`], *optional*): a Copilot that exists already.
    """

    config: PilotCopilotSeq2SeqConfig
    config_class = PilotCopilotSeq2SeqConfig
    _auto_pilot_class = AutoModelForSeq2SeqLM
    _auto_class = "AutoModelForSeq2SeqLM"  # transformers writes the code of such a class beside its weights

    def aligned_labels(self, labels: Tensor) -> Tensor:
        """Labels as they are: the decoder's input is shifted already.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`.
        """
        return labels

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The Pilot's encoder.

        Args:
            *args: handed on.
            **kwargs: handed on.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_encoder(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """The decoder's input for some labels, as the Pilot makes it.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): targets, -100 at padding.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`.
        """
        return self.pilot.prepare_decoder_input_ids_from_labels(labels=labels)

    @PilotInputs
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        copilot_weight: float | None = None,
        mistake_round: MistakeBatch | None = None,
        mistake_targets: torch.LongTensor | None = None,
        held_out: Tensor | None = None,
        return_mistakes: bool = False,
        rectify_state: RectifyState | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> PilotCopilotOutput:
        """One pass of the Pilot, and of the Copilot beside its decoder.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, source)`, *optional*): the encoder's tokens.
            attention_mask (`torch.Tensor` of shape `(batch, source)`, *optional*): 0 at the encoder's padding.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): the decoder's tokens; made
                from `labels` without.
            decoder_attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
            encoder_outputs (*optional*): the encoder's output, if it has run already.
            past_key_values, cache (`Cache`, *optional*): a [`PilotCopilotCache`], or an empty cache of the Pilot's.
            inputs_embeds (`torch.Tensor`, *optional*): the encoder's input as embeddings.
            decoder_inputs_embeds (`torch.Tensor`, *optional*): refused, except at λ = 0.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): targets, not shifted, -100 at padding.
            use_cache (`bool`, *optional*): return the cache, except while training.
            logits_to_keep, copilot_weight, mistake_round, mistake_targets, held_out, return_mistakes, rectify_state:
                see [`PilotCopilotForCausalLM.forward`].
            **kwargs: all that the Pilot's own `forward` takes, and as in [`PilotCopilotForCausalLM.forward`].

        Returns:
            [`PilotCopilotOutput`]

        Raises:
            ValueError: no decoder tokens, an empty batch, labels past the vocabulary, a cache or λ that can't be used,
                or rectified logits asked for in training, with gradients.
            TypeError: an argument that neither part takes.
        """
        if mistake_round is not None and input_ids is None and encoder_outputs is None and inputs_embeds is None:
            return self.copilot_only(mistake_round, kwargs.get("copilot_items"))
        self.check_tokens(input_ids=input_ids, decoder_input_ids=decoder_input_ids)
        if labels is not None and mistake_targets is not None:
            check_labels(labels, self.config.vocab_size)
        lesson_targets = labels if mistake_targets is None else mistake_targets
        if lesson_targets is not None:
            check_labels(lesson_targets, self.config.vocab_size)
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(lesson_targets)
        call = self._asked(
            *(labels, mistake_targets, held_out, given_cache(past_key_values, cache), use_cache, logits_to_keep),
            *(copilot_weight, mistake_round, return_mistakes, rectify_state, kwargs),
        )
        given = {
            "input_ids": input_ids,
            "decoder_input_ids": decoder_input_ids,
            "attention_mask": attention_mask,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            "inputs_embeds": inputs_embeds,
            "labels": call.pilot_labels,
            **kwargs,
        }
        if call.is_the_pilots:
            alone = {**given, "decoder_inputs_embeds": decoder_inputs_embeds, "logits_to_keep": logits_to_keep}
            return self._pilot_alone(alone, call)
        decoder_input_ids = _checked_decoder_input(decoder_input_ids, decoder_inputs_embeds)
        past = self._begin(call)
        encoded = None if encoder_outputs is None else encoder_outputs[0]
        if encoded is not None and attention_mask is None:
            attention_mask = torch.ones(encoded.shape[:2], dtype=torch.bool, device=encoded.device)
        tokens = (decoder_input_ids, decoder_attention_mask, attention_mask, encoded)
        step = GeneratedStep(*tokens, past, call.prompt_length, call.keep, question_is_known=encoded is not None)
        if call.keeps_logits:
            given["logits_to_keep"] = logits_to_keep
        outputs, captured = self._pilot_pass(given, call, step)
        question = outputs.encoder_last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(question.shape[:2], dtype=torch.bool, device=question.device)
        if lesson_targets is not None and (call.training or call.reading) and decoder_attention_mask is None:
            decoder_attention_mask = target_mask(lesson_targets)
        seen = self._seen(
            outputs,
            captured,
            token_ids=decoder_input_ids,
            question=question,
            attention_mask=self._mask_of_tokens(decoder_attention_mask),
            question_mask=attention_mask,
            segments=None,
            past=past,
            logits_are_kept=call.keeps_logits,
        )
        return self._answered(call, outputs, seen)


def _checked_decoder_input(
    decoder_input_ids: torch.LongTensor | None, decoder_inputs_embeds: Tensor | None
) -> torch.LongTensor:
    if decoder_input_ids is None or decoder_inputs_embeds is not None:
        raise ValueError(
            "a pair needs `decoder_input_ids` (or `labels`, from which they are made): the Copilot reads which token "
            "was taken at each step, which embeddings do not tell."
        )
    if decoder_input_ids.numel() == 0:
        raise ValueError(
            f"`decoder_input_ids` is empty (shape {tuple(decoder_input_ids.shape)}); give at least one token."
        )
    return decoder_input_ids


__all__ = ["PilotCopilotForSeq2SeqLM"]
