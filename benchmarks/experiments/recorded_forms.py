"""Copilots of every form, taught from one record of a Pilot that is only read: what each learns, and what it takes.

    python -m benchmarks.experiments.recorded_forms --pilot build/smollm2 --data_dir ../shared/data

The Pilot reads 954 questions of MAWPS once; the record holds all that any variant reads. Each variant is then taught
from it. A line of results: the loss on dev questions in nats a token at every λ, and the processor seconds. Test
questions are scored for the variants that `--test` names. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, set_seed

from transformers_copilot import (
    CopilotTrainer,
    CopilotTrainingArguments,
    MistakeLog,
    PilotCopilotForCausalLM,
    fit_copilot_weight,
    record_mistakes,
    tasks,
)
from transformers_copilot.data.items import encode_items


GRID = (0.0, 0.3, 0.5, 0.8, 1.0)
LAYERS = ("mean", 9, 17, 19, 23, 27, 29)  # of SmolLM2's 30: all that the variants read
_DECODER = {"num_hidden_layers": 2, "head": "pilot"}
# Of each variant: the Copilot, the options of the pair, and the training arguments.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "linear": ({"form": "linear"}, {}, {"num_train_epochs": 4, "copilot_learning_rate": 1e-3}),
    "linear, rate 2e-3": ({"form": "linear"}, {}, {"num_train_epochs": 4, "copilot_learning_rate": 2e-3}),
    "branch of 2": ({"form": "branch", "num_hidden_layers": 2}, {}, {"copilot_learning_rate": 5e-4}),
    "branch of 6": ({"form": "branch", "num_hidden_layers": 6}, {}, {"copilot_learning_rate": 5e-4}),
    "branch of 6, 2 epochs": (
        {"form": "branch", "num_hidden_layers": 6},
        {},
        {"num_train_epochs": 2, "copilot_learning_rate": 5e-4},
    ),
    "branch of 12": ({"form": "branch", "num_hidden_layers": 12}, {}, {"copilot_learning_rate": 5e-4}),
    **{
        f"decoder, {rationale}, {feedback}": (
            {**_DECODER, "rationale": rationale},
            {"error_feedback": feedback},
            {"num_train_epochs": 2, "copilot_learning_rate": 5e-4},
        )
        for rationale, feedback in (
            ("depths", "observed"),
            ("depths", "token"),
            ("last", "observed"),
            ("last", "token"),
            ("current", "token"),
            ("preceding", "observed"),
            ("preceding", "token"),
        )
    },
}


def load_items(options: argparse.Namespace, tokenizer: Any) -> dict[str, list[dict[str, list[int]]]]:
    """The questions as tokens; those of the test that stand in no file that is trained on.

    Args:
        options: The command line.
        tokenizer: The Pilot's.

    Returns:
        `train`, `dev` and `test`.
    """
    task = tasks.load("mawps", options.data_dir, seed=0)
    train, dev, test = (task.dataset[name] for name in ("train", "dev", "test"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    read = set(train["question"][:])
    dev = dev.filter(lambda row: row["question"] not in read)
    known = read | set(task.dataset["dev"]["question"][:])
    rows = {
        "train": train.select(order[: options.train_questions]),
        "dev": dev.select(range(min(options.dev_questions, len(dev)))),
        "test": test.filter(lambda row: row["question"] not in known),
    }
    texts = {name: list(zip(part["prompt"][:], part["target"][:], strict=True)) for name, part in rows.items()}
    return {name: encode_items(tokenizer, part, 256)[0] for name, part in texts.items()}


def record(options: argparse.Namespace, pilot: Any, items: Any, collator: Any) -> float:
    """Read the Pilot once, for all variants.

    Args:
        options: The command line.
        pilot: The Pilot.
        items: The training questions.
        collator: Makes a batch.

    Returns:
        Processor seconds; 0 where the record is there.
    """
    pair = PilotCopilotForCausalLM.from_pilot(pilot, dict(_DECODER), error_feedback="observed")
    started = time.process_time()
    record_mistakes(pair, items, options.output_dir / "record", data_collator=collator, batch_size=32, layers=LAYERS)
    return time.process_time() - started


def teach(options: argparse.Namespace, pilot: Any, name: str, collator: Any) -> tuple[Any, float]:
    """Teach one variant.

    Args:
        options: The command line.
        pilot: The Pilot.
        name: The variant.
        collator: Makes a batch.

    Returns:
        The pair, and processor seconds.
    """
    copilot, choices, training = VARIANTS[name]
    set_seed(0)
    pair = PilotCopilotForCausalLM.from_pilot(pilot, dict(copilot), **choices)
    args = teaching_arguments(options.output_dir / "run", **training)
    trainer = CopilotTrainer(
        model=pair, args=args, train_dataset=MistakeLog.open(options.output_dir / "record"), data_collator=collator
    )
    started = time.process_time()
    trainer.train()
    return pair.eval(), time.process_time() - started


def teaching_arguments(folder: Path, **training: Any) -> CopilotTrainingArguments:
    """How a Copilot is taught from a record.

    Args:
        folder: Where the trainer writes.
        **training: What differs.

    Returns:
        The arguments.
    """
    fixed: dict[str, Any] = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
        "use_cpu": True,
        "disable_tqdm": True,
        "freeze_pilot": True,
    }
    return CopilotTrainingArguments(str(folder), **{**fixed, **training})


def losses(pair: Any, items: Any, collator: Any) -> dict[str, float]:
    """The loss at every λ.

    Args:
        pair: The pair.
        items: Questions.
        collator: Makes a batch.

    Returns:
        λ to nats a token.
    """
    fit = fit_copilot_weight(pair, items, data_collator=collator, batch_size=16, grid=GRID, progress=False)
    return {weight: round(-score, 4) for weight, score in fit.scores.items()}


def table(lines: list[dict[str, Any]]) -> str:
    """The results as Markdown.

    Args:
        lines: The results.

    Returns:
        A table.
    """
    rows = ["| variant | weights | " + " | ".join(f"dev, λ = {w:g}" for w in GRID) + " | test, λ = 1 | CPU s |"]
    rows.append("| --- " * (len(GRID) + 4) + "|")
    for line in lines:
        dev = " | ".join(f"{line['dev'][f'{weight:g}']:.3f}" for weight in GRID)
        test = f"{line['test']['1']:.3f}" if line.get("test") else ""
        rows.append(f"| {line['variant']} | {line['weights'] / 1e6:.2f} M | {dev} | {test} | {line['seconds']:.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilot", default="build/smollm2", help="id or folder of SmolLM2")
    parser.add_argument("--data_dir", default="../shared/data", help="folder with the tasks as JSON lines")
    parser.add_argument("--output_dir", type=Path, default=Path("build/recorded_forms"), help="the record's folder")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/recorded_forms.jsonl"))
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these variants")
    parser.add_argument("--test", nargs="*", default=[], choices=list(VARIANTS), help="score test questions for these")
    parser.add_argument("--train_questions", type=int, default=954)
    parser.add_argument("--dev_questions", type=int, default=93)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    there = {line["variant"] for line in lines if line.get("test") or line["variant"] not in options.test}
    missing = [name for name in options.only or VARIANTS if name not in there]
    if missing:
        tokenizer = AutoTokenizer.from_pretrained(options.pilot)
        pilot = AutoModelForCausalLM.from_pretrained(options.pilot, dtype=torch.float32).eval()
        collator, items = DataCollatorForSeq2Seq(tokenizer, padding=True), load_items(options, tokenizer)
        print(f"recorded in {record(options, pilot, items['train'], collator):.0f} processor seconds", flush=True)  # noqa: T201
        for name in missing:
            pair, seconds = teach(options, pilot, name, collator)
            line = {
                "variant": name,
                "weights": pair.copilot.num_parameters(),
                "seconds": round(seconds, 1),
                "dev": losses(pair, items["dev"], collator),
                "test": losses(pair, items["test"], collator) if name in options.test else None,
                "questions": {part: len(rows) for part, rows in items.items()},
            }
            lines = [one for one in lines if one["variant"] != name] + [line]
            print(json.dumps(line), flush=True)  # noqa: T201
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text("".join(json.dumps(one) + "\n" for one in lines))
    print(table(lines))  # noqa: T201


if __name__ == "__main__":
    main()
