"""What PEFT puts into a model, told apart from the model's own modules and weights below it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..pair.pilot import has_adapter


@dataclass
class _Beside:
    """A part's `PeftModel`, kept where `nn.Module` does not look: there every weight would count twice.

    It holds what a method shares between layers, and it is what PEFT's own reading and writing works on.
    """

    peft_model: Any


def peft_library() -> Any:
    """PEFT, or an error that says how to get it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ImportError("adapters need PEFT: `python -m pip install peft`.") from error
    return peft


def peft_layers() -> tuple[Any, Any]:
    """PEFT's classes of a layer with an adapter, and of a module that is trained as a copy or in some rows."""
    peft = peft_library()
    return peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.AuxiliaryTrainingWrapper


def prompted_attention() -> tuple[Any, Any]:
    """PEFT's classes around attention that reads a learnt prompt, the one method without layers of the usual class."""
    layers = peft_library().tuners.adaption_prompt.layer
    return layers.AdaptedAttention, layers.AdaptedAttentionGPT


def keep_beside(model: PreTrainedModel, peft_model: Any) -> None:
    """Let a part know the adapter that was put into it.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot.
        peft_model (`peft.PeftModel`): the one around it.
    """
    model.peft_config = peft_model.peft_config
    model._peft_beside = _Beside(peft_model)
    model._hf_peft_config_loaded = True  # transformers' own flag: `active_adapters()` and others work from here on


def peft_model_of(model: PreTrainedModel) -> Any:
    """The `PeftModel` around a part; `None` where transformers put the adapter in."""
    beside = vars(model).get("_peft_beside")
    return None if beside is None else beside.peft_model


def forget_adapter(model: PreTrainedModel) -> None:
    """The part is without an adapter again."""
    vars(model).pop("_peft_beside", None)
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False


def plain_state(model: PreTrainedModel, state: dict[str, Tensor] | None = None, prefix: str = "") -> dict[str, Tensor]:
    """A model's weights under the names that they have without adapters; the adapters' own are left out.

    Args:
        model (`PreTrainedModel`): a Pilot or a Copilot, with an adapter or without.
        state (`dict`, *optional*): weights to rename, instead of the model's.
        prefix (`str`, *optional*): what stands before the model's names in `state`.

    Returns:
        `dict` of name to tensor.
    """
    state = model.state_dict() if state is None else state
    if not has_adapter(model):
        return dict(state)
    plain = {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            below = plain_name(model, name.removeprefix(prefix))
            if below is None:
                continue
            name = prefix + below
        plain[name] = tensor
    return plain


def plain_name(model: nn.Module, name: str) -> str | None:
    """What a weight is called without adapters; `None` for one that is an adapter's own.

    The modules are followed, not the name's spelling: wrappers lie inside each other, and a model may have modules
    whose names look like PEFT's.

    Args:
        model (`nn.Module`): with adapters.
        name (`str`): as the model's own state has it.
    """
    module, parts, plain = model, name.split("."), []
    for index, part in enumerate(parts):
        inner = wrapped_child(module)
        if inner is not None and part != inner:
            return None
        child = module._modules.get(part)
        if child is None:  # the weight itself, or what its own module calls it
            plain += parts[index:]
            break
        if inner is None:
            plain.append(part)
        module = child
    return ".".join(plain)


def wrapped_child(module: nn.Module) -> str | None:
    """What a module of PEFT's calls the module that it wraps; `None` for any other module.

    Args:
        module (`nn.Module`): any of a model's.
    """
    tuner_layer, trained_copy = peft_layers()
    if isinstance(module, tuner_layer):
        return "base_layer"
    if isinstance(module, prompted_attention()):
        return "model"
    if isinstance(module, trained_copy):  # the whole module beside a copy, or a layer of its own around it
        return "token_adapter" if "token_adapter" in module._modules else "original_module"
    return None


def module_below(module: nn.Module) -> nn.Module:
    """The module that all of PEFT's around it wrap.

    Args:
        module (`nn.Module`): the outermost; itself where it is none of PEFT's.
    """
    inner = wrapped_child(module)
    return module if inner is None else module_below(module.get_submodule(inner))


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Show a model as it is without its adapters, to code that reads its layers.

    Args:
        model (`PreTrainedModel`): with adapters or without.

    Yields:
        Nothing; adapters are back in place afterwards.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    if has_adapter(model):
        for path, module in outermost(model):
            parent, _, child = path.rpartition(".")
            swapped.append((model.get_submodule(parent), child, module))
    try:
        for owner, child, module in swapped:
            setattr(owner, child, module_below(module))
        yield
    finally:
        for owner, child, module in swapped:
            setattr(owner, child, module)


def outermost(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """PEFT's modules in a model, without those that lie inside one of them, and their paths."""
    found: list[tuple[str, nn.Module]] = []
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if not path.startswith(inside) and wrapped_child(module) is not None:
            found.append((path, module))
            inside += (f"{path}.",)
    return found


__all__ = [
    "forget_adapter",
    "keep_beside",
    "module_below",
    "outermost",
    "peft_layers",
    "peft_library",
    "peft_model_of",
    "plain_name",
    "plain_state",
    "prompted_attention",
    "without_adapter",
    "wrapped_child",
]
