"""Loading for the commands: pairs, tokenizers, and the device they go to."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel


DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_pair(name_or_path: str, dtype: str = "auto", device: str | None = None) -> PilotCopilotPreTrainedModel:
    """Load a pair for reading and writing.

    Args:
        name_or_path (`str`): its id on the Hub or its folder.
        dtype (`str`, *optional*, defaults to `"auto"`): type of the Pilot's weights.
        device (`str`, *optional*): where it goes; defaults to an accelerator if there is one.

    Returns:
        The pair, in evaluation mode.

    Raises:
        ValueError: it is a model, but no pair.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    if not config.model_type.startswith("pilot_copilot"):
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model and no pair. Make one with `transformers-copilot train "
            f"--pilot {name_or_path} …`."
        )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    pair = auto.from_pretrained(name_or_path, dtype="auto" if dtype == "auto" else getattr(torch, dtype))
    return pair.to(device or default_device()).eval()


def default_device() -> str:
    """The accelerator if there is one, else the CPU.

    Returns:
        `str`
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


def load_tokenizer(name_or_path: str) -> Any:
    """A tokenizer that can pad.

    Args:
        name_or_path (`str`): its id or folder.

    Returns:
        `PreTrainedTokenizerBase`
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


__all__ = ["DTYPES", "default_device", "load_pair", "load_tokenizer"]
