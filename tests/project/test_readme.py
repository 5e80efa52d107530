"""Everything that README and docs tell a user to run does run, and the README names every option there is."""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.ci_programs import ci_program
from tests.helpers.hub_server import HubServer
from tests.helpers.page_blocks import PAGES, ROOT, blocks, commands, run_blocks, runs
from transformers_copilot.commands.main import COMMANDS as SUBCOMMANDS
from transformers_copilot.commands.main import main
from transformers_copilot.pair.options import COPILOT_OPTIONS, PAIR_OPTIONS, Option
from transformers_copilot.training.arguments import CopilotArguments


versions = ci_program("versions")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS, TRAINING = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("options", "training"))
RESULTS = ROOT / "benchmarks" / "results"
MOST_WORDS = 900
COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
INSTALL = versions.install_lines()


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        cwd=script.parent,
        env=environment,
        timeout=600,
    )


def outputs(page: str) -> list[str]:
    """The output that a page shows under its Python blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n(?:(?!```).*\n)*```\n\n```text\n((?:(?!```).*\n)*)```$", text, re.MULTILINE)
    return [output for output in shown if not output.startswith("transformers-copilot ")]


def any_number(text: str) -> str:
    """A text with 0 for each of its numbers: how a training ends differs a little with the versions of its parts."""
    return re.sub(r"\d[\d,.]*", "0", text)


@pytest.mark.parametrize(("page", "with_hub"), [(page, with_hub) for page in PAGES for with_hub in runs(page)])
def test_python_blocks_run_one_after_the_other(page: str, with_hub: bool, tmp_path: Path) -> None:
    hub = HubServer() if with_hub else None
    if hub is not None:
        hub.start()
    done = run_blocks(page, tmp_path, hub, PYTHONPATH=str(ROOT))
    if hub is not None:
        hub.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    left_out = 0 if with_hub else sum(block.needs_hub for block in blocks(page, "python"))
    assert f"all {len(blocks(page, 'python')) - left_out} blocks ran" in done.stdout
    if page == "README.md":
        assert "the larger of 3 and 8: 8" in done.stdout
    printed = iter(any_number(done.stdout).splitlines())
    for line in "".join(outputs(page)).splitlines():
        assert any_number(line) in printed, f"the page shows {line!r}, in vain among\n{done.stdout[-3000:]}"
    for stated in re.findall(r"^# (\{.*\})$", "\n".join(block.code for block in blocks(page, "python")), re.MULTILINE):
        assert stated in done.stdout, "the page states another result"


def test_nearly_all_python_blocks_need_nothing() -> None:
    found = [block for page in PAGES for block in blocks(page, "python")]
    assert len(found) >= 16 and sum(block.needs_hub for block in found) <= 2
    fences = sum((ROOT / page).read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert len(found) == fences, "a block is written in a way that the tests don't see"


def test_first_example_is_short() -> None:
    lines = [
        line for line in blocks("README.md", "python")[0].code.splitlines() if line.strip() and not line.startswith("#")
    ]
    assert len(lines) <= 16


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", [command for _, command in COMMANDS if command.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run(
        [*shlex.split(command, comments=True), "-n"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    scripts = re.findall(r"\b((?:examples|benchmarks)/\w+\.py)", done.stdout)
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize(("page", "command"), [each for each in COMMANDS if not each[1].startswith("make ")])
def test_every_shell_command_is_there(page: str, command: str) -> None:
    words = shlex.split(command)
    if command in INSTALL:
        return  # `make test-installed` runs them
    if words[:2] == ["accelerate", "launch"]:
        configured, module = words[words.index("--config_file") + 1], words[words.index("-m") + 1]
        assert (ROOT / configured).is_file() and importlib.util.find_spec(module)
        return
    assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]), "teach this test how to check it"


def test_commands_that_are_named_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"`transformers-copilot (\w+)", text)) <= set(SUBCOMMANDS)
        scripts = set(re.findall(r"`(?:python )?((?:examples|benchmarks)/[\w/]+\.\w+)", text))
        assert all((ROOT / script).is_file() for script in scripts)
        targets = set(re.findall(r"`make ([\w-]+)", text))
        assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def own_commands() -> list[str]:
    """Every line of a page that calls this package's command line, continued ones as one."""
    found = []
    for page in PAGES:
        lines = "\n".join(block.code for block in blocks(page, "text", "bash", "sh"))
        found += [line for line in lines.replace("\\\n", " ").splitlines() if line.startswith("transformers-copilot ")]
    return found


@pytest.mark.parametrize("command", own_commands())
def test_commands_on_the_pages_have_only_options_that_are_there(command: str, capsys: pytest.CaptureFixture) -> None:
    name, *words = shlex.split(command)[1:]
    assert main([name, "--help-all" if name == "train" else "--help"]) == 0
    page = capsys.readouterr().out
    for option in (word for word in words if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){option}\b", page), f"`{name}` has no option {option}"
    assert words[0].startswith("-") != ("positional arguments:" in page), f"`{name}` takes an argument first, or none"


def test_install_is_two_lines_that_ci_runs() -> None:
    assert len(INSTALL) == 2 and INSTALL[1] == "python -m pip install ."
    torch_line = re.fullmatch(r"python -m pip install (torch==[\d.]+)", INSTALL[0])
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert torch_line is not None and torch_line[1] in constraints
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test-installed" in ci and "make test-oldest" in ci


def test_extras_that_are_named_exist() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    extras = set(re.findall(r'"\.\[(\w+)\]"', text))
    assert extras and versions.ranges(*extras)


def test_files_that_are_named_exist() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in (*PAGES, "CONTRIBUTING.md"))
    named = set(re.findall(r"(?<![\w/])((?:examples|benchmarks|tests|docs|transformers_copilot)/[\w/]+\.\w+)", text))
    missing = [name for name in named if not (ROOT / name).is_file()]
    assert named and not missing, missing


def test_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "transformers_copilot"
    folders = {file.parent.name for file in package.rglob("__init__.py")} - {package.name}
    assert set(re.findall(r"`(\w+)/`", text)) == folders
    for row in (row for row in text.splitlines() if row.startswith("| `")):
        folder, files = re.findall(r"`(\w+)/`", row)[0], re.findall(r"`(\w+\.py)`", row)
        assert all((package / folder / file).is_file() for file in files), (folder, files)
    named = re.findall(r"`(\w+/\w+\.py)`", text)
    assert len(named) > 10 and all((package / name).is_file() for name in named), named


def test_the_readmes_figures_are_those_of_the_results() -> None:
    lines = [json.loads(line) for line in (RESULTS / "finish_mawps.jsonl").read_text(encoding="utf-8").splitlines()]
    made = {name: [line["results"] for line in lines if line["name"] == name] for name in {x["name"] for x in lines}}
    rows = re.findall(r"^\| .* \| ([\d.]+) \| \**([\d.]+)\** \| ([\d.]+) → ([\d.]+) % \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for name, row in zip(("linear", "same", "together"), rows, strict=True):
        losses = [np.mean([seed[model]["tokens"]["loss"] for seed in made[name]]) for model in ("pilot", "pair")]
        right = [np.mean([_share(seed[model]) for seed in made[name]]) for model in ("pilot", "pair")]
        assert list(row) == [*(f"{loss:.3f}" for loss in losses), *(f"{100 * share:.1f}" for share in right)]
    for name in ("further_lora", "everything_longer"):
        rival = [seed["control"] for seed in made[f"control:{name}"]]
        reached = f"{np.mean([seed['tokens']['loss'] for seed in rival]):.3f}"
        assert f"reaches {reached} and {100 * np.mean([_share(seed) for seed in rival]):.1f} %" in " ".join(
            README.split()
        )


def _share(measured: dict[str, Any]) -> float:
    """The share of right answers in a line of results."""
    return measured["questions"].count("1") / len(measured["questions"])


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.partition("\n## More\n")[0].split()) <= MOST_WORDS


def test_make_demo_quick(tmp_path: Path) -> None:
    assert "make demo" in [command for _, command in COMMANDS]
    done = run_script(ROOT / "examples" / "demo.py", "--quick", "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Pilot + Copilot" in done.stdout


def test_every_training_argument_is_explained() -> None:
    for name in (field.name for field in dataclasses.fields(CopilotArguments)):
        assert f"`{name}`" in TRAINING, f"docs/training.md does not say what {name} is"


@pytest.mark.parametrize("option", [*COPILOT_OPTIONS.values(), *PAIR_OPTIONS.values()], ids=lambda option: option.name)
def test_the_table_of_options_is_the_registrys(option: Option) -> None:
    cell = r" ([^|]*) \|"
    (row,) = re.findall(rf"^\| `{option.name}` \|{4 * cell}$", OPTIONS, re.MULTILINE)
    values, paper, default, about = row
    if option.values is not None:
        assert set(re.findall(r'`"(\w+)"`', values)) == set(option.values)
    assert paper.startswith(str(option.paper)) or paper.startswith(f"`{option.paper}`")
    assert option.default is None or default.startswith(str(option.default))
    assert about == option.about


def test_stated_defaults_are_those_of_the_code() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(CopilotArguments)}
    for name, stated in re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", TRAINING, re.MULTILINE):
        default = defaults.get(name)
        if default is not None:
            number = stated.split(" ")[0].strip('`"').replace(",", "")
            assert number == str(default), name
