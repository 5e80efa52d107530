"""Adapters (LoRA and PEFT's others) on either part of a pair: put in, told apart from the weights below, merged.

Each part gets an adapter of its own, inside that part, so module names in a configuration are the part's own: `q_proj`
in the Pilot's never reaches the Copilot.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .rationale import RationaleRecorder


if TYPE_CHECKING:
    from .modeling_pair_base import PilotCopilotPreTrainedModel

PARTS = ("pilot", "copilot")
# Every matrix of the Copilot's layers; its other parts are trained whole, see `add_adapters`.
COPILOT_TARGETS = r"layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
# Dropout of the Copilot's adapter is the paper's too (0.08); the Pilot's is 0.05.
PAPER_LORA: dict[str, dict[str, Any]] = {
    "pilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.05},
    "copilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.08},
}


def peft_library() -> Any:
    """PEFT, or an error that says how to get it.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ImportError("adapters need PEFT: `python -m pip install peft`.") from error
    return peft


def _peft_layers() -> tuple[Any, Any]:
    """PEFT's classes of a layer with an adapter, and of a module that is trained as a copy (`modules_to_save`)."""
    peft = peft_library()
    return peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.AuxiliaryTrainingWrapper


def paper_lora(part: str) -> Any:
    """The paper's LoRA configuration: r = 32, α = 64, on every matrix of the part's layers.

    Args:
        part (`str`): `"pilot"` (dropout 0.05) or `"copilot"` (0.08).

    Returns:
        `peft.LoraConfig`

    Raises:
        ValueError: there is no such part.
    """
    if part not in PARTS:
        raise ValueError(f"`part` is {part!r}; a pair has {PARTS[0]!r} and {PARTS[1]!r}.")
    targets = "all-linear" if part == "pilot" else COPILOT_TARGETS
    return peft_library().LoraConfig(target_modules=targets, **PAPER_LORA[part])


def unwrapped_pilot(pilot: Any) -> Any:
    """The transformers model inside a `PeftModel`, its adapters in place; anything else as it is.

    Args:
        pilot: what `from_pilot` was given.

    Returns:
        The model.

    Raises:
        ValueError: the adapter is a learnt prompt, which lives in the `PeftModel` and not in the model.
    """
    if isinstance(pilot, PreTrainedModel) or not _is_peft_model(pilot):
        return pilot
    if pilot.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"the Pilot is a PeftModel with {pilot.active_peft_config.peft_type.value}: a learnt prompt is no part of "
            "the model, and the Copilot could not read it. Use an adapter inside the layers, such as LoRA."
        )
    model = pilot.get_base_model()
    model.peft_config = pilot.peft_config
    model._hf_peft_config_loaded = True  # transformers' own flag: `active_adapters()` and others work from here on
    return model


def _is_peft_model(model: Any) -> bool:
    try:
        from peft import PeftModel
    except ImportError:
        return False
    return isinstance(model, PeftModel)


def has_adapter(part: PreTrainedModel) -> bool:
    """Whether adapters are in a model.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot.

    Returns:
        `bool`
    """
    return bool(part._hf_peft_config_loaded)


def adapter_names(pair: PilotCopilotPreTrainedModel) -> dict[str, str]:
    """Which parts of a pair have an adapter.

    Args:
        pair: the pair.

    Returns:
        `dict`: part (`"pilot"`, `"copilot"`) to the adapter's name.
    """
    parts = {part: getattr(pair, part) for part in PARTS}
    return {part: adapter_name(model) for part, model in parts.items() if has_adapter(model)}


def adapter_name(part: PreTrainedModel) -> str:
    """The name of a model's one adapter.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot, with an adapter.

    Returns:
        `str`

    Raises:
        ValueError: it has several.
    """
    names = list(part.peft_config)
    if len(names) != 1:
        raise ValueError(
            f"{type(part).__name__} has {len(names)} adapters, {', '.join(names)}; a pair keeps one for each part. "
            "Delete the others with `delete_adapter`, or merge first."
        )
    return names[0]


def put_adapter(pair: PilotCopilotPreTrainedModel, part: str, config: Any, name: str = "default") -> None:
    """Put an adapter into one part; the part's other weights stop learning.

    Args:
        pair: the pair.
        part (`str`): `"pilot"` or `"copilot"`.
        config (`peft.PeftConfig`): any configuration but a learnt prompt's, with the part's own module names.
        name (`str`, *optional*, defaults to `"default"`): the adapter's name.

    Raises:
        ValueError: the part has one already, or no module fits the configuration.
        TypeError: `config` is no PEFT configuration.
    """
    peft = peft_library()
    model = getattr(pair, part)
    if not isinstance(config, peft.PeftConfig):
        raise TypeError(
            f"the {part}'s adapter is a {type(config).__name__}; give a PEFT configuration, such as "
            f"`peft.LoraConfig(r=32, lora_alpha=64, target_modules='all-linear')` or `paper_lora({part!r})`."
        )
    if has_adapter(model):
        raise ValueError(f"the {part} has the adapter {adapter_name(model)!r} already; merge it first.")
    if config.is_prompt_learning:
        raise ValueError(f"{config.peft_type.value} learns a prompt, no weights in the {part}; use LoRA or the like.")
    config = copy.deepcopy(config)
    if part == "copilot" and getattr(config, "target_modules", None) is None:
        config.target_modules = COPILOT_TARGETS  # PEFT knows no defaults for a Copilot
    try:
        model.add_adapter(config, name)
    except ValueError:
        model._hf_peft_config_loaded = False  # set before PEFT looks for the modules
        raise
    peft.functional.cast_adapter_dtype(model, name)  # float32 beside bfloat16 weights, as PeftModel does
    model.train(model.training)  # the adapter's dropout
    follow_embeddings(pair)


def follow_embeddings(pair: PilotCopilotPreTrainedModel) -> None:
    """Read the Pilot's layers and embeddings anew, after modules of it were replaced.

    Args:
        pair: the pair.
    """
    pair.recorder.remove()
    pair.recorder = RationaleRecorder(pair.pilot)


def plain_state(model: PreTrainedModel, state: dict[str, Tensor] | None = None, prefix: str = "") -> dict[str, Tensor]:
    """A model's weights under the names that they have without adapters; the adapters' own are left out.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot.
        state (`dict`, *optional*): weights to rename, instead of the model's.
        prefix (`str`, *optional*): what stands before the model's names in `state`.

    Returns:
        `dict` of name to tensor.
    """
    state = model.state_dict() if state is None else state
    if not has_adapter(model):
        return dict(state)
    of_adapter = {prefix + name for name in _own_names(model)}
    plain = {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            if name in of_adapter:
                continue
            name = prefix + name.removeprefix(prefix).replace(".base_layer.", ".").replace(".original_module.", ".")
        plain[name] = tensor
    return plain


def _own_names(model: PreTrainedModel) -> set[str]:
    """Names, in the model, of the weights that belong to its adapter."""
    tuner_layer, trained_copy = _peft_layers()
    names: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, (tuner_layer, trained_copy)):
            own = ("base_layer.", "original_module.")
            names |= {f"{name}.{key}" for key in module.state_dict() if not key.startswith(own)}
    return names


@torch.no_grad()
def merge_adapter(pair: PilotCopilotPreTrainedModel, part: str) -> None:
    """Add one part's adapter to its weights and take it out, as PEFT's `merge_and_unload` does.

    Args:
        pair: the pair.
        part (`str`): `"pilot"` or `"copilot"`.

    Raises:
        ValueError: merged weights are not finite, or tied weights would follow the adapter of one of them.
    """
    tuner_layer, trained_copy = _peft_layers()
    model = getattr(pair, part)
    name = adapter_name(model)
    if part == "pilot":
        _refuse_tied(model, tuner_layer)
    for path, module in list(model.named_modules()):
        if isinstance(module, trained_copy):
            new = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=[name])
        elif isinstance(module, tuner_layer):
            module.merge(safe_merge=True, adapter_names=[name])
            new = module.get_base_layer()
        else:
            continue
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    model._hf_peft_config_loaded = False
    del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() and type(parameter) is nn.Parameter)
    follow_embeddings(pair)


def _refuse_tied(model: PreTrainedModel, tuner_layer: type[nn.Module]) -> None:
    """An adapter on one of two layers that share their weight cannot be merged: the other would change with it."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    layers = [layer for layer in (head, embeddings) if isinstance(layer, tuner_layer)]
    if len(layers) and head is not None and embeddings is not None and head.weight is embeddings.weight:
        raise ValueError(
            "the adapter is on the Pilot's embedding or head, which share one weight: merged, it would change both. "
            "Save it with `save_adapters` instead, or train one that leaves them out."
        )


__all__ = [
    "COPILOT_TARGETS",
    "PARTS",
    "adapter_name",
    "adapter_names",
    "follow_embeddings",
    "has_adapter",
    "merge_adapter",
    "paper_lora",
    "peft_library",
    "plain_state",
    "put_adapter",
    "unwrapped_pilot",
]
