"""Where a task lies on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubSource:
    """A task's data set on the Hub, and which of its splits are ours.

    Args:
        path (`str`): id of the data set.
        name (`str`, *optional*): its configuration, if it has several.
        revision (`str`, *optional*): branch, where the main one holds a loading script, which `datasets` no longer
            runs.
        splits (`dict[str, str]`): the data set's split for each of ours. Where the test answers are kept back, the
            validation split is the test set, as in LLM-Adapters.
    """

    path: str
    name: str | None = None
    revision: str | None = None
    splits: dict[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"})


PARQUET_BRANCH = "refs/convert/parquet"
TEST_IS_VALIDATION = {"train": "train", "test": "validation"}


def no_conversion(row: Row) -> dict[str, Any]:
    """For data sets on the Hub whose rows have the local files' fields.

    Returns:
        `dict`: no changes.
    """
    return {}


__all__ = ["HubSource", "PARQUET_BRANCH", "Row", "TEST_IS_VALIDATION", "no_conversion"]
