"""How much disk a record takes, told before it is begun."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..pair.masks import packed_segments
from ..pair.mistake_batch import lesson_positions, target_mask
from .device_memory import size_text
from .record_header import RecordHeader


if TYPE_CHECKING:
    from torch import Tensor

    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

_SAMPLED_ROWS = 64
# How much less than estimated a record may take: only what clearly doesn't fit is refused.
_SLACK = 0.9


@dataclass(frozen=True)
class RecordSize:
    """How much disk a record takes, and how much there is.

    Attributes:
        tokens (`float`): tokens of all sequences, estimated.
        lessons (`float`): lessons among them, estimated.
        nbytes (`float`): bytes of the whole record.
        missing (`float`): bytes of what this call has still to write.
        shards (`int`): shards of the whole record.
        missing_shards (`int`): shards that this call has still to write.
        free (`int`): free bytes where it is written.
    """

    tokens: float
    lessons: float
    nbytes: float
    missing: float
    shards: int
    missing_shards: int
    free: int

    def describe(self) -> str:
        """The figures as one text, told before the start."""
        count = f"{self.missing_shards} of {self.shards} shards"
        rest = f"; {count} are still to be written here, {size_text(self.missing)}"
        return (
            f"about {self.tokens:,.0f} tokens, {self.lessons:,.0f} of them lessons: "
            f"{self.nbytes / max(self.tokens, 1.0):,.0f} bytes a token, {size_text(self.nbytes)} in all"
            f"{rest if self.missing_shards < self.shards else ''}; {size_text(self.free)} are free"
        )

    def check_fits(self, folder: Path) -> None:
        """Refuse to begin what clearly does not fit.

        Args:
            folder (`Path`): where it is written.

        Raises:
            OSError: there is too little room.
        """
        if self.missing * _SLACK > self.free:
            raise OSError(
                f"a record in {folder} takes {self.describe()}. Free some room, give a folder on another disk, record "
                "fewer sequences or `layers`, or use a Copilot that reads less (error_feedback='token', "
                "form='linear')."
            )


def estimate_size(
    pair: PilotCopilotPreTrainedModel,
    header: RecordHeader,
    dataset: Any,
    collate: Callable[[Sequence[Any]], Any],
    missing_shards: int,
    folder: Path,
) -> RecordSize:
    """Estimate by some of the rows, evenly spread.

    Args:
        header ([`RecordHeader`]): what a sequence of the record keeps, and how many there are.
        dataset: the rows to be recorded, each to be had by its number.
        collate (callable): makes a batch of some rows.
        missing_shards (`int`): shards that this call has still to write.
        folder (`Path`): where the record is to lie; the free space of that disk is read.
    """
    step = max(1, header.sequences // _SAMPLED_ROWS)
    sampled = range(0, header.sequences, step)
    sums = torch.zeros(3, dtype=torch.double)
    for row in sampled:
        sums += torch.tensor(_counts(pair, collate([dataset[row]])), dtype=torch.double)
    tokens, lessons, questions = (sums * header.sequences / len(sampled)).tolist()
    nbytes = tokens * _bytes_of_token(pair, header) + lessons * _bytes_of_lesson(pair, header) + 12 * header.sequences
    if header.question:
        nbytes += questions * pair.copilot.config.question_size * _itemsize(header)
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    share = missing_shards / header.shards
    return RecordSize(
        tokens, lessons, nbytes, nbytes * share, header.shards, missing_shards, shutil.disk_usage(place).free
    )


def _counts(pair: PilotCopilotPreTrainedModel, batch: Any) -> tuple[int, int, int]:
    """Tokens, lessons and an encoder's tokens of a batch."""
    real, lessons = batch_lessons(pair, batch)
    questions = 0
    if pair.config.is_encoder_decoder and "input_ids" in batch:
        questions = int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
    return int(real.sum()), int(lessons.sum()), questions


def batch_lessons(pair: PilotCopilotPreTrainedModel, batch: Any) -> tuple[Tensor, Tensor]:
    """Which positions of a batch are no padding, and which the Copilot is to learn from, as the pair will find them.

    Args:
        batch (`dict`): `labels` of shape `(batch, length)`, and the masks and `position_ids` that a collator gives with
            them.

    Returns:
        Two `torch.BoolTensor` of shape `(batch, length)`.
    """
    targets, segments = pair.targets_of(batch["labels"], batch), None
    if pair.config.is_encoder_decoder:
        real = batch.get("decoder_attention_mask", target_mask(targets))
    else:
        real = batch.get("attention_mask")
        segments = packed_segments(batch.get("position_ids"), real, 0)
    real = torch.ones_like(targets) if real is None else real
    return real.bool(), lesson_positions(targets, real.bool(), segments, pair.config.mistakes_from)


def _itemsize(header: RecordHeader) -> int:
    return getattr(torch, header.dtype).itemsize


def _bytes_of_token(pair: PilotCopilotPreTrainedModel, header: RecordHeader) -> int:
    belief = 0
    if header.mistakes_everywhere:
        vocab = pair.config.vocab_size
        kept = vocab if header.mistake_top_k is None else min(header.mistake_top_k, vocab)
        belief = kept * (4 + _itemsize(header)) + 4
    return 9 + belief + len(header.rationale) * int(header.pilot["hidden_size"]) * _itemsize(header)


def _bytes_of_lesson(pair: PilotCopilotPreTrainedModel, header: RecordHeader) -> int:
    head = pair.pilot.get_output_embeddings()
    width = pair.config.vocab_size if header.head_map is None or head is None else head.weight.shape[-1]
    return 16 + width * _itemsize(header)


__all__ = ["RecordSize", "batch_lessons", "estimate_size"]
