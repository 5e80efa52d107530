"""What `train` and `record` share: the pair and its choices, and which texts it is taught with."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig

from ..building.pair_building import DEFAULT_COPILOT_LAYERS, form_of, pilot_class
from ..data.chat import use_template
from ..data.items import encode_items
from ..data.training_data import TextRows, encode_texts
from ..pair.modeling_pilot_copilot import PilotCopilotForCausalLM
from ..pair.modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
from ..pair.options import chosen
from .data import DataArguments, TextData, beside, first, load_own_data, load_task_data, parted
from .models import load_pair, load_tokenizer
from .terminal import say
from .train_options import PairArguments


_MOST_DEV_TEXTS = 200
_OF_DECODER = ("rationale", "error_feedback")


def load_texts(options: PairArguments, data_options: DataArguments, seed: int) -> TextData:
    """Training and dev texts.

    Args:
        options ([`PairArguments`]): how many, and where dev texts come from.
        data_options ([`DataArguments`]): which.
        seed (`int`): seed of the choice of dev texts where they are taken out of the training ones.

    Returns:
        [`TextData`] with `train` and `dev`

    Raises:
        ValueError: there are too few, or streaming doesn't know where to stop.
    """
    limit = None
    if options.streaming:
        if options.max_train_examples is None:
            raise ValueError("`--streaming` reads the first rows only: say how many with `--max_train_examples`.")
        limit = options.max_train_examples + (0 if options.dev_dataset is not None else _MOST_DEV_TEXTS)
    data = load_task_data(data_options, seed) or load_own_data(data_options, limit, options.streaming)
    if options.dev_dataset is not None:
        data.dev = load_own_data(beside(data_options, options.dev_dataset)).train
    if data.train is None:
        raise ValueError(f"{data.name} has no training texts.")
    if data.dev is None:
        size = min(max(1, round(options.dev_size * len(data.train))), _MOST_DEV_TEXTS)
        if size >= len(data.train):
            raise ValueError(f"{len(data.train)} texts leave none to train on beside {size} to choose λ on; give more.")
        data.train, data.dev = parted(data.train, size, seed)
    data.train = first(data.train, options.max_train_examples)
    return data


def pilot_tokenizer(options: PairArguments) -> Any:
    """The Pilot's tokenizer, with the chat template that was asked for.

    Args:
        options ([`PairArguments`]): the model, and the template.

    Returns:
        `PreTrainedTokenizerBase`
    """
    tokenizer = load_tokenizer(options.pilot)
    use_template(tokenizer, options.chat_template)
    return tokenizer


def encode(tokenizer: Any, rows: Any, options: PairArguments, seq2seq: bool, tell: bool = False) -> tuple[Any, int]:
    """Texts as token ids.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        rows (`datasets.Dataset` with `prompt` and `target`, or [`TextRows`]): the texts.
        options ([`PairArguments`]): how long they may be.
        seq2seq (`bool`): whether prompts go to an encoder.
        tell (`bool`, *optional*, defaults to `False`): print how one's own rows are laid out, and what was left out.

    Returns:
        `tuple`: the items, and how many texts were too long.
    """
    if isinstance(rows, TextRows):
        made = encode_texts(tokenizer, rows, options.max_length, seq2seq)
        if tell:
            say(made.description, *made.notes)
        return made, made.too_long
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


def load_pilot(options: PairArguments, tokenizer: Any, folder: str | None = None) -> Any:
    """The Pilot alone, on the CPU; of a pair its Pilot as the pair has it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        folder (`str`, *optional*): where it is taken from, in the place of what `--pilot` names.

    Returns:
        `PreTrainedModel`
    """
    name = folder or options.pilot
    config = AutoConfig.from_pretrained(name)
    if config.model_type.startswith("pilot_copilot"):
        return load_pair(name, options.dtype, "cpu").pilot
    kind: Any = PilotCopilotForSeq2SeqLM if config.is_encoder_decoder else PilotCopilotForCausalLM
    loader = pilot_class(kind._auto_pilot_class, name, {"config": config})
    pilot = loader.from_pretrained(name, dtype=getattr(torch, options.dtype))
    pilot.generation_config.pad_token_id = tokenizer.pad_token_id
    return pilot


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


__all__ = ["PairArguments", "build_pair", "copilot_fields", "encode", "load_texts", "pair_choices"]
__all__ += ["load_pilot", "pilot_tokenizer"]
