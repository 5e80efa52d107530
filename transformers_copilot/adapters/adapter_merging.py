"""Adapters merged into the weights below them, and what can't be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter_checks import adapter_name, adapter_names, check_adapter
from .adapter_layers import (
    forget_adapter,
    module_below,
    outermost,
    peft_layers,
    peft_library,
    plain_name,
    wrapped_child,
)
from .adapter_methods import METHODS, kind_of
from .adapters import follow_embeddings


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel


@torch.no_grad()
def merge_all(pair: PilotCopilotPreTrainedModel) -> None:
    """Add the adapters of both parts to the weights below them and take them out, as `merge_and_unload` does.

    Raises:
        ValueError: a method can't be merged, merged weights are not finite, or one of several modules that share a
            weight has an adapter. Nothing is changed then.
    """
    names = adapter_names(pair)
    for part in names:
        _check_merging(getattr(pair, part), part)
    for part, name in names.items():
        _merge(getattr(pair, part), name)
    if names:
        pair.all_tied_weights_keys = pair.get_expanded_tied_weights_keys(all_submodels=True)
        follow_embeddings(pair)


def _merge(model: PreTrainedModel, name: str) -> None:
    was_tied = _head_is_tied(model)
    while found := outermost(model):  # a module that was trained as a copy may have adapters inside
        for path, module in found:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, _merged(module, name))
    forget_adapter(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() and type(parameter) is nn.Parameter)
    if was_tied and not _head_is_tied(model):  # one of the two was trained as a copy
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _merged(module: Any, name: str) -> nn.Module:
    """What a module of PEFT's becomes: the one below, with what the adapter learnt."""
    unload = getattr(module, "unload_and_optionally_merge_module", None)  # some of PEFT's have a way of their own
    if unload is not None:
        return unload(merge=True, safe_merge=True, adapter_names=[name])
    module.merge(safe_merge=True, adapter_names=[name])
    return module.get_base_layer()


def _head_is_tied(model: PreTrainedModel) -> bool:
    """Whether head and embeddings are one weight, below adapters."""
    if not model.can_generate():
        return False
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None:
        return False
    return module_below(head).weight is module_below(embeddings).weight


def _check_merging(model: PreTrainedModel, part: str) -> None:
    tuner_layer, _ = peft_layers()
    check_adapter(model, part)
    config = model.peft_config[adapter_name(model)]
    kind = kind_of(config)
    keep = "Save it as it is: `save_pretrained` or `save_adapters`."
    reason = METHODS[kind].not_merged
    if reason is not None:
        raise ValueError(f"the {part}'s adapter cannot be merged: {kind} {reason}. {keep}")
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, tuner_layer)}
    if kind == "BEFT" or vars(config).get("lora_bias"):
        for path, layer in layers.items():
            if getattr(layer.get_base_layer(), "bias", None) is None:
                raise ValueError(
                    f"the {part}'s adapter cannot be merged: it learnt a bias, and {path} has none. {keep}"
                )
    own = set(model.state_dict()) - _names_below(model)
    for name, tensor in model.state_dict().items():
        if name in own and isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"the {part}'s adapter cannot be merged: {name} is not finite.")
    _refuse_shared(model, part, keep)


def _names_below(model: PreTrainedModel) -> set[str]:
    return {name for name in model.state_dict() if plain_name(model, name) is not None}


def _refuse_shared(model: PreTrainedModel, part: str, keep: str) -> None:
    """An adapter on one of several modules that share their weight cannot be merged: the others would change too."""
    tuner_layer, trained_copy = peft_layers()
    tokens = peft_library().tuners.trainable_tokens.TrainableTokensLayer
    users: dict[int, list[str]] = {}
    wrapped: dict[str, nn.Module] = {}  # module below an adapter, by its path, to the innermost layer around it
    dropped: tuple[str, ...] = ()  # what a trained copy takes the place of
    for path, module in model.named_modules(remove_duplicate=False):
        inner = wrapped_child(module)
        if isinstance(module, tuner_layer):
            wrapped[f"{path}.{inner}"] = module
        elif isinstance(module, trained_copy) and inner == "original_module":
            dropped += (f"{path}.{inner}",)
        for parameter in module.parameters(recurse=False):
            if not path.startswith(dropped):
                users.setdefault(id(parameter), []).append(path)
    for paths in users.values():
        adapted = [wrapped[path] for path in paths if path in wrapped]
        # Rows of tied weights: one layer learns, the others follow it.
        followed = {id(layer.tied_adapter or layer) for layer in adapted if isinstance(layer, tokens)}
        in_step = len(adapted) == len(paths) and len(followed) == 1 and all(isinstance(x, tokens) for x in adapted)
        if adapted and len(paths) > 1 and not in_step:
            raise ValueError(
                f"the {part}'s adapter is on {' and '.join(paths)}, which share one weight: merged, it would change "
                f"each of them. {keep}"
            )


__all__ = [
    "merge_all",
]
