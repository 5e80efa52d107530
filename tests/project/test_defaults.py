"""The defaults are those of the ablation, and the page that says so has the code's."""

import json
import re

import pytest

from benchmarks.experiments.choices import (
    base_of,
    changes_of,
    choices_table,
    default_of,
    likelihoods,
    winners,
)
from benchmarks.experiments.spec import Experiment, read_experiment
from benchmarks.experiments.store import ResultStore, of_one_loss
from tests.helpers.paths import ROOT
from transformers_copilot import CopilotConfig, PilotCopilotConfig, PilotCopilotForCausalLM


ABLATIONS = sorted((ROOT / "benchmarks" / "experiments" / "descriptions").glob("options_*.yaml"))
# What Copilots learn from one record of SmolLM2 decides these: there the sizes are those of use.
DECIDED_BY_RECORD = ("error_feedback", "form")
RECORDED = ROOT / "benchmarks" / "results" / "recorded_forms.jsonl"
# What a cheaper input may lose, in nats a token, and be the default all the same.
WORTH_ITS_COST = 0.01
ROW = re.compile(r"^\| (`[^|]+`) \| `[^|]+` \| `[^|]+` \|.*\| (`[^|]+`) \|$", re.MULTILINE)


def ablations() -> list[tuple[Experiment, list[dict]]]:
    """The experiments with their committed results."""
    results = ROOT / "benchmarks" / "results"
    stores = [ResultStore(results / f"{path.stem}.jsonl") for path in ABLATIONS]
    return [(read_experiment(path), of_one_loss(store.read())) for path, store in zip(ABLATIONS, stores, strict=True)]


def test_there_are_two_ablations_on_real_tasks():
    assert {spec.task for spec, _ in ablations()} == {"gsm8k", "mawps"}
    for spec, lines in ablations():
        assert {line["seed"] for line in lines if line["name"] == "base"} >= {0, 1, 2}, spec.experiment


def test_the_defaults_are_the_ablations_winners():
    """A change that wins on both tasks is the default; what no change beats is what the ablation started from."""
    found = ablations()
    decided = winners(found)
    for spec, _ in found:
        for variant in spec.variants[1:]:
            for option, _value in changes_of(variant):
                if option in DECIDED_BY_RECORD:
                    continue
                assert default_of(option) == decided.get(option, base_of(spec, option)), option


def recorded(variant: str) -> float:
    """The loss on dev questions at λ = 1 of a variant that was taught from the one record, in nats a token."""
    lines = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    (found,) = (line for line in lines if line["variant"] == variant)
    return found["dev"]["1"]


def test_feedback_is_the_token_as_it_costs_least_and_loses_nothing():
    lost = recorded("decoder, depths, token") - recorded("decoder, depths, observed")
    assert (PilotCopilotConfig.error_feedback == "token") == (lost <= WORTH_ITS_COST)


def test_a_new_copilot_is_linear_as_that_learns_more_than_a_decoder(tiny_pilot):
    pilot = tiny_pilot("llama")
    assert recorded("linear") < min(recorded(f"decoder, depths, {kind}") for kind in ("token", "observed"))
    assert PilotCopilotForCausalLM.from_pilot(pilot).copilot.config.form == "linear"
    assert PilotCopilotForCausalLM.from_pilot(pilot, head="pilot").copilot.config.form == "linear"


@pytest.mark.parametrize(
    "given",
    [
        {"copilot": {"num_hidden_layers": 2}},
        {"head": "own"},
        {"error_feedback": "observed"},
        {"config": PilotCopilotConfig.paper()},
        {"config": PilotCopilotConfig(copilot=CopilotConfig())},
    ],
    ids=["fields", "own head", "error_feedback", "paper", "config"],
)
def test_what_only_a_decoder_has_makes_one(tiny_pilot, given: dict):
    pair = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), **given)
    assert pair.copilot.config.form == "decoder" and pair.copilot.config.num_hidden_layers == 2


def test_the_page_names_the_codes_defaults():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = page.partition("<!-- table: choices options_")[2].partition("<!-- /table -->")[0]
    rows = ROW.findall(table)
    assert len(rows) >= 20
    for options, defaults in rows:
        names, values = (re.findall(r"`([^`]+)`", cell) for cell in (options, defaults))
        assert values == [str(default_of(name)) for name in names], names
    wanted = {"fusion", "objective", "rationale", "head", "error_feedback"}
    assert wanted <= {name for options, _ in rows for name in re.findall(r"`([^`]+)`", options)}


def line(seed: int, name: str, values: list[float]) -> dict[str, object]:
    """A run's result as the table reads it."""
    return {"seed": seed, "name": name, "results": {"pair": {"questions": values}}}


def test_a_change_is_weighed_against_the_first_variant_on_the_same_questions():
    spec = read_experiment(ROOT / "benchmarks" / "experiments" / "descriptions" / "options_gsm8k.yaml")
    lines = []
    for seed in (0, 1):
        lines.append(line(seed, "base", [-2.0, -3.0, -1.0]))
        lines.append(line(seed, "layers_6", [-1.75, -2.75, -0.75]))
        lines.append(line(seed, "current", [-2.0, -3.5, -0.5]))
    table = choices_table([(spec, lines)]).splitlines()
    assert table[0] == "| option | compared with | instead | gsm8k | default |"
    default = default_of("num_hidden_layers")
    assert f"| `num_hidden_layers` | `2` | `6` | **+0.250 [0.250, 0.250]** | `{default}` |" in table
    (window,) = (row for row in table if "rationale" in row)
    assert window.startswith("| `rationale` | `preceding` | `current` | +0.000 [−0.") and "**" not in window
    assert len(table) == 4  # what has not been run is no row


def test_only_what_wins_everywhere_and_costs_no_time_becomes_a_default():
    spec = read_experiment(ROOT / "benchmarks" / "experiments" / "descriptions" / "options_gsm8k.yaml")
    better, best, worse = [-1.5, -2.5, -0.5], [-1.0, -2.0, 0.0], [-2.5, -3.5, -1.5]
    values = {"current": better, "depths": best, "steps_4": best, "steps_4_uniform": best, "layers_6": worse}
    first = [line(0, "base", [-2.0, -3.0, -1.0])] + [line(0, name, made) for name, made in values.items()]
    second = [*first[:1], line(0, "current", worse), line(0, "depths", better), line(0, "layers_6", best)]
    assert winners([(spec, first)]) == {"rationale": "depths"}
    assert winners([(spec, first), (spec, second)]) == {"rationale": "depths"}
    assert winners([(spec, first), (spec, second[:2])]) == {}


def test_answers_are_weighed_by_their_likelihoods():
    made = {"questions": "01", "likelihoods": [-1.0, -0.5]}
    found = likelihoods([{"seed": 3, "name": "base", "results": {"pair": made}}], "base")
    assert found[3].tolist() == [-1.0, -0.5]
