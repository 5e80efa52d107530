"""What is asked of a checkpoint's files when a pair is loaded, and what to do about a download that failed.

Weights are in safetensors files that lie in the checkpoint, and in nothing else. They are numbers of the kind that the
model has, and those of a Copilot are finite, and those that were saved. Whatever is wrong is said with the file's name.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    find_adapter_config_file,
)

from .options import check_copilot_weight
from .saved_files import CHECKSUMS, READING_ERRORS, check_digest, digest_of, opened_weights, read_json


# Keywords of `from_pretrained` that say where a checkpoint's files are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Entries of a generation configuration that `generate` reads as numbers of tokens, and those that it reads as ids.
_COUNTS = (
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "top_k", "no_repeat_ngram_size"),
    *("num_return_sequences", "encoder_no_repeat_ngram_size", "max_cache_len", "prompt_lookup_num_tokens"),
)
_IDS = (
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
)
_FLAGS = (
    *("do_sample", "use_cache", "output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "renormalize_logits", "remove_invalid_values"),
)
_SHARES = (
    *("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty"),
    *("encoder_repetition_penalty", "length_penalty", "guidance_scale", "max_time"),
)
_LARGEST_ID = 2**31
_STORED_KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def read_config(source: Any, where: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint's `config.json` says.

    Args:
        source: id or folder.
        where (`dict`): `revision`, `token` and the like.

    Raises:
        ValueError: it is damaged.
        OSError: it is missing, no JSON, or can't be reached.
    """
    try:
        values = PreTrainedConfig.get_config_dict(source, **where)[0]
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__}; expected an object")
        return values
    except READING_ERRORS as error:
        raise ValueError(
            f"{CONFIG_NAME} of {source} can't be read ({type(error).__name__}: {error}). It was changed or damaged: "
            "save or download the checkpoint again."
        ) from error


def check_generation_config(source: Any, keywords: dict[str, Any]) -> None:
    """Refuse a `generation_config.json` that can't be used. transformers would leave a damaged one out in silence.

    It is one that transformers has read just now, or tried to: nothing is fetched for it.

    Args:
        source: id or folder.
        keywords (`dict`): of `from_pretrained`.

    Raises:
        ValueError: it is no JSON, or an entry has another type than `generate` needs; the entry is named.
    """
    if source is None or keywords.get("generation_config") is not None:
        return
    file = _found(
        source, GENERATION_CONFIG_NAME, {**_where(keywords), "force_download": False, "local_files_only": True}
    )
    if file is None:
        return
    where = f"{GENERATION_CONFIG_NAME} of {source}"
    values = read_json(file, where)
    for name, value in values.items():
        expected = None if value is None else _wrong_entry(name, value)
        if expected is not None:
            raise ValueError(
                f"`{name}` in {where} is {str(value)[:60]}; expected {expected}. Correct it, or save again."
            )
    try:
        if values.get("copilot_weight") is not None:
            check_copilot_weight(values["copilot_weight"])
        GenerationConfig.from_dict(dict(values))
    except READING_ERRORS as error:
        raise ValueError(f"{where} can't be used: {error}") from error


def _wrong_entry(name: str, value: Any) -> str | None:
    """What was expected of an entry, where it is something else."""
    if name in _FLAGS:
        return None if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _COUNTS:
        right = number and isinstance(value, int) and 0 <= value < _LARGEST_ID
        return None if right else f"a whole number from 0 to {_LARGEST_ID:,}"
    if name in _SHARES:
        return None if number and abs(value) < float("inf") else "a finite number"
    if name in _IDS:
        ids = value if isinstance(value, list) and value and not name.startswith("pad") else [value]
        right = all(isinstance(one, int) and not isinstance(one, bool) and abs(one) < _LARGEST_ID for one in ids)
        return None if right else "a token id"
    return None


def _where(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: keywords[name] for name in _WHERE if keywords.get(name) is not None}


def check_weight_files(source: Any, config: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """Refuse a checkpoint whose index or configuration names weights outside it, or other than safetensors.

    The names come from whoever wrote the checkpoint. Nothing that they name is opened or fetched before.

    Args:
        source: id or folder; `None` where nothing is read.
        config: the configuration that was given, or `None`.
        keywords (`dict`): of `from_pretrained`.

    Returns:
        `dict`: what `config.json` says; empty where it is not to be read.

    Raises:
        ValueError: a name is not that of a safetensors file in the checkpoint; or files that are unpickled are asked
            for.
    """
    if keywords.get("use_safetensors") is False:
        raise ValueError(
            "`use_safetensors=False` asks for weights that are unpickled; a pair is read from safetensors files only."
        )
    if source is None:
        return {}
    where, values = _where(keywords), {}
    if config is None:
        values = read_config(source, where)
        named = values.get("transformers_weights")
    else:
        named = getattr(config, "transformers_weights", None)
    if named is not None:
        _check_name(source, f"`transformers_weights` in {CONFIG_NAME}", named, (".safetensors", ".index.json"))
    variant = keywords.get("variant")
    index = SAFE_WEIGHTS_INDEX_NAME if variant is None else f"model.safetensors.index.{variant}.json"
    for name in {index, named}:
        if name is not None and not name.endswith(".safetensors"):
            _check_index(source, name, where)
    return values


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


def weight_files(source: Any, keywords: dict[str, Any]) -> dict[str, str]:
    """A checkpoint's files of weights, which are here.

    Args:
        source: id or folder.
        keywords (`dict`): of `from_pretrained`.

    Returns:
        `dict`: name to path; those that there are.
    """
    where = {**_where(keywords), "force_download": False, "local_files_only": True}
    variant = "" if keywords.get("variant") is None else f".{keywords['variant']}"
    single = SAFE_WEIGHTS_NAME.replace(".safetensors", f"{variant}.safetensors")
    file = _found(source, single, where)
    if file is not None:  # transformers reads it before it looks for an index
        return {single: file}
    index = _found(source, SAFE_WEIGHTS_INDEX_NAME.replace(".json", f"{variant}.json"), where)
    found = {name: _found(source, name, where) for name in sorted(set(_weight_map(index).values()) if index else ())}
    return {name: file for name, file in found.items() if file is not None}


def copilot_digest(source: Any, keywords: dict[str, Any]) -> str:
    """A sum of the Copilot's weights in a pair's files. The Pilot's are not read.

    Args:
        source: id or folder.
        keywords (`dict`): of `from_pretrained`.
    """
    weights: dict[str, Tensor] = {}
    for name, file in weight_files(source, keywords).items():
        with opened_weights(file, f"{name} of {source}") as stored:
            own = [key for key in stored.keys() if key.startswith("copilot.")]  # noqa: SIM118 - no mapping
            weights |= {key: stored.get_tensor(key) for key in own}
    return digest_of(weights.items())


def check_weights_read(
    source: Any, own: Mapping[str, Tensor], keywords: dict[str, Any], sums: Mapping[str, Any]
) -> None:
    """Refuse files whose weights are of another kind than the model's, as transformers would make numbers of any; or
    whose Copilot is not the one that was saved.

    Of the Pilot's weights only the files' heads are read, of files that were read just now.

    Args:
        source: id or folder.
        own (mapping): the weights that the model has, by name.
        keywords (`dict`): of `from_pretrained`.
        sums (mapping): the sums that the configuration holds.

    Raises:
        ValueError: a floating-point weight is stored as integers, or the other way round, and file and weight are
            named; or the Copilot's sum is another one.
    """
    copilots: dict[str, Tensor] = {}
    files = weight_files(source, keywords)
    for name, file in files.items():
        with opened_weights(file, f"{name} of {source}") as stored:
            keys = list(stored.keys())
            for key in keys:
                if key in own:
                    kind = stored.get_slice(key).get_dtype()
                    _check_kind(f"{name} of {source}", key, kind, kind.startswith(("F", "BF")), own[key])
            if "copilot" in sums:
                copilots |= {key: _as_stored(stored, key, own) for key in keys if key.startswith("copilot.")}
    if "copilot" in sums and files:
        what = f"the Copilot in {source} ({', '.join(files)})"
        check_digest(sums, "copilot", digest_of(copilots.items()), what, CONFIG_NAME)


def _as_stored(stored: Any, key: str, own: Mapping[str, Tensor]) -> Tensor:
    """A weight as it is in its file. Where the model has it in the same type it is not read again."""
    about, weight = stored.get_slice(key), own.get(key)
    same = weight is not None and about.get_dtype() == _STORED_KINDS.get(weight.dtype)
    if weight is not None and same and weight.device.type == "cpu" and about.get_shape() == list(weight.shape):
        return weight
    return stored.get_tensor(key)


def add_checksums(folder: str | os.PathLike[str], sums: Mapping[str, Any]) -> None:
    """Write sums into a saved configuration, whole or not at all.

    Args:
        folder: the checkpoint's.
        sums (mapping): of its parts.
    """
    file = Path(folder) / CONFIG_NAME
    values = json.loads(file.read_text(encoding="utf-8"))
    partial = file.with_name(f"{CONFIG_NAME}.{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(json.dumps({**values, CHECKSUMS: dict(sums)}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, file)


def file_of(source: Any, keywords: dict[str, Any], weight: str) -> str:
    """The file in which a weight is, or should be; for messages.

    Args:
        source: id or folder.
        keywords (`dict`): of `from_pretrained`.
        weight (`str`): its name.
    """
    files = weight_files(source, keywords)
    for name, file in files.items():
        with opened_weights(file, f"{name} of {source}") as stored:
            if weight in stored.keys():  # noqa: SIM118 - no mapping
                return name
    variant = "" if keywords.get("variant") is None else f".{keywords['variant']}"
    index = _found(source, SAFE_WEIGHTS_INDEX_NAME.replace(".json", f"{variant}.json"), _where(keywords))
    named = None if index is None else _weight_map(index).get(weight)
    return named or ", ".join([*files, *([] if index is None else [os.path.basename(index)])])


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
        # NaN or infinity in a sum shows in it: one fast reading. A sum may also be too large by itself.
        if torch.isfinite(weight.sum(dtype=torch.float32)):
            continue
        if wrong := int((~torch.isfinite(weight)).sum()):
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


def _weight_map(index: str) -> dict[str, Any]:
    places = read_json(index, index)["weight_map"]
    if not isinstance(places, dict):
        raise TypeError(f"`weight_map` is a {type(places).__name__}")
    return places


def _check_index(source: Any, name: str, where: dict[str, Any]) -> None:
    file = _found(source, name, where)
    if file is None:
        return
    try:
        places = _weight_map(file)
        if not isinstance(read_json(file, name)["metadata"], dict):
            raise TypeError("`metadata` is no object")
    except READING_ERRORS as error:
        raise ValueError(
            f"{name} of {source} is no index of weights, with `weight_map` and `metadata` "
            f"({type(error).__name__}: {error}); save or download it again."
        ) from error
    for weight, shard in places.items():
        _check_name(source, f"`weight_map` of {name}, for `{weight}`,", shard, (".safetensors",))


def _check_name(source: Any, where: str, name: Any, endings: tuple[str, ...]) -> None:
    plain = isinstance(name, str) and name == os.path.basename(name.replace("\\", "/")) and ":" not in name
    if not plain or not name.endswith(endings):
        raise ValueError(
            f"{where} of {source} names {name!r} as a file of weights; expected the name of a safetensors file that "
            "lies in the checkpoint itself. Nothing was read. Don't use this checkpoint unless you know who wrote it."
        )


def _not_there(source: Any, keywords: dict[str, Any]) -> list[str]:
    """Files of weights that a folder lacks."""
    folder = Path(str(source)) / (keywords.get("subfolder") or "")
    if not folder.is_dir():
        return []
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = set(_weight_map(str(index)).values()) if index.is_file() else {SAFE_WEIGHTS_NAME, index.name}
    lacking = sorted(name for name in names if not (folder / name).is_file())
    return [f"{name} ({index.name} names it)" for name in lacking] if index.is_file() else lacking


@contextmanager
def damage_named(source: Any, keywords: dict[str, Any]) -> Iterator[None]:
    """Say which file it is where transformers or torch can't make a model of a checkpoint.

    Args:
        source: id or folder of what is loaded.
        keywords (`dict`): of `from_pretrained`.

    Raises:
        ValueError: a file of weights is broken, or the configuration describes a model that can't be made or that the
            weights don't fit.
    """
    try:
        yield
    except SafetensorError as error:
        for name, file in weight_files(source, keywords).items():
            with opened_weights(file, f"{name} of {source}"):
                pass
        raise ValueError(f"the weights of {source} can't be read: {error}") from error
    except (ValueError, TypeError) as error:
        if CONFIG_NAME not in str(error):
            error.add_note(f"The model is made as {CONFIG_NAME} of {source} says.")
        raise
    except OSError as error:
        lacking = _not_there(source, keywords)
        if lacking:
            error.add_note(f"Of {source} these are missing, or no files: {', '.join(lacking)}.")
        raise
    except (*READING_ERRORS, AssertionError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError | NotImplementedError) or "CUDA" in str(error):
            raise
        raise ValueError(
            f"{CONFIG_NAME} of {source} describes a model that can't be made, or that its weights don't fit "
            f"({type(error).__name__}: {error}). If you gave no option that explains it, the file was changed or "
            "damaged: save or download the checkpoint again."
        ) from error


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
    "add_checksums",
    "check_finite",
    "check_generation_config",
    "check_kinds",
    "check_weight_files",
    "check_weights_read",
    "copilot_digest",
    "damage_named",
    "file_of",
    "load_errors_explained",
    "read_config",
    "refuse_adapter_beside",
    "weight_files",
]
