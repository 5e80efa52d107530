"""Loading for the commands: pairs, tokenizers, and the device they go to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel


DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_place(name_or_path: str, kind: str = "model") -> None:
    """Say what isn't here before the network is asked for it.

    Args:
        name_or_path (`str`): a folder, or an id on the Hub.
        kind (`str`, *optional*, defaults to `"model"`): `"pair"` where only a pair will do, whose id has an owner; or
            `"data set"`.

    Raises:
        FileNotFoundError: it can be no id either.
    """
    if Path(name_or_path).expanduser().exists():
        return
    what = "file or folder" if kind == "data set" else "folder"
    parts = name_or_path.split("/")
    if len(parts) > 2 or "" in parts or name_or_path.startswith((".", "~")) or "\\" in name_or_path:
        raise FileNotFoundError(f"there is no {what} {name_or_path}.")
    if len(parts) == 1 and kind == "pair":
        raise FileNotFoundError(f"there is no folder {name_or_path}; a pair on the Hub is named owner/name.")
    if len(parts) == 1 or Path(parts[0]).is_dir():
        sys.stderr.write(f"there is no {what} {name_or_path} here; looking for a {kind} of that name on the Hub\n")


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
    check_place(name_or_path, "pair")
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
    check_place(name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


__all__ = ["DTYPES", "check_place", "default_device", "load_pair", "load_tokenizer"]
