"""Decoding over known targets only: a tree of their tokens, and the function that `generate` asks at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase


class TargetTrie:
    """Token sequences as a tree: which tokens may follow a beginning.

    Args:
        sequences (`Iterable[Sequence[int]]`): the targets' tokens, without the end-of-text token.
        end_token (`int`): the end-of-text token, which ends every target.

    Attributes:
        longest (`int`): tokens of the longest target with its end: the least `max_new_tokens` that cuts none off.
        count (`int`): number of targets. More beams than that bring beams that are no target.

    Raises:
        ValueError: there is no target, or one has no tokens.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], end_token: int) -> None:
        self._root: dict[int, Any] = {}
        self.end_token, self.longest, self.count = end_token, 0, 0
        for sequence in sequences:
            if not sequence:
                raise ValueError("A target has no tokens: the tokenizer makes nothing of its text.")
            node = self._root
            for token in (*sequence, end_token):
                node = node.setdefault(int(token), {})
            self.longest, self.count = max(self.longest, len(sequence) + 1), self.count + 1
        if not self.count:
            raise ValueError("There is no target to choose from: give one or more.")

    @classmethod
    def of_texts(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> TargetTrie:
        """The tree of texts, each tokenized on its own without special tokens, as training targets are.

        Args:
            texts (`Sequence[str]`): the only texts that may be written, such as the names of all items.
            tokenizer (`PreTrainedTokenizerBase`): that of the model which writes, with an end-of-text token.

        Raises:
            ValueError: the tokenizer has no end-of-text token, or there is nothing to choose from.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError("The tokenizer has no end-of-text token: set its `eos_token`.")
        ids = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
        return cls(ids, tokenizer.eos_token_id)

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Tokens that may follow a beginning.

        Args:
            written (`Sequence[int]`): the tokens so far.

        Returns:
            `list[int]`: the end-of-text token alone after a whole target or after what begins none, since `generate`
            must always be allowed something.
        """
        node = self._root
        for token in written:
            node = node.get(int(token), {})
        return list(node) or [self.end_token]

    def prefix_allowed_tokens_fn(self, prompt_length: int = 1) -> Callable[[int, Tensor], list[int]]:
        """The function for the argument `prefix_allowed_tokens_fn` of `generate`.

        Args:
            prompt_length (`int`, defaults to 1): tokens before the target. For a decoder-only model the length of
                `input_ids`, padding included (pad on the left); for an encoder-decoder 1, the decoder's start token.

        Returns:
            `Callable`: of the row's number and its tokens so far to the tokens allowed next.

        Raises:
            ValueError: `prompt_length` is negative.
        """
        if prompt_length < 0:
            raise ValueError(f"`prompt_length` is {prompt_length}: give the number of tokens before the target.")

        def allowed_tokens(row: int, tokens: Tensor) -> list[int]:
            """The tokens that may follow what a row of beams has written."""
            return self.allowed(tokens[prompt_length:].tolist())

        return allowed_tokens


__all__ = ["TargetTrie"]
