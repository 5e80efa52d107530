"""The tables of results, from hand-made lines: what is bold, and what is left empty."""

import pytest

from benchmarks.experiments.figures import points
from benchmarks.experiments.finish_table import finish_table
from benchmarks.experiments.statistics import Gain
from benchmarks.experiments.tables import comparison_table, gain_text


def line(name: str, memory: int, **models: list[float]) -> dict:
    """A run's line, measured in nats a token."""
    tokens = {"loss": 1.0, "mistake_size": 0.5, "top1": 0.5, "tokens": 3}
    return {
        "experiment": "tiny",
        "task": "mawps",
        "measure": "tokens",
        "seed": 0,
        "name": name,
        "weights": {"pilot": 1_000_000, "pair": 2_000_000, "control": 2_000_000},
        "copilot_weight": 1.0,
        "steps": 1,
        "training_memory_bytes": memory,
        "seconds": {"training": 2.0, "pilot_alone": 1.0, "pilot_answers": 1.0, "pair_answers": 1.5},
        "results": {model: {"questions": values, "tokens": tokens} for model, values in models.items()},
    }


@pytest.mark.parametrize(
    ("pair", "cell"),
    [
        ([-1.0, -1.0, -1.0], "**+1.000 [1.000, 1.000]**"),
        ([-3.0, -3.0, -3.0], "**−1.000 [−1.000, −1.000]**"),
        ([-1.0, -3.0, -2.0], "+0.000 [−1.000, 1.000]"),
    ],
)
def test_a_gain_is_bold_where_its_interval_excludes_zero_on_either_side(pair: list[float], cell: str) -> None:
    lines = [line("pair", 0, pilot=[-2.0] * 3, pair=pair), line("control:everything", 0, control=[-2.0] * 3)]
    cells = finish_table({"tiny": lines}, {"tiny": "Tiny"}).splitlines()[-1].strip("| ").split(" | ")
    assert cells[3:5] == [cell] * 2


def test_the_figure_shows_every_variant_and_every_rival_at_its_cost() -> None:
    made = line("linear", 0, pilot=[-2.0] * 3, pair=[-1.5] * 3)
    rival = line("control:further", 0, control=[-1.25] * 3)
    found = points([{**made, "seconds": {"training": 90.0}}, {**rival, "seconds": {"training": 180.0}}])
    assert [each[:3] for each in found] == [("linear", 1.5, 0.5), ("Pilot, trained on", 3.0, 0.75)]


def test_the_most_memory_of_a_training_is_shown_where_it_was_recorded() -> None:
    values = {"pilot": [-2.0] * 3, "pair": [-1.0] * 3}
    lines = [line("pair", 1_230_000_000, **values), {**line("pair", 3_450_000_000, **values), "seed": 1}]
    lines += [{**line("control:longer", 0, control=[-2.0] * 3), "seed": seed} for seed in (0, 1)]
    pair, longer = comparison_table(lines).splitlines()[-2:]
    assert pair.endswith("| 2.00 | 3.5 GB |") and longer.endswith("| 2.00 |  |")


def test_an_interval_beside_zero_shows_its_side() -> None:
    assert gain_text(Gain(0.0024, 0.00008, 0.0051, None), 1.0, 3) == "+0.0024 [0.0001, 0.0051]"
    assert gain_text(Gain(-0.002, -0.004, -0.0004, None), 1.0, 3) == "−0.0020 [−0.0040, −0.0004]"
    assert gain_text(Gain(0.0024, 0.001, 0.0051, None), 1.0, 3) == "+0.002 [0.001, 0.005]"
    assert gain_text(Gain(0.0, 0.0, 0.0, None), 1.0, 3) == "+0.000 [0.000, 0.000]"
    assert gain_text(Gain(0.0111, -0.00001, 0.0264, None), 1.0, 3) == "+0.011 [−0.000, 0.026]"
    assert gain_text(Gain(0.003, -0.0003, 0.007, None)) == "+0.30 [−0.03, 0.70]"


def test_a_copilot_that_learns_after_its_pilot_stands_beside_each_rival_that_all_seeds_have() -> None:
    values = {"pilot": [-2.0] * 3, "pair": [-1.0] * 3}
    lines = [{**line(name, 0, **values), "seed": seed} for name in ("linear", "branch") for seed in (0, 1)]
    lines += [{**line("control:everything", 0, control=[-0.5] * 3), "seed": seed} for seed in (0, 1)]
    lines += [line("control:further", 0, control=[-1.5] * 3)]  # of one seed only
    linear, branch = finish_table({"tiny": lines}, {"tiny": "Tiny"}).splitlines()[2:]
    cells = linear.strip("| ").split(" | ")
    assert cells[:4] == ["Tiny: mawps (2 seeds)", "linear", "−2.000", "**+1.000 [1.000, 1.000]**"]
    assert cells[4] == "**−0.500 [−0.500, −0.500]**" and cells[5] == "" and cells[-1] == "2.00"
    assert branch.startswith("| Tiny: mawps (2 seeds) | branch |")


def test_marks_stand_in_percent_after_the_likelihoods_of_the_right_answers() -> None:
    made = line("linear", 0, pilot=[0.0, 0.0], pair=[1.0, 0.0])
    for model in made["results"].values():
        model["likelihoods"] = [-1.0, -2.0]
    likely, marked = finish_table({"tiny": [{**made, "measure": "answers"}]}, {"tiny": "Tiny"}).splitlines()[2:]
    assert likely.startswith("| Tiny: mawps (1 seed) | linear | −1.500 | +0.000")
    assert marked.startswith("| Tiny: mawps, % (1 seed) | linear | 0.0 | +50.0")
