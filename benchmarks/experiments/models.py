"""The models of an experiment: the Pilot, the pair, and the rivals that show what a gain is worth."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)

from benchmarks.experiments.data import ExperimentData, is_encoder_decoder
from benchmarks.experiments.spec import Experiment, Variant
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM, paper_lora
from transformers_copilot.adapters.adapters import PAPER_LORA
from transformers_copilot.building.pair_building import form_of
from transformers_copilot.pair.copilot_forms import new_copilot
from transformers_copilot.pair.rationale import decoder_layers


def pilot_config(spec: Experiment, data: ExperimentData) -> PreTrainedConfig:
    """The configuration of a Pilot that starts from fresh weights.

    Args:
        spec: The experiment; `pilot["config"]` has the sizes.
        data: Its data, for the tokenizer.

    Returns:
        The configuration.
    """
    given = dict(spec.pilot["config"])
    pad, end = data.tokenizer.pad_token_id, data.tokenizer.eos_token_id
    tokens = {"vocab_size": len(data.tokenizer), "pad_token_id": pad, "eos_token_id": end}
    tokens |= {"decoder_start_token_id": pad} if is_encoder_decoder(spec) else {"bos_token_id": None}
    return AutoConfig.for_model(given.pop("model_type"), **given, **tokens)


def build_pilot(spec: Experiment, data: ExperimentData, seed: int, extra_blocks: int = 0) -> PreTrainedModel:
    """The Pilot before training.

    Args:
        spec: The experiment.
        data: Its data.
        seed: Seed of fresh weights.
        extra_blocks: Decoder blocks more than the Pilot has.

    Returns:
        The model, in float32 where its description has no other type.
    """
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder(spec) else AutoModelForCausalLM
    set_seed(seed)
    if "path" in spec.pilot:
        model = auto.from_pretrained(spec.pilot["path"], dtype=getattr(torch, spec.pilot.get("dtype", "float32")))
        return add_identity_blocks(model, extra_blocks) if extra_blocks else model
    config = pilot_config(spec, data)
    name = "num_decoder_layers" if is_encoder_decoder(spec) else "num_hidden_layers"
    setattr(config, name, getattr(config, name) + extra_blocks)
    model = auto.from_config(config)
    if is_encoder_decoder(spec) and extra_blocks:
        # T5 makes its cache by the encoder's number of layers: a deeper decoder has to do without one.
        model.generation_config.use_cache = False
    return model


def build_pair(
    spec: Experiment, variant: Variant, data: ExperimentData, seed: int, pilot: PreTrainedModel | None = None
) -> PreTrainedModel:
    """A pair before training.

    Args:
        spec: The experiment.
        variant: What differs in this pair.
        data: Its data.
        seed: Seed of fresh weights; a Pilot's are the same for every variant.
        pilot: The Pilot, where it is finished already.

    Returns:
        The pair.
    """
    pilot = build_pilot(spec, data, seed) if pilot is None else pilot
    options = {**spec.pair, **variant.pair}
    copilot = spec.copilot_of(variant)
    if copilot.get("form") == "linear":
        copilot.pop("num_hidden_layers", None)  # the experiment's, for those of its Copilots that have layers
    options["copilot"] = copilot.get("path") or copilot or None
    if "path" not in copilot and form_of(options["copilot"], options.get("head"), options) != "decoder":
        options.pop("error_feedback", None)  # the experiment's, for those of its pairs that are told anything
    kind = PilotCopilotForSeq2SeqLM if is_encoder_decoder(spec) else PilotCopilotForCausalLM
    pair = kind.from_pilot(pilot, **options)
    if variant.random_weights:
        set_seed(seed)
        pair.copilot.load_state_dict(new_copilot(pair.config.copilot).state_dict())
    if "path" in copilot and "dropout" in copilot:  # a checkpoint's configuration has none for a Copilot
        pair.copilot.config.dropout = copilot["dropout"]
        for layer in pair.copilot.layers:
            layer.dropout.p = copilot["dropout"]
    pair.generation_config.pad_token_id = data.tokenizer.pad_token_id
    if spec.lora:
        set_seed(seed)  # of the adapters' first weights
        pair.add_adapters(**{part: lora_config(part, fields) for part, fields in spec.lora.items()})
    return pair


def lora_config(part: str, fields: dict[str, Any]) -> LoraConfig:
    """The paper's adapter of a part, with what an experiment has otherwise.

    Args:
        part: `pilot` or `copilot`.
        fields: Fields of LoraConfig, such as `r`.

    Returns:
        The configuration.
    """
    config = paper_lora(part)
    return LoraConfig(**{"target_modules": config.target_modules, **PAPER_LORA[part], **fields})


def alone_as_in_pair(spec: Experiment, pilot: PreTrainedModel) -> PreTrainedModel:
    """The Pilot alone with the adapter that it has in a pair, if it has one there.

    Args:
        spec: The experiment.
        pilot: A fresh Pilot.

    Returns:
        The model to train.
    """
    return get_peft_model(pilot, lora_config("pilot", spec.lora["pilot"])) if "pilot" in spec.lora else pilot


def blocks_of_size(spec: Experiment, data: ExperimentData, weights: int) -> int:
    """How many extra decoder blocks have about so many weights, at least one.

    Args:
        spec: The experiment.
        data: Its data.
        weights: The Copilot's number of weights.

    Returns:
        The number of blocks.
    """
    plain = build_pilot(spec, data, 0).num_parameters()
    one = build_pilot(spec, data, 0, extra_blocks=1).num_parameters() - plain
    return max(1, round(weights / one))


def add_identity_blocks(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """LLaMA-Pro's way to make a trained model deeper: blocks that change nothing yet, evenly spaced.

    Each is a copy of the block before it whose output projections are zero.

    Args:
        model: A model of Llama's layout.
        count: How many blocks to add.

    Returns:
        A deeper model with the same outputs.

    Raises:
        ValueError: More blocks are asked for than there are.
    """
    old = model.config.num_hidden_layers
    if count > old:
        raise ValueError(f"{count} blocks are to be added to {old}: at most one beside each. Leave `blocks` out.")
    fields = {**model.config.to_dict(), "num_hidden_layers": old + count, "layer_types": None}
    after = {(index + 1) * old // count - 1 for index in range(count)}
    deeper = type(model)(type(model.config)(**fields))
    states, place = {}, 0
    source = model.state_dict()
    for layer in range(old):
        for copied in range(2 if layer in after else 1):
            prefix, target = f"model.layers.{layer}.", f"model.layers.{place}."
            for name in [name for name in source if name.startswith(prefix)]:
                zero = copied == 1 and ("o_proj" in name or "down_proj" in name)
                states[target + name[len(prefix) :]] = torch.zeros_like(source[name]) if zero else source[name]
            place += 1
    states |= {name: value for name, value in source.items() if not name.startswith("model.layers.")}
    deeper.load_state_dict(states)
    return deeper


def with_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Adapters on every linear layer but the head, with the paper's rank; nothing else is trained.

    Args:
        model: The Pilot.

    Returns:
        The Pilot with its adapters.
    """
    config = LoraConfig(r=32, lora_alpha=64, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def with_last_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """Only the last decoder layers are trained, as a branch of so many layers is.

    Args:
        model: The Pilot.
        count: How many.

    Returns:
        The same model.
    """
    model.requires_grad_(False)
    for layer in decoder_layers(model)[-count:]:
        layer.requires_grad_(True)
    return model


class CorrectedHead(nn.Module):
    """The control without log and Copilot layers: W h + W A h, A linear and zero at first.

    Args:
        head: The Pilot's head W.
        size: Width of the hidden state h.
    """

    def __init__(self, head: nn.Linear, size: int) -> None:
        super().__init__()
        self.head = head
        self.map = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.map.weight)
        self.parts: tuple[Tensor, Tensor] | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The head's matrix."""
        return self.head.weight

    def forward(self, hidden: Tensor) -> Tensor:
        """The corrected logits. While training, the Pilot's own, as it learns alone; both parts are kept."""
        logits = self.head(hidden)
        # As the Copilot's: no gradient of the correction reaches the Pilot, its head included.
        correction = nn.functional.linear(self.map(hidden.detach()), self.head.weight.detach())
        self.parts = (logits, correction) if self.training else None
        return logits if self.training else logits + correction


def with_corrected_head(model: PreTrainedModel) -> PreTrainedModel:
    """Put the linear correction on a Pilot.

    Args:
        model: The Pilot.

    Returns:
        The same model.
    """
    model.lm_head = CorrectedHead(model.lm_head, model.lm_head.in_features)
    return model
