"""Records of tiny pairs, by the function and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.training_helpers import make_pair, make_pilot, reversal_rows
from transformers_copilot import MistakeLog, MistakeRecord, RecordedMistakes, record_mistakes
from transformers_copilot.commands.main import main


ROWS = 20


def write_pilot_and_texts(folder: Path) -> None:
    """A Pilot and forty texts of its own, as a command reads them."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder / "pilot")
    ends = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    make_pilot("llama", **ends, eos_token_id=tokenizer.eos_token_id).save_pretrained(folder / "pilot")
    lines = [json.dumps({"prompt": f"{n}+1=", "target": f" {n + 1}"}) + "\n" for n in range(40)]
    (folder / "train.jsonl").write_text("".join(lines))


def record(folder: Path, pair: Any = None, rows: Any = None, **options: Any) -> RecordedMistakes:
    """Write a record of a tiny pair, three shards by default, and open it."""
    pair = make_pair() if pair is None else pair
    rows = reversal_rows(ROWS, seq2seq=pair.config.is_encoder_decoder) if rows is None else rows
    given = {"sequences_per_shard": 8, "batch_size": 4, "dtype": "float32", "progress": False, **options}
    return MistakeLog.open(record_mistakes(pair, rows, folder, **given))


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def equal(left: MistakeRecord, right: MistakeRecord, bound: float = 0.0) -> None:
    """Two sequences hold the same numbers."""
    ours, theirs = left.tensors(), right.tensors()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].shape == theirs[name].shape, name
        assert float((ours[name].double() - theirs[name].double()).abs().max()) <= bound, name


def command(folder: Path, name: str, *words: Any) -> int:
    """A command in this process; the Pilot and the output folder are given by name."""
    given = ["--pilot", folder / "pilot", "--output_dir", folder / ("record" if name == "record" else "run"), *words]
    if name == "record":
        given = [*given, "--dataset", folder / "train.jsonl", "--sequences_per_shard", 12, "--device", "cpu"]
    else:
        given = [*given, "--use_cpu", "--max_steps", 4, "--save_strategy", "no"]
    return main([name, *map(str, given)])
