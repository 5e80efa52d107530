"""Where a checkpoint comes from, in words that can be published: Hub ids, no folders; and by which version."""

from __future__ import annotations

import os
import re
from typing import Any

from huggingface_hub import ResolvedRevision
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from packaging.version import InvalidVersion, Version
from transformers import PreTrainedConfig

from .installed_package import install_advice
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
        config_class (`type`): the configuration's class.

    Returns:
        `list[str]`
    """
    known = {*config_class.__dataclass_fields__, *dir(config_class), *_OF_TRANSFORMERS}
    return sorted(name for name in values if name not in known and not name.startswith("_"))


def without_paths(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values without `_name_or_path`, at any depth.

    Args:
        values (`dict`): of a configuration inside a pair's.

    Returns:
        `dict`
    """
    return {
        name: without_paths(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if name != "_name_or_path"
    }


__all__ = ["commit_of", "hub_id", "is_newer", "unknown_fields", "upgrade_advice", "without_paths"]
