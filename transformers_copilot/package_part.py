"""Modules that only the installed package has: those that build, train and publish pairs.

The code that is stored beside a checkpoint is what loading and generating needs. transformers finds it by following
`from .module import name`, so what is to stay behind is imported here by name instead, when it is called for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .version import __version__


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
            f"the code of a checkpoint loads a pair and generates with it; for more install the package: "
            f"`pip install transformers_copilot` (this checkpoint's code is of version {__version__})."
        ) from error


__all__ = ["package_part"]
