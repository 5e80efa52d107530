"""Makes transformers' Auto classes know pairs."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from .configuration_copilot import CopilotConfig
from .configuration_pilot_copilot import PilotCopilotConfig, PilotCopilotSeq2SeqConfig
from .modeling_copilot import CopilotModel
from .modeling_pilot_copilot import PilotCopilotForCausalLM
from .modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM


def register() -> None:
    """Register configurations and models; doing so again changes nothing."""
    for config_class in (CopilotConfig, PilotCopilotConfig, PilotCopilotSeq2SeqConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(CopilotConfig, CopilotModel, exist_ok=True)
    for auto_class, config_class, model_class in (
        (AutoModelForCausalLM, PilotCopilotConfig, PilotCopilotForCausalLM),
        (AutoModelForSeq2SeqLM, PilotCopilotSeq2SeqConfig, PilotCopilotForSeq2SeqLM),
    ):
        auto_class.register(config_class, model_class, exist_ok=True)
        # AutoModel does not fall back on the other mappings.
        AutoModel.register(config_class, model_class, exist_ok=True)


__all__ = ["register"]
