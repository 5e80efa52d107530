"""Write `summary.json`, the tables of the pages in `docs/` and a figure from the results of `run.py` alone.

    python -m benchmarks.experiments.render

A table stands between `<!-- table: KIND EXPERIMENT -->` and `<!-- /table -->` in the page; what is between is replaced.
No table mixes runs of different losses of the Copilot: runs of today's loss go before older ones, and a table of
older ones says so.
"""

import argparse
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiments.choices import choices_table
from benchmarks.experiments.figures import cost_figure
from benchmarks.experiments.finish_table import finish_table
from benchmarks.experiments.paper_table import paper_table
from benchmarks.experiments.quantized_table import quantized_table
from benchmarks.experiments.spec import Experiment, read_experiment
from benchmarks.experiments.statistics import Comparison, compare, with_likelihoods
from benchmarks.experiments.store import LOSS, ResultStore, loss_of, of_one_loss
from benchmarks.experiments.tables import by_variant, comparison_table


ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
RESULTS = ROOT / "benchmarks" / "results"
# Folders of descriptions: those of `make bench` and `make bench-gpu`, and the rows of the paper's tables.
EXPERIMENTS = (HERE / "descriptions", HERE / "descriptions_gpu", ROOT / "examples" / "paper")
# Pages with tables; one that is not there is left out.
PAGES = ("results.md", "paper.md", "hub.md")
# What stands above a table whose runs were made with an older loss.
OLD_NOTE = "*Made with the old loss, which saw a part of the vocabulary; to be measured again.*"
TABLE = re.compile(r"(<!-- table: (\w+) ([\w*]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
KINDS = {
    "comparison": comparison_table,
    "likelihoods": lambda lines: comparison_table(with_likelihoods(lines)[-1]),
}


def all_experiments() -> dict[str, Experiment]:
    """The descriptions of all experiments, by name."""
    specs = [read_experiment(path) for folder in EXPERIMENTS for path in sorted(folder.glob("*.yaml"))]
    return {spec.experiment: spec for spec in specs}


def choices_of(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of [`choices_table`], with each ablation's own description."""
    specs = all_experiments()
    return choices_table([(specs[name], lines) for name, lines in results.items()])


def finished(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of [`finish_table`], with each experiment's own title."""
    return finish_table(results, titles_of(results))


def titles_of(results: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What each experiment's models are called; the experiment's name where it is not described any more."""
    specs = all_experiments()
    names = {key: lines[0]["experiment"] for key, lines in results.items()}
    return {key: specs[name].title if name in specs else name for key, name in names.items()}


def papers(results: dict[str, list[dict[str, Any]]]) -> str:
    """The table of [`paper_table`]: the rows of the paper that were run."""
    return paper_table(results, all_experiments())


# Tables of other programs' results, which no runner made.
OTHERS = {"quantized": quantized_table}
# Tables of several experiments, whose names begin as one of those that stand before a * in the mark.
GROUPS = {"choices": choices_of, "finish": finished, "paper": papers}


def read_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All experiments' results.

    Args:
        folder: Where their JSONL files are.

    Returns:
        Experiment name to its lines, of one loss each, without runs that are no longer in the experiment's description.
        Where models were tested on further tasks, each is one more experiment, `{experiment}_{task}`.
    """
    results, specs = {}, all_experiments()
    for path in sorted(folder.glob("*.jsonl")):
        lines = ResultStore(path).read()
        if not all({"experiment", "seed", "name"} <= set(line) for line in lines):
            continue  # another program's results, which lie there too
        if path.stem in specs:
            names = {name for _, name in specs[path.stem].runs()}
            lines = [line for line in lines if line["name"] in names]
        lines = results[path.stem] = of_one_loss(lines)
        others = dict.fromkeys(task for line in lines for task in line.get("other_tests", {}))
        for task in others:
            results[f"{path.stem}_{task}"] = [
                on_other_task(line, task) for line in lines if task in line["other_tests"]
            ]
    return results


def on_other_task(line: dict[str, Any], task: str) -> dict[str, Any]:
    """A run as its results on another task."""
    made = line["other_tests"][task]
    return {**line, **made, "task": task, "seconds": {**line["seconds"], **made["seconds"]}}


def summary_of(experiment: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An experiment's entry of `summary.json`, one for each variant.

    Args:
        experiment: Its name.
        lines: Its results.

    Returns:
        An entry a variant, and, where answers were marked, one of the first variant's likelihoods after its own. Scores
        are shares of right answers (`measure`: answers, choices), Hit@10 (ranking), or mean log-likelihoods of a
        target's token (tokens).
    """
    (name, made), *others = by_variant(lines).items()
    entries = [_entry(experiment, made, made.controls)]
    for shown in with_likelihoods(lines)[1:]:
        likely = compare(shown, name)
        entries.append(_entry(f"{experiment}:likelihood", likely, likely.controls))
    return entries + [_entry(f"{experiment}/{other}", its, ()) for other, its in others]


def _entry(experiment: str, made: Comparison, controls: Collection[str]) -> dict[str, Any]:
    """The entry of one variant, with some of its rivals."""
    gain, first = made.gain(), made.lines[0]
    return {
        "experiment": experiment,
        "loss": loss_of(first),
        "task": first["task"],
        "measure": first["measure"],
        "pilot": f"{first['weights']['pilot'] / 1e6:.3g}M",
        "seeds": [line["seed"] for line in made.lines],
        "questions": len(first["results"]["pair"]["questions"]),
        "pilot_score": made.mean("pilot"),
        "pair_score": made.mean("pair"),
        "gain_low": gain.low,
        "gain_high": gain.high,
        "controls": {
            name: float(np.mean([scores.mean() for scores in made.control_scores(name)])) for name in controls
        },
        "pilot_weights": first["weights"]["pilot"],
        "pair_weights": first["weights"]["pair"],
        "train_ratio": made.ratio("training", "pilot_alone"),
        "generate_ratio": made.ratio("pair_answers", "pilot_answers"),
    }


def fill_tables(page: str, results: dict[str, list[dict[str, Any]]], folder: Path = RESULTS) -> str:
    """Put the tables into a page.

    Args:
        page: Its text with the marks.
        results: All experiments' results.
        folder: Where other programs' results are.

    Returns:
        The text with the tables.

    Raises:
        ValueError: A mark names an unknown kind or an experiment without results.
    """

    def table(match: re.Match[str]) -> str:
        begin, kind, name, end = match.groups()
        if kind in OTHERS:
            return f"{begin}{OTHERS[kind](ResultStore(folder / f'{name}.jsonl').read())}\n{end}"
        if kind in GROUPS:
            chosen = {key: lines for key, lines in results.items() if any(map(key.startswith, name.split("*")[:-1]))}
            new = {key: lines for key, lines in chosen.items() if loss_of(lines[0]) == LOSS}
            return f"{begin}{_note(new or chosen)}{GROUPS[kind](new or chosen)}\n{end}"
        if kind not in KINDS or name not in results:
            raise ValueError(
                f"no table {kind!r} of {name!r}: there are {sorted([*KINDS, *GROUPS, *OTHERS])} of {sorted(results)}."
            )
        return f"{begin}{_note({name: results[name]})}{KINDS[kind](results[name])}\n{end}"

    return TABLE.sub(table, page)


def _note(results: dict[str, list[dict[str, Any]]]) -> str:
    """What has to stand above a table of some results, all of one loss."""
    old = any(loss_of(line) != LOSS for lines in results.values() for line in lines)
    return f"{OLD_NOTE}\n\n" if old else ""


def main(arguments: list[str] | None = None) -> None:
    """Write everything.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page and the figure")
    options = parser.parse_args(arguments)
    results = read_results(options.results)
    summary = [entry for name, lines in results.items() for entry in summary_of(name, lines)]
    (options.results / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    for page in (options.docs / name for name in PAGES):
        if page.is_file():
            filled = fill_tables(page.read_text(encoding="utf-8"), results, options.results)
            page.write_text(filled, encoding="utf-8")
    after = {name: lines for name, lines in results.items() if "finishing" in lines[0].get("seconds", {})}
    if after:
        titles = {name: f"{title}: {after[name][0]['task']}" for name, title in titles_of(after).items()}
        cost_figure(after, titles, options.docs / "figures" / "cost_and_gain.png")
    print(f"{len(summary)} rows in {options.results / 'summary.json'}")


if __name__ == "__main__":
    main()
