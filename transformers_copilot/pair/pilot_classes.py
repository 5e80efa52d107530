"""Which Auto class makes or loads a Pilot: text alone, or text with images, sounds and films."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForMultimodalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)


def auto_class_for(config: PreTrainedConfig, text_class: Any) -> Any:
    """The Auto class whose model a Pilot's configuration is of.

    Args:
        config (`PreTrainedConfig`): the Pilot's.
        text_class: the Auto class of Pilots that read text alone, `AutoModelForCausalLM` or `AutoModelForSeq2SeqLM`.

    Returns:
        `text_class`, or `AutoModelForMultimodalLM` where the family is known to that alone, or where the configuration
        says that the model is of the other of two classes (Llama 4 is both).
    """
    kind, architectures = config.model_type, config.architectures or []
    seq2seq = bool(config.is_encoder_decoder)
    of_text = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if seq2seq else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    other = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind)
    if other is None or other == of_text.get(kind):
        return text_class
    return AutoModelForMultimodalLM if kind not in of_text or other in architectures else text_class


__all__ = ["auto_class_for"]
