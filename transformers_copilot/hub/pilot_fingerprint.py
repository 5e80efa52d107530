"""A Pilot's fingerprint: it tells, without weights, whether a Copilot trained beside one Pilot fits another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import logging

from ..pair.correction import reads_mistakes


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

logger = logging.get_logger(__name__)

# Values of each tensor that a digest reads, evenly spread over it.
_SAMPLED_VALUES = 1024


def pair_fingerprint(pair: PilotCopilotPreTrainedModel) -> dict[str, Any]:
    """What a Mistake Log, or a Copilot's own checkpoint, says of the Pilot that it is about.

    Returns:
        `dict`: architecture, vocabulary, width and decoder layers.
    """
    text = pair.pilot.config.get_text_config(decoder=True)
    return {
        "architecture": type(pair.pilot).__name__,
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "decoder_layers": pair.recorder.num_layers,
    }


def round_contents(pair: PilotCopilotPreTrainedModel) -> dict[str, Any]:
    """What the rounds of a log hold that this pair's Copilot can learn from.

    Returns:
        `dict`: the layers that rationales are made of, whether mistakes are kept at every position, and which
        positions are lessons.
    """
    layers = pair.copilot.layers_read(pair.recorder.num_layers)
    return {
        "rationale": layers if layers is None or isinstance(layers, str) else list(layers),
        "mistakes_everywhere": reads_mistakes(pair),
        "mistakes_from": pair.config.mistakes_from,
    }


def pilot_digests(pair: PilotCopilotPreTrainedModel) -> dict[str, str | None]:
    """The Pilot's weights as two short numbers: equal where a sample of the values of every tensor is.

    Returns:
        `dict`: `weights`, of all of them, and `head`, of its language model head alone; `None` where a weight is on
        the meta device, or there is no head.
    """
    head = pair.pilot.get_output_embeddings()
    return {
        "weights": weights_digest(pair.pilot.state_dict()),
        "head": None if head is None else weights_digest(head.state_dict()),
    }


@torch.no_grad()
def weights_digest(tensors: dict[str, Tensor]) -> str | None:
    """One short number for some weights. The type that they are kept in does not count, as far as it holds the values.

    Args:
        tensors (`dict`): the weights by name.

    Returns:
        `str`: the first 16 hexadecimal digits of a SHA-256; `None` where a weight has no values (the meta device).
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.is_meta:
            return None
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        if type(tensor) in (Tensor, torch.nn.Parameter):
            flat = tensor.detach().reshape(-1)
            # An odd step: an even one could meet a single column of a matrix again and again.
            sample = flat[:: (flat.numel() // _SAMPLED_VALUES) | 1]
            plain = sample.to(torch.float32 if sample.is_floating_point() else torch.int64)
            digest.update(plain.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer's vocabulary as one short number: equal where every token has the same id.

    Returns:
        `str`: the first 16 hexadecimal digits of a SHA-256.
    """
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    return hashlib.sha256(json.dumps(vocabulary, ensure_ascii=True).encode()).hexdigest()[:16]


def tokenizer_hash_of(name_or_path: str | None, revision: str | None = None, **hub: Any) -> str | None:
    """The hash of the tokenizer that lies beside a Pilot, where there is one that can be read without its own code.

    Args:
        name_or_path (`str`, *optional*): the Pilot's id or folder.
        revision (`str`, *optional*): branch, tag or commit.
        **hub: further keywords of `from_pretrained`, such as `token` and `cache_dir`.

    Returns:
        `str`, or `None` where it is not known; nothing is compared then.
    """
    if not name_or_path:
        return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False, **hub)
    # Many things can stand in a tokenizer's way: no file, no network, a library or code of its own that is missing.
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        logger.info(
            f"The tokenizer of {name_or_path} could not be read ({type(error).__name__}), so it isn't compared."
        )
        return None
    return tokenizer_hash(tokenizer)


def refuse_other_tokenizer(of_copilot: str | None, of_pilot: str | None) -> None:
    """Refuse a Pilot that spells otherwise than the one that the Copilot was trained beside.

    Args:
        of_copilot (`str`, *optional*): hash of the tokenizer in training; `None`: not known, anything is taken.
        of_pilot (`str`, *optional*): hash of the given Pilot's.

    Raises:
        ValueError: both are known and differ.
    """
    if of_copilot is not None and of_pilot is not None and of_copilot != of_pilot:
        raise ValueError(
            f"the Pilot's tokenizer gives other ids to tokens (hash {of_pilot}) than that of the Pilot which the "
            f"Copilot was trained beside (hash {of_copilot}); its mistakes and corrections would be about other "
            "tokens. Use a Pilot with the same tokenizer, or train a Copilot for this one."
        )


def differences(recorded: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In what a Pilot differs from the recorded one, as far as both are known.

    Args:
        recorded (`dict`): what the Copilot's checkpoint says.
        found (`dict`): the same of the Pilot at hand.

    Returns:
        `list[str]`: e.g. `"revision is 'abc' and was 'def'"`.
    """
    return [
        f"{name} is {found[name]!r} and was {value!r}"
        for name, value in recorded.items()
        if value is not None and found.get(name) is not None and found[name] != value
    ]


__all__ = [
    "differences",
    "pair_fingerprint",
    "pilot_digests",
    "refuse_other_tokenizer",
    "round_contents",
    "tokenizer_hash",
    "tokenizer_hash_of",
    "weights_digest",
]
