"""The models that are measured and the tokens that they read."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.utils import logging

from benchmarks.paper.shapes import config_of
from transformers_copilot import PilotCopilotForCausalLM


MOST_OVER_LAYERS = 1.05  # the target, for SmolLM2's shape


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


def llama31_8b_shape() -> PreTrainedConfig:
    """The shape of Llama-3.1-8B."""
    config = config_of("meta-llama/Llama-3.1-8B")
    config.pad_token_id = 2
    return config


def tiny_shape() -> LlamaConfig:
    """A model that takes no time, to try the program itself."""
    return LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=2,
    )


@dataclass(frozen=True)
class Shape:
    """A Pilot's shape, and what Copilots are measured beside it where the command line doesn't say.

    Args:
        config: Makes the configuration.
        name: Its name in a sentence.
        branch_layers: Layers of each branch.
        copilot_layers: Layers of decoders.
    """

    config: Callable[[], PreTrainedConfig]
    name: str
    branch_layers: tuple[int, ...] = (2, 6)
    copilot_layers: int = 2


# Five of Llama-3.1-8B's layers are a Copilot of a billion weights.
SHAPES = {
    "smollm2": Shape(smollm2_shape, "SmolLM2-135M's shape"),
    "llama31-8b": Shape(llama31_8b_shape, "Llama-3.1-8B's shape", branch_layers=(5,), copilot_layers=4),
    "tiny": Shape(tiny_shape, "a tiny shape", branch_layers=(1,)),
}


def shape_named(name: str) -> PreTrainedConfig:
    """The configuration of a shape.

    Args:
        name: One of `SHAPES`.

    Returns:
        A new configuration.
    """
    return SHAPES[name].config()


def load_pilot(options: argparse.Namespace) -> PreTrainedModel:
    """The Pilot of the command line, in evaluation mode.

    Args:
        options: `pilot`, an id or path or None for random weights of the shape that `shape` names, `dtype` and
            `device`.

    Returns:
        The model.
    """
    logging.disable_progress_bar()
    set_seed(0)
    dtype = getattr(torch, options.dtype)
    if options.pilot is None:
        with torch.device(options.device):  # made there, and in its type: the host need not hold it
            return AutoModelForCausalLM.from_config(shape_named(options.shape), dtype=dtype).eval()
    return AutoModelForCausalLM.from_pretrained(options.pilot, dtype=dtype).to(options.device).eval()


@dataclass(frozen=True)
class Kind:
    """One kind of pair.

    Args:
        name: Its name in the table.
        copilot: Fields of the Copilot's configuration.
        options: Options of `from_pilot`.
    """

    name: str
    copilot: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """How many layers its Copilot has."""
        return self.copilot.get("num_hidden_layers", 0)

    def most(self, pilot: PreTrainedModel) -> float | None:
        """The most that the pair should take, over its Pilot alone: its layers' share and 5 % more.

        Args:
            pilot: The Pilot, of L layers.

        Returns:
            1.05 · (1 + K / L); None of a Copilot that reads mistakes or has vocabulary matrices of its own.
        """
        if self.copilot.get("head") == "own" or self.options.get("error_feedback") == "observed":
            return None
        return MOST_OVER_LAYERS * (1 + self.layers / pilot.config.num_hidden_layers)


def all_kinds(options: argparse.Namespace) -> list[Kind]:
    """The kinds of pairs that are measured, the cheapest first.

    Args:
        options: `forms`, `branch_layers` and `copilot_layers`.

    Returns:
        The kinds.
    """
    made = [Kind("linear", {"form": "linear"})] if "linear" in options.forms else []
    if "branch" in options.forms:
        made += [
            Kind(f"branch of {layers}", {"form": "branch", "num_hidden_layers": layers})
            for layers in options.branch_layers
        ]
    if "decoder" in options.forms:
        layers = options.copilot_layers
        made += [
            Kind(f"decoder of {layers}, {feedback}, {head} head", {"num_hidden_layers": layers, "head": head}, more)
            for feedback in ("token", "observed")
            for head in ("pilot", "own")
            for more in [{"error_feedback": feedback}]
        ]
    return made


def kind_named(name: str, options: argparse.Namespace) -> Kind:
    """The kind of a name.

    Args:
        name: Its name.
        options: As of [`all_kinds`].

    Returns:
        The kind.
    """
    return next(kind for kind in all_kinds(options) if kind.name == name)


def make_pair(pilot: PreTrainedModel, kind: Kind) -> PilotCopilotForCausalLM:
    """A pair. Its Copilot has learnt nothing, which costs as much as one that has.

    Args:
        pilot: The Pilot, which the pair shares.
        kind: What pair.

    Returns:
        The pair, in evaluation mode.
    """
    return PilotCopilotForCausalLM.from_pilot(pilot, dict(kind.copilot), **kind.options).eval()


def random_tokens(pilot: PreTrainedModel, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Tokens of no meaning.

    Args:
        pilot: The model that is to read them.
        rows: Sequences.
        length: Tokens of each.
        seed: Seed of the draw.

    Returns:
        Ids of shape `(rows, length)`, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = pilot.config.get_text_config(decoder=True).vocab_size
    return torch.randint(3, vocabulary, (rows, length), generator=generator)
