"""Whether a Pilot and a Copilot fit each other, and whether a model can be a Pilot: checked before work is lost."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .configuration_copilot import CopilotConfig


def check_pilot(pilot: PreTrainedModel, is_encoder_decoder: bool) -> None:
    """Refuse a model that cannot be a Pilot.

    Args:
        pilot (`PreTrainedModel`): what was given.
        is_encoder_decoder (`bool`): whether the pair is for encoder-decoders.

    Raises:
        TypeError: it is no transformers model.
        ValueError: it is encoder-only, a state-space model, or of the other form.
    """
    if not isinstance(pilot, PreTrainedModel):
        raise TypeError(
            f"the Pilot is a {type(pilot).__name__}; give a transformers model, or the id or path of one. (A "
            "PeftModel: give its `base_model.model` after loading the adapter, or merge it first.)"
        )
    name, config = type(pilot).__name__, pilot.config
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder
    # BertGeneration is no masked language model by name, but looks both ways all the same unless it is told not to.
    both_ways = (masked or config.model_type == "bert-generation") and not getattr(config, "is_decoder", False)
    if not pilot.can_generate() or both_ways:
        raise ValueError(
            f"{name} does not write text token by token, so it cannot be a Pilot: expected a causal or an "
            "encoder-decoder language model (AutoModelForCausalLM, AutoModelForSeq2SeqLM). An encoder of a family that "
            "can be both needs `is_decoder=True`."
        )
    own_cache = "cache_params" in pilot.forward.__code__.co_varnames or not pilot._supports_default_dynamic_cache()
    if pilot._is_stateful or own_cache:
        raise ValueError(
            f"{name} keeps a recurrent state, or a memory of its own kind, instead of keys and values, which cannot be "
            "cropped or split: state-space and hybrid Pilots are not supported. Use a model whose layers are all "
            "attention."
        )
    if bool(config.is_encoder_decoder) != is_encoder_decoder:
        form, other = ("decoder-only", "Seq2SeqLM") if not is_encoder_decoder else ("encoder-decoder", "CausalLM")
        raise ValueError(f"this pair is for {form} Pilots, but {name} is not one; use PilotCopilotFor{other}.")


def check_pairing(pilot_config: PreTrainedConfig, copilot_config: CopilotConfig, question_size: int) -> None:
    """Refuse a Copilot whose vocabulary, widths or form are not the Pilot's.

    Args:
        pilot_config (`PreTrainedConfig`): the Pilot's.
        copilot_config ([`CopilotConfig`]): the Copilot's.
        question_size (`int`): width of the Pilot's questions.

    Raises:
        ValueError: they do not fit; the message gives both values.
    """
    text = pilot_config.get_text_config(decoder=True)
    pairs: list[tuple[str, Any, Any]] = [
        ("vocab_size", text.vocab_size, copilot_config.vocab_size),
        ("hidden_size / pilot_hidden_size", text.hidden_size, copilot_config.pilot_hidden_size),
        ("width of questions / question_size", question_size, copilot_config.question_size),
        ("is_encoder_decoder", bool(pilot_config.is_encoder_decoder), copilot_config.is_encoder_decoder),
    ]
    for name, of_pilot, of_copilot in pairs:
        if of_pilot != of_copilot:
            raise ValueError(
                f"the Pilot and the Copilot do not fit: {name} is {of_pilot} for the Pilot and {of_copilot} for the "
                "Copilot. Make the Copilot's configuration with `CopilotConfig.from_pilot(pilot.config, ...)`."
            )


def check_head(pilot: PreTrainedModel, copilot_config: CopilotConfig) -> None:
    """Refuse `head="pilot"` where the Pilot's head does not read states of its layers' width.

    Args:
        pilot (`PreTrainedModel`): the Pilot.
        copilot_config ([`CopilotConfig`]): the Copilot's.

    Raises:
        ValueError: the widths differ (OPT-350m projects its states first), or there is no head; both values are named.
    """
    if copilot_config.head != "pilot":
        return
    head = pilot.get_output_embeddings()
    width = None if head is None else head.weight.shape[-1]
    if width != copilot_config.pilot_hidden_size:
        raise ValueError(
            f"head='pilot' needs a Pilot whose language model head reads states of its layers' width, "
            f"{copilot_config.pilot_hidden_size}, but the head of {type(pilot).__name__} reads {width}. Use head='own'."
        )


__all__ = ["check_head", "check_pairing", "check_pilot"]
