"""The Trainer's callback that keeps the Mistake Log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..mistake_log.export import MistakeRowsWriter
from ..mistake_log.log import MistakeLog
from ..mistake_log.record import MistakeRecord
from ..mistake_log.token_text import TokenTexts
from .checkpoints import write_rows_count
from .live_metrics import live_statistics, token_texts_of


logger = logging.get_logger(__name__)


class MistakeLogCallback(TrainerCallback):
    """Is handed each micro-batch's record, and commits the round when the optimiser has stepped.

    Callbacks see neither inputs nor outputs, so the trainer's `compute_loss` hands the records over.

    Args:
        after_commit (callable, *optional*): called after each optimiser step, with nothing: the Copilot's further
            steps of the round.
        rows ([`MistakeRowsWriter`], *optional*): writes every round's rows to disk, for looking into.
    """

    def __init__(
        self,
        log: MistakeLog,
        after_commit: Callable[[], None] | None = None,
        rows: MistakeRowsWriter | None = None,
    ) -> None:
        self.log = log
        self.after_commit = after_commit
        self.rows = rows
        self._tokens: TokenTexts | None = None
        self._next_shown = 0
        self._pending: list[MistakeRecord] = []
        self._seen = False

    def begin(self, log: MistakeLog, rows: MistakeRowsWriter | None) -> None:
        """Start with a log, and forget what was collected of another.

        Args:
            rows ([`MistakeRowsWriter`], *optional*): writes the rounds' rows.
        """
        self.log, self.rows = log, rows
        self._next_shown, self._pending, self._seen = 0, [], False

    def hand(self, record: MistakeRecord | None) -> None:
        """Take one micro-batch's record.

        Args:
            record ([`MistakeRecord`], *optional*): `None` where it has no supervised token.
        """
        self._seen = True
        if record is not None:
            self._pending.append(record)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the files of rows ready; those of rounds after a checkpoint that is resumed from go.

        Args:
            args, control: the Trainer's; not used.
            state (`TrainerState`): its `global_step` is the number of the first round to come.
            **kwargs: the `processing_class` among them tells the kinds of tokens for the statistics.
        """
        self._tokens = token_texts_of(kwargs.get("processing_class"))
        self._next_shown = state.global_step
        if self.rows is not None:
            self.rows.start(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the rows that were collected.

        Args:
            args, state, control, **kwargs: the Trainer's; not used.
        """
        self.flush_rows()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what an interrupted step left.

        Args:
            args, state, control, **kwargs: the Trainer's; not used.
        """
        self._pending, self._seen = [], False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Commit the round, and call `after_commit`.

        Args:
            args, control, **kwargs: the Trainer's; not used.
            state (`TrainerState`): its `global_step` counts the step already: the round's number is one less.
        """
        if self._pending:
            record = MistakeRecord.join(self._pending)
            self.log.append(record, state.global_step - 1)
            if self.rows is not None:
                self.rows.add(state.global_step - 1, record)
        elif self._seen:
            self.log.skip()
        self._pending, self._seen = [], False
        if self.after_commit is not None:
            self.after_commit()

    def statistics(self) -> dict[str, float]:
        """What `Trainer.log` shows of the log, and sends to what `report_to` names.

        Returns:
            `dict`: rounds and megabytes kept, rounds skipped if any were, and of the rounds since it was last asked
            for the mean size of a mistake, the share of wrong tokens, and the mean size by kind of token.
        """
        numbers: dict[str, float] = {
            "mistake_log_rounds": len(self.log),
            "mistake_log_megabytes": round(self.log.nbytes / 1e6, 2),
        }
        if self.log.skipped_rounds:
            numbers["mistake_log_skipped_rounds"] = self.log.skipped_rounds
        if len(self.log):
            numbers |= live_statistics(self.log, self._next_shown, self._tokens)
            self._next_shown = self.log.round_numbers[-1] + 1
        return numbers

    def flush_rows(self) -> None:
        """Write the rows that were collected: before a checkpoint is whole, so that it has all rows up to it."""
        if self.rows is not None:
            self.rows.flush()

    def save(self, folder: str | Path, rank: int, step: int) -> None:
        """Write the log into a checkpoint's folder, and how many exported rows there are.

        Args:
            rank (`int`): this process's number; each has a log of its own.
            step (`int`): the checkpoint's; rows of rounds below it count.
        """
        self.log.save(log_file(folder, rank))
        if self.rows is not None:
            write_rows_count(folder, self.rows.rows_on_disk, rank, step)

    def load(self, folder: str | Path, rank: int, processes: int = 1) -> None:
        """Go on with the log of a checkpoint; where it holds none, with the one there is, and a warning.

        Args:
            rank (`int`): this process's number: each has a log of its own.
            processes (`int`, *optional*, defaults to 1): how many there are. Of a checkpoint that more or fewer saved,
                the rounds are put together and shared out anew.

        Raises:
            ValueError: the log is cut off or another model's.
        """
        saved = _log_files(folder)
        if not saved:
            logger.warning(f"{folder} holds no Mistake Log; the run goes on with an empty one.")
        elif len(saved) == processes:
            self.log = MistakeLog.load(saved[rank], self.log.max_rounds, self.log.max_bytes, self.log.fingerprint)
        else:
            parts = [MistakeLog.load(path, self.log.max_rounds, sys.maxsize, self.log.fingerprint) for path in saved]
            self.log = MistakeLog.shared_out(parts, rank, processes, self.log.max_bytes)


def rows_writer(args: Any, folder: str | None = None) -> MistakeRowsWriter | None:
    """What writes the rows that `mistake_log_export_rows` asks for.

    Args:
        args ([`CopilotArguments`]): with `output_dir` and this process's number, of which the files' names are made.
        folder (`str`, *optional*): the run's; defaults to `output_dir`. Each trial of a search has one of its own.

    Returns:
        [`MistakeRowsWriter`], or `None` where none are wanted.
    """
    if not args.mistake_log_export_rows:
        return None
    ranks = {"rank": args.process_index, "world_size": args.world_size}
    return MistakeRowsWriter(folder or args.output_dir, args.mistake_log_export_rows, **ranks)


def log_file(folder: str | Path, rank: int) -> Path:
    """Where a checkpoint keeps the log.

    Args:
        rank (`int`): the process's number, which stands in the file's name; not for the first process, 0.

    Returns:
        `Path`
    """
    return Path(folder) / ("mistake_log.safetensors" if rank == 0 else f"mistake_log-{rank:05d}.safetensors")


def _log_files(folder: str | Path) -> list[Path]:
    """The logs that a checkpoint holds, in the order of the processes that saved them."""
    first = log_file(folder, 0)
    others = sorted(Path(folder).glob("mistake_log-*.safetensors"))
    return [first, *others] if first.is_file() else []


__all__ = ["MistakeLogCallback", "log_file", "rows_writer"]
