"""Replies written in batches."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def write_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 32,
    **generate_options: Any,
) -> list[str]:
    """Let a model answer prompts, greedily unless told otherwise, in left-padded batches of similar length.

    Args:
        model: A pair, or any model that can generate; it is put into evaluation mode.
        max_new_tokens: Longest reply, in tokens.
        batch_size: Prompts a batch; defaults to 32.
        **generate_options: More options of `generate`, such as `copilot_weight=0.0` or `num_beams=4`.

    Returns:
        The replies without prompts and special tokens, in the prompts' order.
    """
    model.eval()
    replies = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in chosen], padding=True, padding_side="left", return_tensors="pt")
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        options = {"do_sample": False, "max_new_tokens": max_new_tokens, **generate_options}
        written = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **options)
        if not model.config.is_encoder_decoder:
            written = written[:, inputs["input_ids"].shape[1] :]
        for index, text in zip(chosen, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            replies[index] = text
    return replies
