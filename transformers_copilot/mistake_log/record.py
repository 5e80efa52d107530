"""One round of the Mistake Log on the CPU: the padding dropped, the numbers narrowed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..pair.mistake_batch import LESSON_FIELDS, MistakeBatch
from ..pair.options import chosen
from .transfer import to_device, to_host


# Kept once a token; `question` too, but an encoder-decoder's has lengths of its own.
TOKEN_FIELDS = (
    *("token_ids", "labels", "lessons", "rationale"),
    *("belief_ids", "belief_probabilities", "next_probabilities"),
)
_HIDDEN_FIELDS = ("question", "layers")
# Kept in 16 bits too, but finer than bfloat16, where all of them are within float16's range: distributions are made of
# them, and a branch's correction is a small difference.
_FINE_FIELDS = ("head_states", "lesson_logits", "belief_probabilities", "rationale")
_FLOAT16_BOUND = 6e4
_EXACT_FIELDS = ("next_probabilities", "true_probabilities", "predicted_probabilities", "mistake_sizes")


@dataclass
class MistakeRecord:
    """What the Pilot was asked, held and got wrong in one round (Eq. 3-5), for all of the round's sequences in a row.

    Args:
        lengths (`torch.IntTensor` of shape `(sequences,)`): tokens of each sequence; they add up to `tokens`.
        labels (`torch.IntTensor` of shape `(tokens,)`): the supervised token after each one, or -100.
        lessons (`torch.BoolTensor` of shape `(tokens,)`): which of them can be learnt from.
        true_probabilities, predicted_ids, predicted_probabilities, mistake_sizes, head_states, lesson_logits:
            at the lessons, one after the other, as of [`MistakeBatch`].
        rationale (`torch.Tensor` of shape `(tokens, hidden)` or `(tokens, layers, hidden)`, *optional*): h̄, in the
            second shape where several layers are read; `None` where the Copilot reads none.
        belief_ids (`torch.IntTensor` of shape `(tokens, top_k)`, *optional*): most probable tokens of p̂.
        belief_probabilities (`torch.Tensor` of shape `(tokens, top_k)`, *optional*): p̂ of the tokens in `belief_ids`.
        next_probabilities (`torch.Tensor` of shape `(tokens,)`, *optional*): p̂ of the next token.
        question (`torch.Tensor` of shape `(question tokens, question_size)`, *optional*): X̃; `None` where the tokens
            and a frozen embedding say it all.
        question_lengths (`torch.IntTensor` of shape `(sequences,)`, *optional*): encoder-decoder: the sources' lengths.
        layers (`torch.Tensor` of shape `(decoder layers, first tokens, hidden)`, *optional*): every layer's output for
            the first sequences (as many as `mistake_log_layers` says), for looking into.
    """

    lengths: Tensor
    token_ids: Tensor
    labels: Tensor
    lessons: Tensor
    true_probabilities: Tensor
    predicted_ids: Tensor
    predicted_probabilities: Tensor
    mistake_sizes: Tensor
    head_states: Tensor | None = None
    lesson_logits: Tensor | None = None
    rationale: Tensor | None = None
    belief_ids: Tensor | None = None
    belief_probabilities: Tensor | None = None
    next_probabilities: Tensor | None = None
    question: Tensor | None = None
    question_lengths: Tensor | None = None
    layers: Tensor | None = None

    @classmethod
    def from_batch(
        cls, batch: MistakeBatch, dtype: torch.dtype = torch.bfloat16, keep_question: bool = True
    ) -> MistakeRecord:
        """Drop padding, narrow, and move to the CPU.

        Args:
            batch ([`MistakeBatch`]): a padded round, on any device.
            dtype (`torch.dtype`, *optional*, defaults to `torch.bfloat16`): of hidden states and probabilities.
            keep_question (`bool`, *optional*, defaults to `True`): `False` where the embedding is frozen.

        Returns:
            [`MistakeRecord`]; packed rows come apart into their documents.
        """
        batch = batch.of_lessons()
        real = batch.attention_mask
        values = {name: getattr(batch, name)[real] for name in present(batch, TOKEN_FIELDS)}
        values |= {name: getattr(batch, name) for name in present(batch, LESSON_FIELDS)}
        lengths, question_lengths, question = _lengths(batch), None, None
        if batch.question is not None and (keep_question or batch.question_mask is not None):
            mask = real if batch.question_mask is None else batch.question_mask
            question = batch.question[mask]
            question_lengths = None if batch.question_mask is None else mask.sum(dim=-1)
        layers = None if batch.layers is None else batch.layers[:, real[: batch.layers.shape[1]]]
        tensors = {**values, "lengths": lengths, "question": question, "question_lengths": question_lengths}
        tensors["layers"] = layers
        stored: dict[str, Any] = {
            name: _narrowed(name, tensor, dtype) for name, tensor in tensors.items() if tensor is not None
        }
        return cls(**to_host(stored))

    @classmethod
    def join(cls, records: list[MistakeRecord]) -> MistakeRecord:
        """One record of several, for instance of the micro-batches of one optimiser step.

        Args:
            records (list of [`MistakeRecord`]): one or more, which keep the same fields. `layers` are those of the
                first.

        Returns:
            [`MistakeRecord`]
        """
        if len(records) == 1:
            return records[0]
        joined = {}
        # Autocast would widen what is joined, and refuses float16 beside its own type.
        with torch.autocast(records[0].token_ids.device.type, enabled=False):
            for field in fields(cls):
                parts = [getattr(record, field.name) for record in records]
                if field.name == "layers":
                    joined[field.name] = parts[0]
                else:
                    joined[field.name] = None if parts[0] is None else torch.cat(parts)
        return cls(**joined)

    def part(self, index: int, count: int) -> MistakeRecord:
        """The sequences of one of `count` nearly equal parts, to be read under gradient accumulation.

        Args:
            index (`int`): which part, from 0.
            count (`int`): into how many parts of about equal length.

        Returns:
            [`MistakeRecord`]; without sequences where there are fewer than parts.
        """
        if count == 1:
            return self
        bounds = [len(self.lengths) * edge // count for edge in (index, index + 1)]
        tokens = slice(*(int(self.lengths[:edge].sum()) for edge in bounds))
        lessons = slice(*(int(self.lessons[:edge].sum()) for edge in (tokens.start, tokens.stop)))
        chosen = {name: getattr(self, name)[tokens] for name in present(self, TOKEN_FIELDS)}
        chosen |= {name: getattr(self, name)[lessons] for name in present(self, LESSON_FIELDS)}
        question, question_lengths = self.question, self.question_lengths
        if question is not None and question_lengths is not None:
            sources = slice(*(int(question_lengths[:edge].sum()) for edge in bounds))
            question, question_lengths = question[sources], question_lengths[slice(*bounds)]
        elif question is not None:
            question = question[tokens]
        return MistakeRecord(
            lengths=self.lengths[slice(*bounds)], question=question, question_lengths=question_lengths, **chosen
        )

    def sequences(self) -> list[MistakeRecord]:
        """Its sequences apart, in order; without what `layers` holds of some.

        Returns:
            list of [`MistakeRecord`], views of this one.
        """
        lengths = self.lengths.tolist()
        marks = self.lessons.split(lengths)
        counts = torch.stack([mark.sum() for mark in marks]).tolist() if marks else []
        pieces = {name: getattr(self, name).split(lengths) for name in present(self, TOKEN_FIELDS)}
        pieces |= {name: getattr(self, name).split(counts) for name in present(self, LESSON_FIELDS)}
        pieces["lengths"] = self.lengths.split(1)
        if self.question is not None and self.question_lengths is not None:
            pieces["question"] = self.question.split(self.question_lengths.tolist())
            pieces["question_lengths"] = self.question_lengths.split(1)
        elif self.question is not None:
            pieces["question"] = self.question.split(lengths)
        return [MistakeRecord(**{name: split[row] for name, split in pieces.items()}) for row in range(len(lengths))]

    def to_batch(self, device: torch.device | str = "cpu") -> MistakeBatch:
        """Pad again, on the right, on a device.

        Args:
            device (`torch.device`, *optional*, defaults to the CPU): where the Copilot is.

        Returns:
            [`MistakeBatch`]
        """
        lengths = self.lengths.tolist()
        padded: dict[str, Any] = {
            name: _padded(getattr(self, name), lengths, device) for name in present(self, TOKEN_FIELDS)
        }
        padded |= {name: _widened(to_device(getattr(self, name), device)) for name in present(self, LESSON_FIELDS)}
        attention_mask = _mask(lengths, device)
        padded["labels"] = padded["labels"].masked_fill(~attention_mask, -100)
        question, question_mask = None, None
        if self.question is not None:
            sources = lengths if self.question_lengths is None else self.question_lengths.tolist()
            question = _padded(self.question, sources, device)
            question_mask = None if self.question_lengths is None else _mask(sources, device)
        return MistakeBatch(attention_mask=attention_mask, question=question, question_mask=question_mask, **padded)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, those that are there.

        Returns:
            `dict`: field name to tensor.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def count_supervised(self, mistakes_from: str) -> int:
        """Positions that the Copilot's loss covers in this round.

        Args:
            mistakes_from (`str`): `"labels"` counts the supervised positions, `"all"` every lesson.

        Returns:
            `int`
        """
        labelled = self.labels >= 0
        return int((self.lessons if chosen("mistakes_from", mistakes_from) == "all" else labelled).sum())


def present(round_: MistakeBatch | MistakeRecord, names: tuple[str, ...]) -> list[str]:
    """Those of some fields that a round has.

    Args:
        names (tuple of `str`): the fields to look for; their order is kept.
    """
    return [name for name in names if getattr(round_, name) is not None]


def _lengths(batch: MistakeBatch) -> Tensor:
    """Tokens of each sequence; each document of a packed row is one."""
    if batch.segments is None:
        return batch.attention_mask.sum(dim=-1)
    counts = [torch.bincount(row) for row in batch.segments]
    return torch.cat([count[count > 0] for count in counts])


def _narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Narrow one field: hidden states to `dtype`; what distributions and corrections are made of to float16 (finer than
    bfloat16) where that is narrow too and its range suffices; single probabilities to float32, ids to int32."""
    if tensor.dtype == torch.bool:
        narrow = torch.bool
    elif name in _HIDDEN_FIELDS:
        narrow = dtype
    elif name in _FINE_FIELDS:
        small = dtype.itemsize == 2 and (not tensor.numel() or float(tensor.abs().max()) < _FLOAT16_BOUND)
        narrow = torch.float16 if small else (dtype if name == "rationale" else torch.float32)
    else:
        narrow = torch.float32 if name in _EXACT_FIELDS else torch.int32
    return tensor.detach().to(narrow)


def _padded(flat: Tensor, lengths: list[int], device: torch.device | str) -> Tensor:
    if not any(lengths):  # not a single token: one position of padding stands for them
        return _widened(flat.new_zeros(len(lengths), 1, *flat.shape[1:]).to(device))
    # Padded there: without padding and narrow there is less to copy.
    return _widened(pad_sequence(list(to_device(flat, device).split(lengths)), batch_first=True))


def _widened(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:
        return tensor
    return tensor.long() if tensor.dtype == torch.int32 else tensor.float()


def _mask(lengths: list[int], device: torch.device | str) -> Tensor:
    positions = torch.arange(max(*lengths, 1), device=device)
    return positions < torch.tensor(lengths, device=device).unsqueeze(-1)


__all__ = ["TOKEN_FIELDS", "MistakeRecord", "present"]
