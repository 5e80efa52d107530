"""`transformers-copilot train`: fine-tune a model and teach its Copilot, or teach one from a record."""

from __future__ import annotations

import shlex
import signal
import time
from typing import Any

import torch
from transformers import AutoConfig, DataCollatorForSeq2Seq, set_seed

from ..data.training_data import marked
from ..mistake_log.recorded_mistakes import RecordedMistakes
from ..training.arguments import CopilotTrainingArguments
from ..training.checkpoints import last_whole_checkpoint
from ..training.copilot_weight import fit_copilot_weight
from ..training.trainer import CopilotTrainer
from .arguments import make_parser, parse
from .baseline import Baseline
from .data import TextData, beside
from .finish import finish_and_teach, new_texts_of
from .pair import build_pair, encode, load_pilot, load_texts, pilot_tokenizer
from .progress import LOGGING_SHARE, Interrupted, StepClock, StopOnInterrupt, duration, speak
from .terminal import quiet_libraries, say, uses_colour
from .train_options import (
    DESCRIPTION,
    EXAMPLES,
    NOTES,
    SAME_TEXTS,
    TRAINER_DEFAULTS,
    WAYS,
    DataArguments,
    PairArguments,
    TrainArguments,
    short_help,
)
from .verdict import TOGETHER, verdict


_EXPORTED_ROWS = 10_000_000


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `train`.

    Returns:
        `int`: the exit code.
    """
    progress = quiet_libraries()
    kinds = (PairArguments, TrainArguments, DataArguments, CopilotTrainingArguments)
    parser = make_parser("train", kinds, DESCRIPTION, f"{EXAMPLES}\n\n{WAYS}\n\n{NOTES}", short_help=short_help)
    parser.set_defaults(
        **TRAINER_DEFAULTS,
        logging_steps=LOGGING_SHARE,
        disable_tqdm=not progress,
        dataloader_pin_memory=torch.accelerator.is_available(),  # torch warns of it where there is none
        use_cpu=not torch.accelerator.is_available(),  # or launched processes would not know of each other
        mistake_log_export_rows=_EXPORTED_ROWS,
    )
    choices, options, data_options, training, _ = parse(parser, arguments)
    set_seed(training.seed)
    if options.dry_run:
        _show_texts(choices, data_options, training.seed)
        return 0
    has_texts = data_options.task is not None or data_options.dataset is not None
    _check_baseline(options, has_texts, training.world_size)
    if options.copilot_share or options.copilot_data is not None:
        return _after_each_other(choices, options, data_options, training)
    recorded = None if options.record is None else RecordedMistakes(options.record)
    if recorded is not None:
        _only_the_copilot_learns(training)
    data = None
    if recorded is None or has_texts:
        data = load_texts(choices, data_options, training.seed)
    tokenizer = pilot_tokenizer(choices)
    pair = build_pair(choices, tokenizer)
    seq2seq = bool(pair.config.is_encoder_decoder)
    name = choices.pilot if data is None else data.name
    train_items, dev_items, told = _items(choices, tokenizer, data, recorded, seq2seq)
    own = pair.num_parameters() - pair.pilot.num_parameters()
    say(f"{name}: {told}", f"Pilot {pair.pilot.num_parameters():,} weights, Copilot {own:,}")
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    sets = {"train_dataset": train_items, "eval_dataset": dev_items, "data_collator": collator}
    trainer = CopilotTrainer(model=pair, args=training, processing_class=tokenizer, **sets)
    speak(trainer)
    clock = StepClock()
    trainer.add_callback(clock)
    if stopped := _train(trainer, options.resume):
        on = [*arguments, *(() if options.resume else ("--resume",))]
        say("To go on:", f"  transformers-copilot train {shlex.join(on)}")
        return stopped
    if dev_items is not None:
        _choose_weight(trainer, dev_items, f"{name} dev", progress)
    else:
        say(f"λ = {pair.config.copilot_weight:g}, as it was: there are no texts to choose it on (--task or --dataset)")
    trainer.save_model(training.output_dir)
    trainer.save_state()
    say(f"The pair is in {training.output_dir}. Next: transformers-copilot report {training.output_dir}")
    if options.baseline is not None and data is not None:
        texts = train_items if recorded is None else encode(tokenizer, data.train, choices, seq2seq)[0]
        rate = options.baseline_learning_rate
        rival = Baseline(options.baseline, lambda: load_pilot(choices, tokenizer), texts, training, tokenizer, rate)
        say(*rival.compare(pair, dev_items, clock.seconds))
    return 0


def _check_baseline(options: TrainArguments, has_texts: bool, processes: int) -> None:
    """What a rival needs."""
    if options.baseline is None:
        return
    if processes > 1:
        raise ValueError(
            f"`--baseline {options.baseline}` is given in {processes} processes: it compares two models by the time "
            "that one process takes. Leave it out, or train in one process."
        )
    if options.record is not None and not has_texts:
        raise ValueError("`--baseline` is given without texts to train it on: add `--task` or `--dataset`.")


def _items(
    choices: PairArguments, tokenizer: Any, data: TextData | None, recorded: RecordedMistakes | None, seq2seq: bool
) -> tuple[Any, Any, str]:
    """What is trained on, what λ is chosen on, and how much that is, in words."""
    dev = None if data is None else encode(tokenizer, data.dev, choices, seq2seq)[0]
    if recorded is not None or data is None:
        return recorded, dev, f"{len(recorded or ()):,} recorded texts, {len(dev or ()):,} for λ"
    items, too_long = encode(tokenizer, data.train, choices, seq2seq, tell=True)
    return items, dev, f"{len(items):,} training texts, {len(dev or ()):,} for λ; {too_long:,} were too long"


def _show_texts(choices: PairArguments, data_options: DataArguments, seed: int) -> None:
    """What would be trained on, and what of it is learnt."""
    data = load_texts(choices, data_options, seed)
    tokenizer = pilot_tokenizer(choices)
    seq2seq = bool(AutoConfig.from_pretrained(choices.pilot).is_encoder_decoder)
    items, too_long = encode(tokenizer, data.train, choices, seq2seq, tell=True)
    say(f"{data.name}: {len(items):,} texts to train on, {len(data.dev or ()):,} for λ; {too_long:,} are too long")
    for number in range(min(3, len(items))):
        count = sum(label != -100 for label in items[number]["labels"])
        say(
            "", f"text {number + 1}: {len(items[number]['input_ids']):,} tokens, {count:,} of them learnt, marked here:"
        )
        say(marked(tokenizer, items[number], uses_colour()))
    say("", "Nothing was trained (--dry_run).")


def _after_each_other(
    choices: PairArguments, options: TrainArguments, data_options: DataArguments, training: CopilotTrainingArguments
) -> int:
    """The Pilot first, then the Copilot; the exit code."""
    if options.record is not None:
        raise ValueError(
            "`--record` is given beside `--copilot_share` or `--copilot_data`: either a record is there already, or it "
            "is to be made. Leave one of them out."
        )
    new_texts = None
    if options.copilot_data in (None, SAME_TEXTS) or data_options.task is not None or data_options.dataset is not None:
        data = load_texts(choices, data_options, training.seed)
        same = options.copilot_data == SAME_TEXTS
        new_texts = data.train if same else new_texts_of(options.copilot_data, data_options)
    else:
        data = load_texts(choices, beside(data_options, options.copilot_data), training.seed)
        new_texts, data.train = data.train, None
    try:
        finish_and_teach(
            choices,
            training,
            pilot_tokenizer(choices),
            data,
            share=options.copilot_share,
            new_texts=new_texts,
            epochs=options.copilot_epochs,
            baseline=None if options.baseline is None else (options.baseline, options.baseline_learning_rate),
        )
    except Interrupted as stopped:
        say(str(stopped), "To go on, give the same command again.")
        return stopped.exit_code
    return 0


def _only_the_copilot_learns(training: CopilotTrainingArguments) -> None:
    """What a record asks of the arguments; what contradicts it is refused by the trainer."""
    training.freeze_pilot = True
    if training.mistake_log_export_rows == _EXPORTED_ROWS:  # nobody asked for it
        training.mistake_log_export_rows = 0


def _train(trainer: CopilotTrainer, resume: bool) -> int:
    """Train; the exit code where it was stopped by Ctrl-C or SIGTERM, and 0 where it came to its end."""
    checkpoint = trainer.args.resume_from_checkpoint
    if checkpoint is None and resume and last_whole_checkpoint(trainer.args.output_dir) is not None:
        checkpoint = True
    started = time.perf_counter()
    interrupt = StopOnInterrupt()
    trainer.add_callback(interrupt)
    try:
        # With `--enable_jit_checkpoint` the Trainer itself saves on SIGTERM.
        with interrupt.listening((signal.SIGTERM,) if trainer.args.enable_jit_checkpoint else ()):
            trainer.train(resume_from_checkpoint=checkpoint)
    except Interrupted as stopped:
        say(str(stopped))
        return stopped.exit_code
    say(f"trained in {duration(time.perf_counter() - started)}")
    return 0


def _choose_weight(trainer: Any, dev_items: list[dict[str, list[int]]], name: str, progress: bool) -> None:
    collator = DataCollatorForSeq2Seq(trainer.processing_class, padding=True)
    size = trainer.args.per_device_eval_batch_size
    with trainer.compute_loss_context_manager():
        fit = fit_copilot_weight(
            trainer.pair, dev_items, data_collator=collator, batch_size=size, set_name=name, progress=progress
        )
        advice = None if trainer.pair.pilot_is_frozen else TOGETHER
        said = verdict(trainer.pair, dev_items, trainer.processing_class, size, advice)
    say(f"λ = {fit.weight:g}, chosen on {fit.set_size:,} texts", *said)


__all__ = ["run"]
