"""How a pair generates: a logits processor that rectifies, and the hooks of `generate` that put it and the cache in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, LogitsProcessor, LogitsProcessorList
from transformers.generation import GenerationMixin, GenerationMode

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME


if TYPE_CHECKING:
    from transformers import Cache, GenerationConfig


@dataclass
class RectifyState:
    """What one call of `generate` shares between the forward passes and the processor.

    While there is one, `forward` returns the Pilot's logits, and the processor rectifies; never both.

    Args:
        prompt_length (`int`): tokens that were given.
        shift (`torch.FloatTensor` of shape `(rows, positions, vocab)`, *optional*): log p̃ − log p̂ of the last forward
            pass's positions.
        first_position (`int`): place in the text of the first of them.
    """

    prompt_length: int = 0
    shift: Tensor | None = None
    first_position: int = 0


class CopilotLogitsProcessor(LogitsProcessor):
    """Rectifies: adds log p̃ − log p̂ to the Pilot's scores. `generate` puts it first, so that maskers and warpers act on
    the rectified distribution, `output_logits` shows the Pilot's logits and `output_scores` the rectified scores.

    The same number is right for logits (greedy, sampling) and for log-probabilities (beams): softmax of either sum
    is p̃.

    Args:
        state ([`RectifyState`]): filled by the pair's forward pass at every step.
    """

    def __init__(self, state: RectifyState) -> None:
        self.state = state

    def __call__(self, input_ids: torch.LongTensor, scores: Tensor) -> Tensor:
        """Rectify one step.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): the text so far. Its length tells the position:
                assisted decoding rectifies several positions of one forward pass, one after the other.
            scores (`torch.FloatTensor` of shape `(rows, vocab)`): the Pilot's logits or log-probabilities.

        Returns:
            `torch.FloatTensor` of shape `(rows, vocab)`, a new tensor.
        """
        if self.state.shift is None:
            return scores
        position = input_ids.shape[1] - 1 - self.state.first_position
        return scores + self.state.shift[:, position].to(scores.device)


class PilotCopilotGenerationMixin(GenerationMixin):
    """The overrides of `generate`'s own hooks that a pair needs."""

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Wrap the Pilot's cache, and start this call's [`RectifyState`]."""
        if self._pilot_cache_name is None:
            generation_config.use_cache = False  # GPT-1 knows no cache, and reads the whole text at every step
        super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE_NAME)
        if cache is not None and not isinstance(cache, PilotCopilotCache):
            cache = model_kwargs[CACHE_NAME] = self._lazy_if_uneven(cache)
        if self.active_copilot_weight(model_kwargs.get("copilot_weight")) == 0.0:
            return
        if cache is not None and not isinstance(cache, PilotCopilotCache):
            wrapped = self.wrap_cache(cache)
            if generation_config.is_assistant:
                wrapped.activate_past_recording()
            model_kwargs[CACHE_NAME] = wrapped
        model_kwargs["rectify_state"] = RectifyState()

    def _lazy_if_uneven(self, cache: Cache) -> Cache:
        """A cache that grows by itself, for encoder-decoders whose decoder has more layers than their configuration's
        `num_hidden_layers` says (that of the encoder)."""
        text = self.config.get_text_config(decoder=True)
        layers = getattr(text, "num_decoder_layers", None)
        if layers is None or layers == text.num_hidden_layers or not isinstance(cache, EncoderDecoderCache):
            return cache
        if cache.is_compileable or cache.get_seq_length() > 0:
            return cache
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def wrap_cache(self, cache: Cache) -> PilotCopilotCache:
        """A pair's cache around a new one of the Pilot's.

        Args:
            cache (`Cache`): empty, and growing.

        Returns:
            [`PilotCopilotCache`]

        Raises:
            ValueError: it is static, or holds positions that the Copilot has not seen.
        """
        if cache.is_compileable:
            raise ValueError(
                "a static cache was asked for, but the Copilot's part of the cache grows with the text. Leave "
                '`cache_implementation` unset or use "dynamic"; λ = 0 (the Pilot alone) takes any cache.'
            )
        if cache.get_seq_length() > 0:
            raise ValueError(
                f"`{CACHE_NAME}` is a {type(cache).__name__} of {cache.get_seq_length()} positions that the Copilot "
                f"has not seen. Pass the `{CACHE_NAME}` that the pair itself returned, or an empty cache."
            )
        return PilotCopilotCache(cache, fixed_questions=bool(self.config.is_encoder_decoder))

    def _get_logits_processor(
        self,
        generation_config: GenerationConfig,
        input_ids_seq_length: int | None = None,
        *args: Any,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LogitsProcessorList:
        """Put [`CopilotLogitsProcessor`] first."""
        processors = super()._get_logits_processor(
            generation_config, input_ids_seq_length, *args, model_kwargs=model_kwargs, **kwargs
        )
        state = (model_kwargs or {}).get("rectify_state")
        if state is None:
            return processors
        state.prompt_length = input_ids_seq_length or 0
        return LogitsProcessorList([CopilotLogitsProcessor(state), *processors])

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """Keep what is ours from the assistant, which gets the model's arguments and its processors."""
        model_kwargs = dict(kwargs.pop("model_kwargs"))
        for name in ("rectify_state", "copilot_weight"):
            model_kwargs.pop(name, None)
        others = [one for one in kwargs.pop("logits_processor") if not isinstance(one, CopilotLogitsProcessor)]
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, logits_processor=LogitsProcessorList(others), **kwargs
        )

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: continuous batching packs tokens of many requests into one row.

        Args:
            *args: not used.
            **kwargs: not used.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "continuous batching (`generate_batch`, cache_implementation='paged') packs many requests into one row, "
            "with a cache that the Copilot has no part in. Use `generate` with a left-padded batch, or serve "
            "`pair.pilot` alone."
        )


__all__ = ["CopilotLogitsProcessor", "PilotCopilotGenerationMixin", "RectifyState"]
