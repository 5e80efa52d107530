"""Examples that the Pilot only reads, so that its mistakes on them stay those of unseen text."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from torch.utils.data import Dataset


class HeldOutDataset(Dataset):
    """A map-style dataset with a `held_out` flag added to each example.

    Args:
        dataset (`torch.utils.data.Dataset`): of mappings.
        flags (`list[bool]`): one an example.
    """

    def __init__(self, dataset: Any, flags: list[bool]) -> None:
        self.dataset = dataset
        self.flags = flags

    def __len__(self) -> int:
        return len(self.flags)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], "held_out": self.flags[index]}


class HeldOutCollator:
    """Takes the flags past a collator that does not know them.

    Args:
        collator (callable): makes a batch of a list of examples.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, features: list[Any]) -> Any:
        """Make a batch.

        Args:
            features (`list`): examples.

        Returns:
            The collator's batch, with `held_out` of shape `(batch,)` where the examples had it.
        """
        flags = [feature["held_out"] for feature in features if "held_out" in feature]
        batch = self.collator([{k: v for k, v in feature.items() if k != "held_out"} for feature in features])
        if flags:
            batch["held_out"] = torch.tensor(flags, dtype=torch.bool)
        return batch


def hold_out(dataset: Any, share: float, seed: int) -> Any:
    """Flag a random share of a dataset, at least one example of it.

    Args:
        dataset (`datasets.Dataset` or a map-style dataset): the training set.
        share (`float`): from 0 to below 1.
        seed (`int`): the same seed holds out the same examples.

    Returns:
        The dataset with a `held_out` flag in each example.

    Raises:
        ValueError: the dataset has no length, or not two examples.
    """
    if isinstance(dataset, (datasets.IterableDataset, torch.utils.data.IterableDataset)) or len(dataset) < 2:
        raise ValueError(
            "`held_out_mistakes` needs a training set of known length and of two examples at least, since it sets some "
            "of them aside; load it without streaming, or set `held_out_mistakes=0`."
        )
    count = max(1, round(share * len(dataset)))
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
    flags = torch.zeros(len(dataset), dtype=torch.bool)
    flags[chosen] = True
    if isinstance(dataset, datasets.Dataset):
        return dataset.add_column("held_out", flags.tolist())
    return HeldOutDataset(dataset, flags.tolist())


__all__ = ["HeldOutCollator", "HeldOutDataset", "hold_out"]
