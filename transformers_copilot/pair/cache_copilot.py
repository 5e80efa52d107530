"""The Copilot's keys and values while generating."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache


class CopilotCache:
    """Keys and values of the Copilot's three kinds of input, each a list of growing layers.

    Attributes:
        mistakes (`DynamicCache`): of its own sequence, one layer a self-attention.
        questions (`DynamicCache`): of questions, one layer a cross-attention. An encoder-decoder's are computed once.
        rationales (`DynamicCache`): of rationales, one layer a cross-attention.
        fixed_questions (`bool`): the questions are an encoder's output: they neither grow nor shrink.
    """

    def __init__(self, fixed_questions: bool = False) -> None:
        self.mistakes = DynamicCache()
        self.questions = DynamicCache()
        self.rationales = DynamicCache()
        self.fixed_questions = fixed_questions

    def _growing(self) -> list[DynamicCache]:
        return [self.mistakes, self.rationales] + ([] if self.fixed_questions else [self.questions])

    def _all(self) -> list[DynamicCache]:
        return [self.mistakes, self.questions, self.rationales]

    def get_seq_length(self) -> int:
        """Positions seen so far."""
        return self.mistakes.get_seq_length()

    def has_questions(self, layer_index: int) -> bool:
        """Whether a cross-attention's fixed questions are already there.

        Args:
            layer_index (`int`): number of the cross-attention, from 0.

        Returns:
            `bool`
        """
        return self.fixed_questions and self.questions.get_seq_length(layer_index) > 0

    def stored_questions(self, layer_index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a cross-attention's questions.

        Args:
            layer_index (`int`): number of the cross-attention, from 0.

        Returns:
            Two tensors of shape `(batch, key heads, questions, head width)`.
        """
        layer = self.questions.layers[layer_index]
        return layer.keys, layer.values

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions.

        Args:
            tokens_to_remove (`int`): how many, as a number of zero or less, as transformers' caches take it.
        """
        for cache in self._growing():
            cache.crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the rows in the beams' new order.

        Args:
            beam_idx (`torch.LongTensor` of shape `(rows,)`): which old row each new one continues.
        """
        for cache in self._all():
            cache.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row.

        Args:
            repeats (`int`): how many times.
        """
        for cache in self._all():
            cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows.

        Args:
            indices (`torch.Tensor`): which.
        """
        for cache in self._all():
            cache.batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        for cache in self._all():
            cache.reset()


__all__ = ["CopilotCache"]
