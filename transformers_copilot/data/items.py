"""Texts as items: the token ids that a model is trained on, of which only the targets are supervised."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def encode_items(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, str]],
    max_length: int,
    is_encoder_decoder: bool = False,
) -> tuple[list[dict[str, list[int]]], int]:
    """Make the token ids of training items; only the targets and their end-of-text tokens are supervised.

    Args:
        tokenizer: The Pilot's, with an end-of-text token.
        texts: For each item the prompt and the target, which begins with a space where one is to stand between them.
        max_length: Longest sequence, in tokens.
        is_encoder_decoder: Whether the prompt goes to an encoder instead of standing before the target.

    Returns:
        Items of `input_ids` and `labels` (-100 where nothing is supervised), and how many were left out for being
        longer than `max_length`: cutting them would cut off the answer.

    Raises:
        ValueError: None of them fits.
    """
    made = training_items(tokenizer, texts, is_encoder_decoder)
    items = [item for item in made if item_length(item) <= max_length]
    if not items:
        raise ValueError(f"None of {len(texts)} items fits into {max_length} tokens: give a larger `--max_length`.")
    return items, len(texts) - len(items)


def training_items(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], is_encoder_decoder: bool
) -> list[dict[str, list[int]]]:
    """Prompts and targets as items, of any length. They are tokenized apart, as they are when the model generates.

    Args:
        tokenizer: The Pilot's, with an end-of-text token.
        texts: For each item the prompt and the target.
        is_encoder_decoder: Whether the prompt goes to an encoder instead of standing before the target.

    Returns:
        An item of `input_ids` and `labels` for each text.

    Raises:
        ValueError: The tokenizer has no end-of-text token.
    """
    end = end_token(tokenizer)
    prompts = tokenizer([prompt for prompt, _ in texts]).input_ids
    targets = tokenizer([target for _, target in texts], add_special_tokens=False).input_ids
    ended = [[*target, end] for target in targets]
    if is_encoder_decoder:
        return [{"input_ids": asked, "labels": told} for asked, told in zip(prompts, ended, strict=True)]
    return [
        {"input_ids": asked + told, "labels": [-100] * len(asked) + told}
        for asked, told in zip(prompts, ended, strict=True)
    ]


def end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a text, which a model has to learn to write.

    Args:
        tokenizer: The Pilot's.

    Raises:
        ValueError: It has none.
    """
    if tokenizer.eos_token_id is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise ValueError(
            f"the tokenizer of {name} has no end-of-text token, so no answer would learn to end. Give it the one that "
            "the model was trained with, and save it: `tokenizer.eos_token = '</s>'`, "
            "`tokenizer.save_pretrained(FOLDER)`."
        )
    return int(tokenizer.eos_token_id)


def item_length(item: dict[str, list[int]]) -> int:
    """How long an item is for a model; of an encoder-decoder's, its longer side.

    Args:
        item: `input_ids` and `labels`.

    Returns:
        A number of tokens.
    """
    return max(len(item["input_ids"]), len(item["labels"]))
