"""What a new Copilot starts from: a decoder's layers, the Pilot's own last ones, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..adapters.adapter_layers import without_adapter
from ..pair.modeling_copilot import CopilotModel
from ..pair.modeling_copilot_branch import BranchCopilot
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.pilot import has_adapter
from ..pair.quantization import is_quantized
from ..pair.rationale import decoder_layers, decoder_of
from .weight_copying import copy_decoder_weights


# How far an untrained branch may be from its Pilot, as a share of what the head reads.
_TOLERANCE, _NARROW_TOLERANCE = 1e-4, 5e-2
_CHECKED_ROWS, _CHECKED_TOKENS = 2, 6


def start_copilot(pair: PilotCopilotPreTrainedModel, source: PreTrainedModel) -> None:
    """Give a new pair's Copilot its first weights, and refuse a form that this Pilot can't have.

    Args:
        pair: the pair; its Copilot is changed in place.
        source (`PreTrainedModel`): the Pilot, or the model whose layers a decoder is made of.

    Raises:
        ValueError: the Pilot's logits can't be made of what its head reads, or an untrained branch is not its Pilot.
    """
    copilot = pair.copilot
    if isinstance(copilot, CopilotModel):
        with without_adapter(source):
            copy_decoder_weights(copilot, source)
        return
    form, name = copilot.config.form, type(pair.pilot).__name__
    if source is not pair.pilot:
        raise ValueError(
            f"a Copilot of the form {form!r} is made of its Pilot, not of another checkpoint; leave the id or path "
            "out, or choose form='decoder'."
        )
    if next(pair.pilot.parameters()).is_meta:
        raise ValueError(
            f"the Pilot is on the meta device, where a Copilot of the form {form!r} can't be made: load it first."
        )
    if pair.head_map is None:
        raise ValueError(
            f"{name} does something to the output of its head that is not known, or has no head that is called once a "
            f"pass, so a Copilot of the form {form!r}, which works before the head, can't correct it. Use "
            "form='decoder' with head='own'."
        )
    if isinstance(copilot, BranchCopilot):
        _start_branch(pair, copilot)


def _start_branch(pair: PilotCopilotPreTrainedModel, branch: BranchCopilot) -> None:
    """Copy the Pilot's last layers, and see that they make what the Pilot's own made."""
    why = "have an adapter: merge it first (`merge_and_unload` of PEFT)" if has_adapter(pair.pilot) else None
    why = "are quantized" if is_quantized(pair.pilot) else why
    if why is not None:
        raise ValueError(
            f"a branch is a copy of the Pilot's last layers, which {why}. Or use form='linear' or 'decoder'."
        )
    _copy_layers(pair.pilot, branch)
    family = pair.pilot.config.model_type
    try:
        with torch.random.fork_rng(devices=[]), _evaluating(pair.pilot, branch):
            found, wanted = _both_outputs(pair, branch)
            _share_unlearnt(pair.pilot, branch, found)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        raise ValueError(
            f"a branch of {type(pair.pilot).__name__} does not run by itself ({error}); use form='linear' or 'decoder'."
        ) from error
    found = found.detach()
    branch.config.branch_scale = _scale(found, wanted, pair.config.hidden_size)
    difference = float((found * branch.config.branch_scale - wanted).norm() / wanted.norm().clamp_min(1e-30))
    bound = _TOLERANCE if pair.pilot.dtype in (torch.float32, torch.float64) else _NARROW_TOLERANCE
    if not difference <= bound:
        raise ValueError(
            f"an untrained branch of {type(pair.pilot).__name__} is not its Pilot: what its head reads differs by "
            f"{difference:.2g} of its size. The last layers of the family {family!r} read more than the states before "
            "them, or are of another kind than its first ones; use form='linear' or 'decoder'."
        )


def layer_names(pilot: PreTrainedModel, branch: BranchCopilot) -> dict[str, str]:
    """Where a branch's tensors stand in the Pilot's decoder.

    Args:
        branch ([`BranchCopilot`]): a Copilot that was made for this Pilot.

    Returns:
        `dict`: name in the branch's decoder to name in the Pilot's. What only a first layer has (T5's relative
        positions) is the first layer's.
    """
    decoder, layers = decoder_of(pilot), decoder_layers(pilot)
    first = next(name for name, module in decoder.named_modules() if module is layers[0])
    prefix = first.rpartition(".")[0]
    skipped = len(layers) - branch.config.num_hidden_layers
    source, names = decoder.state_dict(), {}
    for name in branch.decoder.state_dict():
        number, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        inside = name.startswith(f"{prefix}.") and number.isdigit()
        later = f"{prefix}.{int(number) + skipped}.{rest}" if inside else name
        names[name] = later if later in source else name
    return names


def _copy_layers(pilot: PreTrainedModel, branch: BranchCopilot) -> None:
    names, source = layer_names(pilot, branch), decoder_of(pilot).state_dict()
    try:
        branch.decoder.load_state_dict({name: source[found] for name, found in names.items() if found in source})
    except RuntimeError as error:
        raise ValueError(
            f"the last layers of {type(pilot).__name__} don't fit into a branch: {error}. Use form='linear' or "
            "'decoder'."
        ) from error


def _both_outputs(pair: PilotCopilotPreTrainedModel, branch: BranchCopilot) -> tuple[Tensor, Tensor]:
    """What the branch makes of some tokens, and what the Pilot's head read of them."""
    pilot, count = pair.pilot, _CHECKED_ROWS * _CHECKED_TOKENS
    device = pilot.get_input_embeddings().weight.device
    tokens = (torch.arange(count, device=device) % max(1, pair.config.vocab_size - 3) + 3) % pair.config.vocab_size
    tokens = tokens.view(_CHECKED_ROWS, _CHECKED_TOKENS)
    given: dict[str, Any] = {"input_ids": tokens}
    if pilot.config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens
    with torch.no_grad(), pair.recorder.capture(wanted=branch.layers_read(pair.recorder.num_layers)) as captured:
        outputs = pilot(**given, use_cache=False, return_dict=True)
    encoded = outputs.encoder_last_hidden_state if pilot.config.is_encoder_decoder else None
    with torch.enable_grad():
        found = branch(cast(Tensor, captured.rationale()), encoded=encoded)
    return found.float(), cast(Tensor, captured.head_input).float().to(found.device)


def _share_unlearnt(pilot: PreTrainedModel, branch: BranchCopilot, found: Tensor) -> None:
    """What stays the Pilot's: what a family does before its layers, and what its first layer has for all of them."""
    names = layer_names(pilot, branch)
    own = dict(branch.decoder.named_parameters())
    with torch.enable_grad():  # pairs are made without, too
        gradients = torch.autograd.grad(found.sum(), list(own.values()), allow_unused=True)
    unused = {name for name, gradient in zip(own, gradients, strict=True) if gradient is None}
    first = {name for name in own if names[name] == name and any(part.isdigit() for part in name.split("."))}
    branch.share(sorted(unused | first))


def _scale(found: Tensor, wanted: Tensor, width: int) -> float:
    """What the Pilot multiplies its decoder's output with: 1, or T5's width ** -0.5, exactly."""
    measured = float((found * wanted).sum() / found.square().sum().clamp_min(1e-30))
    return min((1.0, width**-0.5), key=lambda one: abs(one - measured))


@contextmanager
def _evaluating(*models: nn.Module) -> Iterator[None]:
    """Without dropout; every module is put back as it was."""
    before = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


__all__ = ["layer_names", "start_copilot"]
