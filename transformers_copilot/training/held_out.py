"""Examples that the Pilot only reads, so that its mistakes on them stay those of unseen text."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from torch.utils.data import Dataset


class HeldOutDataset(Dataset):
    """A map-style dataset with a `held_out` flag added to each example.

    Args:
        dataset (`torch.utils.data.Dataset`): its examples are mappings.
        flags (`list[bool]`): one for each example; true where the Pilot only reads it.
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
            features (`list`): examples, with or without the flag.

        Returns:
            The collator's batch, with `held_out` of shape `(batch,)` where the examples had it.

        Raises:
            ValueError: the collator joins examples into one row.
        """
        flags = [feature["held_out"] for feature in features if "held_out" in feature]
        batch = self.collator([{k: v for k, v in feature.items() if k != "held_out"} for feature in features])
        if flags and len(batch["input_ids"]) != len(flags):
            raise ValueError(
                f"`held_out_mistakes` flags whole rows, but the collator made {len(batch['input_ids'])} of "
                f"{len(flags)} examples. Set `held_out_mistakes=0`, or a collator that does not join examples "
                "(`padding_free=False`)."
            )
        if flags:
            batch["held_out"] = torch.tensor(flags, dtype=torch.bool)
        return batch


def hold_out(dataset: Any, share: float, seed: int) -> Any:
    """Flag a random share of a dataset, at least one example of it.

    Args:
        dataset (`datasets.Dataset` or a map-style dataset): the training set, of two examples at least; not streamed.
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
    count = min(max(1, round(share * len(dataset))), len(dataset) - 1)  # and one at least for the Pilot
    # Not the seed itself: the sampler's first epoch is its permutation, which would begin with all of the chosen.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 17) % 2**63)
    chosen = torch.randperm(len(dataset), generator=generator)[:count]
    flags = torch.zeros(len(dataset), dtype=torch.bool)
    flags[chosen] = True
    if isinstance(dataset, datasets.Dataset):
        return dataset.add_column("held_out", flags.tolist())
    return HeldOutDataset(dataset, flags.tolist())


def pilots_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with the labels that the Pilot learns from; held-out rows are not its own.

    Args:
        batch (`dict`): with `held_out` of shape `(batch,)`, where examples are set aside.

    Returns:
        `dict`: the batch, with -100 in place of held-out rows' labels; itself where no examples are set aside.
    """
    if "held_out" not in batch:
        return batch
    held_out = batch["held_out"].bool().unsqueeze(-1)
    own: dict[str, Any] = {
        name: batch[name].masked_fill(held_out, -100) for name in ("labels", "shift_labels") if name in batch
    }
    return {**batch, **own}


__all__ = ["HeldOutCollator", "HeldOutDataset", "hold_out", "pilots_batch"]
