"""`transformers-copilot record`: read a model once over training texts, and keep what a Copilot learns from."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import AutoConfig, DataCollatorForSeq2Seq

from ..hub.pilot_fingerprint import tokenizer_hash
from ..mistake_log.record_header import RecordHeader, check_begun
from ..mistake_log.record_joining import join_records
from ..mistake_log.record_processes import RecordingProcesses, processes, shard_of
from ..mistake_log.record_shards import missing_shards
from ..mistake_log.recording import Recording, data_digest, own_record
from ..pair.options import OPTION_VALUES, TRAINING_VALUES, check_positive
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
  accelerate launch --multi_gpu -m transformers_copilot record --pilot my/model --task boolq --output_dir record
  transformers-copilot record --pilot my/model --task boolq --shard 0/2 --output_dir record-a    (record-b: 1/2)
  transformers-copilot record --join record-a record-b --output_dir record

The texts are those that `train` would train on with the same options; those for λ are left out. The Copilot's options
say what is kept. A command that was stopped is given again to go on: shards that are whole stay. Calls with --shard
write into one folder, or each into its own; --join then makes one record of these, and copies nothing. Options can be
in a YAML file, too (--config)."""


@dataclass
class ReadArguments(PairArguments):
    """The model and the pair's choices. Joining needs neither."""

    pilot: str = field(
        default="", metadata={"help": "Id or folder of the model, or of a pair, which keeps its own choices; needed."}
    )


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
    join: list[str] = field(
        default_factory=list, metadata={"help": "Folders with shards, to be one record; needs only --output_dir."}
    )
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
    kinds = (ReadArguments, RecordArguments, DataArguments)
    parser = make_parser("record", kinds, "Read a model once; teach Copilots from what is kept, often.", EPILOG)
    options, record, data_options, _ = parse(parser, arguments)
    if record.join:
        return _join(record, _given(options, record, data_options), progress)
    if not options.pilot:
        parser.error("the following arguments are required: --pilot")  # as argparse says it
    layers, shard = _check(record)
    with own_record(record.output_dir, shard) as together:
        return _record(options, record, data_options, layers, shard, together, progress)


def _record(
    options: PairArguments,
    record: RecordArguments,
    data_options: DataArguments,
    layers: list[int | str],
    shard: tuple[int, int] | None,
    together: RecordingProcesses,
    progress: bool,
) -> int:
    data = load_texts(options, data_options, record.seed)
    tokenizer = pilot_tokenizer(options)
    seq2seq = bool(AutoConfig.from_pretrained(options.pilot).is_encoder_decoder)
    items, too_long = encode(tokenizer, data.train, options, seq2seq, tell=together.is_first)
    known = {"sequences": len(items), "data": data_digest(items), "tokenizer_hash": tokenizer_hash(tokenizer)}
    check_begun(record.output_dir, known)
    pair = build_pair(options, tokenizer).to(
        record.device or (str(processes().device) if together.count > 1 else default_device())
    )
    if record.mistakes_from is not None:
        pair.config.mistakes_from = record.mistakes_from
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
        together=together,
    )
    if together.is_first:
        say(f"{data.name}: {len(items):,} texts; {too_long:,} were too long", recording.size.describe())
    recording.run(progress or RecordLines())
    if together.is_first:
        say(*_done(Path(record.output_dir), options.pilot))
    return 0


def _done(folder: Path, pilot: str) -> list[str]:
    """What is there now, and what comes next."""
    header = RecordHeader.read(folder)
    next_step = f"Next: transformers-copilot train --pilot {pilot} --record {folder} …"
    if missing := len(missing_shards(folder, header)):
        return [
            f"{folder} has {header.shards - missing} of the record's {header.shards} shards. The others come into this "
            f"folder, too; or, where they are in others: transformers-copilot record --join {folder} … --output_dir "
            "FOLDER",
            next_step,
        ]
    return [f"The record is in {folder}. {next_step}"]


def _join(record: RecordArguments, others: list[str], progress: bool) -> int:
    if others:
        raise ValueError(
            f"`--join` makes one record of folders that are recorded, and reads no model and no data: leave "
            f"{', '.join(others)} out."
        )
    folder = join_records(record.join, record.output_dir, progress=progress)
    header = RecordHeader.read(folder)
    lie_in = f"; its shards lie in {', '.join(header.joined_from)}, seen from there" if header.joined_from else ""
    say(
        f"{header.shards} shards with {header.sequences:,} texts are whole{lie_in}.",
        f"The record is in {folder}. Next: transformers-copilot train --pilot … --record {folder} …",
    )
    return 0


def _given(*parsed: Any) -> list[str]:
    """The options beside `--join` and `--output_dir` that are not as they are by default."""
    found = []
    for values in parsed:
        for item in fields(values):
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if item.name not in ("join", "output_dir") and getattr(values, item.name) != default:
                found.append(f"`--{item.name}`")
    return found


def _check(record: RecordArguments) -> tuple[list[int | str], tuple[int, int] | None]:
    """What needs neither data nor model: the layers that are named, and the call's share."""
    layers, shard = [_layer(word) for word in record.layers], _part(record.shard)
    shard_of(shard)
    check_positive("sequences_per_shard", record.sequences_per_shard)
    check_positive("batch_size", record.batch_size)
    known = {"sequences_per_shard": record.sequences_per_shard, "dtype": record.state_dtype}
    if record.mistakes_from is not None:
        known["mistakes_from"] = record.mistakes_from
    check_begun(record.output_dir, known)
    return layers, shard


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
