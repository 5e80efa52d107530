"""Rerun a few rows of the results and see whether they land inside the reported intervals.

    python -m benchmarks.experiments.quick --data_dir ../shared/data

The rows are those of `quick.yaml` beside this file, chosen to take under 15 minutes. Nothing is added to the results.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from benchmarks.experiments.runs import Runner
from benchmarks.experiments.spec import read_experiment
from benchmarks.experiments.statistics import compare
from benchmarks.experiments.store import LOSS, ResultStore, loss_of


HERE = Path(__file__).parent


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="folder with the tasks' files; the Hub where none is given")
    parser.add_argument("--rows", type=Path, default=HERE / "quick.yaml", help="which runs to make again")
    parser.add_argument("--experiments", type=Path, default=HERE / "descriptions", help="folder of the experiments")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results", help="folder of the reported results")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use, at most")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to train and measure on")
    return parser.parse_args(arguments)


def check(row: dict[str, Any], options: argparse.Namespace, build: Path) -> bool | None:
    """Make one run again.

    Args:
        row: `experiment`, `seed` and `name` of the run, and its `threads` where they are not the command line's.
        options: The command line's options.
        build: An empty folder.

    Returns:
        Whether its gain lies within the reported 95 % interval, that of all seeds; `None` where all that is reported
        was made with an older loss.

    Raises:
        ValueError: The row has no reported result.
    """
    lines = ResultStore(options.results / f"{row['experiment']}.jsonl").read()
    label = f"{row['experiment']}, seed {row['seed']}, {row['name']}"
    known = [line for line in lines if loss_of(line) == LOSS]
    if lines and not known:
        print(f"{label}: its reported results were made with an older loss; nothing to compare with", flush=True)
        return None
    reported = compare(known, row["name"]).gain()
    spec = read_experiment(options.experiments / f"{row['experiment']}.yaml")
    torch.set_num_threads(min(row.get("threads", options.threads), options.threads))
    # Only the gain is looked at: times and further tasks are left out.
    spec = replace(spec, also_test=[])
    # A file of its own: rows of other experiments have the same seeds and names.
    store = ResultStore(build / f"{spec.experiment}.jsonl")
    Runner(spec, store, build, options.data_dir, options.device, gain_only=True).run(row["seed"], row["name"])
    again = compare(store.read(), row["name"]).gain()
    inside = reported.low <= again.mean <= reported.high
    before = f"reported {reported.mean:+.4f} [{reported.low:+.4f}, {reported.high:+.4f}]"
    print(f"{label}: gain {again.mean:+.4f}, {before}: {'inside' if inside else 'OUTSIDE'}", flush=True)
    return inside


def main(arguments: list[str] | None = None) -> None:
    """Make the rows again; the exit status is 1 where one lands outside, or where there was nothing to compare with.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = yaml.safe_load(options.rows.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        inside = [check(row, options, Path(folder)) for row in rows]
    sys.exit(0 if any(inside) and False not in inside else 1)


if __name__ == "__main__":
    main()
