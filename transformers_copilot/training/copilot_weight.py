"""Setting λ on a validation set after training (Eq. 8 and Theorem 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import default_data_collator
from transformers.utils import logging

from ..pair.fusion import named_weight, rectify
from ..pair.mistakes import mistake_size
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.options import MAX_COPILOT_WEIGHT, check_copilot_weight, check_option, chosen
from ..pair.published_text import publishable


logger = logging.get_logger(__name__)

DEFAULT_GRID = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
METHODS = ("auto", "least_squares", "grid")
TOKENS_AT_ONCE = 256


@dataclass
class CopilotWeightFit:
    """λ and how it was found.

    Attributes:
        weight (`float`): λ, as written into the pair's configuration.
        method (`str`): `"least_squares"` or `"grid"`, also where `"auto"` was asked for.
        criterion (`str`): what the grid was searched by: `"mistake_size"`, `"loss"` or `"metric"`.
        set_name (`str`, *optional*): the validation set's name.
        set_size (`int`): how many examples it has.
        scores (`dict`): what was measured at each λ; larger is better.
    """

    weight: float
    method: str
    criterion: str
    set_name: str | None
    set_size: int
    scores: dict[str, float]


def fit_copilot_weight(
    pair: PilotCopilotPreTrainedModel,
    dataset: Any,
    *,
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
    batch_size: int = 8,
    method: str = "auto",
    grid: Sequence[float] = DEFAULT_GRID,
    criterion: str = "loss",
    metric: Callable[[PilotCopilotPreTrainedModel, float], float] | None = None,
    set_name: str | None = None,
    progress: bool = True,
) -> CopilotWeightFit:
    r"""
    Set λ on a validation set, and store it in `pair.config` with where it comes from.

    Under probability fusion the least-squares value λ = Σ⟨ℓ, f⟩ / Σ⟨f, f⟩ minimises E‖p − p̂ − λf‖². Where clamping and
    renormalising p̂ + λf make E‖p − p̃‖² worse than the Pilot's in spite of it, λ is 0. Any fusion can be searched over a
    grid, by the tokens' likelihood or mistake, or by a metric of your task.

    Of several processes (`accelerate launch`) each reads its share of the set, and all of them have to call this; λ is
    the one that one process would find. A `metric` of your own is asked in each process for the whole set.

    Args:
        dataset: tokenised validation examples with labels; only its length is used with `metric`.
        data_collator (callable, *optional*): makes a batch of examples. Defaults to transformers' plain one.
        batch_size (`int`, *optional*, defaults to 8): examples in one forward pass. λ does not depend on it.
        method (`str`, *optional*, defaults to `"auto"`): `"least_squares"` (probability fusion only), `"grid"`, or
            `"auto"`: least squares where it is exact and no metric is given, else the grid.
        grid (sequence of `float`, *optional*): values of λ; the paper searches 0.1, 0.3, 0.5, 0.8 and 1.0.
        criterion (`str`, *optional*, defaults to `"loss"`): the grid's measure on tokens: `"loss"`, the mean
            log-likelihood, or `"mistake_size"`, E‖p − p̃‖².
        metric (callable, *optional*): `metric(pair, weight)` gives a number, larger is better; searched over the grid.
        set_name (`str`, *optional*): the set's name, kept with λ. Of a file's path its own name is kept.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        [`CopilotWeightFit`]

    Raises:
        ValueError: the set is empty or has no label, the method doesn't fit the fusion, or the correction isn't finite.
    """
    check_option("method", method, METHODS)
    check_option("criterion", criterion, ("loss", "mistake_size"))
    weights = [check_copilot_weight(weight) for weight in grid]
    if len(dataset) == 0 or not weights:
        raise ValueError("λ cannot be fitted on an empty validation set or over an empty grid.")
    fusion = chosen("fusion", pair.config.fusion)
    least_squares = method == "least_squares" or (method == "auto" and metric is None and fusion == "probability")
    if least_squares and fusion != "probability":
        raise ValueError('least squares is exact for fusion="probability" only; use method="grid".')
    if metric is not None:
        scores = {weight: float(metric(pair, weight)) for weight in tqdm(weights, disable=not progress, desc="λ")}
        criterion = "metric"
    else:
        loader = DataLoader(dataset, batch_size, collate_fn=data_collator or default_data_collator)
        if least_squares:
            criterion = "mistake_size"
            sums = _token_sums(pair, loader, [], progress)
            solution = min(max(sums["product"] / max(sums["square"], 1e-30), 0.0), MAX_COPILOT_WEIGHT)
            # Least squares knows nothing of clamping and renormalising, which can make p̃ worse than p̂: then 0 wins.
            weights = [0.0, solution]
        sums = _token_sums(pair, loader, weights, progress)
        scores = {weight: -sums[criterion, weight] / sums["count"] for weight in weights}
    best = max(weights, key=lambda weight: (scores[weight], -weight))
    fit = CopilotWeightFit(
        weight=best,
        method="least_squares" if least_squares else "grid",
        criterion=criterion,
        set_name=publishable(set_name),
        set_size=len(dataset),
        scores={f"{weight:g}": score for weight, score in scores.items()},
    )
    pair.config.copilot_weight = best
    pair.config.copilot_weight_fit = asdict(fit)
    if named_weight(pair.generation_config, None) is not None:
        logger.warning(f"`pair.generation_config.copilot_weight` gives way to the fitted λ = {best:g}.")
        pair.generation_config.copilot_weight = None  # `generate` would go on with it
    return fit


@torch.no_grad()
def _token_sums(
    pair: PilotCopilotPreTrainedModel, loader: DataLoader, weights: list[float], progress: bool
) -> dict[Any, float]:
    """Sums over the supervised tokens: ⟨ℓ, f⟩, ⟨f, f⟩, and each λ's loss and mistake size."""
    was_training = pair.training
    pair.eval()
    sums: dict[Any, float] = {"product": 0.0, "square": 0.0, "count": 0.0}
    sums |= {(name, weight): 0.0 for weight in weights for name in ("loss", "mistake_size")}
    for batch, counts in tqdm(_OwnBatches(loader), disable=not progress, desc="fitting λ"):
        batch = {name: value.to(pair.device) for name, value in batch.items()}
        logits, correction, true = _supervised(pair, batch)
        if not counts:
            continue
        # In pieces: a dozen values of λ over a large vocabulary need several V-sized tensors a token.
        for start in range(0, len(true), TOKENS_AT_ONCE):
            piece = slice(start, start + TOKENS_AT_ONCE)
            _add_sums(sums, logits[piece].float(), correction[piece].float(), true[piece], weights, pair.config.fusion)
    pair.train(was_training)
    sums = _over_processes(sums, pair.device)
    if not sums["count"]:
        raise ValueError("no token of the validation set has a label, so λ cannot be fitted; check its `labels`.")
    if not math.isfinite(sums["square"]):
        raise ValueError(
            "the Copilot's correction holds NaN or infinity on the validation set, so λ cannot be fitted. Its training "
            "broke down: use an earlier checkpoint, or train it anew with a smaller `copilot_learning_rate`."
        )
    return sums


def _supervised(pair: PilotCopilotPreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The Pilot's logits `(tokens, vocab)`, f and the true token `(tokens,)` at the supervised positions."""
    targets = pair.aligned_labels(batch["labels"])
    options: dict[str, Any] = {"copilot_weight": 1.0, "use_cache": False, "return_correction": True}
    if not pair.config.is_encoder_decoder:
        # Prompts are most of a causal model's positions: f and p̃ are asked for where any row has a label only.
        columns = (targets >= 0).any(dim=0).nonzero().flatten()
        batch = {name: value for name, value in batch.items() if name != "labels"}
        options["logits_to_keep"], targets = columns, targets[:, columns]
    outputs = pair(**batch, **options)
    supervised = targets >= 0
    return outputs.pilot_logits[supervised], outputs.correction[supervised], targets[supervised]


def _add_sums(
    sums: dict[Any, float], logits: Tensor, correction: Tensor, true: Tensor, weights: list[float], fusion: str
) -> None:
    """Add some tokens to the sums of [`_token_sums`]."""
    mistakes = -torch.softmax(logits, dim=-1)
    mistakes.scatter_add_(-1, true.unsqueeze(-1), torch.ones_like(mistakes[:, :1]))
    sums["product"] += float((mistakes * correction).sum())
    sums["square"] += float(correction.square().sum())
    sums["count"] += len(true)
    for weight in weights:
        rectified = rectify(logits, correction, weight, fusion)
        loss = torch.nn.functional.cross_entropy(rectified, true, reduction="sum")
        sums["loss", weight] += float(loss)
        sums["mistake_size", weight] += float(mistake_size(rectified, true).sum())


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()


class _OwnBatches:
    """This process's share of a loader's batches, and whether each counts: all processes make as many passes, as a pair
    whose weights are spread over them asks for, and the last may be made for the others alone."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if _are_several() else (0, 1)

    def __len__(self) -> int:
        return math.ceil(len(self.loader) / self.processes)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], bool]]:
        made, last = 0, None
        for number, batch in enumerate(self.loader):
            last = batch
            if number % self.processes == self.rank:
                made += 1
                yield batch, True
        if last is not None and made < len(self):
            yield last, False


def _over_processes(sums: dict[Any, float], device: torch.device) -> dict[Any, float]:
    """The sums of all processes."""
    if not _are_several():
        return sums
    total = torch.tensor(list(sums.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return dict(zip(sums, total.tolist(), strict=True))


__all__ = ["DEFAULT_GRID", "CopilotWeightFit", "fit_copilot_weight"]
