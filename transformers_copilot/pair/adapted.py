"""Whether a model has adapters in it. On its own, because loading and saving ask before PEFT is needed."""

from __future__ import annotations

from transformers import PreTrainedModel


def has_adapter(part: PreTrainedModel) -> bool:
    """Whether adapters are in a model, whoever put them there.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot.

    Returns:
        `bool`
    """
    # PEFT writes its configurations on the model that it changes, and takes them away when it unloads; transformers'
    # own flag does not know of what `get_peft_model` did.
    return bool(vars(part).get("peft_config"))


__all__ = ["has_adapter"]
