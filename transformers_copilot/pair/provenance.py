"""Where a checkpoint comes from, in words that can be published: Hub ids, no folders; by which version; and whether its
configuration is the one that its weights were saved with."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ResolvedRevision
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from packaging.version import InvalidVersion, Version
from transformers import PreTrainedConfig

from .foreign_code import refuse_kernels
from .installed_package import install_advice
from .saved_files import CHECKSUMS, READING_ERRORS
from .version import __version__


# Keys that transformers puts into any configuration's file beside its fields.
_OF_TRANSFORMERS = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "name_or_path",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
)
FINGERPRINT = "fingerprint"
# The same of files that call something else by that name.
FIELDS_FINGERPRINT = "fields_fingerprint"
# What a configuration's fingerprint leaves out, at any depth: what may be set on a saved pair, and what transformers
# and the Hub write or change. None of it makes other weights, or another meaning of them.
_SET_FREELY = {
    *("attn_implementation", "auto_map", "experts_implementation", "name_or_path", "quantization_config"),
    *("_commit_hash", "_name_or_path", "architectures", "copilot_weight", "copilot_weight_fit"),
    *("id2label", "label2id", "transformers_copilot_version"),
    *("torch_dtype", "transformers_version", CHECKSUMS, FIELDS_FINGERPRINT),
}
# In a configuration it is a note; in `pairing.json` it says which Pilot is fetched.
_NOTED = ("pilot_name_or_path", "pilot_revision", FINGERPRINT)
_DIGITS = 6


def hub_id(name_or_path: str | None) -> str | None:
    """The name, if it is a Hub id and no folder: a path of one machine says nothing on another.

    Args:
        name_or_path (`str`, *optional*): what a model was loaded from.

    Returns:
        `str` or `None`
    """
    if not name_or_path or os.path.exists(name_or_path):
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:
        return None
    return name_or_path


def commit_of(revision: str | None) -> str | None:
    """The commit that a revision stands for.

    Args:
        revision (`str`, *optional*): a branch, tag or commit, as transformers' `resolve_revision` returned it.

    Returns:
        `str`, or `None` where it is a name that nobody has looked up.
    """
    if isinstance(revision, ResolvedRevision):
        return revision.resolved
    return revision if revision is not None and re.fullmatch("[0-9a-f]{40}", revision) else None


def is_newer(version: str | None) -> bool:
    """Whether a checkpoint was written by a later version of the package than this one.

    Args:
        version (`str`, *optional*): the version in its configuration.

    Returns:
        `bool`
    """
    if version is None:
        return False
    try:
        return Version(version) > Version(__version__)
    except InvalidVersion:
        return False


def upgrade_advice(version: str | None) -> str:
    """What to do about a checkpoint of a later version.

    Args:
        version (`str`, *optional*): the version in its configuration.

    Returns:
        `str`
    """
    return (
        f"The checkpoint was written by transformers_copilot {version}, and this is {__version__}: "
        f"{install_advice(upgrade=True)}."
    )


def unknown_fields(values: dict[str, Any], config_class: type[PreTrainedConfig]) -> list[str]:
    """Names of values that neither this version's configuration nor transformers knows.

    Args:
        values (`dict`): of a configuration's file.
        config_class (`type`): the class that is to read them; its fields are known.

    Returns:
        `list[str]`
    """
    known = {*config_class.__dataclass_fields__, *dir(config_class), *_OF_TRANSFORMERS, FINGERPRINT, CHECKSUMS}
    return sorted(name for name in values if name not in known and not name.startswith("_"))


def without_paths(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values without the place that it was loaded from, at any depth.

    Args:
        values (`dict`): of a configuration inside a pair's.

    Returns:
        `dict`
    """
    return {
        name: without_paths(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name not in ("_name_or_path", "name_or_path")
    }


def with_fingerprint(file: str) -> str:
    """A configuration's file with what tells later that it was changed.

    Args:
        file (`str`): the JSON text that is to be written.

    Returns:
        `str`: the same with one more field, some digits of each field's SHA-256.
    """
    values = json.loads(file)
    return json.dumps({**values, FINGERPRINT: _digits(values, FINGERPRINT)}, indent=2, sort_keys=True) + "\n"


def fields_fingerprint(values: dict[str, Any]) -> dict[str, str]:
    """What tells later that a file was changed that is no configuration.

    Args:
        values (`dict`): as they are written.

    Returns:
        `dict`: some digits of each field's SHA-256, to be written as `FIELDS_FINGERPRINT`.
    """
    return _digits(json.loads(json.dumps(values)), FIELDS_FINGERPRINT)


def check_unchanged(
    values: dict[str, Any], file: str = "config.json", key: str = FINGERPRINT, saved_in: str = "the file"
) -> dict[str, Any]:
    """Refuse a file that was changed after it was saved. What reads it would read others.

    Args:
        values (`dict`): of the file. One of a version before 0.2 has no fingerprint and is taken as it is.
        file (`str`, *optional*, defaults to `"config.json"`): its name, for messages.
        key (`str`, *optional*, defaults to `"fingerprint"`): what the fingerprint is called in it.
        saved_in (`str`, *optional*, defaults to `"the file"`): where the fingerprint was, if elsewhere.

    Returns:
        `dict`: the same without the fingerprint.

    Raises:
        ValueError: a field was changed, added or taken out; the message names it.
    """
    rest = {name: value for name, value in values.items() if name != key}
    saved = values.get(key)
    if saved is None:
        return rest
    if not isinstance(saved, dict):
        raise ValueError(
            f"`{key}` in {file} is {str(saved)[:60]!r}; expected an object with digits of each field. Save or download "
            "it again."
        )
    found = _digits(rest, key)
    for name in sorted(saved.keys() | found.keys()):
        if saved.get(name) != found.get(name):
            how = "was taken out" if name not in found else "was added" if name not in saved else "was changed"
            raise ValueError(
                f"`{name}` in {file} {how} after it was saved, so it may not fit the numbers beside it any more. Undo "
                f"the change, or save or download both again. If you mean it, take `{key}` out of {saved_in}."
            )
    return rest


class Fingerprinted:
    """Put before `PreTrainedConfig`: a configuration whose file tells when it was changed after it was saved."""

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """Write the file, with its fingerprint.

        Args:
            json_file_path (`str`): the file, `config.json` of a checkpoint.
            use_diff (`bool`, *optional*, defaults to `True`): leave out what transformers' own defaults say.
        """
        text = cast(PreTrainedConfig, self).to_json_string(use_diff=use_diff)
        Path(json_file_path).write_text(with_fingerprint(text), encoding="utf-8")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make one of a file's values, if they are those that were saved.

        Args:
            config_dict (`dict`): the file's values, its fingerprint among them.
            **kwargs: values that win over the file's, as of any configuration.

        Returns:
            The configuration.

        Raises:
            ValueError: a field can't be used, or was changed after the weights were saved, or asks for code that has to
                be fetched; the message names it.
        """
        values = check_unchanged(config_dict)
        values.pop(CHECKSUMS, None)  # of the weights, which are read later
        refuse_kernels(values)
        # A place that a file names is never followed.
        values = {name: without_paths(value) if isinstance(value, dict) else value for name, value in values.items()}
        try:
            return super().from_dict(values, **kwargs)  # type: ignore[misc]
        except READING_ERRORS as error:
            raise ValueError(f"config.json, or an option given in its place, can't be used: {error}") from error


def _digits(values: dict[str, Any], key: str, prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if name in _SET_FREELY or name.endswith("_implementation") or (key == FINGERPRINT and name in _NOTED):
            continue
        if isinstance(value, dict) and value:
            found |= _digits(value, key, f"{prefix}{name}.")
        else:
            text = json.dumps(value, sort_keys=True)
            found[prefix + name] = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return found


__all__ = [
    "FIELDS_FINGERPRINT",
    "Fingerprinted",
    "check_unchanged",
    "commit_of",
    "fields_fingerprint",
    "hub_id",
    "is_newer",
    "unknown_fields",
    "upgrade_advice",
    "with_fingerprint",
    "without_paths",
]
