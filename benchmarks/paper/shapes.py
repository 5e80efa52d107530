"""A row's pair on the meta device, from the architectures' numbers alone, and its weights beside the paper's sizes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from benchmarks.experiments.models import lora_config
from benchmarks.experiments.spec import Experiment, Variant
from transformers_copilot import CopilotConfig, PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM


MODELS = Path(__file__).with_name("models.yaml")
TOLERANCE = 0.02
# What a shape that is scaled down is divided by: its depth, its widths, its vocabulary; and the least of each.
DEPTH, WIDTH, VOCABULARY = (8, 2), (32, 2), (400, 320)
_DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers")
_WIDTHS = ("hidden_size", "intermediate_size", "head_dim", "d_model", "d_ff", "d_kv")
# Names of sizes that are no count of weights, and what they stand for.
ROUNDED = {
    "meta-llama/Llama-3.2-1B": "1.24 billion, rounded to 1",
    "meta-llama/Llama-3.2-3B": "3.21 billion, rounded to 3",
    "Qwen/Qwen2.5-3B": "3.09 billion, rounded to 3",
    "Qwen/Qwen2.5-7B": "7.62 billion; 6.53 billion without the vocabulary",
}


def all_models() -> dict[str, dict[str, Any]]:
    """The checkpoints of all rows: `name`, `weights` and `config` of each, by its id."""
    return yaml.safe_load(MODELS.read_text(encoding="utf-8"))


def config_of(model: str, scaled_down: bool = False) -> PreTrainedConfig:
    """A checkpoint's configuration.

    Args:
        model: Its id.
        scaled_down: The same form with an eighth of the layers, a 32nd of the widths and some hundred tokens: as many
            heads, the same ratio of widths between two models, the same ties.

    Returns:
        The configuration.

    Raises:
        ValueError: Its numbers are not known.
    """
    models = all_models()
    if model not in models:
        raise ValueError(f"the shape of {model} is not known: add it to {MODELS.name}, which has {', '.join(models)}.")
    fields = dict(models[model]["config"])
    if scaled_down:
        for names, (divisor, least) in ((_DEPTHS, DEPTH), (_WIDTHS, WIDTH), (("vocab_size",), VOCABULARY)):
            fields |= {name: max(least, fields[name] // divisor) for name in names if name in fields}
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def new_model(model: str, scaled_down: bool = False, **fields: Any) -> PreTrainedModel:
    """A model of a checkpoint's shape, with fresh weights.

    Args:
        model: The checkpoint's id.
        scaled_down: As of [`config_of`].
        **fields: Fields of its configuration that differ.

    Returns:
        The model, on the device of the context.
    """
    config = config_of(model, scaled_down)
    for name, value in fields.items():
        setattr(config, name, value)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    made = auto.from_config(config)
    if all_models()[model].get("own_head"):
        head = made.get_output_embeddings()
        head.weight = nn.Parameter(torch.randn_like(head.weight) * config.d_model**-0.5)
        made.all_tied_weights_keys.pop("lm_head.weight")  # as transformers does where it reads such a checkpoint
    return made


def pair_on_meta(spec: Experiment, variant: Variant, scaled_down: bool = False) -> PreTrainedModel:
    """A row's pair with the adapters of both parts, without memory for its weights.

    Args:
        spec: The row.
        variant: Which of its Copilots.
        scaled_down: As of [`config_of`].

    Returns:
        The pair, on the meta device.
    """
    with torch.device("meta"):
        pilot = new_model(spec.pilot["path"], scaled_down)
    source = config_of(spec.copilot_of(variant)["path"], scaled_down)
    kind = PilotCopilotForSeq2SeqLM if pilot.config.is_encoder_decoder else PilotCopilotForCausalLM
    copilot = CopilotConfig.from_pilot(
        source,
        num_hidden_layers=source.num_hidden_layers,
        vocab_size=pilot.config.vocab_size,
        pilot_hidden_size=pilot.config.hidden_size,
        question_size=pilot.config.hidden_size,
    )
    options = {name: value for name, value in {**spec.pair, **variant.pair}.items() if name != "copilot"}
    with torch.device("meta"):
        pair = kind(kind.config_class(pilot=pilot.config, copilot=copilot, **options), pilot=pilot)
        if spec.lora:
            pair.add_adapters(**{part: lora_config(part, fields) for part, fields in spec.lora.items()})
    return pair


@functools.cache
def weights_of(model: str) -> tuple[int, int]:
    """How many weights a checkpoint has.

    Args:
        model: Its id.

    Returns:
        All of them; and those of its decoder layers and the norm after them, without what it knows of positions, which
        no Copilot has.
    """
    with torch.device("meta"):
        made = new_model(model)
    decoder = made.get_decoder()
    positions = sum(p.numel() for name, p in decoder.named_parameters() if "relative_attention_bias" in name)
    return _count(made), _count(decoder) - _count(decoder.get_input_embeddings()) - positions


@dataclass(frozen=True)
class Size:
    """How many weights something has, beside what it should have.

    Args:
        what: What is counted.
        counted: Its weights.
        expected: What it should have, within [`TOLERANCE`]; `None` where there is nothing to compare with.
        source: Where the expected number is from.
        remark: Why the two can't agree, by name; empty where they have to.
    """

    what: str
    counted: int
    expected: float | None
    source: str
    remark: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the two are within [`TOLERANCE`]."""
        return self.expected is None or abs(self.counted / self.expected - 1) <= TOLERANCE

    def line(self) -> str:
        """The comparison as it is printed."""
        said = f"  {self.what}: {self.counted:,} weights"
        if self.expected is not None:
            difference = 100 * (self.counted / self.expected - 1)
            verdict = "agrees" if self.agrees else f"differs: {self.remark}" if self.remark else "DIFFERS"
            said += f", {self.source} {self.expected:,.0f} ({difference:+.1f} %): {verdict}"
        elif self.remark:
            said += f"; {self.remark}"
        return said


def sizes_of(spec: Experiment, variant: Variant) -> list[Size]:
    """A row's Pilot and Copilot beside the published counts and the paper's sizes.

    Args:
        spec: The row.
        variant: Which of its Copilots.

    Returns:
        The comparisons.
    """
    sizes, models = [], all_models()
    pilot, source = spec.pilot["path"], spec.copilot_of(variant)["path"]
    for role, model in {"Pilot": pilot, "the Copilot's checkpoint": source}.items():
        counted, _ = weights_of(model)
        sizes.append(Size(f"{role} {model}", counted, models[model]["weights"], "published"))
        named = models[model]["name"]
        if named.endswith("B") and model not in (size.what.rpartition(" ")[2] for size in sizes[:-1]):
            remark = f"the paper's {named} is a name, {ROUNDED[model]}" if model in ROUNDED else ""
            sizes.append(Size(f"{role} {model}", counted, 1e9 * float(named[:-1]), f"the paper's {named}", remark))
    pair = pair_on_meta(replace(spec, lora={}), variant)
    layers = _count(pair.copilot.layers) + _count(pair.copilot.norm)
    sizes.append(Size("the Copilot's layers", layers, weights_of(source)[1], f"the decoder layers of {source}"))
    own = 2 * pair.config.copilot.vocab_size * pair.config.copilot.hidden_size
    remark = f"{own:,} of them its two vocabulary matrices, where the checkpoint may have one for both"
    sizes.append(Size("the whole Copilot", _count(pair.copilot), None, "", remark))
    return sizes


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
