"""Modules that only the installed package has: those that build, train and publish pairs.

The code that is stored beside a checkpoint is what loading and generating needs. transformers finds it by following
`from .module import name`, so what is to stay behind is imported here by name instead, when it is called for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .version import __version__


def install_advice(extra: str | None = None, upgrade: bool = False) -> str:
    """How this package is installed, for messages: it is on no index.

    Args:
        extra (`str`, *optional*): what is to come with it, such as `"report"`.
        upgrade (`bool`, *optional*, defaults to `False`): in the place of an earlier version.

    Returns:
        `str`: the command, and where to run it.
    """
    what = "." if extra is None else f"'.[{extra}]'"
    clone = "an up-to-date clone" if upgrade else "a clone"
    return f"`python -m pip install {'--upgrade ' if upgrade else ''}{what}` in {clone} of the package's repository"


def package_part(module: str) -> Any:
    """A module of the installed package.

    Args:
        module (`str`): its name inside the package, e.g. `"pair_building"`.

    Returns:
        The module.

    Raises:
        ImportError: only the code of a checkpoint runs here (`trust_remote_code=True`), and it has no such module.
    """
    try:
        return import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        raise ImportError(
            "the code of a checkpoint loads a pair and generates with it; for more install the package "
            f"transformers_copilot: {install_advice()} (this checkpoint's code is of version {__version__})."
        ) from error


__all__ = ["install_advice", "package_part"]
