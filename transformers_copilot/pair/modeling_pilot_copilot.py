"""A decoder-only Pilot and its Copilot as one causal language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, GenerationMixin
from transformers.utils import can_return_tuple

from .compat import given_cache
from .configuration_pilot_copilot import PilotCopilotConfig
from .correction import feedback_kind
from .fused_head import GeneratedStep
from .generation_pilot_copilot import RectifyState
from .masks import packed_segments
from .mistake_batch import MistakeBatch
from .modeling_outputs import PilotCopilotOutput
from .modeling_pair_base import PilotCopilotPreTrainedModel
from .options import check_labels
from .pilot import PilotInputs


class PilotCopilotForCausalLM(PilotCopilotPreTrainedModel, GenerationMixin):
    """A causal language model with a Copilot that corrects its next-token distribution (arXiv 2505.16270).

    Make one with [`PilotCopilotForCausalLM.from_pilot`], load one with `from_pretrained` or
    `AutoModelForCausalLM.from_pretrained`. It trains with any Trainer ([`CopilotTrainer`] adds the Mistake Log) and
    answers `generate`.

    Args:
        config ([`PilotCopilotConfig`]): both configurations and the choices of how they work together.
        pilot (`PreTrainedModel`, *optional*): a Pilot that exists already.
        copilot ([`CopilotModel`], *optional*): a Copilot that exists already.
    """

    config: PilotCopilotConfig
    config_class = PilotCopilotConfig
    _auto_pilot_class = AutoModelForCausalLM
    _auto_class = "AutoModelForCausalLM"  # transformers writes the code of such a class beside its weights

    def aligned_labels(self, labels: Tensor) -> Tensor:
        """The label of position j's next token, which is what position j predicts.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, -100 at the end.
        """
        return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)

    @PilotInputs
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
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
        """One pass of the Pilot, and of the Copilot beside it.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): tokens. Needed: mistakes are about tokens.
            attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding, on either side.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): handed to the Pilot; without a
                mask, positions that start again mark the documents of a packed row.
            past_key_values, cache (`Cache`, *optional*): a [`PilotCopilotCache`], or an empty cache of the Pilot's. Two
                names of one argument: transformers calls it `cache` since 5.24.
            inputs_embeds (`torch.Tensor`, *optional*): refused, except at λ = 0.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): -100 where nothing is supervised; they
                are shifted here, as in every causal model.
            use_cache (`bool`, *optional*): return the cache, except while training.
            logits_to_keep (`int` or tensor, *optional*, defaults to 0): only the last so many positions' logits; 0:
                all. The Pilot still computes all of them: each is a mistake to read.
            copilot_weight (`float`, *optional*): λ of this call; defaults to the configuration's. 0 skips the Copilot.
            mistake_round ([`MistakeBatch`], *optional*): training: the logged round the Copilot learns from. Without,
                it learns from this batch. With it alone, only the Copilot runs.
            mistake_targets (`torch.LongTensor` of shape `(batch, length)`, *optional*): training: labels that the
                Copilot alone learns from. With them and without `labels` the Pilot's loss is left to the caller.
            held_out (`torch.BoolTensor` of shape `(batch,)`, *optional*): training: rows that the Pilot only reads.
            return_mistakes (`bool`, *optional*, defaults to `False`): return this round's mistakes. In evaluation the
                Copilot does not run then, and the logits are the Pilot's.
            rectify_state ([`RectifyState`], *optional*): put there by `generate`.
            **kwargs: all that the Pilot's own `forward` takes. The Copilot's: `copilot_items`, what its loss is divided
                by, and `copilot_scale`, a factor on it; `keep_layers`, sequences whose layers `return_mistakes` keeps,
                and `recorded_layers`, of which layers it makes rationales; `return_correction`.

        Returns:
            [`PilotCopilotOutput`]

        Raises:
            ValueError: no tokens, an empty batch, labels past the vocabulary, a cache or λ that can't be used, or
                rectified logits asked for in training, with gradients.
            TypeError: an argument that neither part takes.
        """
        if input_ids is None and mistake_round is not None:
            return self.copilot_only(mistake_round, kwargs.get("copilot_items"))
        self.check_tokens(input_ids=input_ids)
        for targets in (labels, mistake_targets):
            if targets is not None:
                check_labels(targets, self.config.vocab_size)
        call = self._asked(
            *(labels, mistake_targets, held_out, given_cache(past_key_values, cache), use_cache, logits_to_keep),
            *(copilot_weight, mistake_round, return_mistakes, rectify_state, kwargs),
        )
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, **kwargs}
        given["labels"] = call.pilot_labels
        if call.is_the_pilots:
            return self._pilot_alone({**given, "inputs_embeds": inputs_embeds, "logits_to_keep": logits_to_keep}, call)
        input_ids = _checked_input(input_ids, inputs_embeds)
        past, prompt_length = self._begin(call), call.prompt_length
        step = GeneratedStep(input_ids, attention_mask, None, None, past, prompt_length, call.keep, position_ids)
        if call.keeps_logits:
            given["logits_to_keep"] = logits_to_keep
        segments = packed_segments(position_ids, attention_mask, past)
        if call.training and use_cache is None and segments is not None:
            call.use_cache = False  # with a cache, transformers does not keep the documents of a packed row apart
        columns: Tensor | None = None
        if call.reading and call.targets is not None:
            columns = self._lesson_columns(call.targets, attention_mask, segments)
            if columns is not None:
                given["logits_to_keep"] = columns
        outputs, captured = self._pilot_pass(given, call, step)
        seen = self._seen(
            outputs,
            captured,
            token_ids=input_ids,
            question=captured.embeddings() if feedback_kind(self) is not None else None,
            attention_mask=self._mask_of_tokens(attention_mask),
            question_mask=None,
            segments=segments,
            past=past,
            position_ids=position_ids,
            logits_are_kept=call.keeps_logits,
        )
        return self._answered(call, outputs, seen, columns)


def _checked_input(input_ids: torch.LongTensor | None, inputs_embeds: Tensor | None) -> torch.LongTensor:
    if input_ids is None or inputs_embeds is not None:
        raise ValueError(
            "a pair needs `input_ids`: the Copilot reads which token was taken at each step, which embeddings do "
            "not tell. Pass `input_ids`, or `copilot_weight=0.0` for the Pilot alone."
        )
    if input_ids.numel() == 0:
        raise ValueError(f"`input_ids` is empty (shape {tuple(input_ids.shape)}); give at least one token.")
    return input_ids


__all__ = ["PilotCopilotForCausalLM"]
