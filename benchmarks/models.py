"""The models that are measured and the tokens that they read."""

import argparse

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, set_seed
from transformers.utils import logging

from transformers_copilot import PilotCopilotForCausalLM


def smollm2_shape() -> LlamaConfig:
    """The shape of SmolLM2-135M. Speed and memory do not depend on what the weights are."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=2,
    )


def load_pilot(options: argparse.Namespace) -> PreTrainedModel:
    """The Pilot of the command line, in evaluation mode.

    Args:
        options: `pilot`, an id or path or None for random weights of SmolLM2's shape, and `dtype`.

    Returns:
        The model.
    """
    logging.disable_progress_bar()
    set_seed(0)
    dtype = getattr(torch, options.dtype)
    if options.pilot is None:
        return LlamaForCausalLM(smollm2_shape()).to(dtype).eval()
    return AutoModelForCausalLM.from_pretrained(options.pilot, dtype=dtype).eval()


def make_pair(pilot: PreTrainedModel, options: argparse.Namespace) -> PilotCopilotForCausalLM:
    """The pair of the command line. Its Copilot has learnt nothing, which costs as much as one that has.

    Args:
        pilot: The Pilot, which the pair shares.
        options: `copilot_layers` and `head`.

    Returns:
        The pair, in evaluation mode.
    """
    copilot = {"num_hidden_layers": options.copilot_layers}
    return PilotCopilotForCausalLM.from_pilot(pilot, copilot, head=options.head).eval()


def random_tokens(pilot: PreTrainedModel, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Tokens of no meaning.

    Args:
        pilot: The model that is to read them.
        rows: Sequences.
        length: Tokens of each.
        seed: Seed of the draw.

    Returns:
        Ids of shape `(rows, length)`.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = pilot.config.get_text_config(decoder=True).vocab_size
    return torch.randint(3, vocabulary, (rows, length), generator=generator)
