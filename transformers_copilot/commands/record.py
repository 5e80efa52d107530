"""`transformers-copilot record`: read a model once over training texts, and keep what a Copilot learns from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from transformers import DataCollatorForSeq2Seq

from ..mistake_log.recording import Recording, processes
from ..pair.options import OPTION_VALUES, TRAINING_VALUES
from .arguments import make_parser, parse
from .models import default_device
from .pair import build_pair, encode, load_texts, pilot_tokenizer
from .progress import RecordLines
from .terminal import quiet_libraries, say
from .train_options import DataArguments, PairArguments


EPILOG = """\
examples:
  transformers-copilot record --pilot my/model --dataset questions.jsonl --error_feedback token --output_dir record
  transformers-copilot train --pilot my/model --record record --error_feedback token --output_dir runs/own
  torchrun --nproc_per_node 4 -m transformers_copilot record --pilot my/model --task boolq --output_dir record

The texts are those that `train` would train on with the same options; those for λ are left out. The Copilot's options
say what is kept. A command that was stopped is given again to go on: shards that are whole stay. Options can be in a
YAML file, too (--config)."""


@dataclass
class RecordArguments:
    """Where to, and how."""

    output_dir: str = field(metadata={"help": "Folder of the record."})
    sequences_per_shard: int = field(default=256, metadata={"help": "Sequences of a file."})
    batch_size: int = field(default=16, metadata={"help": "Sequences that the model reads at once."})
    state_dtype: str = field(
        default="bfloat16", metadata={"choices": list(TRAINING_VALUES["mistake_log_dtype"]), "help": "Of kept states."}
    )
    layers: list[str] = field(
        default_factory=list,
        metadata={"help": "Layers, from 0, or 'mean', to be kept for other Copilots beside what this one reads."},
    )
    mistakes_from: str | None = field(
        default=None, metadata={"choices": list(OPTION_VALUES["mistakes_from"]), "help": "Which positions teach."}
    )
    shard: str | None = field(default=None, metadata={"help": "i/n: write every n-th shard only, from number i."})
    device: str | None = field(default=None, metadata={"help": "Where the model goes; an accelerator if there is one."})
    seed: int = field(default=42, metadata={"help": "Seed of the choice of texts for λ, as of `train`."})


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `record`.

    Returns:
        `int`: the exit code.
    """
    progress = quiet_libraries()
    kinds = (PairArguments, RecordArguments, DataArguments)
    parser = make_parser("record", kinds, "Read a model once; teach Copilots from what is kept, often.", EPILOG)
    options, record, data_options, _ = parse(parser, arguments)
    layers, shard = [_layer(word) for word in record.layers], _part(record.shard)
    data = load_texts(options, data_options, record.seed)
    tokenizer = pilot_tokenizer(options)
    pair = build_pair(options, tokenizer).to(record.device or _own_device())
    if record.mistakes_from is not None:
        pair.config.mistakes_from = record.mistakes_from
    items, too_long = encode(tokenizer, data.train, options, bool(pair.config.is_encoder_decoder), tell=True)
    recording = Recording(
        pair,
        items,
        record.output_dir,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        batch_size=record.batch_size,
        tokenizer=tokenizer,
        sequences_per_shard=record.sequences_per_shard,
        dtype=record.state_dtype,
        layers=layers,
        shard=shard,
    )
    if recording.is_first:
        say(f"{data.name}: {len(items):,} texts; {too_long:,} were too long", recording.size.describe())
    recording.run(progress or RecordLines())
    if not recording.is_first:
        return 0
    say(
        f"The record is in {record.output_dir}. Next: transformers-copilot train --pilot {options.pilot} "
        f"--record {record.output_dir} …"
    )
    return 0


def _own_device() -> str:
    """Under `torchrun` each process has a device of its own."""
    return str(processes().device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else default_device()


def _layer(word: str) -> int | str:
    if word == "mean":
        return word
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"--layers has {word!r}; give numbers of decoder layers, from 0, or mean.") from None


def _part(word: str | None) -> tuple[int, int] | None:
    if word is None:
        return None
    index, _, count = word.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--shard is {word!r}; give i/n, as in 0/4, with i from 0 to n - 1.")
    return int(index), int(count)


__all__ = ["RecordArguments", "run"]
