"""A pair's parts by themselves: the Copilot saved alone and joined again, adapters put in and saved."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig
from transformers.utils import find_adapter_config_file, logging

from ..adapters.adapter_checks import adapter_name, adapter_names
from ..adapters.adapter_methods import start_that_changes_base
from ..adapters.adapters import learns_outside_adapter, put_adapter
from ..pair.foreign_code import refuse_kernel_method, refuse_kernels
from ..pair.options import chosen
from ..pair.pilot import has_adapter
from ..pair.provenance import hub_id
from .copilot_alone import CopilotCheckpoint, write_copilot
from .model_card import write_card
from .push import hub_api, push_errors_explained, push_folder


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

logger = logging.get_logger(__name__)

# Keywords of `from_pretrained` that say where a Pilot's files are.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_COPIED = ("layers.", "norm.")  # the Copilot's parts that a decoder has too; all others are new


def save_copilot_alone(pair: PilotCopilotPreTrainedModel, folder: str | os.PathLike, **given: Any) -> None:
    """See `save_copilot` of the pair.

    Args:
        folder (`str`): the checkpoint's folder; made where it does not exist.
        **given: `tokenizer`, `pilot` and `pilot_revision`.

    Raises:
        ValueError: the Copilot's adapter would be lost.
    """
    if has_adapter(pair.copilot):
        raise ValueError(
            "the Copilot has an adapter, which `save_copilot` would lose: use `save_adapters`, or `merge_adapters` "
            "first."
        )
    if has_adapter(pair.pilot):
        logger.warning("The Pilot's adapter is not saved with the Copilot alone; `save_adapters` keeps both.")
    write_copilot(pair, folder, **given)


def push_copilot_alone(
    pair: Any, repo_id: str, private: bool | None, given: dict[str, Any], commit: dict[str, Any]
) -> CommitInfo:
    """See `push_copilot_to_hub` of the pair.

    Args:
        repo_id (`str`): the repository; made where it does not exist.
        private (`bool`, *optional*): of a new repository.
        given (`dict`): `tokenizer`, `pilot` and `pilot_revision`.
        commit (`dict`): as [`push_folder`] takes them.
    """
    with tempfile.TemporaryDirectory() as folder, push_errors_explained(repo_id):
        if adapter_names(pair):
            save_with_adapters(pair, folder, **given)
        else:
            save_copilot_alone(pair, folder, **given)
        if given["tokenizer"] is not None:
            given["tokenizer"].save_pretrained(folder)
        token, revision = commit["token"], commit["revision"]
        repo_id = hub_api().create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        about = {"alone": True, "pilot": given["pilot"], "pilot_revision": given["pilot_revision"]}
        write_card(pair, folder, repo_id, token=token, revision=revision, **about)
        return push_folder(folder, repo_id, **commit)


def join_recorded_pilot(
    pair_class: Any, copilot: str, revision: str | None, trust_remote_code: bool, options: dict[str, Any]
) -> Any:
    """See `from_copilot` of the pair.

    Args:
        copilot (`str`): folder of a Copilot's own checkpoint, or its id on the Hub.
        revision (`str`, *optional*): branch, tag or commit of it.
        trust_remote_code (`bool`): run code of the Pilot's repository.
        options (`dict`): of the pair, and of the Pilot's `from_pretrained`.

    Raises:
        ValueError: there is no Copilot, or it names no Pilot, or a folder.
        OSError: the Pilot is not to be had.
    """
    checkpoint, joins = CopilotCheckpoint.find(copilot, revision, options), f"{pair_class.__name__}.from_pilot"
    if checkpoint is None:
        raise ValueError(
            f"{copilot} holds no Copilot's own checkpoint. If it is a Pilot, put a Copilot beside it: "
            f"{joins}({copilot!r}); if it is a pair, use from_pretrained."
        )
    name, commit = checkpoint.pairing.pilot_name_or_path, checkpoint.pairing.pilot_revision
    if name is None:
        raise ValueError(
            f"the Copilot in {copilot} does not say which Pilot it belongs to (it was trained beside one that is on no "
            f"Hub); give it: {joins}(pilot, copilot={copilot!r})."
        )
    if hub_id(name) is None:
        raise ValueError(
            f"the Copilot in {copilot} names {name!r} as its Pilot, which is a folder here, or no id on the Hub. A "
            "folder that a checkpoint names is not followed; give the Pilot yourself: "
            f"{joins}(pilot, copilot={copilot!r})."
        )
    where = {key: value for key, value in {"revision": commit, **options}.items() if key in _WHERE}
    if not trust_remote_code:
        _check_named_pilot(name, where, joins)
    at = f"revision {commit}" if commit else "its latest revision, none being recorded"
    logger.warning(f"{copilot} was trained beside {name}: loading that Pilot at {at}.")
    options = {"trust_remote_code": trust_remote_code, "revision": commit, **options}
    try:
        return pair_class.from_pilot(name, copilot=checkpoint, **options)
    except OSError as error:
        raise OSError(
            f"the Pilot {name} ({at}) that {copilot} was trained beside could not be loaded: {error}\nIf it has moved, "
            f"give its new place: {joins}('new/id', copilot={copilot!r})."
        ) from error


def _check_named_pilot(pilot: str, where: dict[str, Any], joins: str) -> None:
    """Refuse a Pilot that a checkpoint names, where transformers would fetch code for it, or follow a folder.

    Args:
        pilot (`str`): its id on the Hub.
        where (`dict`): `revision`, `token` and the like.
        joins (`str`): what the caller may use in place.

    Raises:
        ValueError: its configuration asks for it.
    """
    try:
        found, _ = PreTrainedConfig.get_config_dict(pilot, **where)
        adapter = find_adapter_config_file(pilot, **where)
    except OSError:  # loading it says why
        return
    refuse_kernels(found, pilot)
    refuse_kernel_method(found, pilot)
    if adapter is not None and hub_id(_base_of(adapter)) is None:
        raise ValueError(
            f"the Pilot {pilot} has an adapter whose base is {_base_of(adapter)!r}, a folder or no id on the Hub, "
            f"which is not followed. Load both and give the PeftModel: {joins}(model, copilot=...)."
        )


def _base_of(adapter_config: str) -> Any:
    """The model that an adapter's file names as the one below it; `None` where it can't be read."""
    try:
        values = json.loads(Path(adapter_config).read_text(encoding="utf-8"))
    except ValueError:
        return None
    return values.get("base_model_name_or_path") if isinstance(values, dict) else None


def put_adapters(pair: PilotCopilotPreTrainedModel, pilot: Any, copilot: Any, train_new_parts: bool) -> None:
    """See `add_adapters` of the pair.

    Args:
        train_new_parts (`bool`): whether the Copilot's new parts learn whole.
    """
    if pilot is not None:
        put_adapter(pair, "pilot", pilot)
    if copilot is not None:
        put_adapter(pair, "copilot", copilot)
        decoder = chosen("form", pair.copilot.config.form) == "decoder"  # the other forms are made of the Pilot alone
        for name, parameter in pair.copilot.named_parameters():
            if train_new_parts and decoder and not name.startswith(_COPIED):
                parameter.requires_grad_(True)
    pair.train(pair.training)


def save_with_adapters(pair: PilotCopilotPreTrainedModel, folder: str | os.PathLike, **given: Any) -> None:
    """See `save_adapters` of the pair.

    Args:
        folder (`str`): the checkpoint's folder; made where it does not exist.
        **given: `tokenizer`, `pilot` and `pilot_revision`.

    Raises:
        ValueError: there is no adapter, or the Pilot's own weights learn or were changed too and would be lost.
    """
    if not adapter_names(pair):
        raise ValueError("the pair has no adapter; `save_copilot` saves the Copilot alone, `save_pretrained` all.")
    start = (
        start_that_changes_base(pair.pilot.peft_config[adapter_name(pair.pilot)]) if has_adapter(pair.pilot) else None
    )
    if start is not None:
        raise ValueError(
            f"the Pilot's adapter was started with `init_lora_weights={start!r}`, which took a part out of the Pilot's "
            "own weights, so the adapter alone does not belong to the Pilot as it was: save the pair whole with "
            "`save_pretrained`, or `merge_adapters` first."
        )
    lost = learns_outside_adapter(pair.pilot)
    if lost:
        raise ValueError(
            f"{len(lost)} of the Pilot's own weights learn too, {lost[0]} first, and adapters would lose what they "
            "learnt: save the pair whole with `save_pretrained`, or `freeze_pilot()` if they never changed."
        )
    write_copilot(pair, folder, **given, with_adapters=True)


__all__ = ["join_recorded_pilot", "push_copilot_alone", "put_adapters", "save_copilot_alone", "save_with_adapters"]
