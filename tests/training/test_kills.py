"""Killed anywhere: a training that goes on ends as if it had not been killed, bit for bit.

Trainings of tiny pairs are killed before, in the middle of and after what they do to their files, and at random moments
(`tests/helpers/crash_harness.py`). Weights, optimizer, schedule, Mistake Log, losses, exported rows and files are
compared with those of a run that was left alone.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


# What a kill must meet at least once: every kind of file, and every way in which it changes.
FILES = [
    *(
        "config.json.partial",
        "model.safetensors",
        "tokenizer.json",
        "training_args.bin",
        "mistake_log.safetensors.partial",
    ),
    *("mistake_rows-00000.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "checkpoint_files.json"),
    "trainer_state.json",
]
KINDS = {
    *(f"half write checkpoint-N/{name}" for name in FILES),
    *(f"before rename checkpoint-N/{name}" for name in ("config.json", "mistake_log.safetensors")),
    "before remove checkpoint-N/file",
    "before rmdir checkpoint-N",
    "half write mistake_rows/rank-00000/rounds-N-N.partial",
    "before rename mistake_rows/rank-00000/rounds-N-N.parquet",
    "half write _run.lock",
    "before remove _run_owner.json",
}


def kill(folder, kind="llama", **wanted):
    """The harness's report."""
    wanted = {"kind": kind, "folder": str(folder), "seed": 0, **wanted}
    # Measuring the coverage of some eighty trainings would double their time.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.helpers.crash_harness", json.dumps(wanted)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout.rpartition("REPORT ")[2])
    counts = ", ".join(f"{count} from {name}" for name, count in sorted(report["resumed_from"].items()))
    print(  # noqa: T201 (shown by `pytest -s`)
        f"{kind}: {report['named']} named points of {report['points']}, {report['random']} random, "
        f"{report['twice']} killed twice: {report['outcomes']}; {counts}; "
        f"{report['remnants']} with an old checkpoint left; {report['seconds']} s"
    )
    return report


def assert_all_equal(report):
    # "silent difference", "rows lost", "error", "hang" and "not killed" are what else there could be.
    assert report["outcomes"] == {"equal": report["named"] + report["random"] + report["twice"]}, report["failures"]


def test_a_killed_training_goes_on_as_if_it_had_not_been_killed(tmp_path):
    report = kill(tmp_path, named=36, random=3, twice=2, code=False, fault=True)
    assert_all_equal(report)
    assert set(report["kinds"]) >= KINDS
    assert len(report["resumed_from"]) >= 3  # from the start, and from several checkpoints
    seen = {name.removesuffix(".partial") for name in report["files"]}
    assert set(report["whole_files"]) <= seen, "the harness sees every file that a run writes"
    assert report["with_the_fault"] == "rows lost", "and it finds rows that are written too late"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "named", "code"),
    [("llama", 1000, False), ("llama", 60, True), ("adapters", 120, False), ("t5", 60, False)],
)
def test_killed_at_hundreds_of_places(tmp_path, kind, named, code):
    assert_all_equal(kill(tmp_path, kind, named=named, random=20, twice=10, code=code))
