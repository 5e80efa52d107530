"""What is asked of a checkpoint's files when a pair is loaded, and what to do about a download that failed.

Weights are in safetensors files that lie in the checkpoint, and in nothing else. They are numbers of the kind that the
model has, and those of a Copilot are finite.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    find_adapter_config_file,
)


# Keywords of `from_pretrained` that say where a checkpoint's files are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def check_weight_files(source: Any, config: Any, keywords: dict[str, Any]) -> None:
    """Refuse a checkpoint whose index or configuration names weights outside it, or other than safetensors.

    The names come from whoever wrote the checkpoint. Nothing that they name is opened or fetched before.

    Args:
        source: id or folder; `None` where nothing is read.
        config: the configuration that was given, or `None`.
        keywords (`dict`): of `from_pretrained`.

    Raises:
        ValueError: a name is not that of a safetensors file in the checkpoint; or files that are unpickled are asked
            for.
    """
    if keywords.get("use_safetensors") is False:
        raise ValueError(
            "`use_safetensors=False` asks for weights that are unpickled; a pair is read from safetensors files only."
        )
    if source is None:
        return
    where = {name: keywords[name] for name in _WHERE if keywords.get(name) is not None}
    if config is None:
        named = PreTrainedConfig.get_config_dict(source, **where)[0].get("transformers_weights")
    else:
        named = getattr(config, "transformers_weights", None)
    if named is not None:
        _check_name(source, "`transformers_weights` in the configuration", named, (".safetensors", ".index.json"))
    variant = keywords.get("variant")
    index = SAFE_WEIGHTS_INDEX_NAME if variant is None else f"model.safetensors.index.{variant}.json"
    for name in {index, named}:
        if name is not None and not name.endswith(".safetensors"):
            _check_index(source, name, where)


def refuse_adapter_beside(source: Any, followed: dict[str, Any] | None, hub: dict[str, Any]) -> None:
    """Refuse a checkpoint with an adapter's configuration beside the pair's: transformers would load, in the pair's
    place, the model that it names as its base, which may be a folder of this machine.

    Args:
        source: id or folder.
        followed (`dict`, *optional*): `adapter_kwargs` of `from_pretrained`, in which an Auto class says that it has
            gone there already.
        hub (`dict`): `revision`, `token` and the like.

    Raises:
        ValueError: there is one.
    """
    beside = (followed or {}).get("_adapter_model_path")
    if beside is None and find_adapter_config_file(source, **hub) is not None:
        beside = source
    if beside is not None:
        raise ValueError(
            f"{beside} has an adapter_config.json beside its config.json, which names another model in the pair's "
            "place; it is not followed. A pair keeps its adapters in folders of their own: save the pair again with "
            "its own `save_pretrained`, or take the file away."
        )


def check_weight_types(source: Any, own: Mapping[str, Tensor], keywords: dict[str, Any]) -> None:
    """Refuse files whose weights are of another kind than the model's: transformers would make numbers of any.

    Only the files' heads are read, of files that were read just now.

    Args:
        source: id or folder.
        own (mapping): the weights that the model has, by name.
        keywords (`dict`): of `from_pretrained`.

    Raises:
        ValueError: a floating-point weight is stored as integers, or the other way round; file and weight are named.
    """
    where = {name: keywords[name] for name in _WHERE if keywords.get(name) is not None}
    where |= {"force_download": False, "local_files_only": True}  # they are here
    variant = "" if keywords.get("variant") is None else f".{keywords['variant']}"
    index = _found(source, SAFE_WEIGHTS_INDEX_NAME.replace(".json", f"{variant}.json"), where)
    names = {SAFE_WEIGHTS_NAME.replace(".safetensors", f"{variant}.safetensors")} if index is None else _shards(index)
    for name in sorted(names):
        file = _found(source, name, where)
        if file is None:
            continue
        with safe_open(file, framework="pt") as stored:
            kinds = {key: stored.get_slice(key).get_dtype() for key in stored.keys() & own.keys()}
        for key, kind in kinds.items():
            _check_kind(f"{name} of {source}", key, kind, kind.startswith(("F", "BF")), own[key])


def check_kinds(where: str, stored: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse stored weights of another kind than the model's.

    Args:
        where (`str`): file and checkpoint, for the message.
        stored (mapping): weights of a file, by name.
        own (mapping): the weights that the model has; those of other names are not looked at.

    Raises:
        ValueError: a floating-point weight is stored as integers, or the other way round; the weight is named.
    """
    for key in stored.keys() & own.keys():
        kind = str(stored[key].dtype).removeprefix("torch.")
        _check_kind(where, key, kind, stored[key].is_floating_point(), own[key])


def _check_kind(where: str, key: str, kind: str, is_floating_point: bool, own: Tensor) -> None:
    if is_floating_point != own.is_floating_point():
        raise ValueError(
            f"`{key}` in {where} is stored as {kind}, but the model's is {str(own.dtype).removeprefix('torch.')}. Save "
            "or download the checkpoint again."
        )


def check_finite(source: Any, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of which a number is NaN or infinite: greedy search would write the first token for ever.

    Args:
        source: id or folder, for the message.
        weights (mapping): a Copilot's or an adapter's, by name.

    Raises:
        ValueError: the weight is named.
    """
    for name, weight in weights.items():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        if not all(map(torch.isfinite, torch.aminmax(weight))):  # one reading, and no tensor of its size
            wrong = int((~torch.isfinite(weight)).sum())
            raise ValueError(
                f"`{name}` of {source} holds NaN or infinity, in {wrong:,} of {weight.numel():,} numbers. Its training "
                "broke down, or the file is damaged. Use an earlier checkpoint, or save or download it again."
            )


def _found(source: Any, name: str, where: dict[str, Any]) -> str | None:
    """A file of a checkpoint, where it has one of the name."""
    return cached_file(
        source,
        name,
        **where,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _shards(index: str) -> set[Any]:
    with open(index, encoding="utf-8") as stream:
        return set(json.load(stream)["weight_map"].values())


def _check_index(source: Any, name: str, where: dict[str, Any]) -> None:
    file = _found(source, name, where)
    if file is None:
        return
    try:
        shards = _shards(file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{name} of {source} is no index of weights ({type(error).__name__}: {error}); save or download it again."
        ) from error
    for shard in shards:
        _check_name(source, name, shard, (".safetensors",))


def _check_name(source: Any, where: str, name: Any, endings: tuple[str, ...]) -> None:
    plain = isinstance(name, str) and name == os.path.basename(name.replace("\\", "/")) and ":" not in name
    if not plain or not name.endswith(endings):
        raise ValueError(
            f"{where} of {source} names {name!r} as a file of weights; expected the name of a safetensors file that "
            "lies in the checkpoint itself. Nothing was read. Don't use this checkpoint unless you know who wrote it."
        )


@contextmanager
def load_errors_explained(source: Any) -> Iterator[None]:
    """Add to an error of the Hub's what it answered and what to do; other errors pass as they are.

    Args:
        source: id or folder of what is loaded.
    """
    try:
        yield
    except Exception as error:
        note = _note(source, error)
        if note is not None:
            error.add_note(note)
        raise


def _note(source: Any, error: BaseException | None) -> str | None:
    """transformers says "couldn't connect" for many answers; what the Hub said is further down the chain."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            status = error.response.status_code
            if status not in (401, 403):
                return None
            return (
                f"The Hub answered {status}: this token, or none, may not read {source}. Log in with `hf auth login` "
                "or pass `token=`, and ask its owner for access if it is gated."
            )
        if isinstance(error, HTTPError):
            return (
                f"The connection broke off or could not be made ({type(error).__name__}). Nothing half is in the "
                "cache: load again."
            )
        error = error.__cause__ or error.__context__
    return None


__all__ = [
    "check_finite",
    "check_kinds",
    "check_weight_files",
    "check_weight_types",
    "load_errors_explained",
    "refuse_adapter_beside",
]
