"""Start a Copilot from a decoder's weights, layer by layer (App. A.1 of arXiv 2505.16270).

What is copied: attention, feed-forward part, norms, and with `head="own"` the source's embedding as W_in. What is not:
the correction head, which stays zero so that an untrained pair is exactly its Pilot, and whatever turns questions and
rationales into the memory, which no decoder has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..pair.configuration_copilot import CopilotConfig
from ..pair.modeling_copilot import CopilotModel
from ..pair.options import chosen
from ..pair.rationale import decoder_layers
from .families import FAMILIES, Family, Tensors


logger = logging.get_logger(__name__)

# float8 is a floating-point type too, but its values mean nothing without their scales.
_PLAIN_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What equal shapes can hide: 8 heads of 64 and 4 heads of 128 have the same matrices.
_KINDS = ("head_dim", "gated_mlp", "norm_type")
# Sizes of a family may pad its vocabulary to different numbers (Qwen2.5: 151,936 and 152,064): by so much of it.
_VOCABULARY_PADDING = 1 / 128

Plan = dict[str, tuple[Tensor, Tensor]]


@dataclass
class WeightCopyReport:
    """What [`copy_decoder_weights`] did.

    Attributes:
        family (`str`): the source's model type.
        layer_map (`list` of `(int, int)`): each of the Copilot's layers and the source layer meant for it.
        copied (`list[str]`): the Copilot's tensors that now hold the source's values.
        skipped (`dict[str, str]`): tensors of either side that were left out, in the Copilot's names, and why.
    """

    family: str
    layer_map: list[tuple[int, int]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def same_but_for_padding(rows: int, other: int) -> bool:
    """Whether two vocabularies can be one that was padded to two sizes.

    Args:
        rows (`int`): rows of an embedding matrix.
        other (`int`): those of the other one.
    """
    return abs(rows - other) <= _VOCABULARY_PADDING * max(rows, other)


def spread_layers(num_layers: int, num_source_layers: int) -> list[tuple[int, int]]:
    """Pair each of the Copilot's layers with a source layer, evenly spaced from the first to the last.

    Args:
        num_layers (`int`): the Copilot's layers L_C.
        num_source_layers (`int`): the source's. With fewer of them than L_C some are used more than once.

    Returns:
        `list` of `(copilot layer, source layer)`, both from 0: source = round(i · (L_S − 1) / (L_C − 1)).
    """
    if num_layers == 1:
        return [(0, 0)]
    return [(i, round(i * (num_source_layers - 1) / (num_layers - 1))) for i in range(num_layers)]


@torch.no_grad()
def copy_decoder_weights(copilot: CopilotModel, source: PreTrainedModel) -> WeightCopyReport:
    """Copy a source model's decoder layers into a Copilot. Values are copied, never shared.

    In a decoder-only Copilot, layers 2, 4, 6, … have cross-attention in the place of self-attention and take the
    source's self-attention weights for it (App. A.2). In an encoder-decoder Copilot, cross-attention takes the
    source's cross-attention.

    Args:
        copilot ([`CopilotModel`]):
            Changed in place; its dtype and device stay.
        source (`PreTrainedModel`):
            The Pilot, or another checkpoint of its family (T-Copilot-1B for an 8B Pilot), of the Copilot's width,
            heads and kind of block. It is only read.

    Returns:
        [`WeightCopyReport`]. Nothing is copied, and a warning says why, where the family is not one of
        [`FAMILIES`] or where shapes differ. A layer whose weights are quantized, or not in memory, keeps the Copilot's
        own.

    Raises:
        ValueError: the Copilot is on the meta device, where a copy would be lost.
    """
    if copilot.segments.is_meta:
        raise ValueError(
            "the Copilot is on the meta device and has no weights to copy into; make it outside "
            "`torch.device('meta')`, or load its checkpoint instead of copying."
        )
    report = WeightCopyReport(family=source.config.get_text_config(decoder=True).model_type)
    family = FAMILIES.get(report.family)
    if family is None:
        logger.warning(
            f"The Copilot starts from random weights: copying is not written for {report.family!r}, only for "
            f"{', '.join(FAMILIES)}. It can be trained all the same."
        )
        return report
    plan = _plan(copilot, source, family, report)
    difference = _difference(copilot.config, source, plan)
    if difference is not None:
        logger.warning(
            f"The Copilot starts from random weights: {type(source).__name__} does not fit it, {difference}. Make its "
            "configuration with `CopilotConfig.from_pilot(source.config, num_hidden_layers=...)` to copy weights."
        )
        report.skipped |= dict.fromkeys(plan, "the source does not fit")
        return report
    for target, tensor in plan.values():
        target.copy_(tensor)
    report.copied = list(plan)
    _copy_embedding(copilot, source, report)
    logger.info(f"{len(report.copied)} tensors copied from {type(source).__name__}, layers {report.layer_map}.")
    return report


def _plan(copilot: CopilotModel, source: PreTrainedModel, family: Family, report: WeightCopyReport) -> Plan:
    """Which tensor goes where, by the Copilot's name; what is left out goes into the report."""
    layers = decoder_layers(source)
    report.layer_map = spread_layers(len(copilot.layers), len(layers))
    unusable = {index: _why_unusable(layers[index]) for _, index in report.layer_map}
    plan: Plan = {}
    for to, index in report.layer_map:
        block, prefix = copilot.layers[to], f"layers.{to}."
        targets = {prefix + name: parameter for name, parameter in block.named_parameters()}
        reason = unusable[index]
        if reason is not None:
            report.skipped |= dict.fromkeys(targets, f"layer {index} of the source {reason}")
            continue
        named = _for_block(family.layer(layers[index]), has_self_attention=block.self_attn is not None)
        _match(targets, {prefix + name: tensor for name, tensor in named.items()}, plan, report)
    norm = {f"norm.{name}": tensor for name, tensor in family.final_norm(source.get_decoder()).items()}
    if not any(tensor.is_meta for tensor in norm.values()):
        _match({f"norm.{name}": p for name, p in copilot.norm.named_parameters()}, norm, plan, report)
    reasons = {index: reason for index, reason in unusable.items() if reason is not None}
    if reasons:
        logger.warning(
            f"{len(reasons)} of {len(unusable)} decoder layers of {type(source).__name__} cannot be copied into the "
            f"Copilot, whose layers stay random there: layer {next(iter(reasons))} {next(iter(reasons.values()))}. "
            "Copy from an unquantized checkpoint that is wholly in memory."
        )
    return plan


def _match(targets: Mapping[str, Tensor], tensors: Tensors, plan: Plan, report: WeightCopyReport) -> None:
    """Add what both sides have to the plan, and what one of them lacks to the report."""
    plan |= {name: (targets[name], tensors[name]) for name in targets if name in tensors}
    report.skipped |= dict.fromkeys(targets.keys() - tensors.keys(), "the source has no such tensor")
    report.skipped |= dict.fromkeys(tensors.keys() - targets.keys(), "the Copilot has no such tensor")


def _for_block(tensors: Tensors, has_self_attention: bool) -> Tensors:
    """The source layer's tensors as a block names them whose cross-attention may stand in self-attention's place."""
    if has_self_attention:
        return tensors
    names = {"self_attn": "cross_attn", "input_layernorm": "cross_layernorm"}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if not part.startswith("cross_"):
            renamed[f"{names.get(part, part)}.{rest}"] = tensor
    return renamed


def _why_unusable(layer: nn.Module) -> str | None:
    """Why a layer's weights cannot be read as numbers, or None."""
    for name, tensor in chain(layer.named_parameters(), layer.named_buffers()):
        if tensor.is_meta:
            return f"is not in memory ({name} is on the meta device)"
        if tensor.dtype not in _PLAIN_DTYPES or type(tensor) not in (nn.Parameter, Tensor):
            return f"is quantized or sharded ({name} is a {type(tensor).__name__} of {tensor.dtype})"
    return None


def _difference(config: CopilotConfig, source: PreTrainedModel, plan: Plan) -> str | None:
    """The first thing in which a source does not fit the Copilot, both values named, or None."""
    for name, (target, tensor) in plan.items():
        if target.shape != tensor.shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(target.shape)} in the Copilot"
    of_source = CopilotConfig.from_pilot(source.config, num_hidden_layers=max(2, config.num_hidden_layers))
    for kind in _KINDS:
        if getattr(of_source, kind) != getattr(config, kind):
            return f"{kind} is {getattr(of_source, kind)!r} there and {getattr(config, kind)!r} in the Copilot"
    return None


def _copy_embedding(copilot: CopilotModel, source: PreTrainedModel, report: WeightCopyReport) -> None:
    """W_in from the source's embedding, where the Copilot has its own vocabulary matrices."""
    if chosen("head", copilot.config.head) != "own":
        return
    name, target = "mistake_embedding.weight", copilot.mistake_embedding.weight
    embedding = source.get_input_embeddings()
    reason = _why_unusable(embedding)
    fits = reason is None and embedding.weight.shape[1] == target.shape[1]
    if reason is None and not (fits and same_but_for_padding(len(embedding.weight), len(target))):
        reason = f"is {tuple(embedding.weight.shape)}, the Copilot's {tuple(target.shape)}"
    if reason is not None:
        report.skipped[name] = f"the source's embedding {reason}"
        return
    # Rows that only the Copilot has are no token's.
    shared = min(len(target), len(embedding.weight))
    target[:shared] = embedding.weight[:shared]
    report.copied.append(name)


__all__ = ["WeightCopyReport", "copy_decoder_weights", "same_but_for_padding", "spread_layers"]
