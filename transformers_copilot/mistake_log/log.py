"""The Mistake Log: a bounded notebook of the Pilot's latest rounds, on the CPU (§2.2)."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers.utils import logging

from ..pair.options import check_positive
from ..pair.saved_files import READING_ERRORS, digest_of, opened_weights
from .record import MistakeRecord


if TYPE_CHECKING:
    from datasets import Dataset

    from .recorded_mistakes import RecordedMistakes

logger = logging.get_logger(__name__)

LOG_FORMAT = "transformers_copilot.mistake_log.log.v2"
# What a log of one kind may be read as besides: rounds of all positions hold what the labelled ones need.
_READABLE_AS: dict[tuple[str, Any], tuple[Any, ...]] = {
    ("mistakes_from", "all"): ("labels",),
    ("mistakes_everywhere", True): (False,),
}


class MistakeLog:
    """The most recent rounds, the oldest dropped first.

    Args:
        max_rounds (`int`, *optional*, defaults to 128): rounds that are kept (the paper's 128).
        max_bytes (`int`, *optional*, defaults to 500,000,000): bytes that are kept; the oldest rounds go before.
        fingerprint (`dict`, *optional*): what the Pilot is (vocabulary, width, …); a log of another Pilot is refused.

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(
        self, max_rounds: int = 128, max_bytes: int = 500_000_000, fingerprint: dict[str, Any] | None = None
    ) -> None:
        check_positive("max_rounds", max_rounds)
        check_positive("max_bytes", max_bytes)
        self.max_rounds = max_rounds
        self.max_bytes = max_bytes
        self.fingerprint = dict(fingerprint or {})
        self._rounds: deque[tuple[int, MistakeRecord]] = deque()
        self._nbytes = 0
        self.total_rounds = 0
        self.skipped_rounds = 0

    def append(self, record: MistakeRecord, round_number: int | None = None) -> None:
        """Add a round; drop the oldest until the bounds hold.

        Args:
            record ([`MistakeRecord`]): the mistakes of one step of training, on the CPU.
            round_number (`int`, *optional*): its number; defaults to how many were appended before.

        Raises:
            ValueError: the round alone is larger than `max_bytes`; the log stays as it was.
        """
        if record.nbytes > self.max_bytes:
            raise ValueError(
                f"one round takes {record.nbytes:,} bytes, more than the log's `max_bytes` of {self.max_bytes:,}. "
                "Raise `mistake_log_max_bytes`, lower `mistake_top_k`, or use smaller batches."
            )
        self._rounds.append((self.total_rounds if round_number is None else round_number, record))
        self._nbytes += record.nbytes
        self.total_rounds += 1
        while len(self._rounds) > self.max_rounds or self._nbytes > self.max_bytes:
            _, dropped = self._rounds.popleft()
            self._nbytes -= dropped.nbytes

    def skip(self) -> None:
        """Count a round that had nothing to log (no supervised token)."""
        self.skipped_rounds += 1

    def mark(self) -> Callable[[], None]:
        """Remember what the log holds.

        Returns:
            A function that puts it back.
        """
        rounds, counts = tuple(self._rounds), (self._nbytes, self.total_rounds, self.skipped_rounds)

        def put_back() -> None:
            """The rounds and counts of when this was made."""
            self._rounds = deque(rounds)
            self._nbytes, self.total_rounds, self.skipped_rounds = counts

        return put_back

    def sample(self, generator: torch.Generator | None = None) -> MistakeRecord:
        """A round drawn at random, all that are kept with the same probability.

        [`CopilotTrainer`] draws the further rounds of a step by it, with a generator seeded by seed and step.

        Args:
            generator (`torch.Generator`, *optional*): source of randomness; defaults to torch's.

        Returns:
            [`MistakeRecord`]

        Raises:
            ValueError: the log is empty.
        """
        if not self._rounds:
            raise ValueError("the Mistake Log is empty; append a round before sampling one.")
        return self[self.drawn_place(len(self._rounds), generator)]

    def sample_with_next(self, generator: torch.Generator | None = None) -> MistakeRecord | None:
        """A round drawn as if the one that is under way were appended already (Algorithm 1 appends before it draws).

        Args:
            generator (`torch.Generator`, *optional*): source of randomness; defaults to torch's.

        Returns:
            [`MistakeRecord`], or `None` for the round under way. Of a full log the oldest round is never drawn: it goes
            when the next one comes.
        """
        place = self.drawn_place(len(self._rounds), generator, with_next=True)
        return self[place] if place < len(self._rounds) else None

    def drawn_place(self, count: int, generator: torch.Generator | None = None, with_next: bool = False) -> int:
        """Which of some rounds is drawn, all with the same probability.

        Args:
            count (`int`): how many there are, oldest first: of several processes more than this one may keep.
            generator (`torch.Generator`, *optional*): source of randomness; defaults to torch's.
            with_next (`bool`, *optional*, defaults to `False`): draw as if the round under way were there already.

        Returns:
            `int`: from 0; `count` is the round under way.
        """
        oldest = int(with_next and count == self.max_rounds)
        return oldest + int(torch.randint(count - oldest + with_next, (), generator=generator))

    def newest_of(self, number: int) -> MistakeRecord | None:
        """The round of a number, the newest of several.

        Args:
            number (`int`): as `append` was given it.

        Returns:
            [`MistakeRecord`], or `None` where the log keeps none of it.
        """
        return next((record for own, record in reversed(self._rounds) if own == number), None)

    def __len__(self) -> int:
        return len(self._rounds)

    def __getitem__(self, index: int) -> MistakeRecord:
        return self._rounds[index][1]

    def __iter__(self) -> Iterator[MistakeRecord]:
        return (record for _, record in self._rounds)

    @property
    def round_numbers(self) -> list[int]:
        """The numbers of the kept rounds, oldest first."""
        return [number for number, _ in self._rounds]

    @property
    def nbytes(self) -> int:
        """Bytes that the kept rounds take."""
        return self._nbytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the log to one safetensors file, whole or not at all.

        Args:
            path: the file; its folder is made if it isn't there.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{place:06d}.{name}": tensor
            for place, (_, record) in enumerate(self._rounds)
            for name, tensor in record.tensors().items()
        }
        about = {
            "rounds": self.round_numbers,
            "total_rounds": self.total_rounds,
            "skipped_rounds": self.skipped_rounds,
            "fingerprint": self.fingerprint,
        }
        about["digest"] = digest_of(tensors.items(), about)
        partial = path.with_name(path.name + ".partial")
        save_file(_apart(tensors), partial, metadata={"format": LOG_FORMAT, "log": json.dumps(about)})
        os.replace(partial, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        max_rounds: int = 128,
        max_bytes: int = 500_000_000,
        fingerprint: dict[str, Any] | None = None,
    ) -> MistakeLog:
        """Read a log that [`MistakeLog.save`] wrote.

        Args:
            path: the log's file, `mistake_log.safetensors` in a checkpoint.
            max_rounds (`int`, *optional*, defaults to 128): bound of the new log; older rounds are dropped.
            max_bytes (`int`, *optional*, defaults to 500,000,000): bound of the new log.
            fingerprint (`dict`, *optional*): what the Pilot at hand is; must be the file's, where both say.

        Returns:
            [`MistakeLog`]

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is cut off, no Mistake Log, or another model's.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no Mistake Log at {path}.")
        about, records = _read(path)
        check_fingerprint(f"at {path}", about["fingerprint"], fingerprint)
        log = cls(max_rounds, max_bytes, {**about["fingerprint"], **(fingerprint or {})})
        for number, record in zip(about["rounds"], records, strict=True):
            log.append(record, number)
        log.total_rounds, log.skipped_rounds = about["total_rounds"], about["skipped_rounds"]
        return log

    @classmethod
    def shared_out(cls, logs: list[MistakeLog], rank: int, processes: int, max_bytes: int) -> MistakeLog:
        """One process's part of the rounds that other processes have logged, more of them or fewer.

        Args:
            logs (list of [`MistakeLog`]): of the processes of a run, in their order: each has a part of a round.
            rank (`int`): the number of the process that the part is for, from 0.
            processes (`int`): into how many parts of about as many sequences each round goes.
            max_bytes (`int`): bound of the new log.

        Returns:
            [`MistakeLog`]
        """
        log = cls(logs[0].max_rounds, max_bytes, logs[0].fingerprint)
        for number in sorted({number for one in logs for number in one.round_numbers})[-log.max_rounds :]:
            found = [record for one in logs if (record := one.newest_of(number)) is not None]
            part = MistakeRecord.join(found).part(rank, processes)
            if len(part.lengths) and bool(part.lessons.any()):
                log.append(part, number)
        log.total_rounds = max(one.total_rounds for one in logs)
        log.skipped_rounds = min(one.skipped_rounds for one in logs)
        return log

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> RecordedMistakes:
        """A folder of rounds that [`record_mistakes`] wrote, to teach a Copilot from for any number of epochs:
        `CopilotTrainer(model=pair, train_dataset=MistakeLog.open(folder))`. Its states stay on disk.

        Returns:
            [`RecordedMistakes`]

        Raises:
            ValueError: it is no such folder, or a file in it is broken.
        """
        from .recorded_mistakes import RecordedMistakes

        return RecordedMistakes(folder)

    def to_dataset(self) -> Dataset:
        """The log as a `datasets.Dataset`, a row a token whose successor is known.

        Returns:
            `datasets.Dataset` with columns `round`, `sequence`, `position`, `token_id`, `true_token_id`,
            `true_probability`, `predicted_token_id`, `predicted_probability`, `supervised` and `mistake_size`
            (‖p − p̂‖²; where a position is no lesson, over the kept tokens).
        """
        from datasets import Dataset

        from .table import mistake_table

        return Dataset(mistake_table(self._rounds))


def _apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of those that share memory with another (a round that was appended twice, or in parts), which safetensors
    refuses to write."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return result


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[MistakeRecord]]:
    try:
        with opened_weights(path, str(path)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != LOG_FORMAT:
                raise ValueError(f"{path} is a safetensors file, but no Mistake Log of format {LOG_FORMAT!r}.")
            about = json.loads(metadata["log"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        digest = about.pop("digest", None)
        if digest is not None and digest != digest_of(tensors.items(), about):
            raise ValueError("it holds other numbers than those that were saved")
        grouped: list[dict[str, torch.Tensor]] = [{} for _ in about["rounds"]]
        for key, tensor in tensors.items():
            place, name = key.split(".", 1)
            grouped[int(place)][name] = tensor
        return about, [MistakeRecord(**fields) for fields in grouped]
    except READING_ERRORS as error:
        raise ValueError(
            f"{path} cannot be read as a Mistake Log ({error}); it may be cut off or damaged. Delete it to start a new "
            "log, or resume from an earlier checkpoint."
        ) from error


def check_fingerprint(which: str, found: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Refuse a log of another Pilot, or one whose rounds lack what is to be learnt from them.

    Args:
        which (`str`): the log, for the message.
        found (`dict`): the log's fingerprint; what it does not say is not checked.
        expected (`dict`, *optional*): the Pilot's, with what the rounds have to hold.

    Raises:
        ValueError: they differ; the message gives both values.
    """
    for name, value in (expected or {}).items():
        if name not in found or found[name] == value or _readable(name, found[name], value):
            continue
        if name == "mistakes_from":
            raise ValueError(
                f"the Mistake Log {which} was recorded with mistakes_from={found[name]!r}: its rounds don't hold what "
                f"mistakes_from={value!r} learns from. Train with mistakes_from={found[name]!r}, or start a new log."
            )
        raise ValueError(
            f"the Mistake Log {which} is another model's: its {name} is {found[name]!r}, this Pilot's is "
            f"{value!r}. Logs cannot be shared between Pilots or kinds of rationale; start a new one."
        )


def _readable(name: str, found: Any, wanted: Any) -> bool:
    """Whether rounds of one kind hold what is wanted of another: a Copilot that reads no rationale takes any."""
    if name == "rationale":
        return wanted is None
    return wanted in _READABLE_AS.get((name, found), ())


__all__ = ["LOG_FORMAT", "MistakeLog", "check_fingerprint"]
