"""Making a new Copilot for a Pilot: its configuration, what its weights are copied from, and where it is put."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from .configuration_copilot import CopilotConfig
from .configuration_pilot_copilot import PAPER_OPTIONS
from .modeling_copilot import CopilotModel


_DEFAULT_COPILOT_LAYERS = 6
_MIN_COPILOT_LAYERS = 2


def load_pilot(auto_class: Any, pilot: PreTrainedModel | str, options: dict[str, Any]) -> PreTrainedModel:
    """The Pilot, loaded if it was given by its id or path.

    Args:
        auto_class: the Auto class that loads Pilots of this form.
        pilot (`PreTrainedModel` or `str`): a model, or the id or path of one.
        options (`dict`): keywords of `from_pretrained`.

    Returns:
        `PreTrainedModel`

    Raises:
        TypeError: there are keywords left, but nothing to load.
    """
    if isinstance(pilot, str):
        return auto_class.from_pretrained(pilot, **options)
    if options:
        raise TypeError(
            f"unknown options {sorted(options)}: expected {sorted(PAPER_OPTIONS)}. Keywords of `from_pretrained` are "
            "taken only when the Pilot is given by its id or path."
        )
    return pilot


def copilot_config_for(
    auto_class: Any,
    pilot: PreTrainedModel,
    copilot: CopilotConfig | dict[str, Any] | str | None,
    head: str | None,
) -> tuple[CopilotConfig, PreTrainedModel]:
    """The Copilot's configuration, and the model that its layers are copied from.

    Args:
        auto_class: the Auto class that loads Pilots of this form.
        pilot (`PreTrainedModel`): the Pilot.
        copilot: as [`PilotCopilotForCausalLM.from_pilot`] takes it.
        head (`str`, *optional*): wins over the configuration's.

    Returns:
        [`CopilotConfig`] and `PreTrainedModel`

    Raises:
        TypeError: `copilot` is of no type that is understood.
    """
    source = pilot
    if isinstance(copilot, CopilotConfig):
        config = copy.deepcopy(copilot)
    else:
        fields: dict[str, Any] = {}
        if isinstance(copilot, str):
            source = auto_class.from_pretrained(copilot)
        elif isinstance(copilot, dict):
            fields = dict(copilot)
        elif copilot is not None:
            raise TypeError(
                f"`copilot` is a {type(copilot).__name__}; give a CopilotConfig, a dict of its fields such as "
                '{"num_hidden_layers": 6}, or the id or path of a checkpoint to copy.'
            )
        if not isinstance(copilot, dict):
            layers = source.config.get_text_config(decoder=True).num_hidden_layers
            wanted = layers if isinstance(copilot, str) else min(_DEFAULT_COPILOT_LAYERS, layers)
            fields["num_hidden_layers"] = max(_MIN_COPILOT_LAYERS, wanted)
        width = pilot.config.get_text_config(decoder=True).hidden_size
        fields = {"pilot_hidden_size": width, "question_size": question_size(pilot), **fields}
        config = CopilotConfig.from_pilot(source.config, **fields)
    if head is not None:
        config = CopilotConfig(**{**config.to_dict(), "head": head})
    return config, source


def question_size(pilot: PreTrainedModel) -> int:
    """Width of X̃: the embedding layer's, or the encoder's output.

    Args:
        pilot (`PreTrainedModel`): the Pilot.

    Returns:
        `int`
    """
    if pilot.config.is_encoder_decoder:
        encoder = getattr(pilot.get_encoder(), "config", None)  # a few old encoders are no models of their own
        return (pilot.config.get_text_config(encoder=True) if encoder is None else encoder).hidden_size
    return pilot.get_input_embeddings().weight.shape[-1]


def keep_attention_plain(config: CopilotConfig) -> None:
    """Eager or sdpa for the Copilot: its masks are its own, which flash kernels do not take.

    Args:
        config ([`CopilotConfig`]): changed in place where it asks for another implementation.
    """
    if config._attn_implementation not in ("eager", "sdpa", None):
        config._attn_implementation = "sdpa"


def new_copilot(config: CopilotConfig, pilot: PreTrainedModel) -> CopilotModel:
    """A fresh Copilot in float32, where the Pilot is.

    Args:
        config ([`CopilotConfig`]): its shape.
        pilot (`PreTrainedModel`): the Pilot.

    Returns:
        [`CopilotModel`]
    """
    return CopilotModel(config).to(device=pilot.device, dtype=torch.float32)


__all__ = ["copilot_config_for", "keep_attention_plain", "load_pilot", "new_copilot", "question_size"]
