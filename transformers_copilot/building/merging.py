"""A pair as one plain model: the Copilot's weights put in the place of the Pilot's own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from ..adapters.adapter_checks import adapter_names
from ..pair.fusion import named_weight
from ..pair.modeling_copilot_branch import BranchCopilot
from ..pair.modeling_copilot_linear import LinearCopilot
from ..pair.options import chosen
from ..pair.quantization import is_quantized
from ..pair.rationale import RationaleRecorder, decoder_of
from .copilot_start import layer_names


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

# How far the plain model's logits may be from the pair's, as a share of the largest.
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
_NARROW_TOLERANCE = 5e-2
_CHECKED_TOKENS = 6


@torch.no_grad()
def merge(pair: PilotCopilotPreTrainedModel) -> PreTrainedModel:
    """A plain model of the Pilot's class that writes what the pair writes, at the Pilot's cost.

    A branch takes the place of the Pilot's last layers, at λ = 1. A linear Copilot is multiplied into the head,
    W(I + λA), at any λ; a head that is tied to the embedding becomes one of its own.

    Args:
        pair: the pair; it stays as it is.

    Returns:
        `PreTrainedModel`: of the Pilot's class, dtype and device, in evaluation mode.

    Raises:
        ValueError: the pair is not a plain model: its form, its fusion, its λ, an adapter or a quantized Pilot; or the
            result would not be equal to it.
    """
    weight = named_weight(pair.generation_config, None)
    weight = pair.config.copilot_weight if weight is None else weight
    _check(pair, weight)
    merged = _copy_of_pilot(pair)
    if isinstance(pair.copilot, BranchCopilot):
        _put_layers(pair, pair.copilot, merged)
    else:
        _multiply_head(pair, cast(LinearCopilot, pair.copilot), merged, weight)
    values = pair.generation_config.to_dict()
    values.pop("copilot_weight", None)
    merged.generation_config = GenerationConfig.from_dict(values)
    _compare(pair, merged.eval(), weight)
    return merged


def _check(pair: PilotCopilotPreTrainedModel, weight: float) -> None:
    form = chosen("form", pair.copilot.config.form)
    if form == "decoder":
        raise ValueError(
            "a Copilot of the form 'decoder' (Eq. 6) reads more than the Pilot's layers do, so no plain model is equal "
            "to the pair. The forms 'branch' and 'linear' can be merged; others load the pair with `from_pretrained`."
        )
    if chosen("fusion", pair.config.fusion) != "logits":
        raise ValueError(
            f"`fusion` is {pair.config.fusion!r}: p̂ + λf is not what a plain model computes. Only 'logits' can be "
            "merged."
        )
    if adapter_names(pair):
        raise ValueError("the pair has an adapter: call `merge_adapters` first.")
    if is_quantized(pair.pilot):
        raise ValueError(
            "the Pilot is quantized, and its weights can't be changed. Load it unquantized, join the Copilot to it "
            "(`from_pilot(pilot, copilot=...)`), and merge that pair."
        )
    if form == "branch" and weight != 1.0:
        raise ValueError(
            f"`copilot_weight` (λ) is {weight:g}; a branch takes the place of the Pilot's last layers at λ = 1 only. "
            "Set `pair.config.copilot_weight = 1.0` if that is good enough; `fit_copilot_weight` tells both losses."
        )
    if form == "linear" and weight != 1.0 and pair.head_map is not None and not pair.head_map.is_linear:
        raise ValueError(
            f"`copilot_weight` (λ) is {weight:g}, and {type(pair.pilot).__name__} bounds its logits after the head: a "
            "linear Copilot can be multiplied into such a head at λ = 1 only."
        )


def _copy_of_pilot(pair: PilotCopilotPreTrainedModel) -> PreTrainedModel:
    """Without the hooks that a pair has on its Pilot."""
    pair.recorder.remove()
    try:
        return copy.deepcopy(pair.pilot)
    finally:
        pair.recorder = RationaleRecorder(pair.pilot)


def _put_layers(pair: PilotCopilotPreTrainedModel, branch: BranchCopilot, merged: PreTrainedModel) -> None:
    own: dict[str, Tensor] = dict(decoder_of(merged).named_parameters())
    own |= dict(decoder_of(merged).named_buffers())
    names = layer_names(pair.pilot, branch)
    for name, tensor in branch.decoder.state_dict().items():
        if name not in branch.shared_names:  # these have not changed
            own[names[name]].copy_(tensor)


def _multiply_head(
    pair: PilotCopilotPreTrainedModel, linear: LinearCopilot, merged: PreTrainedModel, weight: float
) -> None:
    head = merged.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"the head of {type(merged).__name__} is a {type(head).__name__}, which a map can't be multiplied into; "
            "only a `torch.nn.Linear` can."
        )
    wide = head.weight.double()
    product = wide + weight * wide @ linear.map.weight.to(wide.device).double()
    bias = cast(Tensor | None, head.bias)
    new = nn.Linear(head.in_features, head.out_features, bias=bias is not None, device="meta")
    new.weight = nn.Parameter(product.to(head.weight.dtype))
    if bias is not None:
        new.bias = nn.Parameter(bias.clone())
    (path,) = [name for name, module in merged.named_modules() if module is head]
    parent, _, child = path.rpartition(".")
    setattr(merged.get_submodule(parent), child, new)
    if merged.config.is_encoder_decoder:
        return  # untied, the encoder's embedding would part from the decoder's; a head that is saved is not tied anew
    for config in (merged.config, merged.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False
    merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)


def _compare(pair: PilotCopilotPreTrainedModel, merged: PreTrainedModel, weight: float) -> None:
    """Never hand out a model that is another one."""
    vocab = pair.config.vocab_size
    device = cast(Tensor, pair.get_input_embeddings().weight).device
    tokens = ((torch.arange(_CHECKED_TOKENS, device=device) % max(1, vocab - 3) + 3) % vocab).unsqueeze(0)
    given: dict[str, Any] = {"input_ids": tokens}
    if pair.config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens
    states = [(module, module.training) for module in pair.modules()]
    pair.eval()
    wanted, found = pair(**given, copilot_weight=weight).logits.float(), merged(**given).logits.float()
    for module, training in states:
        module.training = training
    bound = _TOLERANCES.get(pair.pilot.dtype, _NARROW_TOLERANCE) * float(wanted.abs().max())
    difference = float((wanted - found).abs().max())
    if not difference <= bound:
        raise ValueError(
            f"the merged {type(merged).__name__} would not be equal to the pair: its logits differ by {difference:.2g} "
            f"(at most {bound:.2g} is rounding). This family can't be merged; load the pair with `from_pretrained`."
        )


__all__ = ["merge"]
