"""Adapters' files: written as PEFT writes them, in a folder for each part, and read back whole."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import cached_file

from ..pair.loading import check_finite, check_kinds
from ..pair.provenance import check_unchanged, fields_fingerprint, hub_id
from ..pair.saved_files import READING_ERRORS, check_digest, digest_of, digest_of_file, opened_weights, read_json
from .adapter_checks import PARTS, adapter_name, adapter_names, check_adapter
from .adapter_layers import peft_library, plain_state
from .adapters import adapter_state, put_adapter, set_adapter_state


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

ADAPTER_FOLDER = "{part}_adapter"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What of an adapter's configuration makes no other adapter, or is a note of PEFT's.
_FREE = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision")


class Sums(NamedTuple):
    """What tells whether adapters are those that were saved.

    Attributes:
        values (mapping): sums by file; empty where none were saved.
        saved_in (`str`): the file that they are from, for messages.
    """

    values: Mapping[str, Any]
    saved_in: str


def adapter_sums(folder: str | os.PathLike, names: Mapping[str, str]) -> dict[str, Any]:
    """What tells later whether adapters are those that were saved.

    Args:
        folder (`str`): the checkpoint's, with the adapters' folders in it.
        names (mapping): the parts that have one.

    Returns:
        `dict`: file to the sum of its weights, or to digits of each of its fields.
    """
    sums: dict[str, Any] = {}
    for part in names:
        name = ADAPTER_FOLDER.format(part=part)
        for file in (_CONFIG, _WEIGHTS):
            path, key = Path(folder) / name / file, f"{name}/{file}"
            fields = file == _CONFIG
            sums[key] = fields_fingerprint(_compared(read_json(path, key))) if fields else digest_of_file(path, key)
    return sums


def _compared(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _FREE}


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


def load_adapter(pair: PilotCopilotPreTrainedModel, part: str, name: str, source: str, sums: Sums, **hub: Any) -> None:
    """Put a saved adapter into one part.

    Args:
        part (`str`): the part that gets it: `"pilot"` or `"copilot"`.
        name (`str`): what PEFT is to call the adapter, such as `"default"`.
        source (`str`): folder or id of the checkpoint.
        sums ([`Sums`]): the checkpoint's.
        **hub: `revision`, `token` and the like.

    Raises:
        ValueError: the adapter's weights are not those of its configuration, or do not fit the part, or a file is
            damaged or another one than was saved.
        OSError: a file is missing.
    """
    if part not in PARTS:
        raise ValueError(
            f"`adapters` in {sums.saved_in} of {source} names an adapter of {part!r}; a pair has {PARTS[0]!r} and "
            f"{PARTS[1]!r}."
        )
    folder = ADAPTER_FOLDER.format(part=part)
    hub = {**hub, "subfolder": str(Path(hub.get("subfolder") or "") / folder)}
    stored = _stored_weights(source, folder, hub)
    config = _stored_config(source, folder, sums, hub)
    model, where = getattr(pair, part), f"{folder}/{_CONFIG} of {source}"
    try:
        put_adapter(pair, part, config, name, stored=True)
    except READING_ERRORS as error:
        raise ValueError(f"{where} describes an adapter that the {part} can't have: {error}") from error
    key, where = f"{folder}/{_WEIGHTS}", f"the adapter of the {part} in {source} ({folder}/{_WEIGHTS})"
    expected = adapter_state(model)
    wrong = sorted(expected.keys() ^ stored.keys())
    wrong += [key for key in expected if key in stored and expected[key].shape != stored[key].shape]
    if not wrong:
        check_kinds(where, stored, expected)
        check_finite(where, stored)
        if key in sums.values:
            check_digest(sums.values, key, digest_of(stored.items()), where, sums.saved_in)
        wrong = set_adapter_state(model, stored)
    if wrong:
        raise ValueError(
            f"{where} does not fit it: {len(wrong)} weights are missing, unknown or of another shape, {wrong[0]} "
            f"first. Is it of the {_CONFIG} beside it?"
        )


def _stored_weights(source: str, folder: str, hub: dict[str, Any]) -> dict[str, Tensor]:
    where = f"{folder}/{_WEIGHTS} of {source}"
    with opened_weights(cached_file(source, _WEIGHTS, **hub), where) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def _stored_config(source: str, folder: str, sums: Sums, hub: dict[str, Any]) -> Any:
    """PEFT's configuration, if it is the one that was saved."""
    key, where = f"{folder}/{_CONFIG}", f"{folder}/{_CONFIG} of {source}"
    file = cached_file(source, _CONFIG, **hub)
    values = read_json(file, where)
    saved = sums.values.get(key)
    if saved is not None:
        if not isinstance(saved, dict):
            raise ValueError(f"`{key}` in the checksums of {sums.saved_in} is no object; save the checkpoint again.")
        check_unchanged({**_compared(values), key: saved}, where, key, f"the checksums of {sums.saved_in}")
    try:
        return peft_library().PeftConfig.from_pretrained(str(Path(file).parent))
    except READING_ERRORS as error:
        raise ValueError(f"{where} is no adapter's configuration that PEFT can read: {error}") from error


__all__ = [
    "ADAPTER_FOLDER",
    "Sums",
    "adapter_sums",
    "load_adapter",
    "save_adapter",
    "save_adapters_beside",
    "without_adapters",
]
