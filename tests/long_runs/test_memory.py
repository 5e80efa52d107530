"""Memory over long runs: it doesn't grow with the number of steps or calls, and the Mistake Log keeps its bound.

The slow tests run thousands of steps in a process of their own and look at the slope of its memory. The quick ones
count tensors and other objects over a few dozen: what is kept of a step is seen there, memory outside Python is not.
"""

import gc
import platform
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import some_ids
from tests.helpers.long_runs import Reader, long_round, trained, ways_to_generate
from tests.helpers.memory_growth import Growth, Readings, in_child
from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows
from transformers_copilot import MistakeLog, record_mistakes


LINUX = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads Linux's account of a process, with glibc")
# Until memory is what it stays: the log and the exported rows are full, each kind of work was done several times.
STEPS, EVERY, WARM_UP = 3000, 50, 1500
# Bytes a step. A million steps, more than any training of a Copilot, would take a quarter of a gigabyte; the smallest
# thing that a step could leave by mistake, a round of the log of these tiny pairs, is some kilobytes.
MOST_BYTES = 256
# Python objects a step. Rows of 64 rounds wait to be written, so their number goes up and down.
MOST_OBJECTS = 1.0
# Runs at most, until one tells on which side of the bound the slope is.
RUNS = 3


# ---- thousands of steps ----


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "record", "generation"])
def test_memory_does_not_grow_over_thousands_of_steps(tmp_path: Path, kind: str):
    """The upper end of the slope's 95 % interval is below the bound.

    What the allocators keep goes up and down, more so beside other programs, and the interval may be too wide to tell.
    Then it is run again: what a step leaves behind is there each time.
    """
    for again in range(RUNS):
        folder = tmp_path / str(again)
        folder.mkdir()
        readings = Readings(**in_child("tests.helpers.long_runs", kind, folder, STEPS, EVERY))
        assert readings.steps[-1] == STEPS
        first = readings.steps.index(WARM_UP)
        found = {
            name: Growth.of(readings.steps[first:], getattr(readings, name)[first:])
            for name in ("memory", "objects", "tensors")
        }
        held = f"{readings.memory[first] / 1e6:.1f} MB after {WARM_UP}, {readings.memory[-1] / 1e6:.1f} after {STEPS}"
        print(f"\n{kind}: {held}; a step: " + ", ".join(f"{name} {one}" for name, one in found.items()))  # noqa: T201
        assert found["objects"].high < MOST_OBJECTS and found["tensors"].high < MOST_OBJECTS, found
        if not found["memory"].low < MOST_BYTES <= found["memory"].high:
            break
    assert found["memory"].high < MOST_BYTES, found["memory"]


@LINUX
@pytest.mark.slow
def test_a_log_of_very_long_sequences_keeps_its_bound_in_memory(tmp_path: Path):
    """128 rounds of 32,768 tokens beside a Pilot of width 256: 5.9 GB, of which 500 MB are kept."""
    found = in_child("tests.helpers.long_runs", "long_log", tmp_path, 128, 32_768)
    print("\n", found)  # noqa: T201
    assert 128 * found["round"] > 8 * found["bound"] and found["log"] <= found["bound"]
    assert found["held"] < found["bound"] + found["round"]
    # While it runs, the C library keeps pieces that were freed between the rounds that stay. They are used again.
    assert found["most"] < 3 * found["bound"]


# ---- a few dozen ----


def test_a_slope_and_its_interval():
    steps, noise = list(range(0, 2000, 50)), np.random.default_rng(0).normal(0, 5000, 40)
    flat, rising = Growth.of(steps, noise.tolist()), Growth.of(steps, (noise + 300 * np.arange(0, 2000, 50)).tolist())
    assert flat.low < 0 < flat.high < 50 and 250 < rising.low < 300 < rising.high < 350
    assert Growth.of(steps, [7.0] * 40) == Growth(0.0, 0.0, 0.0)
    wandering = Growth.of(steps, noise.cumsum().tolist())
    assert wandering.high - wandering.low > 4 * (flat.high - flat.low), (
        "readings that resemble each other count for less"
    )


def held(readings: Readings) -> list[tuple[float, float]]:
    """Tensors and other objects, of the readings after the first."""
    return list(zip(readings.tensors[1:], readings.objects[1:], strict=True))


@LINUX
@pytest.mark.parametrize("kind", ["joint", "record"])
def test_a_step_of_training_leaves_nothing(tmp_path: Path, little_to_collect: None, kind: str):
    """With the log full, from the 20th step on."""
    pair, arguments = (
        make_pair(),
        {"mistake_log_rounds": 8, "copilot_steps_per_round": 2, "mistake_log_export_rows": 200},
    )
    if kind == "record":
        record_mistakes(pair, reversal_rows(16), tmp_path / "record", progress=False)
        arguments = {"freeze_pilot": True, "mistake_log_draw": "newest"}
    rows = MistakeLog.open(tmp_path / "record") if kind == "record" else reversal_rows(16)
    trainer = make_trainer(tmp_path / "run", pair, rows=rows, max_steps=80, logging_steps=1000, **arguments)
    (tensors, objects), *later = held(trained(trainer, 20))
    # 20 steps each, so what each of them left would be 20 more; a batch that is being read may be among them.
    assert all(abs(one[0] - tensors) < 10 and abs(one[1] - objects) < 15 for one in later), (tensors, objects, later)


@LINUX
def test_what_is_left_of_every_step_is_seen(tmp_path: Path, little_to_collect: None):
    """The tests' own trainer remembers its batches, three tensors each."""
    trainer, readings = make_trainer(tmp_path, max_steps=60, logging_steps=1000), Readings()
    trainer.add_callback(Reader(readings, 20))
    trainer.train()
    assert min(np.diff(readings.tensors)) >= 3 * 20
    assert Growth.of(readings.steps, readings.tensors).low > MOST_OBJECTS


def test_a_call_of_generate_leaves_nothing(tiny_pair, little_to_collect: None):
    """No kind of object becomes more by one a call, and again by one a call: what is made once is not meant."""
    pair = tiny_pair(head="pilot")
    pair.generation_config.pad_token_id = 0
    growing, calls = {}, 8
    for name, write in ways_to_generate(pair).items():
        counts = []
        for call in range(3 * calls):
            ids = some_ids(1, 2 + call % 6, seed=call)
            write(ids, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(ids))
            if call % calls == calls - 1:
                gc.collect()
                counts.append(Counter(type(one).__name__ for one in gc.get_objects()))
        more = [counts[place + 1] - counts[place] for place in (0, 1)]
        kept = {kind: number for kind, number in more[1].items() if min(number, more[0][kind]) >= calls}
        growing |= {name: kept} if kept else {}
    assert growing == {}


def memory_of(log: MistakeLog) -> int:
    """Bytes of all memory that the rounds hold, also of larger tensors that theirs are a part of."""
    stores = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for record in log
        for tensor in record.tensors().values()
    }
    return sum(stores.values())


def test_a_log_of_very_long_sequences_keeps_its_bound(tmp_path: Path):
    """128 rounds, each a twentieth of the bound: the memory that they really hold, in the log and in a loaded one."""
    one = long_round(8192, 16)
    log = MistakeLog(max_bytes=20 * one.nbytes + one.nbytes // 2)
    for number in range(128):
        log.append(long_round(8192, 16, seed=number % 4))
        assert log.nbytes == memory_of(log) <= log.max_bytes
    assert len(log) == 20 and log.total_rounds == 128
    log.save(tmp_path / "log.safetensors")
    again = MistakeLog.load(tmp_path / "log.safetensors", max_bytes=3 * one.nbytes)
    assert len(again) == 3 and memory_of(again) <= again.max_bytes, "the bound of a log that is loaded is its own"


def test_training_on_very_long_sequences_keeps_the_logs_bound(tmp_path: Path):
    """Through the Trainer, where a round is put together of micro-batches."""
    length, pair = 600, make_pair(pilot=None, mistakes_from="all")
    pair.pilot.config.max_position_embeddings = length
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(3, 23, (8, length)).tolist()]
    one = 3 * length * 4 * 100  # some bytes a token
    given = {"mistake_log_max_bytes": one, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    trainer = make_trainer(tmp_path, pair, rows=rows, max_steps=6, logging_steps=100, **given)
    sizes = []
    commit = trainer.mistake_callback.on_step_end

    def commit_and_measure(*args, **kwargs):
        commit(*args, **kwargs)
        sizes.append((len(trainer.mistake_log), memory_of(trainer.mistake_log)))

    trainer.mistake_callback.on_step_end = commit_and_measure
    trainer.train()
    assert all(size <= one for _, size in sizes) and sizes[-1][0] < 6, sizes
