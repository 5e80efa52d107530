"""How a pair generates: a logits processor that rectifies, and the hooks of `generate` that put it and the cache in."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import GenerationMode

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME, given_cache
from .fusion import make_room_for_weight, named_weight, weight_in_force, weight_of_call
from .generation_hooks import OWN_ARGUMENTS, DelegatedHooksMixin


if TYPE_CHECKING:
    from transformers import Cache


@dataclass
class RectifyState:
    """What one call of `generate` shares between the forward passes and the processor.

    While there is one, `forward` returns the Pilot's logits, and the processor rectifies; never both.

    Args:
        prompt_length (`int`): tokens that were given.
        shift (`torch.FloatTensor` of shape `(rows, positions, vocab)`, *optional*): what rectifies the last forward
            pass's positions.
        text_length (`int`): tokens of the text that the last of them is the end of.
        direct (`bool`, *optional*, defaults to `False`): the Pilot's own logits are not asked for, so the pass may
            return rectified ones, without a shift, where one product gives them.
        of_probabilities (`bool`, *optional*, defaults to `False`): the processor is given log-probabilities, as beams
            have them.
    """

    prompt_length: int = 0
    shift: Tensor | None = None
    text_length: int = 0
    direct: bool = False
    of_probabilities: bool = False


class CopilotLogitsProcessor(LogitsProcessor):
    """Rectifies: adds the shift of [`rectify_shift`] to the Pilot's scores.

    `generate` puts it first, so that maskers and warpers act on the rectified distribution, `output_logits` shows the
    Pilot's logits and `output_scores` the rectified scores.

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
        # Counted from the end: what a cache holds is the model's business. Of a prompt in pieces the last is the end.
        later = max(0, self.state.text_length - input_ids.shape[1])
        return scores + self.state.shift[:, -1 - later].to(scores.device)


class SecondPass:
    """The pair, as a logits processor of transformers calls it: with λ of the call, while text is written.

    Classifier-free guidance is such a processor: it writes the same tokens after another prompt, or after none.

    Args:
        weight (`float`): λ of the call.
    """

    def __init__(self, pair: Any, weight: float) -> None:
        self.pair, self.weight = pair, weight
        self.state = RectifyState()

    def __call__(self, input_ids: torch.LongTensor, *args: Any, **kwargs: Any) -> Any:
        """One pass.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): tokens; those of the first call are the prompt.
            *args: handed on.
            **kwargs: handed on.

        Returns:
            [`PilotCopilotOutput`], its logits rectified.
        """
        kwargs["copilot_weight"] = self.weight
        if self.weight == 0.0:
            return self.pair(input_ids, *args, **kwargs)
        self.state.prompt_length = self.state.prompt_length or input_ids.shape[1]
        outputs = self.pair(input_ids, *args, rectify_state=self.state, **kwargs)
        if self.state.shift is not None:
            outputs.logits = outputs.logits + self.state.shift
        return outputs


class PilotCopilotGenerationMixin(DelegatedHooksMixin):
    """`generate` of a pair: as the Pilot's, with its cache wrapped and the rectifying processor put in."""

    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        copilot_weight: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write on from a prompt, as `generate` of any model of transformers, which see for every other argument.

        Args:
            inputs (`torch.Tensor`, *optional*): the prompt, as the Pilot takes it.
            generation_config (`GenerationConfig`, *optional*): settings. λ may be among them, `copilot_weight`.
            *args: handed on.
            copilot_weight (`float`, *optional*): λ of this call, from 0 (exactly the Pilot, at its cost) to 20. It goes
                before `generation_config.copilot_weight`, before `pair.generation_config.copilot_weight`, and before
                `pair.config.copilot_weight`; the first of them that is set counts, in every pass of the call. An
                assistant that is another pair takes λ where the call names one, and else its own.
            **kwargs: handed on. A cache is taken under either of its names, `cache` or `past_key_values`.

        Returns:
            As of `GenerationMixin.generate`. With `output_logits=True` the logits are the Pilot's, with
            `output_scores=True` the scores are the rectified ones.

        Raises:
            TypeError: λ is not a number.
            ValueError: λ is not from 0 to 20, a token id is outside the vocabulary, or a setting can't be honoured.
        """
        if "generate" in vars(self.pilot):
            raise ValueError(
                "the Pilot has a `generate` that was put there from elsewhere, such as the `custom_generate` of its "
                "repository, and a pair would write otherwise than it does alone. Give it to the pair's own call, "
                '`custom_generate="user/repository"`, and take it off the Pilot: `del pair.pilot.generate`.'
            )
        given = {name: kwargs.get(name) for name in ("input_ids", "decoder_input_ids")}
        self.check_tokens(inputs=inputs, **given)
        weight = weight_of_call(self, generation_config, copilot_weight)
        if copilot_weight is not None:
            kwargs["copilot_weight"] = copilot_weight
        cache = given_cache(kwargs.pop("past_key_values", None), kwargs.pop("cache", None))
        if cache is not None:
            kwargs[CACHE_NAME] = cache
        with weight_in_force(self, weight):
            return super().generate(inputs, generation_config, *args, **kwargs)

    def adjust_generation_fn(
        self, generation_config: Any, from_auto_class: bool, from_pipeline: str | None, source: Any, **kwargs: Any
    ) -> None:
        """Load the generation configuration, with λ.

        From one that says of itself that it was made of a model's configuration, as the first one of any model does,
        transformers leaves out every entry that it doesn't know.

        Args:
            generation_config (`GenerationConfig`, *optional*): what `from_pretrained` was given.
            from_auto_class (`bool`): handed on.
            from_pipeline (`str`, *optional*): handed on.
            source (`str`, *optional*): id or folder.
            **kwargs: handed on: `revision`, `token` and the like.
        """
        super().adjust_generation_fn(generation_config, from_auto_class, from_pipeline, source, **kwargs)
        if generation_config is not None:
            whole = {**generation_config.to_dict(), "_from_model_config": None}
            self.generation_config = GenerationConfig.from_dict(whole)
        elif source is not None and self.generation_config._from_model_config:
            names = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
            hub = {name: kwargs[name] for name in names if name in kwargs}
            with contextlib.suppress(OSError):  # there is no such file: it was made of config.json just now
                self.generation_config = GenerationConfig.from_pretrained(source, _from_model_config=False, **hub)
        make_room_for_weight(self.generation_config)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, *args: Any, copilot_weight: float | None = None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Take λ out of what `generate` was given.

        A generation configuration that knows of it would keep the call's keyword from the model.
        """
        weight = weight_of_call(self, generation_config, copilot_weight)
        named = named_weight(generation_config, copilot_weight)
        prepared, model_kwargs = super()._prepare_generation_config(generation_config, *args, **kwargs)
        prepared.copilot_weight = named  # what an assistant is told
        model_kwargs["copilot_weight"] = weight
        return prepared, model_kwargs

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Wrap the Pilot's cache, and start this call's [`RectifyState`]."""
        weight = self.active_copilot_weight(model_kwargs.get("copilot_weight"))
        if weight != 0.0 and self.config.is_encoder_decoder and generation_config.prefill_chunk_size is not None:
            raise ValueError(
                "`prefill_chunk_size` reads a decoder's prompt in pieces, and transformers cuts the mask of the "
                "encoder's text with it, which the Copilot reads. Leave it out with an encoder-decoder; λ = 0 takes it."
            )
        if weight != 0.0 and self._pilot_cache_name is None:
            generation_config.use_cache = False  # GPT-1 knows no cache, and reads the whole text at every step
        given = model_kwargs.get(CACHE_NAME)
        if isinstance(given, PilotCopilotCache):
            model_kwargs[CACHE_NAME] = given.pilot
        self.pilot._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get(CACHE_NAME)
        if cache is not None:
            cache = model_kwargs[CACHE_NAME] = self._lazy_if_uneven(cache)
        if weight == 0.0:
            return
        if isinstance(given, PilotCopilotCache):
            model_kwargs[CACHE_NAME] = given
        elif cache is not None:
            wrapped = model_kwargs[CACHE_NAME] = self.wrap_cache(cache)
            if generation_config.is_assistant and isinstance(wrapped, PilotCopilotCache):
                wrapped.activate_past_recording()
        model_kwargs["rectify_state"] = RectifyState(
            direct=not generation_config.output_logits, of_probabilities="beam" in generation_mode.value
        )

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

    def wrap_cache(self, cache: Cache) -> Cache:
        """A pair's cache around a new one of the Pilot's.

        Args:
            cache (`Cache`): empty. Static ones are for a branch. A Copilot that remembers nothing takes any.

        Returns:
            [`PilotCopilotCache`], or the same cache where the Copilot remembers nothing.

        Raises:
            ValueError: it is static and the Copilot's can't be, or it holds positions that the Copilot has not seen.
        """
        if self.copilot.new_cache() is None:
            return cache
        if cache.get_seq_length() > 0:
            raise ValueError(
                f"`{CACHE_NAME}` is a {type(cache).__name__} of {cache.get_seq_length()} positions that the Copilot "
                f"has not seen. Pass the `{CACHE_NAME}` that the pair itself returned, or an empty cache."
            )
        return self.cache_beside(cache)

    def _get_logits_processor(
        self,
        generation_config: GenerationConfig,
        input_ids_seq_length: int | None = None,
        *args: Any,
        logits_processor: LogitsProcessorList | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LogitsProcessorList:
        """The Pilot's processors, with [`CopilotLogitsProcessor`] first; those that call the model call the pair."""
        model_kwargs = model_kwargs or {}
        processors = self.pilot._get_logits_processor(
            generation_config,
            input_ids_seq_length,
            *args,
            logits_processor=logits_processor,
            model_kwargs=model_kwargs,
            **kwargs,
        )
        weight = self.active_copilot_weight(model_kwargs.get("copilot_weight"))
        given = {id(processor) for processor in logits_processor or []}
        for processor in processors:
            for name, value in vars(processor).items():
                if value is self.pilot and id(processor) not in given:
                    setattr(processor, name, SecondPass(self, weight))
        state = model_kwargs.get("rectify_state")
        if state is None:
            return processors
        state.prompt_length = input_ids_seq_length or 0
        return LogitsProcessorList([CopilotLogitsProcessor(state), *processors])

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> Any:
        """Keep what is ours from the assistant, which gets the model's arguments and its processors.

        λ reaches an assistant that is a pair by `generation_config`.
        """
        if kwargs["generation_config"].use_mtp:
            raise ValueError(
                "`use_mtp=True` drafts with heads that lie in the Pilot's own checkpoint and are no part of a pair. "
                "Leave it out, or draft with `assistant_model=pair.pilot` or `prompt_lookup_num_tokens`."
            )
        model_kwargs = {name: value for name, value in kwargs.pop("model_kwargs").items() if name not in OWN_ARGUMENTS}
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


__all__ = ["CopilotLogitsProcessor", "PilotCopilotGenerationMixin", "RectifyState", "SecondPass"]
