"""Counters for `mistake_analysis`, which are given a Mistake Log's rows piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..mistake_log.export import RowStream, row_tables


TENTHS = 10
# Of fewer cases than these no share, no trend and no picture is shown: it would be noise.
FEWEST = 5
_PAIR = ["true_token_id", "predicted_token_id"]


@dataclass
class RoundSpan:
    """The rounds that a log spans.

    Args:
        first (`int`): the lowest round number.
        last (`int`): the highest round number.
        rows (`int`): all rows, supervised or not.
    """

    first: int
    last: int
    rows: int

    @classmethod
    def of(cls, streams: list[RowStream], batch_rows: int) -> RoundSpan:
        """Look through the round numbers.

        Args:
            streams (list): the log's rows, as `row_streams` gives them.
            batch_rows (`int`): rows at a time.

        Raises:
            ValueError: there is no row.
        """
        lows, highs, rows = [], [], 0
        for stream in streams:
            for table in row_tables(stream, ["round"], batch_rows):
                numbers = table["round"].to_numpy()
                if len(numbers):
                    lows.append(int(numbers.min()))
                    highs.append(int(numbers.max()))
                    rows += len(numbers)
        if not rows:
            raise ValueError("the Mistake Log is empty: train a few rounds first, so that there are mistakes to see.")
        return cls(min(lows), max(highs), rows)

    @property
    def length(self) -> int:
        """Rounds from the first to the last."""
        return self.last - self.first + 1

    def part_of(self, rounds: pd.Series, parts: int) -> pd.Series:
        """Which of so many equal parts of training a round is in.

        Args:
            rounds (`pandas.Series` of `int`): a round number for each row.
            parts (`int`): into how many parts training is cut.

        Returns:
            `pandas.Series` of `int`, from 0 to `parts - 1`
        """
        return ((rounds - self.first) * parts // self.length).astype("int64")


class GroupCounter:
    """Counts tokens, wrong ones and the sizes of their mistakes, grouped by some columns.

    Args:
        keys (list of `str`): the columns by whose values rows are counted together.
    """

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._sums = pd.DataFrame()

    def add(self, frame: pd.DataFrame) -> None:
        """Count some rows.

        Args:
            frame (`DataFrame`): rows with the keys, `wrong` and `mistake_size`.
        """
        frame = frame.assign(mistake_size=frame["mistake_size"].astype("float64"))
        part = frame.groupby(self.keys, observed=True).agg(
            tokens=("wrong", "size"), wrong=("wrong", "sum"), cost=("mistake_size", "sum")
        )
        both = pd.concat([self._sums, part.reset_index().astype(dict.fromkeys(_text_keys(self.keys), str))])
        self._sums = both.groupby(self.keys, as_index=False)[["tokens", "wrong", "cost"]].sum()

    def result(self) -> pd.DataFrame:
        """The counts with shares.

        Returns:
            `DataFrame`: the keys, `tokens`, `wrong`, `cost`, `wrong_share` and `mean_size`
        """
        return with_shares(self._sums)


def _text_keys(keys: list[str]) -> list[str]:
    return [key for key in keys if key == "token_class"]


def with_shares(sums: pd.DataFrame) -> pd.DataFrame:
    """Add the share of wrong tokens and the mean size.

    Args:
        sums (`DataFrame`): with `tokens`, `wrong` and `cost`.
    """
    return sums.assign(wrong_share=sums["wrong"] / sums["tokens"], mean_size=sums["cost"] / sums["tokens"])


class ConfusionCounter:
    """How often each true token was taken for each other one, by tenth of training.

    Args:
        limit (`int`): different confusions that are followed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.dropped = 0
        self._sums = pd.DataFrame({**dict.fromkeys([*_PAIR, "tenth"], pd.Series(dtype="int64"))})
        self._tokens = np.zeros(TENTHS)

    def add(self, frame: pd.DataFrame) -> None:
        """Count some rows.

        Args:
            frame (`DataFrame`): rows of supervised tokens with `wrong` and `tenth`.
        """
        self._tokens += np.bincount(frame["tenth"], minlength=TENTHS)
        wrong = frame[frame["wrong"]]
        wrong = wrong.assign(mistake_size=wrong["mistake_size"].astype("float64"))
        keys = [*_PAIR, "tenth"]
        part = wrong.groupby(keys, as_index=False).agg(count=("wrong", "size"), cost=("mistake_size", "sum"))
        both = pd.concat([self._sums, part]) if len(self._sums) else part
        self._sums = both.groupby(keys, as_index=False)[["count", "cost"]].sum()
        if len(self._sums) > self.limit:
            self._let_go()

    def _let_go(self) -> None:
        """Keep the costlier half of the confusions."""
        costs = self._sums.groupby(_PAIR)["cost"].transform("sum")
        pairs_before = self.different
        self._sums = self._sums[costs >= costs.median()].sort_values("cost", ascending=False).head(self.limit // 2)
        self.dropped += pairs_before - self.different

    @property
    def different(self) -> int:
        """Different confusions that are followed."""
        return len(self._sums[_PAIR].drop_duplicates())

    def most_costly(self, top: int) -> pd.DataFrame:
        """The confusions that cost most.

        Args:
            top (`int`): no more than so many, the costliest first.

        Returns:
            `DataFrame`: see [`MistakeAnalysis`]
        """
        if not len(self._sums):
            names = ["count", "cost", "mean_size", "first_tenth", "last_tenth", "trend", "tenths"]
            return pd.DataFrame(columns=[*_PAIR, *names])
        sums = self._sums.groupby(_PAIR, as_index=False)[["count", "cost"]].sum()
        best = sums.sort_values(["cost", *_PAIR], ascending=[False, True, True], ignore_index=True).head(top)
        rows = self._sums.merge(best[_PAIR]).pivot(index=_PAIR, columns="tenth", values="count")
        rows = rows.reindex(columns=range(TENTHS)).fillna(0).astype(int)
        tenths = rows.loc[pd.MultiIndex.from_frame(best[_PAIR])].to_numpy()
        half = TENTHS // 2
        early, late = (max(part.sum(), 1.0) for part in (self._tokens[:half], self._tokens[half:]))
        return best.assign(
            mean_size=best["cost"] / best["count"],
            first_tenth=tenths[:, 0],
            last_tenth=tenths[:, -1],
            trend=1000.0 * (tenths[:, half:].sum(axis=1) / late - tenths[:, :half].sum(axis=1) / early),
            tenths=tenths.tolist(),
        )

    def recurrence(self) -> dict[str, Any]:
        """Whether the confusions of the first tenth of training are those of the last.

        Returns:
            `dict`: see [`MistakeAnalysis`]
        """
        first, last = (self._sums[self._sums["tenth"] == tenth] for tenth in (0, TENTHS - 1))
        back = last.merge(first[_PAIR]) if len(first) and len(last) else last.head(0)
        wrong_last = int(last["count"].sum()) if len(last) else 0
        came_back = int(back["count"].sum()) if len(back) else 0
        return {
            "first_tenth": int(first["count"].sum()) if len(first) else 0,
            "last_tenth": wrong_last,
            "first_tenth_tokens": int(self._tokens[0]),
            "last_tenth_tokens": int(self._tokens[-1]),
            "came_back": came_back,
            "came_back_share": came_back / wrong_last if wrong_last else 0.0,
            "kinds_first": len(first),
            "kinds_last": len(last),
            "cured": len(first) - len(back),
        }


__all__ = ["FEWEST", "TENTHS", "ConfusionCounter", "GroupCounter", "RoundSpan", "with_shares"]
