"""Run experiments, and go on with those that were begun.

    python -m benchmarks.experiments.run benchmarks/experiments/descriptions/sizes.yaml --data_dir ../shared/data
    python -m benchmarks.experiments.run benchmarks/experiments/descriptions/*.yaml --minutes 30
    python -m benchmarks.experiments.run benchmarks/experiments/descriptions_gpu/*.yaml --device cuda \
        --by_seed --stop_after_minutes 8

Each finished run is a line in `benchmarks/results/{experiment}.jsonl`; what stands there is not run again, unless it
was made with an older loss of the Copilot. A runner may be stopped at any time: a long run goes on from its last
checkpoint, a short one starts anew. With `--stop_after_minutes` the runner ends by itself, within a run too: the same
command goes on from the step that it had come to. A recording, or the answers of one model, that are under way are
made to their end first. Two may work on one experiment; neither takes a run that the other has begun.
"""

import argparse
import time
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from transformers.utils import logging

from benchmarks.experiments.pieces import Deadline, OutOfTime
from benchmarks.experiments.precision import check_device
from benchmarks.experiments.runs import Runner
from benchmarks.experiments.spec import read_experiment
from benchmarks.experiments.store import ResultStore


ROOT = Path(__file__).parents[2]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", type=Path, help="YAML files")
    parser.add_argument("--data_dir", help="folder with the tasks' files; the Hub where none is given")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "experiments", help="folder for checkpoints")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    parser.add_argument("--only", nargs="*", help="only runs of these names")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many minutes")
    parser.add_argument("--stop_after_minutes", type=float, help="end after so many minutes, within a run too")
    parser.add_argument("--by_seed", action="store_true", help="the first seed of all experiments before the others")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to train and measure on")
    options = parser.parse_args(arguments)
    check_device(parser, options.device)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run what is left of the experiments.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.perf_counter()
    deadline = None if options.stop_after_minutes is None else Deadline(options.stop_after_minutes)
    todo: list[tuple[Runner, int, str]] = []
    for path in options.experiments:
        spec = read_experiment(path)
        store = ResultStore(options.results / f"{spec.experiment}.jsonl")
        runner = Runner(spec, store, options.build, options.data_dir, options.device, deadline=deadline)
        wanted = [run for run in spec.runs() if is_wanted(*run, options)]
        todo += [(runner, seed, name) for seed, name in wanted]
    if options.by_seed:
        todo.sort(key=lambda run: run[0].spec.seeds.index(run[1]))
    for runner, seed, name in todo:
        if runner.store.find(seed, name) is None and time.perf_counter() - started < 60 * options.minutes:
            try:
                run_once(runner, seed, name)
            except OutOfTime:
                left = sum(runner.store.find(seed, name) is None for runner, seed, name in todo)
                print(f"stopped in time; {left} of {len(todo)} runs are left: the same command goes on", flush=True)
                return


def is_wanted(seed: int, name: str, options: argparse.Namespace) -> bool:
    """Whether the command line asks for a run."""
    return (not options.seeds or seed in options.seeds) and (not options.only or name in options.only)


def run_once(runner: Runner, seed: int, name: str) -> None:
    """Make a run, unless another runner is at it.

    Args:
        runner: The runner.
        seed: The run's seed.
        name: Its name.

    Raises:
        OutOfTime: The runner's time is over.
    """
    if runner.deadline is not None:
        runner.deadline.check()
    folder = runner.folder(seed, name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    label = f"{runner.spec.experiment}, seed {seed}, {name}"
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            if runner.store.find(seed, name) is not None:
                return
            print(f"{label}: begun {time.strftime('%H:%M:%S')}", flush=True)
            result = runner.run(seed, name)
            print(f"{label}: {result['total_seconds']:.0f} s, {brief(result)}", flush=True)
    except Timeout:
        print(f"{label}: another runner is at it", flush=True)


def brief(result: dict) -> str:
    """A run's scores in a few words."""
    scores = []
    for name, made in result["results"].items():
        questions = [float(value) for value in made["questions"]]
        if result["measure"] == "ranking":
            questions = [float(value <= 10) for value in questions]
        scores.append(f"{name} {sum(questions) / len(questions):.4f} (loss {made['tokens']['loss']:.4f})")
    return ", ".join(scores)


if __name__ == "__main__":
    main()
