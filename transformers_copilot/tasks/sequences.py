"""What the recommendation tasks share: users' items in time order, of which the last is the test (leave-one-out).

The prompt and the target are the paper's, which are OpenP5's:

    user_1 has interacted with LastFM items item_4, item_9. What is the next recommendation for the user?
    -> " LastFM item_12"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..metrics import OfflineMetric, Recommendations
from .hub_source import HubSource, Row


TRAIN_TARGETS = ("all", "last")
_ID = re.compile(r"[\w-]+")


class UserItems(NamedTuple):
    """The items of one user.

    Attributes:
        user (`str`): the user's id, which the prompt writes as `user_{id}`.
        items (`tuple[str, ...]`): ids of the items in time order.
    """

    user: str
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SequenceTask:
    """The definition of a task of users and items.

    Args:
        name (`str`): its name, and that of its file.
        dataset (`str`): the data set's name in prompts and targets.
        hub ([`HubSource`], *optional*): its usual data set; none of these has one.
        max_new_tokens (`int`, defaults to 24): tokens to generate for a reply: a target even where every character is
            a token.
    """

    name: str
    dataset: str
    hub: HubSource | None = None
    max_new_tokens: int = 24

    group = "recommendation"

    @property
    def metric(self) -> OfflineMetric:
        """A new metric of this task."""
        return Recommendations()

    def from_hub(self, row: Row) -> dict[str, Any]:
        """Rows of data sets on the Hub have the local form already.

        Returns:
            `dict`: no changes.
        """
        return {}

    def target_of(self, item: str) -> str:
        """The text that the model is to write.

        Args:
            item (`str`): the item's id, which is written as `item_{id}`.

        Returns:
            `str`: it begins with a space.
        """
        return f" {self.dataset} item_{item}"

    def extract_answer(self, reply: str) -> str | None:
        """The first item that a reply names.

        Args:
            reply (`str`): what the model wrote.

        Returns:
            `str`, *optional*: the item's id, `None` where the reply names none.
        """
        found = re.search(r"\bitem_([\w-]+)", reply)
        return found.group(1) if found else None

    def row_of(self, user: str, history: tuple[str, ...], item: str, id: str) -> dict[str, str]:
        """One recommendation as a row of the task's data set.

        Args:
            user (`str`): the user's id, which the prompt writes as `user_{id}`.
            history (`tuple[str, ...]`): the items before, in time order.
            item (`str`): the item to be recommended.
            id (`str`): the row's own id, such as `{user}-{place}`.

        Returns:
            `dict[str, str]`: `id`, `task`, `question`, `prompt`, `target` and `answer`.
        """
        items = ", ".join(f"item_{each}" for each in history)
        prompt = (
            f"user_{user} has interacted with {self.dataset} items {items}. "
            "What is the next recommendation for the user?"
        )
        target = self.target_of(item)
        return {"id": id, "task": self.name, "question": prompt, "prompt": prompt, "target": target, "answer": item}

    def read_users(self, rows: Iterable[tuple[str, Any]]) -> list[UserItems]:
        """Check and read all users.

        Args:
            rows (`Iterable`): where each row stands, and the row: `user` and `items` in time order, both ids whole
                numbers or strings of letters, digits, `_` and `-`.

        Raises:
            ValueError: a row has not this form, has fewer than 3 items, or repeats a user; the message says where.
        """
        users: dict[str, UserItems] = {}
        for where, row in rows:
            if not isinstance(row, Mapping) or "user" not in row or not isinstance(row.get("items"), list | tuple):
                raise ValueError(f"{where}: {self.name} needs an object with `user` and a list `items` in time order.")
            wrong = [each for each in (row["user"], *row["items"]) if not _is_id(each)]
            if wrong:
                raise ValueError(
                    f"{where}: {wrong[0]!r} is no id: give a whole number, or a string of letters, digits, _ and -."
                )
            if len(row["items"]) < 3:
                raise ValueError(
                    f"{where}: user {row['user']} has {len(row['items'])} items, but one to start from, one for "
                    "validation and one for the test are needed. Leave such users out."
                )
            user = UserItems(str(row["user"]), tuple(map(str, row["items"])))
            if user.user in users:
                raise ValueError(f"{where}: user {user.user} stands in an earlier line too. Join the two.")
            users[user.user] = user
        return list(users.values())

    def leave_one_out(
        self, users: Iterable[UserItems], max_history: int | None = 20, train_targets: str = "all"
    ) -> dict[str, list[dict[str, str]]]:
        """The last item of every user tests, the one before it validates, the others train.

        Args:
            users (`Iterable[UserItems]`): what the users did.
            max_history (`int`, *optional*, defaults to 20): the most recent items that a prompt holds; `None` for all.
            train_targets (`str`, defaults to `"all"`): `"all"` makes a training example of every item that trains but
                the user's first; `"last"` of the last of them only.

        Returns:
            `dict[str, list]`: rows of `train`, `dev` and `test`.

        Raises:
            ValueError: `max_history` is below 1 or `train_targets` is neither.
        """
        if max_history is not None and max_history < 1:
            raise ValueError(f"`max_history` is {max_history}: give at least 1, or None for whole histories.")
        if train_targets not in TRAIN_TARGETS:
            raise ValueError(f"`train_targets` is {train_targets!r}: give one of {', '.join(TRAIN_TARGETS)}.")
        rows: dict[str, list[dict[str, str]]] = {"train": [], "dev": [], "test": []}
        for user, items in users:
            last = len(items) - 1
            first = 1 if train_targets == "all" else max(1, last - 2)
            for place in range(first, len(items)):
                split = "test" if place == last else "dev" if place == last - 1 else "train"
                start = 0 if max_history is None else max(0, place - max_history)
                rows[split].append(self.row_of(user, items[start:place], items[place], f"{user}-{place}"))
        return rows


def _is_id(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and _ID.fullmatch(value) is not None
    )


__all__ = ["TRAIN_TARGETS", "SequenceTask", "UserItems"]
