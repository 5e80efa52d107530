"""What the Copilot changes in given texts: token by token, by λ, and layer by layer for one token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..pair.fusion import rectify
from ..pair.mistakes import mistake_size
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.rationale import decoder_layers
from ..training.copilot_weight import DEFAULT_GRID


# Vocabulary entries less probable than this, to the Pilot and to the pair, are not counted as corrected or harmed:
# there are tens of thousands of them, and nobody would see them move.
NOTICEABLE = 1e-3


@dataclass
class PairInspection:
    """What [`inspect_pair`] measured.

    Attributes:
        weight (`float`): λ that `tokens` are about.
        by_weight (`DataFrame`): per λ: `weight`, `token_accuracy` (share of tokens whose true one is the most
            probable), `mistake_size` (mean ‖p − p̃‖²) and `loss` (mean −log p̃ of the true token).
        tokens (`DataFrame`): per supervised token: `item`, `position` (of the token that is predicted),
            `true_token_id`, `pilot_token_id` and `pair_token_id` (most probable), `pilot_probability` and
            `pair_probability` (of the true one), `pilot_loss` and `pair_loss` (their −log), `pilot_confidence` and
            `pair_confidence` (of the most probable one), `pilot_size` and `pair_size` (‖p − p̂‖², ‖p − p̃‖²),
            `noticeable` (entries of the vocabulary with a probability above 0.001 before or after), and `corrected`
            and `harmed` (how many of them moved towards and away from the truth).
    """

    weight: float
    by_weight: pd.DataFrame
    tokens: pd.DataFrame


@torch.no_grad()
def inspect_pair(
    pair: PilotCopilotPreTrainedModel,
    items: Sequence[dict[str, list[int]]],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    *,
    weight: float | None = None,
    weights: Sequence[float] = DEFAULT_GRID,
    batch_size: int = 4,
    progress: bool = True,
) -> PairInspection:
    """Read texts with a pair, their true tokens given, and note what its Copilot changes.

    Args:
        items (sequence of `dict`): texts with `input_ids` and `labels`.
        collate (callable): makes a batch of items.
        weight (`float`, *optional*): λ to look at closely; defaults to the pair's own, or 1 where that is 0.
        weights (sequence of `float`, *optional*): values of λ to compare.
        batch_size (`int`, *optional*, defaults to 4): items at a time.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Raises:
        ValueError: there is no item, or no token of them has a label.
    """
    if not items:
        raise ValueError("there is no text to look at the pair's work on; give items with `input_ids` and `labels`.")
    weight = pair.config.copilot_weight or 1.0 if weight is None else weight
    was_training = pair.training
    pair.eval()
    sums, parts = dict.fromkeys(sorted({*weights, weight}), torch.zeros(3, dtype=torch.float64)), []
    for start in tqdm(range(0, len(items), batch_size), disable=not progress, desc="looking at the pair's work"):
        batch = collate(list(items[start : start + batch_size]))
        batch = {name: value.to(pair.device) for name, value in batch.items()}
        outputs = pair(**batch, copilot_weight=1.0, use_cache=False, return_correction=True)
        targets = pair.aligned_labels(batch["labels"])
        rows, positions = (targets >= 0).nonzero(as_tuple=True)
        logits, correction = outputs.pilot_logits[rows, positions].float(), outputs.correction[rows, positions]
        true = targets[rows, positions]
        del outputs
        for value in sums:
            sums[value] = sums[value] + _scores(rectify(logits, correction, value, pair.config.fusion), true)
        # The token that is predicted stands one further in a decoder-only Pilot's input.
        place = positions if pair.config.is_encoder_decoder else positions + 1
        rectified = rectify(logits, correction, weight, pair.config.fusion)
        table = _token_table(logits, rectified, true)
        parts.append(table.assign(item=(rows + start).cpu().numpy(), position=place.cpu().numpy()))
    pair.train(was_training)
    tokens = pd.concat(parts, ignore_index=True)
    if not len(tokens):
        raise ValueError("no token of the texts has a label, so there is no mistake to look at; check their `labels`.")
    table = pd.DataFrame([[value, *(total / len(tokens)).tolist()] for value, total in sums.items()])
    table.columns = pd.Index(["weight", "token_accuracy", "mistake_size", "loss"])
    return PairInspection(weight, table, tokens)


def _scores(logits: Tensor, true: Tensor) -> Tensor:
    """Right tokens, and sums of mistake size and loss."""
    loss = nn.functional.cross_entropy(logits, true, reduction="sum")
    values = [(logits.argmax(dim=-1) == true).sum(), mistake_size(logits, true).sum(), loss]
    return torch.stack([value.double() for value in values]).cpu()


def _token_table(logits: Tensor, rectified: Tensor, true: Tensor) -> pd.DataFrame:
    before, after = logits.softmax(dim=-1), rectified.float().softmax(dim=-1)
    chosen = true.unsqueeze(-1)
    truth = torch.zeros_like(before).scatter_(-1, chosen, 1.0)
    nearer = (truth - before).abs() - (truth - after).abs()
    noticeable = (before > NOTICEABLE) | (after > NOTICEABLE) | truth.bool()
    columns = {
        "true_token_id": true,
        "pilot_token_id": before.argmax(dim=-1),
        "pair_token_id": after.argmax(dim=-1),
        "pilot_probability": before.gather(-1, chosen).squeeze(-1),
        "pair_probability": after.gather(-1, chosen).squeeze(-1),
        "pilot_loss": nn.functional.cross_entropy(logits, true, reduction="none"),
        "pair_loss": nn.functional.cross_entropy(rectified.float(), true, reduction="none"),
        "pilot_confidence": before.amax(dim=-1),
        "pair_confidence": after.amax(dim=-1),
        "pilot_size": (truth - before).square().sum(dim=-1),
        "pair_size": (truth - after).square().sum(dim=-1),
        "noticeable": noticeable.sum(dim=-1),
        "corrected": (noticeable & (nearer > 0)).sum(dim=-1),
        "harmed": (noticeable & (nearer < 0)).sum(dim=-1),
    }
    return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})


@dataclass
class LayerView:
    """The most probable tokens of one position, layer by layer, and then the pair's.

    Attributes:
        true (`int`): id of the token that truly came next.
        before (list of `int`): the tokens before it.
        weight (`float`): λ of the last row.
        rows (list of `tuple`): a label ("layer 3", "Pilot", "Pilot + Copilot") and its most probable tokens, each a
            `(token id, probability)`, most probable first.
        normed (`bool`): whether the Pilot's final norm was found and put before its head, as in the last layer.
    """

    true: int
    before: list[int]
    weight: float
    rows: list[tuple[str, list[tuple[int, float]]]]
    normed: bool


@torch.no_grad()
def layer_view(
    pair: PilotCopilotPreTrainedModel, item: dict[str, list[int]], position: int, weight: float, top: int = 4
) -> LayerView:
    """Read every layer's output with the Pilot's own head (the logit lens) at one position, then the pair's.

    Args:
        pair: a pair with a decoder-only Pilot.
        item (`dict`): a text with `input_ids`.
        position (`int`): the token that is predicted, from 1.
        top (`int`, *optional*, defaults to 4): how many tokens are kept of each layer.

    Raises:
        ValueError: the Pilot is an encoder-decoder, or there is no such position.
    """
    if pair.config.is_encoder_decoder:
        raise ValueError("the layer view reads a decoder-only Pilot; this one is an encoder-decoder.")
    ids = item["input_ids"][: position + 1]
    if not 0 < position < len(item["input_ids"]):
        raise ValueError(f"`position` is {position}; the text has {len(item['input_ids'])} tokens, give 1 or more.")
    was_training = pair.training
    pair.eval()
    inputs = torch.tensor([ids[:-1]], device=pair.device)
    norm, hidden = final_norm(pair), []
    handles = [
        layer.register_forward_hook(lambda module, args, output: hidden.append(_first(output)[:, -1]))
        for layer in decoder_layers(pair.pilot)
    ]
    try:
        outputs = pair(inputs, copilot_weight=weight, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    pair.train(was_training)
    head = pair.pilot.get_output_embeddings()
    rows = [
        (f"layer {index}", _likeliest(head(state if norm is None else norm(state)), top))
        for index, state in enumerate(hidden[:-1], start=1)
    ]
    rows.append(("Pilot", _likeliest(outputs.pilot_logits[:, -1], top)))
    rows.append(("Pilot + Copilot", _likeliest(outputs.logits[:, -1], top)))
    return LayerView(ids[-1], ids[:-1], weight, rows, norm is not None)


def final_norm(pair: PilotCopilotPreTrainedModel) -> nn.Module | None:
    """The norm between a Pilot's last layer and its head.

    Returns:
        The last norm among the decoder's own parts, or `None` if it has none.
    """
    norms = [part for part in pair.pilot.get_decoder().children() if "norm" in type(part).__name__.lower()]
    return norms[-1] if norms else None


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, (tuple, list)) else output


def _likeliest(logits: Tensor, top: int) -> list[tuple[int, float]]:
    best = logits[0].float().softmax(dim=-1).topk(min(top, logits.shape[-1]))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


__all__ = ["LayerView", "NOTICEABLE", "PairInspection", "final_norm", "inspect_pair", "layer_view"]
