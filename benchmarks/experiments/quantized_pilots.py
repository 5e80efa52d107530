"""Pilots that transformers runs and does not train, or that a quantizer has made small: which of them a Copilot helps.

    python -m benchmarks.experiments.quantized_pilots --pilot build/smollm2 --data_dir ../shared/data

Each format is tried in a process of its own: the Pilot is loaded in it, reads questions of MAWPS once, and a linear
Copilot learns from the record. A line of results says how far it came: whether it loads, whether transformers would
train it, whether the pair at λ = 0 is the Pilot to the last bit, the losses on test questions, and what it took. What
is there already is not made again. The formats' own libraries are not installed with the package.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.experiments.recorded_forms import load_items, teaching_arguments
from benchmarks.process_memory import peak_bytes, reset_peak
from transformers_copilot import (
    CopilotTrainer,
    MistakeLog,
    PilotCopilotForCausalLM,
    fit_copilot_weight,
    record_mistakes,
)


GRID = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0)
FAILED = (ImportError, RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, OSError, KeyError)


def _torchao(name: str, **options: Any) -> Callable[[], dict[str, Any]]:
    def made() -> dict[str, Any]:
        """Loading options."""
        import torchao.quantization as torchao

        return {"quantization_config": transformers.TorchAoConfig(getattr(torchao, name)(**options))}

    return made


def _config(name: str, **options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"quantization_config": getattr(transformers, name)(**options)}


# Of each format: what `from_pretrained` is given.
FORMATS: dict[str, Callable[[], dict[str, Any]]] = {
    "float32": dict,
    "bfloat16": lambda: {"dtype": torch.bfloat16},
    "torchao, 8 bits": _torchao("Int8WeightOnlyConfig"),
    "torchao, 8 bits, activations too": _torchao("Int8DynamicActivationInt8WeightConfig"),
    "torchao, 4 bits": _torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4),
    "quanto, 8 bits": _config("QuantoConfig", weights="int8"),
    "quanto, 4 bits": _config("QuantoConfig", weights="int4"),
    "HQQ, 8 bits": _config("HqqConfig", nbits=8, group_size=64),
    "HQQ, 4 bits": _config("HqqConfig", nbits=4, group_size=64),
    "bitsandbytes, 8 bits": _config("BitsAndBytesConfig", load_in_8bit=True),
    "bitsandbytes, 4 bits (NF4)": _config("BitsAndBytesConfig", load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "FP8, fine-grained": _config("FineGrainedFP8Config"),
    "MXFP4": _config("Mxfp4Config"),
    "GPTQ, 4 bits": _config("GPTQConfig", bits=4),
    "AWQ, 4 bits": _config("AwqConfig", bits=4),
}


def tried(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """How far a format comes.

    Args:
        name: One of `FORMATS`.
        options: The command line.

    Returns:
        A line of results; `failed` says where it stopped and why.
    """
    torch.set_num_threads(options.threads)
    line: dict[str, Any] = {"format": name, "at": "loading"}
    try:
        return {**_tried(name, options, line), "at": "the end"}
    except FAILED as error:
        first = str(error).strip().splitlines()
        return {**line, "failed": f"{type(error).__name__}: {first[0] if first else ''}"[:300]}


def _tried(name: str, options: argparse.Namespace, line: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(options.pilot)
    items, collator = load_items(options, tokenizer), DataCollatorForSeq2Seq(tokenizer, padding=True)
    set_seed(0)
    pilot = AutoModelForCausalLM.from_pretrained(options.pilot, **{"dtype": torch.float32, **FORMATS[name]()}).eval()
    weights = [*pilot.parameters(), *pilot.buffers()]
    line |= {"loads": True, "weight_bytes": sum(_bytes(weight) for weight in weights)}
    line |= {"trained_by_transformers": _trains(pilot, options), "at": "its first pass"}
    batch = collator(items["test"][:8])
    with torch.no_grad():
        alone = pilot(**batch).logits
        line["at"] = "making a pair"
        pair = PilotCopilotForCausalLM.from_pilot(pilot, {"form": "linear"}).eval()
        line["equal_at_zero"] = bool(torch.equal(pair(**batch, copilot_weight=0.0).logits, alone))
    folder = Path(options.output_dir) / name.replace(",", "").replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    line["at"] = "recording"
    reset_peak()
    started = time.process_time()
    record_mistakes(pair, items["train"], folder / "record", data_collator=collator, batch_size=16, progress=False)
    line |= {"recording_seconds": round(time.process_time() - started, 1), "at": "teaching"}
    args = teaching_arguments(folder / "run", num_train_epochs=4, copilot_learning_rate=1e-3)
    trainer = CopilotTrainer(
        model=pair, args=args, train_dataset=MistakeLog.open(folder / "record"), data_collator=collator
    )
    started = time.process_time()
    trainer.train()
    line |= {"teaching_seconds": round(time.process_time() - started, 1), "peak_bytes": peak_bytes(), "at": "measuring"}
    fit = fit_copilot_weight(pair, items["dev"], data_collator=collator, batch_size=16, grid=GRID, progress=False)
    grid = (0.0, fit.weight) if fit.weight else (0.0,)
    test = fit_copilot_weight(pair, items["test"], data_collator=collator, batch_size=16, grid=grid, progress=False)
    losses = {"pilot": -test.scores[f"{0.0:g}"], "pair": -test.scores[f"{fit.weight:g}"]}
    questions = {part: len(rows) for part, rows in items.items()}
    return {**line, "copilot_weight": fit.weight, "test": losses, "questions": questions}


def _bytes(weight: torch.Tensor) -> int:
    """What a weight takes; quantizers keep theirs in tensors inside a tensor."""
    inside = getattr(weight, "__tensor_flatten__", None)
    if inside is None:
        return weight.numel() * weight.element_size()
    return sum(_bytes(getattr(weight, name)) for name in inside()[0])


def _trains(pilot: Any, options: argparse.Namespace) -> str:
    """Whether transformers' Trainer takes the model as it is; otherwise what it says."""
    try:
        Trainer(pilot, TrainingArguments(str(options.output_dir), use_cpu=True, report_to="none"))
    except ValueError as error:
        return str(error).splitlines()[0][:200]
    learns = any(weight.requires_grad and weight.is_floating_point() for weight in pilot.parameters())
    return "yes" if learns else "none of its weights learn"


def main() -> None:
    """Try what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilot", default="build/smollm2", help="id or folder of SmolLM2")
    parser.add_argument("--data_dir", default="../shared/data", help="folder with the tasks as JSON lines")
    parser.add_argument("--output_dir", type=Path, default=Path("build/quantized_pilots"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/quantized_pilots.jsonl"))
    parser.add_argument("--only", nargs="*", choices=list(FORMATS), help="these formats")
    parser.add_argument("--train_questions", type=int, default=240)
    parser.add_argument("--dev_questions", type=int, default=93)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        for name in options.only or FORMATS:
            if any(line["format"] == name for line in lines):
                continue
            lines.append(processes.submit(tried, name, options).result())
            print(json.dumps(lines[-1]), flush=True)
            partial = options.results.with_suffix(".partial")
            partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
            os.replace(partial, options.results)


if __name__ == "__main__":
    main()
