"""The configuration of a branch: the Pilot's own, with fewer layers."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig


# How families name the number of their decoder's layers.
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
# What is not the decoder's; labels of a classifier have numbers for keys, which no JSON file keeps.
_NOT_COPIED = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "quantization_config", "auto_map"),
    *("id2label", "label2id"),
)
# A branch reads states, not tokens: its embedding is made small, and taken out.
_SMALL_VOCABULARY = 8


def branch_config(pilot_config: PreTrainedConfig, layers: int) -> dict[str, Any]:
    """The configuration of the Pilot's class with its last decoder layers alone.

    Lists of one entry a layer (which layers slide, which have positions) keep their last entries.

    Args:
        layers (`int`): how many layers the branch has.

    Returns:
        `dict`: as `AutoConfig.for_model` takes it.

    Raises:
        ValueError: there are not so many layers in the Pilot, or all of them are asked for.
    """
    seq2seq = bool(pilot_config.is_encoder_decoder)
    source = pilot_config if seq2seq else pilot_config.get_text_config(decoder=True)
    values: dict[str, Any] = copy.deepcopy(source.to_dict())
    counts = [name for name in _DECODER_COUNTS if values.get(name) is not None] if seq2seq else []
    names = counts or [name for name in _LAYER_COUNTS if values.get(name) is not None]
    if not names:
        raise ValueError(
            f"the configuration {type(pilot_config).__name__} does not say how many layers its decoder has, so no "
            "branch can be made of it; use form='linear' or 'decoder'."
        )
    total = int(values[names[0]])
    if not 1 <= layers < total:
        raise ValueError(
            f"`num_hidden_layers` is {layers}; a Copilot of the form 'branch' has at least 1 and fewer layers than the "
            f"Pilot's decoder, which has {total}."
        )
    for name, value in values.items():
        if isinstance(value, list) and len(value) == total:
            values[name] = value[-layers:]
    values |= dict.fromkeys(names, layers)
    if counts:  # the branch has no encoder of its own
        values |= {name: 1 for name in ("encoder_layers", "num_layers") if values.get(name) is not None}
    values |= {"vocab_size": _SMALL_VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    for name in _NOT_COPIED:
        values.pop(name, None)
    return values


__all__ = ["branch_config"]
