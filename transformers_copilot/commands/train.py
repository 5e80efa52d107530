"""`transformers-copilot train`: fine-tune a model and teach its Copilot."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, DataCollatorForSeq2Seq, set_seed

from ..checkpoints import last_whole_checkpoint
from ..copilot_weight import fit_copilot_weight
from ..modeling_pilot_copilot import PilotCopilotForCausalLM
from ..modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
from ..tasks.answering import encode_items
from ..trainer_copilot import CopilotTrainer
from ..training_args_copilot import CopilotTrainingArguments
from ..validation import COPILOT_VALUES, OPTION_VALUES
from .arguments import make_parser, parse
from .data import DataArguments, TextData, first, load_own_data, load_task_data
from .models import load_tokenizer
from .terminal import quiet_libraries, say


EPILOG = """\
examples:
  transformers-copilot train --pilot Qwen/Qwen2.5-0.5B --task boolq --data_dir data --output_dir runs/boolq
  transformers-copilot train --pilot my/model --dataset questions.jsonl --output_dir runs/own --num_train_epochs 1
  transformers-copilot train --config run.yaml --learning_rate 1e-4

A line of questions.jsonl: {"prompt": "Question: 2 + 2?", "target": " 4"}
All of TrainingArguments are options, too. The Pilot learns what it would learn alone; λ, how much of the Copilot's
correction is used, is then chosen on dev questions. `transformers-copilot report OUTPUT_DIR` shows the mistakes."""


@dataclass
class TrainArguments:
    """The model and the pair's choices; the README says what each does."""

    pilot: str = field(metadata={"help": "Id or folder of the model to fine-tune."})
    copilot: str | None = field(default=None, metadata={"help": "Id or folder of a Copilot to start from."})
    copilot_layers: int = field(default=6, metadata={"help": "Layers of a Copilot that is built from the Pilot."})
    head: str = field(default="own", metadata={"choices": ["own", "pilot"], "help": "Its vocabulary matrices."})
    error_feedback: str = field(default="observed", metadata={"choices": list(OPTION_VALUES["error_feedback"])})
    fusion: str = field(default="logits", metadata={"choices": ["logits", "probability"]})
    objective: str = field(default="cross_entropy", metadata={"choices": ["cross_entropy", "kl", "mse", "rmse"]})
    rationale: str = field(default="preceding", metadata={"choices": list(COPILOT_VALUES["rationale"])})
    dtype: str = field(default="float32", metadata={"choices": ["float32", "bfloat16"], "help": "Of the weights."})
    dev_dataset: str | None = field(default=None, metadata={"help": "Rows to choose λ on, beside --dataset."})
    dev_size: float = field(default=0.1, metadata={"help": "Share of train for it where there are none; 200 at most."})
    max_train_examples: int | None = field(default=None, metadata={"help": "Train on the first so many only."})
    max_length: int = field(default=256, metadata={"help": "Longest text in tokens; longer ones are left out."})
    resume: bool = field(default=False, metadata={"help": "Go on from the output folder's last checkpoint, if any."})


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `train`.

    Returns:
        `int`: the exit code.
    """
    progress = quiet_libraries()
    kinds = (TrainArguments, DataArguments, CopilotTrainingArguments)
    parser = make_parser("train", kinds, "Fine-tune a model (the Pilot) and teach its Copilot.", EPILOG)
    parser.set_defaults(
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        logging_steps=10,
        save_total_limit=2,
        report_to="none",
        mistake_log_export_rows=10_000_000,
        disable_tqdm=not progress,
    )
    options, data_options, training, _ = parse(parser, arguments)
    set_seed(training.seed)
    data = load_training_data(options, data_options, training.seed)
    seq2seq = bool(AutoConfig.from_pretrained(options.pilot).is_encoder_decoder)
    tokenizer = load_tokenizer(options.pilot)
    train_items, too_long = _encode(tokenizer, data.train, options.max_length, seq2seq)
    dev_items, _ = _encode(tokenizer, data.dev, options.max_length, seq2seq)
    pair = _build_pair(options, seq2seq, tokenizer)
    own = pair.num_parameters() - pair.pilot.num_parameters()
    say(
        f"{data.name}: {len(train_items):,} training texts, {len(dev_items):,} for λ; {too_long:,} were too long",
        f"Pilot {pair.pilot.num_parameters():,} weights, Copilot {own:,}",
    )
    _train(pair, options, training, tokenizer, train_items, dev_items, data.name, progress)
    return 0


def load_training_data(options: TrainArguments, data_options: DataArguments, seed: int) -> TextData:
    """Training and dev texts.

    Args:
        options ([`TrainArguments`]): how many, and where dev texts come from.
        data_options ([`DataArguments`]): which.
        seed (`int`): seed of the choice of dev texts where they are taken out of the training ones.

    Returns:
        [`TextData`] with `train` and `dev`

    Raises:
        ValueError: there are too few.
    """
    data = load_task_data(data_options, seed) or load_own_data(data_options, "train")
    if options.dev_dataset is not None:
        dev_options = DataArguments(
            dataset=options.dev_dataset,
            prompt_column=data_options.prompt_column,
            target_column=data_options.target_column,
        )
        data.dev = load_own_data(dev_options, "test").test
    if data.train is None:
        raise ValueError(f"{data.name} has no training texts.")
    if data.dev is None:
        size = min(max(1, round(options.dev_size * len(data.train))), 200)
        if size >= len(data.train):
            raise ValueError(f"{len(data.train)} texts leave none to train on beside {size} to choose λ on; give more.")
        parts = data.train.train_test_split(size, seed=seed)
        data.train, data.dev = parts["train"], parts["test"]
    data.train = first(data.train, options.max_train_examples)
    return data


def _encode(tokenizer: Any, rows: Any, max_length: int, seq2seq: bool) -> tuple[list[dict[str, list[int]]], int]:
    texts = list(zip(rows["prompt"][:], rows["target"][:], strict=True))
    return encode_items(tokenizer, texts, max_length, seq2seq)


def _build_pair(options: TrainArguments, seq2seq: bool, tokenizer: Any) -> Any:
    kind: Any = PilotCopilotForSeq2SeqLM if seq2seq else PilotCopilotForCausalLM
    names = ("head", "error_feedback", "fusion", "objective")
    copilot = options.copilot or {"num_hidden_layers": options.copilot_layers, "rationale": options.rationale}
    choices = {name: getattr(options, name) for name in names}
    pair = kind.from_pilot(options.pilot, copilot=copilot, dtype=getattr(torch, options.dtype), **choices)
    pair.generation_config.pad_token_id = tokenizer.pad_token_id
    return pair


def _train(
    pair: Any,
    options: TrainArguments,
    training: CopilotTrainingArguments,
    tokenizer: Any,
    train_items: list[dict[str, list[int]]],
    dev_items: list[dict[str, list[int]]],
    name: str,
    progress: bool,
) -> None:
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = CopilotTrainer(
        model=pair,
        args=training,
        train_dataset=train_items,
        eval_dataset=dev_items,
        data_collator=collator,
        processing_class=tokenizer,
    )
    checkpoint = training.resume_from_checkpoint
    if checkpoint is None and options.resume:
        checkpoint = last_whole_checkpoint(training.output_dir)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    say(f"trained in {time.perf_counter() - started:,.0f} s")
    with trainer.compute_loss_context_manager():
        fit = fit_copilot_weight(
            pair,
            dev_items,
            data_collator=collator,
            batch_size=training.per_device_eval_batch_size,
            set_name=f"{name} dev",
            progress=progress,
        )
    trainer.save_model(training.output_dir)
    trainer.save_state()
    say(
        f"λ = {fit.weight:g}, chosen on {fit.set_size:,} texts",
        f"The pair is in {training.output_dir}. Next: transformers-copilot report {training.output_dir}",
    )


__all__ = ["TrainArguments", "load_training_data", "run"]
