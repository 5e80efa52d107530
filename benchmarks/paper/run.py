"""Run a row of the paper's tables, or try it without its checkpoints and data.

    python -m benchmarks.paper.run                                      (the rows)
    python -m benchmarks.paper.run llama32-1b-commonsense --dry_run
    python -m benchmarks.paper.run llama32-1b-commonsense --device cuda --stop_after_minutes 50

A row's description is `examples/paper/ROW.yaml`. Checkpoints and data come from the Hub. Its size, and the memory and
the hours that are expected, are printed before it starts. Finished runs are lines in
`benchmarks/results/paper_{row}.jsonl`, which `benchmarks.experiments.render` puts beside what the paper reports.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.experiments import run as experiments
from benchmarks.experiments.precision import check_device
from benchmarks.experiments.spec import Experiment, read_experiment
from benchmarks.paper.dry_run import check_sizes, three_steps
from benchmarks.paper.expectation import Expectation, Machine, expect
from benchmarks.paper.rows import list_of_rows, row_path


ADVICE = "Checkpoints and data come from the Hub. Meta's need its licence to be accepted there, and `hf auth login`."


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    machine = Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="?", help="a row, such as llama32-1b-commonsense; without one they are listed")
    parser.add_argument("--dry_run", action="store_true", help="count the weights and make three steps scaled down")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what to train and measure on")
    parser.add_argument("--data_dir", help="folder with the tasks' files; the Hub where none is given")
    parser.add_argument("--results", type=Path, default=experiments.ROOT / "benchmarks" / "results")
    parser.add_argument("--build", type=Path, default=experiments.ROOT / "build" / "experiments")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    parser.add_argument("--only", nargs="*", help="only these of the row's Copilots")
    parser.add_argument("--stop_after_minutes", type=float, help="end after so many minutes; the same command goes on")
    parser.add_argument("--tflops", type=float, default=machine.tflops, help="assumed of the machine, for the hours")
    parser.add_argument("--gigabytes", type=float, default=machine.gigabytes, help="a second, in generation; likewise")
    options = parser.parse_args(arguments)
    if not options.dry_run:
        check_device(parser, options.device)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run or try a row.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 2 where the row is not known, 1 where it can't be run.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.row is None:
        print(f"Rows of the paper's tables (make paper ROW=…, DRY_RUN=1 to try one here):\n{list_of_rows()}")
        return 0
    try:
        path = row_path(options.row)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        spec = read_experiment(path)
        print(*check_sizes(spec), sep="\n", flush=True)
        machine = Machine(options.tflops, options.gigabytes)
        for variant in spec.variants:
            if not options.only or variant.name in options.only:
                expected = expect(spec, variant, machine)
                print(f"{spec.title}, {variant.name}:", *expected.lines(), sep="\n", flush=True)
                if options.device == "cuda" and not options.dry_run:
                    check_memory(spec, expected, torch.cuda.mem_get_info()[0])
        if options.dry_run:
            print(*three_steps(spec), sep="\n")
        else:
            experiments.main([str(path), *_passed_on(options)])
    except (OSError, ValueError) as error:
        print(f"error: {error}\n{ADVICE if isinstance(error, OSError) else ''}".rstrip(), file=sys.stderr)
        return 1
    return 0


def check_memory(spec: Experiment, expected: Expectation, free: float) -> None:
    """Refuse a device that can't hold a row, and warn of one that may not.

    Args:
        spec: The row.
        expected: What it takes.
        free: Bytes that the device has left.

    Raises:
        ValueError: Not even the weights and what learns of them fit; the message says what is needed and what is there.
    """
    batch = spec.training["per_device_train_batch_size"]
    lower = (
        f"lower `per_device_train_batch_size` ({batch}) in the row's description and raise "
        "`gradient_accumulation_steps` as much"
    )
    if expected.fixed_bytes > free:
        raise ValueError(
            f"the device has {free / 1e9:.1f} GB left, and weights, gradients and AdamW's moments alone take "
            f"{expected.fixed_bytes / 1e9:.1f} GB. Take a larger device, a row with a smaller Pilot, or of this row "
            "the smaller Copilot (--only)."
        )
    if expected.bytes > free:
        print(
            f"warning: the device has {free / 1e9:.1f} GB left, {expected.bytes / 1e9:.1f} are expected. If it runs "
            f"out of memory, {lower}.",
            flush=True,
        )


def _passed_on(options: argparse.Namespace) -> list[str]:
    """The experiments' runner's own options."""
    words = ["--results", str(options.results), "--build", str(options.build), "--device", options.device]
    for name in ("data_dir", "stop_after_minutes"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    for name in ("seeds", "only"):
        if getattr(options, name):
            words += [f"--{name}", *map(str, getattr(options, name))]
    return words


if __name__ == "__main__":
    sys.exit(main())
