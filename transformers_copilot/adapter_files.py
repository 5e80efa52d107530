"""Adapters' files: written as PEFT writes them, in a folder for each part, and read back whole."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import cached_file

from .adapters import PARTS, adapter_name, adapter_names, peft_library, plain_state, put_adapter


if TYPE_CHECKING:
    from .modeling_pair_base import PilotCopilotPreTrainedModel

ADAPTER_FOLDER = "{part}_adapter"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # what PEFT puts before a model's names in its files


def save_adapter(pair: PilotCopilotPreTrainedModel, part: str, folder: Path) -> None:
    """Write one part's adapter as PEFT does.

    Args:
        pair: the pair.
        part (`str`): `"pilot"` or `"copilot"`.
        folder (`Path`): made where it does not exist.
    """
    peft, model = peft_library(), getattr(pair, part)
    name = adapter_name(model)
    # The base weights lie beside it or in the Pilot's own repository, so embeddings are never needed here.
    state = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {_PREFIX + key: tensor.contiguous() for key, tensor in state.items()}, folder / _WEIGHTS, {"format": "pt"}
    )
    config = copy.deepcopy(model.peft_config[name])
    # A Hub id or nothing: PEFT would write the folder that the Pilot was loaded from.
    config.base_model_name_or_path = pair.config.pilot_name_or_path if part == "pilot" else None
    config.revision = pair.config.pilot_revision if part == "pilot" else None
    config.inference_mode = True
    config.save_pretrained(folder)


def save_adapters_beside(pair: PilotCopilotPreTrainedModel, folder: str | os.PathLike) -> None:
    """Write the adapters of both parts into a pair's folder, and name them in its configuration.

    Args:
        pair: the pair.
        folder (`str`): where the pair is saved.
    """
    pair.config.adapters = adapter_names(pair)
    for part in pair.config.adapters:
        save_adapter(pair, part, Path(folder) / ADAPTER_FOLDER.format(part=part))


def without_adapters(pair: PilotCopilotPreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A pair's weights under the names that they have without adapters.

    Args:
        pair: the pair.
        state (`dict`): its weights.

    Returns:
        `dict` of name to tensor.
    """
    return plain_state(pair.copilot, plain_state(pair.pilot, state, "pilot."), "copilot.")


def load_adapter(pair: PilotCopilotPreTrainedModel, part: str, name: str, source: str, **hub: Any) -> None:
    """Put a saved adapter into one part.

    Args:
        pair: the pair.
        part (`str`): `"pilot"` or `"copilot"`.
        name (`str`): the adapter's name.
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
    weights = {key.removeprefix(_PREFIX): tensor for key, tensor in stored.items()}
    put_adapter(pair, part, peft.PeftConfig.from_pretrained(str(Path(file).parent)), name)
    expected = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    wrong = sorted(expected.keys() ^ weights.keys())
    wrong += [key for key in expected if key in weights and expected[key].shape != weights[key].shape]
    if wrong:
        raise ValueError(
            f"the adapter of the {part} in {source} does not fit it: {len(wrong)} weights are missing, unknown or of "
            f"another shape, {wrong[0]} first."
        )
    peft.set_peft_model_state_dict(model, weights, adapter_name=name)


__all__ = ["ADAPTER_FOLDER", "load_adapter", "save_adapter", "save_adapters_beside", "without_adapters"]
