"""Which adapters a pair can't have: several in a part, around both parts, merged, switched off, of a refused method."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file

from ..pair.pilot import has_adapter
from .adapter_layers import peft_layers, peft_library, peft_model_of, prompted_attention, wrapped_child
from .adapter_methods import kind_of, why_refused


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

PARTS = ("pilot", "copilot")


def refuse_adapter_alone(pilot: str, finding: dict[str, Any], error: Exception) -> None:
    """Say so where what was given for a Pilot, and holds no model, is an adapter.

    Args:
        pilot (`str`): the id or path.
        finding (`dict`): keywords that say where to look, such as `revision` and `token`.
        error (`Exception`): why no model was found there.

    Raises:
        ValueError: it is one.
    """
    where = {name: finding[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in finding}
    if find_adapter_config_file(pilot, **where) is not None:
        raise ValueError(
            f"{pilot} holds an adapter and not the model that it belongs to. Load both and give the PeftModel: "
            f"from_pilot(peft.AutoPeftModelForCausalLM.from_pretrained({pilot!r}, is_trainable=True))."
        ) from error


def check_not_around_pair(model: Any) -> None:
    """Refuse a `PeftModel` of a pair.

    Args:
        model: any model; only a `PeftModel` around a pair is refused.

    Raises:
        ValueError: it is one.
    """
    if "peft" not in sys.modules:
        return
    peft = peft_library()
    if not isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        return
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

    if any(isinstance(module, PilotCopilotPreTrainedModel) for module in model.modules()):
        raise ValueError(
            f"the model is a {type(model).__name__} around a pair, whose adapters reach both parts by the same names "
            "and are in no file of the pair's. Take them off (`model.unload()`) and put an adapter into either part: "
            "`pair.add_adapters(pilot=config)`, `pair.add_adapters(copilot=config)`."
        )


def check_adapter(model: PreTrainedModel, part: str) -> None:
    """Refuse adapters that a pair can't run, train, save and load as they are.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot, with adapters or without.
        part (`str`): `"pilot"` or `"copilot"`, for messages.

    Raises:
        ValueError: there are several, or one of a method that a pair can't have, or it is merged or switched off, or
            layers of one that was taken out are left.
    """
    if "peft" not in sys.modules:
        return
    tuner_layer, _ = peft_layers()
    found = {path: layer for path, layer in model.named_modules() if wrapped_child(layer) is not None}
    if not has_adapter(model):
        if found:
            raise ValueError(
                f"the {part} has {len(found)} layers of an adapter that was deleted, {next(iter(found))} first. Take "
                "them out with PEFT's `unload()`."
            )
        return
    name = adapter_name(model)
    config = model.peft_config[name]
    refused = why_refused(config)
    if refused is not None:
        raise ValueError(f"the {part} cannot have this adapter: {refused}")
    if peft_model_of(model) is None and _keeps_state_outside(config):
        raise ValueError(
            f"{kind_of(config)} keeps weights outside the layers, in the PeftModel that the {part} was taken out of. "
            "Give the PeftModel itself."
        )
    switched_off = (
        f"the {part}'s adapter {name!r} is switched off ({{}}), and a pair would be saved as if it were on. Switch it "
        "on (`enable_adapter_layers()`, `enable_adapters()`, `set_adapter`), or take it out with PEFT's `unload()`."
    )
    if not found:
        raise ValueError(switched_off.format("no layer has it"))
    for path, layer in found.items():
        if isinstance(layer, prompted_attention()):
            continue
        if isinstance(layer, tuner_layer) and layer.merged:
            raise ValueError(
                f"the {part}'s adapter {name!r} is merged into the weights for now (at {path}), so saving would keep "
                "what it learnt twice. Undo that with `unmerge_adapter()`, or make it a part of the weights with "
                "`merge_and_unload()`."
            )
        if layer.disable_adapters or name not in layer.active_adapters:
            raise ValueError(switched_off.format(f"at {path}"))


def _keeps_state_outside(config: Any) -> bool:
    tuner = peft_library().mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    return kind_of(config) != "ADAPTION_PROMPT" and bool(tuner.uses_shared_state)


def adapter_names(pair: PilotCopilotPreTrainedModel) -> dict[str, str]:
    """Which parts of a pair have an adapter.

    Returns:
        `dict`: part (`"pilot"`, `"copilot"`) to the adapter's name.
    """
    parts = {part: getattr(pair, part) for part in PARTS}
    return {part: adapter_name(model) for part, model in parts.items() if has_adapter(model)}


def adapter_name(part: PreTrainedModel) -> str:
    """The name of a model's one adapter.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot, with an adapter.

    Raises:
        ValueError: it has several.
    """
    names = list(part.peft_config)
    if not names:
        raise ValueError(
            f"{type(part).__name__} has no adapter any more, but its layers; take them out with `unload()`."
        )
    if len(names) > 1:
        raise ValueError(
            f"{type(part).__name__} has {len(names)} adapters, {', '.join(names)}; a pair keeps one for each part. "
            "Delete the others with `delete_adapter`, or merge first (`merge_and_unload()`)."
        )
    return names[0]


__all__ = [
    "PARTS",
    "adapter_name",
    "adapter_names",
    "check_adapter",
    "check_not_around_pair",
    "refuse_adapter_alone",
]
