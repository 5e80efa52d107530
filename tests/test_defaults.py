"""The defaults are those of the ablation, and the page that says so has the code's."""

import re
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from experiment_choices import changes_of, choices_table, default_of, likelihoods  # noqa: E402
from experiment_spec import Experiment, read_experiment  # noqa: E402


ABLATIONS = sorted((ROOT / "benchmarks" / "experiments").glob("ablation_*.yaml"))
ROW = re.compile(r"^\| (`[^|]+`) \| (`[^|]+`) \| `", re.MULTILINE)


def base_value(spec: Experiment, option: str) -> object:
    """What an option is in the ablation's first variant."""
    copilot = spec.pair.get("copilot", {})
    given = {**spec.pair, **spec.training, **copilot}
    layers = spec.pilot["config"]["num_hidden_layers"]
    if option == "num_hidden_layers":  # a new Copilot has no more layers than its Pilot
        return default_of(option) if copilot.get(option) == min(default_of(option), layers) else copilot.get(option)
    return given.get(option, default_of(option))


def test_there_are_two_ablations_on_real_tasks():
    assert {read_experiment(path).task for path in ABLATIONS} == {"gsm8k", "mawps"}


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_starts_from_the_defaults(path: Path):
    spec = read_experiment(path)
    changed = 0
    for variant in spec.variants[1:]:
        for option, value in changes_of(variant):
            assert base_value(spec, option) == default_of(option), f"{variant.name}: {option}"
            changed += value != default_of(option)
    assert changed >= len(spec.variants) - 1


def test_the_page_names_the_codes_defaults():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = page.partition("<!-- table: choices")[2].partition("<!-- /table -->")[0]
    rows = ROW.findall(table)
    assert len(rows) >= 15
    for options, defaults in rows:
        names, values = (re.findall(r"`([^`]+)`", cell) for cell in (options, defaults))
        assert values == [str(default_of(name)) for name in names], names
    wanted = {"fusion", "objective", "rationale_window", "rationale_pooling", "head", "error_feedback"}
    assert wanted <= {name for options, _ in rows for name in re.findall(r"`([^`]+)`", options)}


def line(seed: int, name: str, values: list[float]) -> dict[str, object]:
    """A run's result as the table reads it."""
    return {"seed": seed, "name": name, "results": {"pair": {"questions": values}}}


def test_a_change_is_weighed_against_the_defaults_on_the_same_questions():
    spec = read_experiment(ROOT / "benchmarks" / "experiments" / "ablation_gsm8k.yaml")
    lines = []
    for seed in (0, 1):
        lines.append(line(seed, "base", [-2.0, -3.0, -1.0]))
        lines.append(line(seed, "layers_2", [-1.75, -2.75, -0.75]))
        lines.append(line(seed, "window_current", [-2.0, -3.5, -0.5]))
    table = choices_table([(spec, lines)]).splitlines()
    assert table[0] == "| option | default | instead | gsm8k |"
    assert "| `num_hidden_layers` | `6` | `2` | **+0.250 [0.250, 0.250]** |" in table
    (window,) = (row for row in table if "rationale_window" in row)
    assert window.startswith("| `rationale_window` | `preceding` | `current` | +0.000 [−0.") and "**" not in window
    assert len(table) == 4  # what has not been run is no row


def test_answers_are_weighed_by_their_likelihoods():
    made = {"questions": "01", "likelihoods": [-1.0, -0.5]}
    found = likelihoods([{"seed": 3, "name": "base", "results": {"pair": made}}], "base")
    assert found[3].tolist() == [-1.0, -0.5]
