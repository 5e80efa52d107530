"""The Pilot's head, from the state that it reads to the logits: its product, and what the family does to its output.

A state can stand for a whole distribution only where the logits can be made of it again. What a family does after its
head is found out by looking: one token goes through the Pilot, and its logits are compared with its head's output.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel


# Up to so many rows W xᵀ is faster than x Wᵀ on a CPU in float32 (49,152 × 576, one row: 6 ms against 10).
_FEW_ROWS = 8


def product_with_rows(states: Tensor, weight: Tensor) -> Tensor:
    """`states @ weight.T`. While generating there are few rows, and reading the weight is what takes the time.

    Args:
        states (`torch.Tensor` of shape `(..., width)`): one row a position.
        weight (`torch.Tensor` of shape `(vocab, width)`): a vocabulary matrix.

    Returns:
        `torch.Tensor` of shape `(..., vocab)`.
    """
    rows = states.reshape(-1, states.shape[-1])
    if rows.shape[0] > _FEW_ROWS or states.device.type != "cpu" or states.dtype != torch.float32:
        return F.linear(states, weight)
    if rows.shape[0] == 1:
        rows = F.pad(rows, (0, 0, 0, 1))  # one column would take the slower matrix-vector way
    product = torch.mm(weight, rows.t()).t()
    return product[: states.numel() // states.shape[-1]].reshape(*states.shape[:-1], -1)


def is_plain_linear(head: nn.Module) -> bool:
    """Whether a head is a matrix and nothing else: `nn.Linear` itself, also where FSDP2 has given it a class with that
    for its last base.

    Args:
        head (`torch.nn.Module`): a model's output embeddings.

    Returns:
        `bool`
    """
    return (type(head).__bases__[-1] if is_sharded(head) else type(head)) is nn.Linear


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 spreads a module's weights over processes.

    Args:
        module (`torch.nn.Module`): what may have been given to `fully_shard`.

    Returns:
        `bool`
    """
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def gather(module: nn.Module) -> None:
    """Have a module's weights here for reading them outside its own pass, where FSDP2 spreads them over processes.

    Args:
        module (`torch.nn.Module`): its weights stay, as a gradient may go through them, until FSDP2 spreads them again:
            after the module's own pass, or at the end of the backward pass.
    """
    if is_sharded(module):
        cast(Any, module).unshard()


def narrowed(states: Tensor, dtype: torch.dtype) -> Tensor:
    """States in a narrower type. Numbers that float16 has not become its largest; NaN and infinity stay.

    Args:
        states (`torch.Tensor`): in any type.
        dtype (`torch.dtype`): the type that is wanted.
    """
    if dtype != torch.float16 or states.dtype == dtype:
        return states.to(dtype)
    most = torch.finfo(dtype).max
    return torch.where(states.isinf(), states, states.clamp(-most, most)).to(dtype)


def finite_product(output: Tensor) -> Tensor:
    """What a head's matrix gave. A sum past float16's range becomes its largest number, and not infinity, of which
    softmax makes NaN.

    Args:
        output (`torch.Tensor` of shape `(..., vocab)`): in any type; those but float16 have float32's range.
    """
    if output.dtype != torch.float16:
        return output
    return torch.nan_to_num(output, nan=float("nan"))


# How far logits may be off that are made again, as a share of their largest.
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2}
_NARROW_TOLERANCE = 3e-2


@dataclass(frozen=True)
class HeadMap:
    """What a family does to the output of its head.

    Attributes:
        scale (`float`, *optional*, defaults to 1.0): it is multiplied with this (Cohere, Granite).
        softcap (`float`, *optional*): it becomes c · tanh(z / c) (Gemma 2).
    """

    scale: float = 1.0
    softcap: float | None = None

    @property
    def is_linear(self) -> bool:
        """Whether a correction before the head is the same at every λ, in the logits, as one after it."""
        return self.softcap is None

    def logits(self, output: Tensor) -> Tensor:
        """The logits.

        Args:
            output (`torch.Tensor` of shape `(..., vocab)`): what the head's matrix gave.

        Returns:
            `torch.FloatTensor` of the same shape.
        """
        output = output.float()
        if self.scale != 1.0:
            output = output * self.scale
        return output if self.softcap is None else self.softcap * torch.tanh(output / self.softcap)

    def difference(self, head: Callable[[Tensor], Tensor], shift: Tensor, states: Tensor | None) -> Tensor:
        """f = the logits of h + u, less those of h.

        Args:
            head (callable): W, without a bias.
            shift (`torch.Tensor` of shape `(..., hidden)`): u, what the Copilot adds to h.
            states (`torch.Tensor` of shape `(..., hidden)`, *optional*): h; needed with a softcap.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.
        """
        if self.softcap is None or states is None:
            return self.logits(head(shift))
        return self.logits(head(states.float() + shift)) - self.logits(head(states))


@torch.no_grad()
def find_head_map(pilot: PreTrainedModel, capture: Callable[..., AbstractContextManager[Any]]) -> HeadMap | None:
    """What a Pilot does to its head's output, by one token that it reads.

    Args:
        capture (callable): records a pass, as [`RationaleRecorder.capture`] does.

    Returns:
        [`HeadMap`], or `None` where its logits can't be made of the state again: it has no head that is called once,
        or does something else to its output.
    """
    head = pilot.get_output_embeddings()
    if head is None or next(pilot.parameters()).is_meta:
        return None
    token = torch.full((1, 1), _plain_token(pilot), device=pilot.get_input_embeddings().weight.device)
    given: dict[str, Any] = {"input_ids": token}
    if pilot.config.is_encoder_decoder:
        given["decoder_input_ids"] = token
    devices = [token.device] if token.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), capture(keep_head_output=True) as captured:
        logits = pilot(**given, return_dict=True).logits[:, -1].float()
    if captured.head_output is None or captured.head_input is None:
        return None
    output = captured.head_output[:, -1].float()
    if output.shape != logits.shape:
        return None
    text = pilot.config.get_text_config(decoder=True)
    softcap = getattr(text, "final_logit_softcapping", None)
    scale = float((output * logits).sum() / output.square().sum().clamp_min(1e-30))
    maps = [] if softcap is None else [HeadMap(softcap=float(softcap))]
    maps += [HeadMap(), HeadMap(scale=_rounded(scale))]
    bound = _TOLERANCES.get(pilot.dtype, _NARROW_TOLERANCE) * float(logits.abs().max())
    return next((one for one in maps if float((one.logits(output) - logits).abs().max()) <= bound), None)


def _plain_token(pilot: PreTrainedModel) -> int:
    """A token that stands for text, and not for an image."""
    text = pilot.config.get_text_config(decoder=True)
    ends = text.eos_token_id
    known = ends[0] if isinstance(ends, (list, tuple)) and ends else ends
    return known if isinstance(known, int) and 0 <= known < text.vocab_size else min(3, text.vocab_size - 1)


def _rounded(scale: float) -> float:
    """Without the last digits, which are rounding."""
    return float(f"{scale:.6g}")


__all__ = ["finite_product", "narrowed", "product_with_rows", "HeadMap", "find_head_map"]
