"""How a question is marked from one pass over its target: the rank of the right item, or the likeliest choice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.experiments.data import ExperimentData, Row


# Of a question's number, the logits `(tokens, vocab)` of its target and the target's tokens: the mark.
Judge = Callable[[int, Tensor, Tensor], float]


def item_judge(data: ExperimentData) -> Judge:
    """Ranks the right item among all valid ones, from 1; a tie counts against it.

    All items follow the same words, so ranking at the item's own position is what beams over valid items give.

    Args:
        data: The experiment's data, of a recommendation task.

    Returns:
        The judge.

    Raises:
        ValueError: An item is not a single token; ranking by one position is exact only then.
    """
    ids = data.tokenizer([f"item_{item}" for item in data.task.items], add_special_tokens=False).input_ids
    if any(len(tokens) != 1 for tokens in ids):
        raise ValueError("some items take several tokens: use `tokenizer: words`, or rank by beams over valid items.")
    items = torch.tensor([tokens[0] for tokens in ids])

    def rank(index: int, scores: Tensor, true: Tensor) -> float:
        """The right item's rank."""
        valid = items.to(scores.device)
        place = torch.isin(true, valid).nonzero().flatten()[-1]
        return float((scores[place, valid] >= scores[place, true[place]]).sum())

    return rank


def choice_judge(data: ExperimentData) -> Judge:
    """1 where the right label is the likeliest of a question's labels, else 0; a tie counts against it.

    The labels' targets begin with the same tokens and differ in one, so comparing that token is what greedy decoding
    over the labels gives.

    Args:
        data: The experiment's data, of a commonsense task.

    Returns:
        The judge.
    """
    places = [_label_tokens(data, row) for row in data.test]

    def is_right(index: int, scores: Tensor, true: Tensor) -> float:
        """Whether the right label wins."""
        place, labels = places[index]
        right = true[place]
        others = torch.tensor([label for label in labels if label != int(right)], device=scores.device)
        return float((scores[place, right] > scores[place, others]).all())

    return is_right


def _label_tokens(data: ExperimentData, row: Row) -> tuple[int, list[int]]:
    """Where in a question's target its labels differ, and the token of each there."""
    labels = row["prompt"].rpartition("Answer format: ")[2].split("\n")[0].split("/")
    before = row["target"].removesuffix(row["answer"])
    targets = data.tokenizer([before + label for label in labels], add_special_tokens=False).input_ids
    place = next((index for index, tokens in enumerate(zip(*targets, strict=False)) if len(set(tokens)) > 1), 0)
    tokens = [target[place] for target in targets]
    if row["answer"] not in labels or len(set(tokens)) != len(labels):
        raise ValueError(
            f"question {row['id']}: the labels {', '.join(labels)} of the prompt's answer format must hold the answer "
            f"{row['answer']!r} and differ in their first token that is not shared; with this tokenizer it is {tokens}."
        )
    return place, tokens
