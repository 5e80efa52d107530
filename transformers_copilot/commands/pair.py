"""What `train` and `record` share: the pair and its choices, and which texts it is taught with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig

from ..building.pair_building import DEFAULT_COPILOT_LAYERS, DEFAULT_FORM, form_of
from ..pair.modeling_pilot_copilot import PilotCopilotForCausalLM
from ..pair.modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
from ..pair.options import COPILOT_VALUES, OPTION_VALUES, PAIR_OPTIONS, chosen
from ..tasks.answering import encode_items
from .data import DataArguments, TextData, first, load_own_data, load_task_data
from .models import load_pair


_OF_DECODER = ("rationale", "error_feedback")


@dataclass
class PairArguments:
    """The model and the pair's choices; docs/options.md says what each does."""

    pilot: str = field(metadata={"help": "Id or folder of the model, or of a pair, which keeps its own choices."})
    copilot: str | None = field(default=None, metadata={"help": "Id or folder of a Copilot to start from."})
    form: str | None = field(
        default=None,
        metadata={
            "choices": list(COPILOT_VALUES["form"]),
            "help": f"A new Copilot's form; '{DEFAULT_FORM}', or 'decoder' where one of its options is given.",
        },
    )
    copilot_layers: int | None = field(
        default=None, metadata={"help": f"Layers of a 'branch' or a 'decoder'; {DEFAULT_COPILOT_LAYERS} by default."}
    )
    head: str | None = field(
        default=None, metadata={"choices": list(COPILOT_VALUES["head"]), "help": "Its vocabulary matrices."}
    )
    error_feedback: str | None = field(
        default=None,
        metadata={
            "choices": list(OPTION_VALUES["error_feedback"]),
            "help": "What a 'decoder' is told of earlier tokens.",
        },
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
        metadata={"choices": list(COPILOT_VALUES["rationale"]), "help": "What a 'decoder' sees of the Pilot's layers."},
    )
    dtype: str = field(default="float32", metadata={"choices": ["float32", "bfloat16"], "help": "Of the weights."})
    dev_dataset: str | None = field(default=None, metadata={"help": "Rows to choose λ on, beside --dataset."})
    dev_size: float = field(default=0.1, metadata={"help": "Share of train for it where there are none; 200 at most."})
    max_train_examples: int | None = field(default=None, metadata={"help": "Train on the first so many only."})
    max_length: int = field(default=256, metadata={"help": "Longest text in tokens; longer ones are left out."})


def load_training_data(options: PairArguments, data_options: DataArguments, seed: int) -> TextData:
    """Training and dev texts.

    Args:
        options ([`PairArguments`]): how many, and where dev texts come from.
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


def encode(tokenizer: Any, rows: Any, options: PairArguments, seq2seq: bool) -> tuple[list[dict[str, list[int]]], int]:
    """Texts as token ids.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        rows (`datasets.Dataset`): with `prompt` and `target`.
        options ([`PairArguments`]): how long they may be.
        seq2seq (`bool`): whether prompts go to an encoder.

    Returns:
        `tuple`: the items, and how many texts were too long.
    """
    texts = list(zip(rows["prompt"][:], rows["target"][:], strict=True))
    return encode_items(tokenizer, texts, options.max_length, seq2seq)


def build_pair(options: PairArguments, tokenizer: Any) -> Any:
    """The pair that the options name, on the CPU.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.

    Returns:
        The pair.
    """
    config = AutoConfig.from_pretrained(options.pilot)
    if config.model_type.startswith("pilot_copilot"):
        return load_pair(options.pilot, options.dtype, "cpu")
    kind: Any = PilotCopilotForSeq2SeqLM if config.is_encoder_decoder else PilotCopilotForCausalLM
    copilot, dtype = options.copilot or copilot_fields(options), getattr(torch, options.dtype)
    pair = kind.from_pilot(options.pilot, copilot=copilot, dtype=dtype, **pair_choices(options))
    pair.generation_config.pad_token_id = tokenizer.pad_token_id
    return pair


def pair_choices(options: PairArguments) -> dict[str, Any]:
    """The pair's choices, as `from_pilot` takes them.

    Returns:
        `dict`: name to value.
    """
    names = ("head", "error_feedback", "fusion", "objective")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def copilot_fields(options: PairArguments) -> dict[str, Any]:
    """The fields of a Copilot that is made anew.

    Returns:
        `dict`: name to value.

    Raises:
        ValueError: an option is of another form.
    """
    given = [name for name in _OF_DECODER if getattr(options, name) is not None]
    said = [name for name in ("copilot_layers", *given) if getattr(options, name) is not None]
    form = options.form or form_of(dict.fromkeys(said), options.head, {})
    if given and chosen("form", form) != "decoder":
        named = ", ".join(f"`--{name} {getattr(options, name)}`" for name in given)
        raise ValueError(
            f"{named}: this is about a Copilot of the form 'decoder', and the form is {form!r}. Leave it out, or add "
            "`--form decoder`."
        )
    fields: dict[str, Any] = {"form": form}
    if options.rationale is not None:
        fields["rationale"] = options.rationale
    if chosen("form", form) != "linear":
        fields["num_hidden_layers"] = options.copilot_layers or DEFAULT_COPILOT_LAYERS
    elif options.copilot_layers is not None:
        raise ValueError(
            f"`--copilot_layers {options.copilot_layers}` is given, but the form 'linear' has no layers. Leave it out, "
            "or choose `--form branch` or `--form decoder`."
        )
    return fields


__all__ = ["PairArguments", "build_pair", "copilot_fields", "encode", "load_training_data", "pair_choices"]
