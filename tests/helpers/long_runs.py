"""Long runs of a tiny pair, as a program that prints what it held at times: see `tests/long_runs`.

python -m tests.helpers.long_runs training FOLDER 3000 50
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, TextIteratorStreamer, TextStreamer, TrainerCallback
from transformers.utils import logging

from tests.conftest import TINY, build_pair, build_pilot, make_tokenizer, some_ids
from tests.helpers.memory_growth import Readings, give_back_freed, own_memory
from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows
from transformers_copilot import CopilotTrainer, MistakeLog, MistakeRecord, record_mistakes
from transformers_copilot.pair.mistake_batch import MistakeBatch


class Reader(TrainerCallback):
    """Reads what the process holds, every so many steps."""

    def __init__(self, readings: Readings, every: int) -> None:
        self.readings, self.every = readings, every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.readings.take(state.global_step)


def trained(trainer: Any, every: int) -> Readings:
    """Train with the package's own trainer, and read: the tests' remembers every batch."""
    readings = Readings()
    trainer.__class__ = CopilotTrainer
    trainer.add_callback(Reader(readings, every))
    trainer.train()
    return readings


def training(folder: Path, steps: int, every: int, **arguments: Any) -> Readings:
    """Both parts learn; log and exported rows are full early on, it is evaluated and saved now and then."""
    given = {
        "max_steps": steps,
        "copilot_steps_per_round": 2,
        "mistake_log_draw": "uniform",
        "mistake_log_export_rows": 4000,
        "logging_steps": 100,
        "eval_strategy": "steps",
        "eval_steps": 250,
        "save_strategy": "steps",
        "save_steps": 250,
        "save_total_limit": 1,
        **arguments,
    }
    return trained(make_trainer(folder / "run", make_pair(), **given), every)


def from_record(folder: Path, steps: int, every: int) -> Readings:
    """The Copilot alone learns, from a record."""
    pair = make_pair()
    record_mistakes(pair, reversal_rows(64), folder / "record", progress=False)
    rows = MistakeLog.open(folder / "record")
    given = {"freeze_pilot": True, "mistake_log_draw": "newest", "logging_steps": 100, "max_steps": steps}
    return trained(make_trainer(folder / "run", pair, rows=rows, **given), every)


def streamed(pair: Any, words: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Two kinds of streamer, in turn."""
    turn = [0]

    def write(ids: torch.Tensor, **given: Any) -> None:
        turn[0] += 1
        if turn[0] % 2:
            pair.generate(ids, streamer=_Silent(words), **given)
            return
        streamer = TextIteratorStreamer(words)
        pair.generate(ids, streamer=streamer, **given)
        "".join(streamer)

    return write


class _Silent(TextStreamer):
    """Prints nothing."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        pass


def ways_to_generate(pair: Any) -> dict[str, Callable[..., Any]]:
    """Each way to write that is looked at, by name."""
    return {
        "greedy": pair.generate,
        "sampled": lambda ids, **given: pair.generate(ids, **{**given, "do_sample": True}),
        "beams": lambda ids, **given: pair.generate(ids, num_beams=2, **given),
        "assisted": lambda ids, **given: pair.generate(ids, assistant_model=pair.pilot, **given),
        "streamed": streamed(pair, make_tokenizer()),
    }


def generation(folder: Path, steps: int, every: int) -> Readings:
    """Calls of `generate`, each way in turn, on prompts of every length."""
    pair = build_pair(build_pilot(*TINY["llama"]), head="pilot")
    pair.generation_config.pad_token_id = 0
    ways, readings = list(ways_to_generate(pair).values()), Readings()
    for step in range(1, steps + 1):
        ids = some_ids(1, 2 + step % 11, seed=step)
        ways[step % len(ways)](ids, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(ids))
        if step % every == 0:
            readings.take(step)
    return readings


def long_round(length: int, width: int, top_k: int = 64, seed: int = 0) -> MistakeRecord:
    """A round of one sequence that long, as a Pilot of that width would leave it."""
    draw = torch.Generator().manual_seed(seed)

    def floats(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(0, 50_000, shape, generator=draw)

    batch = MistakeBatch(
        token_ids=ids(1, length),
        attention_mask=torch.ones(1, length, dtype=torch.bool),
        labels=ids(1, length),
        lessons=torch.ones(1, length, dtype=torch.bool),
        true_probabilities=floats(length),
        predicted_ids=ids(length),
        predicted_probabilities=floats(length),
        mistake_sizes=floats(length),
        head_states=floats(length, width),
        rationale=floats(1, length, width),
        belief_ids=ids(1, length, top_k),
        belief_probabilities=floats(1, length, top_k),
        next_probabilities=floats(1, length),
    )
    return MistakeRecord.from_batch(batch)


def long_log(folder: Path, rounds: int, length: int) -> dict[str, float]:
    """The log's default bounds under rounds of very long sequences: what it says it holds, what the process does."""
    log = MistakeLog()
    one = long_round(length, 256)
    nbytes, before, most = one.nbytes, own_memory(), 0
    del one
    for number in range(rounds):
        log.append(long_round(length, 256, seed=number))
        most = max(most, own_memory() - before)
    give_back_freed()
    held = own_memory() - before
    return {"round": nbytes, "kept": len(log), "log": log.nbytes, "bound": log.max_bytes, "held": held, "most": most}


KINDS: dict[str, Callable[..., Any]] = {
    "training": training,
    "record": from_record,
    "generation": generation,
    "long_log": long_log,
}

if __name__ == "__main__":
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    kind, where, *numbers = sys.argv[1:]
    result = KINDS[kind](Path(where), *map(int, numbers))
    print(json.dumps(asdict(result) if isinstance(result, Readings) else result))  # noqa: T201
