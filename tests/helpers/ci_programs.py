"""The programs of `.ci`, as modules: a folder of that name can't be imported from."""

import importlib.util
from types import ModuleType

from tests.helpers.paths import ROOT


def ci_program(name: str) -> ModuleType:
    """The program `.ci/{name}.py`, loaded and not run."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
