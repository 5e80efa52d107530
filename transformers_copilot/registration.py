"""Registers the pairs' configurations and models with transformers' Auto classes."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
)

from .pair.configuration_copilot import CopilotConfig
from .pair.configuration_pilot_copilot import PilotCopilotConfig, PilotCopilotSeq2SeqConfig


def register() -> None:
    """Register configurations now, and models as soon as there is a configuration; doing so again changes nothing.

    An Auto class looks a model up by its configuration's class, so it has made one by then. To import the models at
    once would import transformers' modeling code too, which takes seconds that a bare import need not.
    """
    for config_class in (CopilotConfig, PilotCopilotConfig, PilotCopilotSeq2SeqConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    CopilotConfig.register_models = register_models


def register_models() -> None:
    """Register the models; doing so again changes nothing."""
    from .pair.modeling_copilot import CopilotModel
    from .pair.modeling_pilot_copilot import PilotCopilotForCausalLM
    from .pair.modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM

    AutoModel.register(CopilotConfig, CopilotModel, exist_ok=True)
    for auto_class, config_class, model_class in (
        (AutoModelForCausalLM, PilotCopilotConfig, PilotCopilotForCausalLM),
        (AutoModelForSeq2SeqLM, PilotCopilotSeq2SeqConfig, PilotCopilotForSeq2SeqLM),
    ):
        auto_class.register(config_class, model_class, exist_ok=True)
        # A Pilot may read images: programs that load such models ask these.
        AutoModelForMultimodalLM.register(config_class, model_class, exist_ok=True)
        AutoModelForImageTextToText.register(config_class, model_class, exist_ok=True)
        # AutoModel does not fall back on the other mappings.
        AutoModel.register(config_class, model_class, exist_ok=True)


__all__ = ["register", "register_models"]
