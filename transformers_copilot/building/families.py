"""Where each family keeps a decoder layer's weights, told in the Copilot's names.

A source layer becomes a dict of tensors under the names that [`CopilotLayer`] uses: `self_attn.{q,k,v,o}_proj`,
`cross_attn.…`, `input_layernorm`, `cross_layernorm`, `post_attention_layernorm`, `mlp.{gate,up,down}_proj`. A new
family is one function and one entry of [`FAMILIES`].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How to read the decoder of one kind of model.

    Attributes:
        layer (callable): from a decoder layer to its tensors, in the Copilot's names.
        final_norm (callable): from the decoder to the tensors of the norm after its last layer (`weight`, `bias`).
    """

    layer: Callable[[Any], Tensors]
    final_norm: Callable[[Any], Tensors]


def _linear(name: str, module: Any) -> Tensors:
    """Weight and, where there is one, bias of a `Linear` or a `LayerNorm`."""
    tensors = {f"{name}.weight": module.weight}
    return tensors if module.bias is None else {**tensors, f"{name}.bias": module.bias}


def _prefixed(name: str, tensors: Tensors) -> Tensors:
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def _rms(norm: Any) -> Tensors:
    return {"weight": norm.weight}


def _gemma_rms(norm: Any) -> Tensors:
    # Gemma stores w and multiplies by 1 + w. The sum is made in float32: bfloat16 would round small w away.
    return {"weight": norm.weight.float() + 1.0}


def _llama_layer(layer: Any, norm: Callable[[Any], Tensors] = _rms) -> Tensors:
    """The layout that Llama, Mistral, Qwen2 and Gemma share; biases are taken where there are any."""
    tensors: Tensors = {}
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensors |= _linear(f"self_attn.{part}", getattr(layer.self_attn, part))
    for part in ("gate_proj", "up_proj", "down_proj"):
        tensors |= _linear(f"mlp.{part}", getattr(layer.mlp, part))
    for part in ("input_layernorm", "post_attention_layernorm"):
        tensors |= _prefixed(part, norm(getattr(layer, part)))
    return tensors


def _gemma_layer(layer: Any) -> Tensors:
    return _llama_layer(layer, norm=_gemma_rms)


def _qwen3_layer(layer: Any) -> Tensors:
    tensors = _llama_layer(layer)
    for part in ("q_norm", "k_norm"):
        tensors |= _prefixed(f"self_attn.{part}", _rms(getattr(layer.self_attn, part)))
    return tensors


def _gpt2_layer(layer: Any) -> Tensors:
    """GPT-2's `Conv1D` keeps its weight as (in, out), and query, key and value side by side in one of them."""
    tensors: Tensors = {}
    weights = layer.attn.c_attn.weight.chunk(3, dim=1)
    biases = layer.attn.c_attn.bias.chunk(3)
    for part, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
        tensors |= {f"self_attn.{part}.weight": weight.t(), f"self_attn.{part}.bias": bias}
    for part, conv in (
        ("self_attn.o_proj", layer.attn.c_proj),
        ("mlp.up_proj", layer.mlp.c_fc),
        ("mlp.down_proj", layer.mlp.c_proj),
    ):
        tensors |= {f"{part}.weight": conv.weight.t(), f"{part}.bias": conv.bias}
    return tensors | _linear("input_layernorm", layer.ln_1) | _linear("post_attention_layernorm", layer.ln_2)


def _t5_layer(layer: Any) -> Tensors:
    """T5's block is a list of sub-layers: self-attention, cross-attention, feed-forward, each with its norm."""
    self_part, cross_part, last = layer.layer
    tensors: Tensors = {}
    for name, attention in (("self_attn", self_part.SelfAttention), ("cross_attn", cross_part.EncDecAttention)):
        for part in "qkvo":
            tensors |= _linear(f"{name}.{part}_proj", getattr(attention, part))
    norms = {
        "input_layernorm": self_part,
        "cross_layernorm": cross_part,
        "post_attention_layernorm": last,
    }
    for name, owner in norms.items():
        tensors |= _prefixed(name, _rms(owner.layer_norm))
    mlp = last.DenseReluDense
    tensors |= _linear("mlp.down_proj", mlp.wo)
    if layer.layer[0].SelfAttention.config.is_gated_act:
        return tensors | _linear("mlp.gate_proj", mlp.wi_0) | _linear("mlp.up_proj", mlp.wi_1)
    return tensors | _linear("mlp.up_proj", mlp.wi)


_LLAMA = Family(_llama_layer, lambda decoder: _rms(decoder.norm))
_T5 = Family(_t5_layer, lambda decoder: _rms(decoder.final_layer_norm))

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": Family(_qwen3_layer, lambda decoder: _rms(decoder.norm)),
    "gemma": Family(_gemma_layer, lambda decoder: _gemma_rms(decoder.norm)),
    "gpt2": Family(_gpt2_layer, lambda decoder: {"weight": decoder.ln_f.weight, "bias": decoder.ln_f.bias}),
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
}

__all__ = ["FAMILIES", "Family", "Tensors"]
