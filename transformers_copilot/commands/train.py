"""`transformers-copilot train`: fine-tune a model and teach its Copilot, or teach one from a record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import DataCollatorForSeq2Seq, set_seed

from ..mistake_log.recorded_mistakes import RecordedMistakes
from ..training.arguments import CopilotTrainingArguments
from ..training.checkpoints import last_whole_checkpoint
from ..training.copilot_weight import fit_copilot_weight
from ..training.finishing import COPILOT_EPOCHS
from ..training.trainer import CopilotTrainer
from .arguments import make_parser, parse
from .data import DataArguments
from .finish import finish_and_teach, new_texts_of
from .models import load_tokenizer
from .pair import PairArguments, build_pair, encode, load_training_data
from .terminal import quiet_libraries, say


EPILOG = """\
examples:
  transformers-copilot train --pilot Qwen/Qwen2.5-0.5B --task boolq --data_dir data --output_dir runs/boolq
  transformers-copilot train --pilot my/model --dataset questions.jsonl --output_dir runs/own --num_train_epochs 1
  transformers-copilot train --pilot my/model --dataset questions.jsonl --copilot_share 0.5 --output_dir runs/after
  transformers-copilot train --pilot my/model --copilot_data new.jsonl --form linear --output_dir runs/new
  transformers-copilot train --pilot my/model --record record --dataset questions.jsonl --output_dir runs/taught
  transformers-copilot train --config run.yaml --learning_rate 1e-4

A line of questions.jsonl: {"prompt": "Question: 2 + 2?", "target": " 4"}
All of TrainingArguments are options, too. The Pilot learns what it would learn alone; λ, how much of the Copilot's
correction is used, is then chosen on dev questions. Both learn together, from all texts. With --copilot_share the Pilot
is finished first, on a part of the texts; its mistakes on the others, which are new to it, are recorded, and the
Copilot learns from those. With --copilot_data it learns from mistakes on further texts, beside a Pilot that may stay as
it is; either goes on after a stop when the same command is given. With --record only the Copilot learns, from what
`transformers-copilot record` wrote; the data then serve to choose λ and may be left out. `transformers-copilot report
OUTPUT_DIR` shows the mistakes."""
_EXPORTED_ROWS = 10_000_000


@dataclass
class TrainArguments:
    """What a training has besides the pair's choices."""

    record: str | None = field(
        default=None, metadata={"help": "Teach the Copilot alone, from the folder that `record` wrote."}
    )
    copilot_share: float = field(
        default=0.0,
        metadata={
            "help": "This part of the texts is the Copilot's alone; it learns when the Pilot is finished. Without, "
            "both learn together, from all texts."
        },
    )
    copilot_data: str | None = field(
        default=None,
        metadata={
            "help": "Texts for the Copilot, new to the Pilot; without --task and --dataset the Pilot stays as it is."
        },
    )
    copilot_epochs: float = field(
        default=COPILOT_EPOCHS, metadata={"help": "How often a Copilot that learns after its Pilot reads its texts."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the output folder's last checkpoint, if any."})


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `train`.

    Returns:
        `int`: the exit code.
    """
    progress = quiet_libraries()
    kinds = (PairArguments, TrainArguments, DataArguments, CopilotTrainingArguments)
    parser = make_parser("train", kinds, "Fine-tune a model (the Pilot) and teach its Copilot.", EPILOG)
    parser.set_defaults(
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        logging_steps=10,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=not progress,
        mistake_log_export_rows=_EXPORTED_ROWS,
    )
    choices, options, data_options, training, _ = parse(parser, arguments)
    set_seed(training.seed)
    if options.copilot_share or options.copilot_data is not None:
        _after_each_other(choices, options, data_options, training)
        return 0
    recorded = None if options.record is None else RecordedMistakes(options.record)
    if recorded is not None:
        _only_the_copilot_learns(training)
    data = None
    if recorded is None or data_options.task is not None or data_options.dataset is not None:
        data = load_training_data(choices, data_options, training.seed)
    tokenizer = load_tokenizer(choices.pilot)
    pair = build_pair(choices, tokenizer)
    seq2seq = bool(pair.config.is_encoder_decoder)
    train_items: Any = recorded
    dev_items, too_long = None, 0
    if data is not None:
        dev_items, _ = encode(tokenizer, data.dev, choices, seq2seq)
    if data is not None and recorded is None:
        train_items, too_long = encode(tokenizer, data.train, choices, seq2seq)
    name = choices.pilot if data is None else data.name
    told = f"{name}: {len(train_items):,} {'training' if recorded is None else 'recorded'} texts"
    told += f", {len(dev_items or ()):,} for λ" + (f"; {too_long:,} were too long" if recorded is None else "")
    own = pair.num_parameters() - pair.pilot.num_parameters()
    say(told, f"Pilot {pair.pilot.num_parameters():,} weights, Copilot {own:,}")
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    sets = {"train_dataset": train_items, "eval_dataset": dev_items, "data_collator": collator}
    trainer = CopilotTrainer(model=pair, args=training, processing_class=tokenizer, **sets)
    _train(trainer, options.resume)
    if dev_items is not None:
        _choose_weight(trainer, dev_items, f"{name} dev", progress)
    else:
        say(f"λ = {pair.config.copilot_weight:g}, as it was: there are no texts to choose it on (--task or --dataset)")
    trainer.save_model(training.output_dir)
    trainer.save_state()
    say(f"The pair is in {training.output_dir}. Next: transformers-copilot report {training.output_dir}")
    return 0


def _after_each_other(
    choices: PairArguments, options: TrainArguments, data_options: DataArguments, training: CopilotTrainingArguments
) -> None:
    """The Pilot first, then the Copilot."""
    if options.record is not None:
        raise ValueError(
            "`--record` is given beside `--copilot_share` or `--copilot_data`: either a record is there already, or it "
            "is to be made. Leave one of them out."
        )
    new_texts, data = new_texts_of(options.copilot_data, data_options), None
    if new_texts is None or data_options.task is not None or data_options.dataset is not None:
        data = load_training_data(choices, data_options, training.seed)
    else:
        data = load_training_data(choices, replace(data_options, dataset=options.copilot_data), training.seed)
        new_texts, data.train = data.train, None
    finish_and_teach(
        choices,
        training,
        load_tokenizer(choices.pilot),
        data,
        share=options.copilot_share,
        new_texts=new_texts,
        epochs=options.copilot_epochs,
    )


def _only_the_copilot_learns(training: CopilotTrainingArguments) -> None:
    """What a record asks of the arguments; what contradicts it is refused by the trainer."""
    training.freeze_pilot = True
    if training.mistake_log_export_rows == _EXPORTED_ROWS:  # nobody asked for it
        training.mistake_log_export_rows = 0


def _train(trainer: CopilotTrainer, resume: bool) -> None:
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is None and resume:
        checkpoint = last_whole_checkpoint(trainer.args.output_dir)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    say(f"trained in {time.perf_counter() - started:,.0f} s")


def _choose_weight(trainer: Any, dev_items: list[dict[str, list[int]]], name: str, progress: bool) -> None:
    collator = DataCollatorForSeq2Seq(trainer.processing_class, padding=True)
    size = trainer.args.per_device_eval_batch_size
    with trainer.compute_loss_context_manager():
        fit = fit_copilot_weight(
            trainer.pair, dev_items, data_collator=collator, batch_size=size, set_name=name, progress=progress
        )
    say(f"λ = {fit.weight:g}, chosen on {fit.set_size:,} texts")


__all__ = ["TrainArguments", "run"]
