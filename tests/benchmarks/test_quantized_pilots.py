"""Which formats a Copilot helps: what a line of results says was done, and a format that fails says where."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.experiments.quantized_pilots import FORMATS, tried
from benchmarks.experiments.quantized_table import quantized_table
from tests.helpers.byte_tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> argparse.Namespace:
    """The command line, for a tiny Pilot and a few sums."""
    folder = tmp_path_factory.mktemp("formats")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "pilot")
    tokenizer.save_pretrained(folder / "pilot")
    data = folder / "arithmetic" / "mawps"
    data.mkdir(parents=True)
    for split, (first, count) in {"train": (0, 12), "dev": (50, 6), "test": (100, 6)}.items():
        rows = [
            {"id": f"{split}-{n}", "question": f"{n} + 1?", "answer": str(n + 1), "rationale": f"{n} + 1"}
            for n in range(first, first + count)
        ]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return argparse.Namespace(
        pilot=str(folder / "pilot"),
        data_dir=str(folder),
        output_dir=folder / "out",
        train_questions=10,
        dev_questions=6,
        threads=torch.get_num_threads(),
    )


@pytest.mark.parametrize(("name", "trains"), [("float32", True), ("torchao, 8 bits", False)])
def test_a_format_is_followed_to_the_end(options: argparse.Namespace, name: str, trains: bool) -> None:
    if name.startswith("torchao"):
        pytest.importorskip("torchao")
    line = tried(name, options)
    assert line["at"] == "the end" and line["loads"] and line["equal_at_zero"], line
    assert (line["trained_by_transformers"] == "yes") == trains
    assert line["questions"] == {"train": 10, "dev": 6, "test": 6}
    # Random weights have much to learn: four epochs over ten sums show on the test questions.
    assert line["test"]["pair"] < line["test"]["pilot"]


def test_quantized_weights_take_fewer_bytes(options: argparse.Namespace) -> None:
    pytest.importorskip("torchao")
    sizes = [tried(name, options)["weight_bytes"] for name in ("float32", "torchao, 8 bits")]
    assert sizes[1] < 0.7 * sizes[0]


def test_a_format_that_fails_says_where(options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict:
        raise ImportError("a library that is not installed\nand more")

    monkeypatch.setitem(FORMATS, "of no library", missing)
    assert tried("of no library", options) == {
        "format": "of no library",
        "at": "loading",
        "failed": "ImportError: a library that is not installed",
    }
    assert not (Path(options.output_dir) / "of-no-library").exists()


def test_the_table_says_what_came_of_each_format():
    done = {
        "format": "bfloat16",
        "at": "the end",
        "loads": True,
        "weight_bytes": 269e6,
        "trained_by_transformers": "yes",
        "equal_at_zero": True,
        "recording_seconds": 24.1,
        "teaching_seconds": 14.3,
        "peak_bytes": 1.64e9,
        "test": {"pilot": 3.787, "pair": 0.824},
    }
    refused = {**done, "format": "of 8 bits", "trained_by_transformers": "You cannot perform fine-tuning on purely"}
    failed = {"format": "AWQ", "at": "loading", "failed": "ImportError: needs `gptqmodel` | or another"}
    rows = quantized_table([done, refused, failed]).splitlines()[2:]
    assert rows[0] == "| bfloat16 | 269 | yes | yes | 3.787 | 0.824 | 24 + 14 | 1.6 |"
    assert rows[1].startswith("| of 8 bits | 269 | no | yes |")
    assert rows[2] == "| AWQ |  |  |  | failed at loading: ImportError: needs gptqmodel / or another |  |  |  |"
    assert {row.count("|") for row in rows} == {9}
