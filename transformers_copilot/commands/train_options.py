"""The options of `train` and what its help shows. Nothing here imports torch or transformers: help comes at once."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ..pair.options import COPILOT_VALUES, OPTION_VALUES, PAIR_OPTIONS


DESCRIPTION = "Fine-tune a model (the Pilot) and teach its Copilot. Your data may be in any usual layout."
EXAMPLES = """\
examples:
  transformers-copilot train --pilot my/model --dataset chats.jsonl --output_dir runs/own
  transformers-copilot train --pilot my/model --dataset chats.jsonl --dry_run          (look at the data, train nothing)
  transformers-copilot train --pilot Qwen/Qwen2.5-0.5B --task boolq --data_dir data --output_dir runs/boolq\
"""
NOTES = """\
DATA is a file (.jsonl, .json, .csv, .tsv, .parquet, .txt, also .gz and the like), a folder, or an id on the Hub; a row
has messages, prompt and completion (or target), instruction and output, or text. λ, how much of the Copilot's
correction is used, is chosen on dev texts. Options can be in a YAML file: --config FILE.yaml.
`--help-all` lists all of Trainer's options, too. docs/commands.md says more."""
# For the long help.
WAYS = """\
The Pilot learns what it would learn alone. Both learn together, from all texts. With --copilot_share the Pilot is
finished first, on a part of the texts; its mistakes on the others, which are new to it, are recorded, and the Copilot
learns from those. With --copilot_data it learns from mistakes on further texts, beside a Pilot that may stay as it is,
or on the Pilot's own texts (--copilot_data same), all of which both then read; each goes on after a stop when the same
command is given. With --record only the Copilot learns, from what `transformers-copilot record` wrote; the data then
serve to choose λ and may be left out. `transformers-copilot report OUTPUT_DIR` shows the mistakes."""
# What a rival of the pair is called.
BASELINES = {"longer": "the Pilot trained on for the same time", "lora": "LoRA on the Pilot for the same time"}
# Where the command differs from Trainer.
TRAINER_DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "lr_scheduler_type": "cosine",
    "save_total_limit": 2,
    "report_to": "none",
}
# Trainer's options that the short help shows; their defaults are checked against Trainer's by a test.
_TRAINER_SHOWN: dict[str, tuple[Any, str]] = {
    "output_dir": ("trainer_output", "Folder of the run."),
    "num_train_epochs": (3.0, "How often the texts are read."),
    "max_steps": (-1, "Train so many steps, in the place of epochs."),
    "learning_rate": (5e-5, "The Pilot's."),
    "copilot_learning_rate": (None, "The Copilot's own; the Pilot's by default."),
    "per_device_train_batch_size": (TRAINER_DEFAULTS["per_device_train_batch_size"], "Texts at a time."),
    "bf16": (False, "Compute in bfloat16."),
    "seed": (42, "Of everything that is drawn."),
}


@dataclass
class DataArguments:
    """Which questions are read; `--task`, or `--dataset`."""

    task: str | None = field(default=None, metadata={"help": "A task, such as mawps or boolq; docs/tasks.md has all."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the tasks' JSON lines; else the Hub."})
    dataset: str | None = field(default=None, metadata={"help": "Your own data: a file, a folder, an id on the Hub."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration on the Hub."})
    prompt_column: str | None = field(default=None, metadata={"help": "What the model is given, if not recognised."})
    target_column: str | None = field(default=None, metadata={"help": "What it is to write, if not recognised."})
    separator: str | None = field(default=None, metadata={"help": "Put between prompt and target, such as ' '."})
    answer_column: str | None = field(default=None, metadata={"help": "The right answer; the target without one."})
    skip_bad_rows: bool = field(default=False, metadata={"help": "Leave broken rows out; else one is an error."})
    max_test_examples: int | None = field(default=None, metadata={"help": "Answer the first so many only."})


@dataclass
class PairArguments:
    """The model and the pair's choices; docs/options.md says what each does."""

    pilot: str = field(metadata={"help": "Id or folder of the model, or of a pair, which keeps its own choices."})
    copilot: str | None = field(default=None, metadata={"help": "Id or folder of a Copilot to start from."})
    form: str | None = field(
        default=None,
        metadata={"choices": list(COPILOT_VALUES["form"]), "help": "A new Copilot's form; linear by default."},
    )
    copilot_layers: int | None = field(
        default=None, metadata={"help": "Layers of a branch or a decoder; 2 by default."}
    )
    head: str | None = field(
        default=None, metadata={"choices": list(COPILOT_VALUES["head"]), "help": "Its vocabulary matrices."}
    )
    error_feedback: str | None = field(
        default=None,
        metadata={"choices": list(OPTION_VALUES["error_feedback"]), "help": "What a decoder is told."},
    )
    fusion: str = field(
        default=PAIR_OPTIONS["fusion"].default,
        metadata={"choices": list(OPTION_VALUES["fusion"]), "help": "How p̂ and the correction become p̃."},
    )
    objective: str = field(
        default=PAIR_OPTIONS["objective"].default,
        metadata={"choices": list(OPTION_VALUES["objective"]), "help": "The Copilot's loss."},
    )
    rationale: str | None = field(
        default=None,
        metadata={"choices": list(COPILOT_VALUES["rationale"]), "help": "What a decoder sees of the Pilot."},
    )
    dtype: str = field(default="float32", metadata={"choices": ["float32", "bfloat16"], "help": "Of the weights."})
    chat_template: str | None = field(
        default=None, metadata={"help": "A file with one, or plain; for a tokenizer that has none."}
    )
    dev_dataset: str | None = field(default=None, metadata={"help": "Rows to choose λ on, beside --dataset."})
    dev_size: float = field(default=0.1, metadata={"help": "Share of the texts for it without these; 200 at most."})
    max_train_examples: int | None = field(default=None, metadata={"help": "Train on the first so many only."})
    streaming: bool = field(default=False, metadata={"help": "Read only these from the Hub, not the whole data set."})
    max_length: int = field(default=1024, metadata={"help": "Longest text in tokens; longer ones are left out."})


# What `--copilot_data` is where the Copilot learns from the Pilot's own texts.
SAME_TEXTS = "same"


@dataclass
class TrainArguments:
    """What a training has besides the pair's choices."""

    dry_run: bool = field(default=False, metadata={"help": "Show three texts and what is learnt; train nothing."})
    record: str | None = field(default=None, metadata={"help": "Teach the Copilot alone, from what `record` wrote."})
    copilot_share: float = field(
        default=0.0, metadata={"help": "Finish the Pilot first; the Copilot learns from this part of the texts."}
    )
    copilot_data: str | None = field(
        default=None, metadata={"help": "Or from these (or same: the Pilot's); without data the Pilot stays as it is."}
    )
    copilot_epochs: float = field(default=4.0, metadata={"help": "How often a Copilot that learns so reads its texts."})
    baseline: str | None = field(
        default=None, metadata={"choices": list(BASELINES), "help": "Also train the honest rival: as long, no Copilot."}
    )
    baseline_learning_rate: float | None = field(
        default=None, metadata={"help": "The rival's; by default --learning_rate, for LoRA ten times that."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the output folder's last checkpoint, if any."})


def short_help() -> str:
    """The help of `train` on one screen: examples, its own options with their defaults, and Trainer's most used.

    Returns:
        `str`
    """
    lines = ["usage: transformers-copilot train --pilot MODEL --dataset DATA --output_dir FOLDER [options]", ""]
    lines += [DESCRIPTION, "", EXAMPLES, ""]
    for title, kind in (("the model", PairArguments), ("the data", DataArguments), ("the training", TrainArguments)):
        lines.append(f"{title}:")
        for item in fields(kind):
            if item.name == "max_test_examples":
                continue
            default = "needed" if item.default is MISSING else item.default
            choices = item.metadata.get("choices")
            about = f"{item.metadata['help']} One of {', '.join(choices)}." if choices else item.metadata["help"]
            lines.append(_line(item.name, default, about))
    lines += [_line(name, default, about) for name, (default, about) in _TRAINER_SHOWN.items()]
    return "\n".join([*lines, "", NOTES])


def _line(name: str, default: Any, about: str) -> str:
    """An option, what it does, and its default where there is one."""
    said = "" if default is None or default is False else f" ({default})"
    return f"  --{name:27} {about}{said}"


__all__ = ["BASELINES", "DESCRIPTION", "EXAMPLES", "NOTES", "TRAINER_DEFAULTS", "WAYS"]
__all__ += ["DataArguments", "PairArguments", "TrainArguments", "short_help"]
