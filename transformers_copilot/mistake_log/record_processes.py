"""The processes that record together: which shards each writes, what they tell each other, and how long they wait."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState


# Another process may have a shard more to write, which takes its time. Where one has died, what launched them ends all.
_PATIENCE = timedelta(days=30)


def processes() -> PartialState:
    """The processes that `torchrun` or `accelerate launch` has started, as the Trainer knows them."""
    # Where there is no accelerator it has to be told so, or each process believes to be alone.
    return PartialState(cpu=not torch.accelerator.is_available())


def shard_of(shard: tuple[int, int] | None) -> tuple[int, int]:
    """Which part of the work a call does.

    Args:
        shard (`tuple[int, int]`, *optional*): `(i, n)`, as a user gives it; all by default.

    Returns:
        `tuple[int, int]`: the call writes those shards whose number divided by n leaves i.

    Raises:
        ValueError: there is no such part.
    """
    if shard is None:
        return 0, 1
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"`shard` is {(index, count)}; give (i, n) with i from 0 to n - 1.")
    return index, count


class RecordingProcesses:
    """The processes of one call, on one machine or on several, whether their disk is the same or not: `count` of them.
    This one is number `index`, from 0."""

    def __init__(self) -> None:
        self.index = 0
        self.count = 1
        self._local = (0, 1)
        self._group: Any = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            state = processes()
            self.index, self.count = int(state.process_index), int(state.num_processes)
            on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.count))
            self._local = (int(state.local_process_index) % on_this_machine, on_this_machine)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that tells how things go, and owns the folder for all."""
        return self.index == 0

    def own(self, numbers: Sequence[int]) -> list[int]:
        """What this process does of what all of them do.

        Args:
            numbers (sequence of `int`): the same in every process.
        """
        return list(numbers[self.index :: self.count])

    def own_on_machine(self, numbers: Sequence[int]) -> list[int]:
        """What this process does of what those of one machine do.

        Args:
            numbers (sequence of `int`): the same in every process of a machine.
        """
        return list(numbers[self._local[0] :: self._local[1]])

    def gather(self, value: Any) -> list[Any]:
        """Wait for all processes, and hear what each has to say.

        Args:
            value: what this one says.

        Returns:
            `list`: a value of each, in their order.
        """
        if self.count == 1:
            return [value]
        if self._group is None:
            # Of its own: the Trainer's gives up after some minutes, and its tensors are on the accelerator.
            self._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value, group=self._group)
        return found

    def close(self) -> None:
        """Give back what hearing each other took."""
        if self._group is not None:
            torch.distributed.destroy_process_group(self._group)
            self._group = None


__all__ = ["RecordingProcesses", "processes", "shard_of"]
