"""Adapters' files: written as PEFT writes them, in a folder for each part, and read back whole."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import cached_file

from ..pair.loading import check_finite, check_kinds
from ..pair.provenance import hub_id
from .adapters import (
    PARTS,
    adapter_name,
    adapter_names,
    adapter_state,
    check_adapter,
    peft_library,
    plain_state,
    put_adapter,
    set_adapter_state,
)


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

ADAPTER_FOLDER = "{part}_adapter"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(pair: PilotCopilotPreTrainedModel, part: str, folder: Path) -> None:
    """Write one part's adapter as PEFT does.

    Args:
        part (`str`): whose adapter is written: `"pilot"` or `"copilot"`.
        folder (`Path`): made where it does not exist.

    Raises:
        ValueError: the adapter is merged for now, or switched off.
    """
    model = getattr(pair, part)
    check_adapter(model, part)
    folder.mkdir(parents=True, exist_ok=True)
    # Each in memory of its own: safetensors refuses tensors that share it, as two copies of tied weights do.
    state = {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in adapter_state(model).items()
    }
    save_file(state, folder / _WEIGHTS, {"format": "pt"})
    config = copy.deepcopy(model.peft_config[adapter_name(model)])
    # A Hub id or nothing: PEFT would write the folder that the Pilot was loaded from.
    config.base_model_name_or_path = hub_id(pair.config.pilot_name_or_path) if part == "pilot" else None
    config.revision = pair.config.pilot_revision if part == "pilot" else None
    config.inference_mode = True
    config.save_pretrained(folder)


def save_adapters_beside(pair: PilotCopilotPreTrainedModel, folder: str | os.PathLike) -> None:
    """Write the adapters of both parts into a pair's folder.

    Args:
        folder (`str`): where the pair is saved.
    """
    for part in adapter_names(pair):
        save_adapter(pair, part, Path(folder) / ADAPTER_FOLDER.format(part=part))


def without_adapters(pair: PilotCopilotPreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pair's weights under the names that they have without adapters.

    Args:
        state (`dict`): the pair's weights by name, adapters' among them.

    Returns:
        `dict` of name to tensor.
    """
    return plain_state(pair.copilot, plain_state(pair.pilot, state, "pilot."), "copilot.")


def load_adapter(pair: PilotCopilotPreTrainedModel, part: str, name: str, source: str, **hub: Any) -> None:
    """Put a saved adapter into one part.

    Args:
        part (`str`): the part that gets it: `"pilot"` or `"copilot"`.
        name (`str`): what PEFT is to call the adapter, such as `"default"`.
        source (`str`): folder or id of the checkpoint.
        **hub: `revision`, `token` and the like.

    Raises:
        ValueError: the adapter's weights are not those of its configuration, or do not fit the part.
        OSError: a file is missing.
    """
    if part not in PARTS:
        raise ValueError(f"{source} names an adapter of {part!r}; a pair has {PARTS[0]!r} and {PARTS[1]!r}.")
    peft, model = peft_library(), getattr(pair, part)
    hub = {**hub, "subfolder": str(Path(hub.get("subfolder") or "") / ADAPTER_FOLDER.format(part=part))}
    file = cached_file(source, _CONFIG, **hub)
    stored = load_file(cached_file(source, _WEIGHTS, **hub))
    put_adapter(pair, part, peft.PeftConfig.from_pretrained(str(Path(file).parent)), name, stored=True)
    expected = adapter_state(model)
    wrong = sorted(expected.keys() ^ stored.keys())
    wrong += [key for key in expected if key in stored and expected[key].shape != stored[key].shape]
    if not wrong:
        check_kinds(f"the adapter of the {part} in {source}", stored, expected)
        check_finite(f"the adapter of the {part} in {source}", stored)
        wrong = set_adapter_state(model, stored)
    if wrong:
        raise ValueError(
            f"the adapter of the {part} in {source} does not fit it: {len(wrong)} weights are missing, unknown or of "
            f"another shape, {wrong[0]} first."
        )


__all__ = ["ADAPTER_FOLDER", "load_adapter", "save_adapter", "save_adapters_beside", "without_adapters"]
