"""One cache for a pair: the Pilot's, the Copilot's keys and values, and what the Pilot believed last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from transformers import Cache, DynamicCache, EncoderDecoderCache


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
            repeats (`int`): how many copies of each row, next to each other.
        """
        for cache in self._all():
            cache.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows.

        Args:
            indices (`torch.Tensor`): the rows to keep, in their new order.
        """
        for cache in self._all():
            cache.batch_select_indices(indices)

    def reset(self) -> None:
        """Forget everything."""
        for cache in self._all():
            cache.reset()


class PilotCopilotCache(Cache):
    """The cache of a pair. It crops, repeats, selects and reorders everything together.

    A mistake is known one token late: ℓ_j needs the token after j. So the Pilot's logits of the last position stay
    here until that token comes. While the past is recorded (assisted decoding) those of every position since the last
    crop stay, so that a crop can go back to any of them.

    Args:
        pilot (`Cache`): the Pilot's own cache.
        copilot ([`CopilotCache`] or `Cache`, *optional*): the Copilot's own, by default a decoder-only decoder's.
    """

    def __init__(self, pilot: Cache, copilot: Any = None) -> None:
        # `Cache.__init__` would make layers of its own; ours are the Pilot's.
        self.pilot = pilot
        self.copilot = CopilotCache() if copilot is None else copilot
        self.pending_logits: Tensor | None = None
        self.pending_feedback: Tensor | None = None
        self.recording = False

    def keep_pending(self, logits: Tensor, feedback: Tensor | None) -> None:
        """Keep what the next call's first mistake is made of.

        Args:
            logits (`torch.Tensor` of shape `(batch, length, vocab)`): the Pilot's, of this call.
            feedback (`torch.Tensor` of shape `(batch, length, vocab)`, *optional*): "predicted" feedback: the
                Copilot's own outputs of this call.
        """
        self.pending_logits = self._kept(self.pending_logits, logits.detach())
        self.pending_feedback = None if feedback is None else self._kept(self.pending_feedback, feedback.detach())

    def _kept(self, old: Tensor | None, new: Tensor) -> Tensor:
        if not self.recording:
            return new[:, -1:].clone()
        # A copy: assisted decoding writes processed scores into the logits that it was given.
        return new.clone() if old is None else torch.cat([old, new], dim=1)

    def check_in_step(self) -> None:
        """Refuse to go on where only the Pilot has.

        Raises:
            ValueError: the Pilot's part holds positions that the Copilot's does not.
        """
        if is_compiling():  # a static cache keeps its length on the device, where a look at it would cut the graph
            return
        ahead = int(self.get_seq_length() - self.copilot.get_seq_length())
        if ahead:
            raise ValueError(
                f"the cache holds {ahead} positions that the Copilot has not seen: the Pilot read them alone, "
                "with λ = 0 or by itself. Read the text again with a new cache, or go on with λ = 0."
            )

    def last_logits(self) -> Tensor | None:
        """The Pilot's logits of the last position.

        Returns:
            `torch.Tensor` of shape `(batch, 1, vocab)`, or `None` in an empty cache.

        Raises:
            ValueError: the cache was cropped without having recorded its past.
        """
        if self.pending_logits is None and self.get_seq_length() > 0:
            raise ValueError(
                "this cache was cropped, and what the Pilot believed at its new end is gone. Call "
                "its `activate_past_recording()` before the forward passes that may be undone."
            )
        return None if self.pending_logits is None else self.pending_logits[:, -1:]

    def last_feedback(self) -> Tensor | None:
        """The Copilot's own output at the last position, under "predicted" feedback.

        Returns:
            `torch.FloatTensor` of shape `(batch, 1, vocab)`, or `None` where it is not known.
        """
        return None if self.pending_feedback is None else self.pending_feedback[:, -1:]

    @property
    def layers(self) -> list[Any]:
        """The Pilot's cache layers (its decoder's self-attention)."""
        inner = self.pilot
        return inner.self_attention_cache.layers if isinstance(inner, EncoderDecoderCache) else inner.layers

    @property
    def is_updated(self) -> dict[int, bool]:
        """Encoder-decoder: which cross-attention layers hold their keys already."""
        return self.pilot.is_updated

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Hand keys and values on to the Pilot's cache; see `Cache.update`.

        Args:
            key_states (`torch.Tensor` of shape `(batch, key heads, length, head width)`): new keys.
            value_states (`torch.Tensor` of the same shape): new values.
            layer_idx (`int`): the Pilot's layer that they are of, from 0.
            *args: handed on.
            **kwargs: handed on.

        Returns:
            All keys and values of the layer.
        """
        return self.pilot.update(key_states, value_states, layer_idx, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions seen so far; see `Cache.get_seq_length`.

        Args:
            layer_idx (`int`, *optional*): one of the Pilot's cache layers.

        Returns:
            `int`
        """
        return self.pilot.get_seq_length(layer_idx)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The longest sequence that fits; see `Cache.get_max_length`.

        Args:
            layer_idx (`int`, *optional*): one of the Pilot's cache layers.

        Returns:
            `int`, -1 where there is no limit.
        """
        return self.pilot.get_max_length(layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Key length and offset for masks; see `Cache.get_mask_sizes`.

        Args:
            query_length (`int`): positions of the call.
            layer_idx (`int`): one of the Pilot's cache layers.

        Returns:
            Two `int`.
        """
        return self.pilot.get_mask_sizes(query_length, layer_idx)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Offset of the queries; see `Cache.get_query_offset`.

        Args:
            layer_idx (`int`, *optional*): one of the Pilot's cache layers.

        Returns:
            `int`
        """
        return self.pilot.get_query_offset(layer_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last positions, in both parts.

        Args:
            tokens_to_remove (`int`): how many, as a number of zero or less.
        """
        self.pilot.crop(tokens_to_remove)
        self.copilot.crop(tokens_to_remove)
        self.pending_logits = _cropped(self.pending_logits, tokens_to_remove)
        self.pending_feedback = _cropped(self.pending_feedback, tokens_to_remove)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the rows in the beams' new order; see `Cache.reorder_cache`.

        Args:
            beam_idx (`torch.LongTensor` of shape `(batch,)`): for each row the one it continues.
        """
        self.pilot.reorder_cache(beam_idx)
        self.copilot.reorder_cache(beam_idx)
        self._map_pending(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row; see `Cache.batch_repeat_interleave`.

        Args:
            repeats (`int`): how many copies of each row, next to each other.
        """
        self.pilot.batch_repeat_interleave(repeats)
        self.copilot.batch_repeat_interleave(repeats)
        self._map_pending(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some of the rows; see `Cache.batch_select_indices`.

        Args:
            indices (`torch.Tensor` of shape `(kept,)`): which, as numbers or as a mask.
        """
        self.pilot.batch_select_indices(indices)
        self.copilot.batch_select_indices(indices)
        self._map_pending(lambda tensor: tensor[indices])

    def reset(self) -> None:
        """Forget everything."""
        self.pilot.reset()
        self.copilot.reset()
        self.pending_logits = self.pending_feedback = None

    def activate_past_recording(self) -> None:
        """Keep what a later `crop` may need to go back to."""
        self.pilot.activate_past_recording()
        self.recording = True

    def _map_pending(self, function: Any) -> None:
        if self.pending_logits is not None:
            self.pending_logits = function(self.pending_logits)
        if self.pending_feedback is not None:
            self.pending_feedback = function(self.pending_feedback)

    def __len__(self) -> int:
        return len(self.pilot)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(pilot={self.pilot!r}, length={self.get_seq_length()})"

    @property
    def is_compileable(self) -> bool:
        """Whether both parts are static."""
        return self.pilot.is_compileable and isinstance(self.copilot, Cache) and self.copilot.is_compileable

    @property
    def is_initialized(self) -> bool:
        """Whether the Pilot's cache holds data."""
        return self.pilot.is_initialized

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` can put the Pilot's cache back as it was."""
        return self.pilot.is_croppable

    @property
    def is_sliding(self) -> list[bool]:
        """Which of the Pilot's layers slide."""
        return self.pilot.is_sliding

    @property
    def is_linear(self) -> list[bool]:
        """Which of the Pilot's layers are linear attention."""
        return self.pilot.is_linear

    @property
    def is_dummy(self) -> list[bool]:
        """Which of the Pilot's layers hold nothing."""
        return self.pilot.is_dummy

    @property
    def batch_size(self) -> int:
        """Rows, or -1 where the Pilot's cache does not say."""
        return self.pilot.batch_size


def _cropped(pending: Tensor | None, tokens_to_remove: int) -> Tensor | None:
    """What is left of pending positions; only the last one is needed once the past before it is certain."""
    if pending is None:
        return None
    left = pending[:, : max(0, pending.shape[1] - abs(tokens_to_remove))]
    return left[:, -1:].clone() if left.shape[1] > 0 else None


__all__ = ["CopilotCache", "PilotCopilotCache"]
