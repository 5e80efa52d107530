"""Everything that the README tells a user to run does run, and it names every option there is."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_copilot.configuration_pilot_copilot import OPTION_VALUES, PAPER_OPTIONS
from transformers_copilot.training_args_copilot import CopilotArguments


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The lines of the README's shell blocks, without comments."""
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


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


def test_python_blocks_run_one_after_the_other(tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    found = blocks("python")
    assert len(found) >= 4
    script.write_text("\n".join(f"{block}\nprint('block {n} ran')" for n, block in enumerate(found)), encoding="utf-8")
    done = run_script(script)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"block {len(found) - 1} ran" in done.stdout
    assert "with the Copilot: 8" in done.stdout  # the larger of 3 and 8


def test_first_example_is_short() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 16


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    done = subprocess.run([*command.split(), "-n"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    scripts = re.findall(r"\b((?:examples|benchmarks)/\w+\.py)", done.stdout)
    assert all((ROOT / script).is_file() for script in scripts)


def test_every_shell_command_is_known_here() -> None:
    known = {"python -m pip install ."}
    unknown = [line for line in commands() if not line.startswith("make ") and line not in known]
    assert not unknown, "teach this test how to check them"


def test_extras_that_are_named_exist() -> None:
    extras = set(re.findall(r'"\.\[(\w+)\]"', README))
    packaging = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert extras and all(f'"{extra}": [' in packaging for extra in extras)


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"\b((?:examples|benchmarks|tests|docs|transformers_copilot)/[\w/]+\.\w+)", README))
    assert named and all((ROOT / name).is_file() for name in named)


def test_make_demo_quick(tmp_path: Path) -> None:
    assert "make demo " in "\n".join(blocks("bash"))
    done = run_script(ROOT / "examples" / "demo.py", "--quick", "--output_dir", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Pilot + Copilot" in done.stdout


def test_every_option_is_in_the_readme() -> None:
    for name in (*PAPER_OPTIONS, "head", *(field.name for field in dataclasses.fields(CopilotArguments))):
        assert f"`{name}`" in README, f"the README does not say what {name} is"
    for values in OPTION_VALUES.values():
        assert all(f'`"{value}"`' in README for value in values)


def test_defaults_of_the_readme_are_those_of_the_code() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(CopilotArguments)}
    for name, stated in re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", README, re.MULTILINE):
        default = defaults.get(name)
        if default is not None:
            number = stated.split(" ")[0].strip('`"').replace(",", "")
            assert number == str(default), name
