"""Whether a Pilot and a Copilot fit each other, and whether a model can be a Pilot: checked before work is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .configuration_copilot import CopilotConfig
from .generation_hooks import check_generates_as_usual
from .options import chosen


def check_pilot(pilot: PreTrainedModel, is_encoder_decoder: bool) -> None:
    """Refuse a model that cannot be a Pilot.

    Args:
        pilot (`PreTrainedModel`): what a user gave for the Pilot.
        is_encoder_decoder (`bool`): whether the pair is for encoder-decoders.

    Raises:
        TypeError: it is no transformers model.
        ValueError: it is encoder-only, a state-space model, of the other form, or writes in a way of its own.
    """
    if not isinstance(pilot, PreTrainedModel):
        raise TypeError(
            f"the Pilot is a {type(pilot).__name__}; give a transformers model, a PeftModel, or the id or path of one."
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
    check_generates_as_usual(pilot)
    if bool(config.is_encoder_decoder) != is_encoder_decoder:
        form, other = ("decoder-only", "Seq2SeqLM") if not is_encoder_decoder else ("encoder-decoder", "CausalLM")
        raise ValueError(f"this pair is for {form} Pilots, but {name} is not one; use PilotCopilotFor{other}.")


def check_pairing(pilot_config: PreTrainedConfig, copilot_config: CopilotConfig, question_size: int) -> None:
    """Refuse a Copilot whose vocabulary, widths or form are not the Pilot's.

    Args:
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

    Raises:
        ValueError: the widths differ (OPT-350m projects its states first), or there is no head; both values are named.
    """
    if chosen("head", copilot_config.head) != "pilot":
        return
    head = pilot.get_output_embeddings()
    width = None if head is None else head.weight.shape[-1]
    if width != copilot_config.pilot_hidden_size:
        raise ValueError(
            f"head='pilot' needs a Pilot whose language model head reads states of its layers' width, "
            f"{copilot_config.pilot_hidden_size}, but the head of {type(pilot).__name__} reads {width}. Use head='own'."
        )


def check_holds_pair(pair_class: Any, source: Any, found: dict[str, Any]) -> None:
    """Refuse a checkpoint of something other than a pair.

    Args:
        pair_class: the class that is to load it.
        source: id or folder, for the message.
        found (`dict`): what its configuration says.

    Raises:
        ValueError: it holds a Pilot, a Copilot alone, or a pair of the other form.
    """
    kind, expected = found.get("model_type"), pair_class.config_class.model_type
    if kind == expected:
        return
    if kind == CopilotConfig.model_type:
        mend = f"It is a Copilot alone; with the Pilot that it names: {pair_class.__name__}.from_copilot(...)."
    else:
        mend = f"To put a Copilot beside it: {pair_class.__name__}.from_pilot(...)."
    raise ValueError(
        f"{source} holds a model of type {str(kind)[:60]!r}, not a pair ({expected!r}), by `model_type` in its "
        f"config.json. {mend}"
    )


def check_whole(pair_class: Any, source: Any, info: dict[str, Any], file_of: Callable[[str], str]) -> None:
    """Refuse a pair that was loaded without all of its weights, or whose files hold more than it has.

    Args:
        pair_class: the class that loaded it.
        source: id or folder, for the message.
        info (`dict`): what `from_pretrained` found missing and unexpected.
        file_of (callable): the file that a weight is or should be in.

    Raises:
        ValueError: weights would have been left at random, or left out; the first is named.
    """
    missing = sorted(key for key in info["missing_keys"] if key.startswith("copilot."))
    if missing:
        raise ValueError(
            f"{source} holds no whole Copilot: {len(missing)} of its weights are missing, {missing[0]} first, which "
            f"its config.json asks of {file_of(missing[0])}. If it is a Pilot alone, use "
            f"{pair_class.__name__}.from_pilot(...)."
        )
    adapted = sorted(key for key in info["unexpected_keys"] if ".base_layer." in key or ".lora_" in key)
    if adapted:
        raise ValueError(
            f"{source} was saved with an adapter inside, {len(adapted)} of whose weights belong nowhere, {adapted[0]} "
            f"first, in {file_of(adapted[0])}. Save the pair again with its own `save_pretrained` or `save_adapters`, "
            "or merge the adapter first."
        )
    missing = sorted(key for key in info["missing_keys"] if key.startswith("pilot."))
    if missing:
        raise ValueError(
            f"{source} holds no whole Pilot: {len(missing)} of its weights are missing, {missing[0]} first, which "
            f"its config.json asks of {file_of(missing[0])}. Save or "
            f"download the pair again; if it is a Copilot alone, use {pair_class.__name__}.from_copilot(...)."
        )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        raise ValueError(
            f"{source} holds {len(unexpected)} weights that the pair of its config.json has no place for, "
            f"{unexpected[0]} first, in {file_of(unexpected[0])}: weights and configuration are not of one pair. Save "
            "or download both again."
        )


def question_size(pilot: PreTrainedModel) -> int:
    """Width of X̃: the embedding layer's, or the encoder's output.

    Returns:
        `int`
    """
    if pilot.config.is_encoder_decoder:
        encoder = getattr(pilot.get_encoder(), "config", None)  # a few old encoders are no models of their own
        return (pilot.config.get_text_config(encoder=True) if encoder is None else encoder).hidden_size
    return pilot.get_input_embeddings().weight.shape[-1]


def keep_attention_plain(config: CopilotConfig, pilot_config: PreTrainedConfig) -> None:
    """Eager or sdpa for the Copilot: its masks are its own, and its weights float32, which flash kernels do not take. A
    branch attends as the Pilot does where it can.

    Args:
        config ([`CopilotConfig`]): changed in place where it asks for another implementation.
    """
    if chosen("form", config.form) == "branch":
        config._attn_implementation = pilot_config.get_text_config(decoder=True)._attn_implementation
    if config._attn_implementation not in ("eager", "sdpa", None):
        config._attn_implementation = "sdpa"


def refuse_spread_weights() -> None:
    """Refuse to make a pair where transformers gives every new model weights of no size.

    Raises:
        ValueError: there is a trainer with DeepSpeed's ZeRO-3 already.
    """
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "a pair can't be made while DeepSpeed's ZeRO-3 spreads the weights of every new model: its parts are "
            "compared and made of whole ones. Make it before the trainer, with `zero3_init_flag: false` in "
            "accelerate's configuration, as in examples/accelerate/zero3.yaml."
        )


__all__ = [
    "check_head",
    "check_holds_pair",
    "check_pairing",
    "check_pilot",
    "check_whole",
    "keep_attention_plain",
    "question_size",
    "refuse_spread_weights",
]
