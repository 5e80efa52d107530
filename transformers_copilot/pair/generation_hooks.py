"""The Pilot's own generation hooks: what `generate` asks a model for, a pair asks its Pilot.

Families write in ways of their own: Phi-3 reads its text anew where its positions change, Qwen2-VL counts positions by
images, PaliGemma goes on with token types of one kind. All of that is in methods that `generate` calls on the model.
The pair hands each of them to its Pilot. What it can't hand on, such as a decoding loop of the Pilot's own, is refused.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.generation import GenerationMode

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME, CACHE_NAMES


# The mixin is put into a model's class; type checkers are told so.
_Generating: Any = GenerationMixin

# What the pair puts among the model's arguments, and the Pilot knows nothing of.
OWN_ARGUMENTS = ("copilot_weight", "rectify_state")

# These functions of `GenerationMixin` run on the Pilot, whether it has a version of its own or not.
DELEGATED = frozenset(
    {
        "_expand_inputs_for_generation",
        "_expand_multimodal_outputs",
        "_get_logits_processor",
        "_get_static_cache_init_shape",
        "_get_stopping_criteria",
        "_maybe_initialize_input_ids_for_generation",
        "_maybe_prepare_encoder_kwargs_for_generation",
        "_optimize_model_for_decode",
        "_prepare_attention_mask_for_generation",
        "_prepare_cache_for_generation",
        "_prepare_decoder_input_ids_for_generation",
        "_prepare_generated_length",
        "_prepare_model_inputs",
        "_prepare_multimodal_encoder_kwargs_for_generation",
        "_prepare_position_ids_for_generation",
        "_prepare_special_tokens",
        "_prepare_static_cache",
        "_prepare_text_encoder_decoder_kwargs_for_generation",
        "_supports_default_dynamic_cache",
        "_supports_mm_encoder_outputs",
        "_update_model_kwargs_for_generation",
        "_validate_generated_length",
        "_validate_generation_mode",
        "_validate_model_kwargs",
        "prepare_inputs_for_generation",
    }
)
# A Pilot's own version of these is about something that a pair does for itself: loading, and what its `forward` takes.
# The rest the pair runs as `GenerationMixin` has them, and a Pilot with its own version is refused.
NOT_NEEDED = frozenset(
    {"_supports_logits_to_keep", "adjust_generation_fn", "compute_transition_scores", "load_custom_generate"}
)


def own_generation(pilot: PreTrainedModel) -> list[str]:
    """Methods of generation that a Pilot has its own version of, and that a pair can't hand to it.

    Returns:
        `list[str]`: their names. Empty for an ordinary language model.
    """
    usual = [name for name in vars(GenerationMixin) if callable(getattr(GenerationMixin, name))]
    asked = [name for name in usual if not name.startswith("__") and name not in DELEGATED | NOT_NEEDED]
    return [name for name in asked if _has_own(pilot, name)]


def check_generates_as_usual(pilot: PreTrainedModel) -> None:
    """Refuse a Pilot that writes in a way that the pair would not follow.

    Raises:
        ValueError: it has a `generate` or a decoding loop of its own; the message names them.
    """
    own = own_generation(pilot)
    if own:
        raise ValueError(
            f"{type(pilot).__name__} has its own {', '.join(f'`{name}`' for name in own)}, so it does not write as "
            "`generate` of transformers does, and a pair would write otherwise than it does alone. Use a Pilot that "
            "writes in the ordinary way, or that Pilot alone."
        )


class DelegatedHooksMixin(_Generating):
    """The part of a pair that answers `generate`'s questions as its Pilot would."""

    if TYPE_CHECKING:
        pilot: Any

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The arguments of the next pass, as the Pilot prepares them.

        Args:
            input_ids (`torch.LongTensor` of shape `(rows, length)`): the text so far.
            *args: handed on.
            **kwargs: handed on; the pair's own are kept from the Pilot and put back.

        Returns:
            `dict[str, Any]`

        Raises:
            ValueError: the Copilot is on, and the Pilot reads other tokens than those of the text.
        """
        own = _take_own(kwargs)
        if "logits_to_keep" in kwargs and not self.pilot._supports_logits_to_keep():
            own["logits_to_keep"] = kwargs.pop("logits_to_keep")
        cache = kwargs.get(CACHE_NAME)
        if isinstance(cache, PilotCopilotCache):
            kwargs[CACHE_NAME] = cache.pilot
        inputs = self.pilot.prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if own.get("rectify_state") is None:
            return {**inputs, **own}
        own["rectify_state"].text_length = input_ids.shape[1]
        if isinstance(cache, PilotCopilotCache):
            own.update(self._wrapped_again(inputs, cache))
        read = inputs.get("decoder_input_ids" if self.config.is_encoder_decoder else "input_ids")
        if read is not None and read.shape[1] > input_ids.shape[1]:
            raise ValueError(
                f"{type(self.pilot).__name__} reads {read.shape[1]} tokens where the text has {input_ids.shape[1]} (it "
                "adds some that are not part of it at every step), so the Copilot can't tell which of its tokens were "
                "mistakes. λ = 0 (the Pilot alone) works."
            )
        return {**inputs, **own}

    def _wrapped_again(self, inputs: dict[str, Any], cache: PilotCopilotCache) -> dict[str, Any]:
        """The pair's cache, in the place of the Pilot's among the arguments that the Pilot has prepared."""
        name = next((name for name in CACHE_NAMES if inputs.get(name) is not None), CACHE_NAME)
        if inputs.get(name) is cache.pilot:
            return {name: cache}
        # It gave its cache up to read the text anew, as Phi-3 does where the length of its text changes its positions.
        anew = self.wrap_cache(DynamicCache(config=self.config.get_text_config(decoder=True)))
        if cache.recording:
            anew.activate_past_recording()
        return {name: anew}

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        _take_own(model_kwargs)
        model_kwargs.pop("logits_to_keep", None)  # a draft's model is told it where a pair takes it, as one does
        self.pilot._validate_model_kwargs(model_kwargs)

    def _validate_generation_mode(self, generation_mode: GenerationMode, *args: Any, **kwargs: Any) -> None:
        if "beam" in generation_mode.value and hasattr(self.pilot, "_reorder_cache"):
            raise ValueError(
                f"{type(self.pilot).__name__} puts its cache in the beams' order itself (`_reorder_cache`), and knows "
                "nothing of the Copilot's part of a pair's cache. Write without beams, or use `pair.pilot` alone."
            )
        self.pilot._validate_generation_mode(generation_mode, *args, **kwargs)

    def _validate_generated_length(self, *args: Any, **kwargs: Any) -> None:
        self.pilot._validate_generated_length(*args, **kwargs)

    def _prepare_generated_length(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._prepare_generated_length(*args, **kwargs)

    def _prepare_special_tokens(self, *args: Any, **kwargs: Any) -> None:
        self.pilot._prepare_special_tokens(*args, **kwargs)

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._prepare_model_inputs(*args, **kwargs)

    def _prepare_attention_mask_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._prepare_attention_mask_for_generation(*args, **kwargs)

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        if "position_ids" not in self._pilot_parameters:
            return None  # the pair's `forward` takes them, so it is asked where the Pilot alone would not be
        return self.pilot._prepare_position_ids_for_generation(*args, **kwargs)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor: Tensor, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        own = _take_own(model_kwargs)  # an encoder may take whatever it is given
        changed = _has_own(self.pilot, "_maybe_prepare_encoder_kwargs_for_generation") or _has_own(
            self.pilot, "_prepare_text_encoder_decoder_kwargs_for_generation"
        )
        # A pair that lies on several devices knows of them, and its Pilot does not.
        asked: Any = super() if self.config.is_encoder_decoder and not changed else self.pilot
        prepared = asked._maybe_prepare_encoder_kwargs_for_generation(inputs_tensor, model_kwargs, *args, **kwargs)
        return {**prepared, **own}

    def _prepare_decoder_input_ids_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._prepare_decoder_input_ids_for_generation(*args, **kwargs)

    def _expand_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._expand_inputs_for_generation(*args, **kwargs)

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.pilot._update_model_kwargs_for_generation(*args, **kwargs)

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        return self.pilot._get_stopping_criteria(*args, **kwargs)

    def _optimize_model_for_decode(self) -> AbstractContextManager[None]:
        return self.pilot._optimize_model_for_decode()


def _has_own(pilot: PreTrainedModel, name: str) -> bool:
    """Whether a Pilot's class has its own version of a function of `GenerationMixin`."""
    return inspect.getattr_static(type(pilot), name) is not vars(GenerationMixin)[name]


def _take_own(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the pair's own arguments out of a dictionary."""
    return {name: arguments.pop(name) for name in OWN_ARGUMENTS if name in arguments}


__all__ = [
    "DELEGATED",
    "NOT_NEEDED",
    "DelegatedHooksMixin",
    "check_generates_as_usual",
    "own_generation",
]
