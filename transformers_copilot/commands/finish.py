"""`transformers-copilot train` where the Copilot learns after its Pilot: `--copilot_share` and `--copilot_data`."""

from __future__ import annotations

import signal
import time
from typing import Any

from transformers import AutoConfig, DataCollatorForSeq2Seq, Trainer

from ..data.training_data import TextRows
from ..mistake_log.recorded_mistakes import RecordedMistakes
from ..training.arguments import CopilotTrainingArguments
from ..training.finishing import PILOT_FOLDER, RECORD_FOLDER, finish_then_record, split
from ..training.trainer import CopilotTrainer
from .baseline import Baseline
from .data import TextData, beside, load_own_data
from .pair import copilot_fields, encode, load_pilot, pair_choices
from .progress import RecordLines, StepClock, StopOnInterrupt, speak
from .terminal import say
from .train_options import DataArguments, PairArguments
from .verdict import verdict


def finish_and_teach(
    choices: PairArguments,
    training: CopilotTrainingArguments,
    tokenizer: Any,
    data: TextData,
    *,
    share: float,
    new_texts: Any = None,
    epochs: float,
    baseline: tuple[str, float | None] | None = None,
) -> None:
    """Fine-tune the Pilot on a part of the texts, teach the Copilot on the rest, choose λ, and save the pair.

    Args:
        choices ([`PairArguments`]): the model and the pair's choices.
        training ([`CopilotTrainingArguments`]): of both trainings.
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        data ([`TextData`]): with `dev`, and `train` where the Pilot is to be trained.
        share (`float`): the part of `train` that is the Copilot's.
        new_texts ([`TextRows`], *optional*): texts for the Copilot, in the place of a share; `data.train` itself where
            both learn from all of them.
        epochs (`float`): how often the Copilot reads its texts.
        baseline (`tuple`, *optional*): the rival's kind, and its learning rate. It is the finished Pilot, trained on
            with the Copilot's texts for as long as recording and teaching took.

    Raises:
        Interrupted: Ctrl-C was pressed, or SIGTERM came, while a part was trained.
        ValueError: the model is a pair already, or an option can't be used.
    """
    config = AutoConfig.from_pretrained(choices.pilot)
    if config.model_type.startswith("pilot_copilot"):
        raise ValueError(
            f"{choices.pilot} is a pair already. Give a plain model, or leave `--copilot_share` and `--copilot_data` "
            "out to train both parts of the pair together."
        )
    pilot = load_pilot(choices, tokenizer)
    sets = _encoded(choices, tokenizer, data, new_texts, bool(config.is_encoder_decoder))
    started, lines, clock = time.perf_counter(), RecordLines(training.disable_tqdm), StepClock()
    interrupt = StopOnInterrupt()

    def prepare(trainer: Trainer) -> None:
        """Let a trainer speak, and stop in good order."""
        teaches = isinstance(trainer, CopilotTrainer)
        speak(trainer, "teaching the Copilot" if teaches else "training the Pilot")
        if teaches:
            trainer.add_callback(clock)
        trainer.add_callback(interrupt)

    # With `--enable_jit_checkpoint` the Trainer itself saves on SIGTERM.
    with interrupt.listening((signal.SIGTERM,) if training.enable_jit_checkpoint else ()):
        pair = finish_then_record(
            pilot,
            training,
            copilot=choices.copilot or copilot_fields(choices),
            copilot_share=share,
            copilot_epochs=epochs,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
            processing_class=tokenizer,
            on_trainer=prepare,
            progress=lines if training.disable_tqdm or baseline else True,
            **sets,
            **pair_choices(choices),
        )
    pair.save_pretrained(training.output_dir)
    tokenizer.save_pretrained(training.output_dir)
    recorded = RecordedMistakes(f"{training.output_dir}/{RECORD_FOLDER}")
    texts = sets.get("train_dataset") or []
    learnt = len(texts) - (len(recorded) if texts and new_texts is None else 0)
    say(
        f"{data.name}: the Pilot learnt from {learnt:,} texts, the Copilot from {len(recorded):,}; "
        f"{time.perf_counter() - started:,.0f} s",
        *_verdict(pair, sets.get("eval_dataset"), tokenizer, training.per_device_eval_batch_size),
        f"The pair is in {training.output_dir}. Next: transformers-copilot report {training.output_dir}",
    )
    if baseline is not None:
        rest = sets.get("copilot_dataset") or split(list(texts), share, training.seed)[1]
        finished = f"{training.output_dir}/{PILOT_FOLDER}" if texts else None
        kind, rate = baseline
        rival = Baseline(kind, lambda: load_pilot(choices, tokenizer, finished), rest, training, tokenizer, rate)
        taken = clock.seconds + lines.seconds_a_text * len(recorded) if clock.seconds and lines.seconds_a_text else 0.0
        say(*rival.compare(pair, sets["eval_dataset"], taken))


def _encoded(choices: PairArguments, tokenizer: Any, data: TextData, new_texts: Any, seq2seq: bool) -> dict[str, Any]:
    """The texts of both parts and of dev as items, by what `finish_then_record` calls them."""
    sets: dict[str, Any] = {}
    for name, rows in (("train_dataset", data.train), ("copilot_dataset", new_texts), ("eval_dataset", data.dev)):
        if rows is None:
            continue
        if name == "copilot_dataset" and rows is data.train:
            sets[name] = sets["train_dataset"]
            continue
        sets[name], too_long = encode(tokenizer, rows, choices, seq2seq, tell=name != "eval_dataset")
        if too_long and not isinstance(rows, TextRows):
            say(f"{too_long:,} of {len(rows):,} texts are longer than --max_length {choices.max_length}: left out")
    return sets


def _verdict(pair: Any, items: Any, tokenizer: Any, batch_size: int) -> list[str]:
    if pair.config.copilot_weight_fit is None or items is None:
        return [f"λ = {pair.config.copilot_weight:g}, as it was: there are no texts to choose it on"]
    return verdict(pair, items, tokenizer, batch_size)


def new_texts_of(file: str | None, data_options: DataArguments) -> Any:
    """The rows of `--copilot_data`.

    Args:
        file (`str`, *optional*): a file, a folder, or an id on the Hub.
        data_options ([`DataArguments`]): the names of its columns.

    Returns:
        [`TextRows`], or `None` without the option.
    """
    if file is None:
        return None
    return load_own_data(beside(data_options, file)).train


__all__ = ["finish_and_teach", "new_texts_of"]
