"""What only the installed package can do: build, train and publish pairs.

The code that is stored beside a checkpoint is what loading and generating needs. transformers finds it by following
`from .module import name`. A method that needs more of the package imports it when it is called, in a `try`: what
stands there, transformers does not ask for when it checks what a checkpoint's code imports.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Any, TypeVar

from .version import __version__


_PACKAGE = "transformers_copilot"
_Method = TypeVar("_Method", bound=Callable[..., Any])


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


def in_package() -> bool:
    """Whether this is the installed package, and not the code of a checkpoint that `trust_remote_code=True` loaded."""
    return __package__ == f"{_PACKAGE}.pair"


def package_only(method: _Method) -> _Method:
    """Refuse a method in the code of a checkpoint: what it needs does not lie beside the weights.

    Args:
        method (callable): of a pair; it needs what a checkpoint does not carry.

    Returns:
        The method. In code that `trust_remote_code=True` has loaded it raises an `ImportError` that says what to do.
    """

    @wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        """See the method."""
        if not in_package():
            raise ImportError(needs_package())
        return method(*args, **kwargs)

    return checked  # type: ignore[return-value]


def needs_package() -> str:
    """What the code of a checkpoint says where the installed package is needed.

    Returns:
        `str`: how to get it; where it is installed already, that it has to be imported before the pair is loaded.
    """
    try:
        installed = find_spec(_PACKAGE) is not None
    except ImportError:  # something keeps it from being imported
        installed = False
    version = f"here of version {__version__}"
    advice = f"install the package {_PACKAGE}: {install_advice()}"
    if installed:
        advice = f"`import {_PACKAGE}` before the pair is loaded, and load it without `trust_remote_code`"
    return f"the code of a checkpoint ({version}) loads a pair and generates with it; for more {advice}."


def advice_for_own_code(model: Any) -> str | None:
    """What to do where the package is given a pair that it did not load.

    Args:
        model: anything.

    Returns:
        `str`: for a pair whose class came with its checkpoint, by `trust_remote_code=True`. `None` for anything else.
    """
    foreign = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.partition(".")[0] != _PACKAGE]
    if "PilotCopilotPreTrainedModel" not in foreign:
        return None
    return (
        f"the model is a {type(model).__name__} of its checkpoint's own code: it was loaded with "
        f"`trust_remote_code=True` before {_PACKAGE} was imported. That code loads and generates only. "
        f"`import {_PACKAGE}` first, and load the pair again with the package's class: "
        f"`{_PACKAGE}.{type(model).__name__}.from_pretrained(...)`."
    )


__all__ = ["advice_for_own_code", "in_package", "install_advice", "needs_package", "package_only"]
