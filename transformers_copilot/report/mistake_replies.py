"""Mistakes by their place in a reply, and what follows a reply's first one; used by `mistake_analysis`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..mistake_log.export import sequence_starts
from .mistake_counters import with_shares


BEFORE, AFTER = 5, 20


class ReplyCounter:
    """Mistakes by their place in the reply, and what follows a reply's first one.

    Args:
        places (`int`): places that are counted one by one; the last gathers all later ones.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.replies = 0
        self.first_wrong = np.zeros(places, dtype="int64")
        self._by_place = np.zeros((places, 3))
        self._after = np.zeros((BEFORE + AFTER + 1, 4))

    def add(self, frame: pd.DataFrame) -> None:
        """Count some rows.

        Args:
            frame (`DataFrame`): rows of the supervised tokens of whole sequences, with `wrong`.

        Raises:
            ValueError: a sequence comes twice.
        """
        if not len(frame):
            return
        starts = sequence_starts(frame)
        reply = np.cumsum(starts) - 1
        begin = np.flatnonzero(starts)
        keys = frame.iloc[begin][["round", "sequence"]]
        if keys.duplicated().any():
            raise ValueError(
                "the rows are not in the log's order: a sequence's tokens must follow one another by position. Sort "
                'them by ["round", "sequence", "position"].'
            )
        wrong, size = frame["wrong"].to_numpy(), frame["mistake_size"].to_numpy(dtype="float64")
        place = np.arange(len(frame)) - begin[reply]
        capped = np.minimum(place, self.places - 1)
        for column, weights in enumerate((None, wrong, size)):
            self._by_place[:, column] += np.bincount(capped, weights, minlength=self.places)
        self.replies += len(begin)
        first = np.full(len(begin), -1)
        at = np.flatnonzero(wrong)[::-1]
        first[reply[at]] = place[at]  # the earliest is written last
        self.first_wrong += np.bincount(np.minimum(first[first >= 0], self.places - 1), minlength=self.places)
        total = np.cumsum(size)
        total = total - (total[begin] - size[begin])[reply]
        distance = np.where(first[reply] < 0, AFTER + 1, place - first[reply])
        near = (distance >= -BEFORE) & (distance <= AFTER)
        for column, weights in enumerate((None, wrong[near], size[near], total[near])):
            self._after[:, column] += np.bincount(distance[near] + BEFORE, weights, minlength=len(self._after))

    def by_place(self) -> pd.DataFrame:
        """Mistakes by place.

        Returns:
            `DataFrame`: see [`MistakeAnalysis`]
        """
        sums = pd.DataFrame(self._by_place, columns=["tokens", "wrong", "cost"])
        sums = sums.astype({"tokens": int, "wrong": int}).rename_axis("place").reset_index()
        return with_shares(sums[sums["tokens"] > 0]).drop(columns="cost").reset_index(drop=True)

    def first_wrong_table(self) -> pd.DataFrame:
        """Replies by the place of their first wrong token.

        Returns:
            `DataFrame`: see [`MistakeAnalysis`]
        """
        table = pd.DataFrame({"place": range(self.places), "replies": self.first_wrong})
        return table[table["replies"] > 0].reset_index(drop=True)

    def after_first_wrong(self) -> pd.DataFrame:
        """Mistakes by their distance to the reply's first.

        Returns:
            `DataFrame`: see [`MistakeAnalysis`]
        """
        sums = pd.DataFrame(self._after, columns=["tokens", "wrong", "cost", "total"])
        sums["distance"] = np.arange(-BEFORE, AFTER + 1)
        sums = sums[sums["tokens"] > 0].astype({"tokens": int}).reset_index(drop=True)
        shared = with_shares(sums).assign(mean_total=sums["total"] / sums["tokens"])
        return shared[["distance", "tokens", "wrong_share", "mean_size", "mean_total"]]


__all__ = ["AFTER", "BEFORE", "ReplyCounter"]
