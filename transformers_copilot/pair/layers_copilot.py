"""The Copilot's decoder block: pre-norm, grouped-query attention without positions, and a feed-forward part.

Shapes: B rows, T positions, S keys, d the Copilot's width, H query heads, G key and value heads, D a head's width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cache_copilot import CopilotCache
from .configuration_copilot import CopilotConfig
from .validation import chosen


class CopilotRMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32.

    Args:
        size (`int`): width of the last dimension.
        eps (`float`): added to the mean square.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Norm `(..., size)` over its last dimension.

        Args:
            hidden_states (`torch.Tensor` of shape `(..., size)`): what is normed.

        Returns:
            `torch.Tensor` of the same shape and type.
        """
        hidden = hidden_states.float()
        hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)
        return (self.weight * hidden).to(hidden_states.dtype)


def make_norm(config: CopilotConfig, size: int) -> nn.Module:
    """A norm of the configured kind.

    Args:
        config ([`CopilotConfig`]): names the kind.
        size (`int`): width of the last dimension.

    Returns:
        `nn.Module`
    """
    if chosen("norm_type", config.norm_type) == "rms_norm":
        return CopilotRMSNorm(size, config.norm_eps)
    return nn.LayerNorm(size, eps=config.norm_eps)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention written out, for `attn_implementation="eager"` and as the reference.

    Args:
        module (`CopilotAttention`): says how many query heads share a key head.
        query (`torch.Tensor` of shape `(B, H, T, D)`): queries.
        attention_mask (`torch.Tensor` of shape `(B, 1, T, S)`): added to the scores.
        scaling (`float`): factor on the scores.
        **kwargs: not used; transformers passes more to other implementations.

    Returns:
        The result `(B, T, H, D)` and the weights `(B, H, T, S)`.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling + attention_mask
    weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CopilotAttention(nn.Module):
    """Attention without positions; over the Copilot's own sequence, or over the memory (Eq. 6).

    Args:
        config ([`CopilotConfig`]): sizes, biases and the implementation.
    """

    is_causal = False  # the mask says everything

    def __init__(self, config: CopilotConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        scaling = config.attention_scaling
        self.scaling = config.head_dim**-0.5 if scaling is None else scaling
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, width, bias=config.attention_output_bias)
        if config.qk_norm:
            self.q_norm = CopilotRMSNorm(self.head_dim, config.norm_eps)
            self.k_norm = CopilotRMSNorm(self.head_dim, config.norm_eps)

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], -1, self.head_dim)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of some states.

        Args:
            states (`torch.Tensor` of shape `(B, S, d)`): what is attended to.

        Returns:
            Two tensors of shape `(B, G, S, D)`.
        """
        key, value = self._heads(self.k_proj(states)), self._heads(self.v_proj(states))
        if self.config.qk_norm:
            key = self.k_norm(key)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(self, states: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor) -> Tensor:
        """Attend.

        Args:
            states (`torch.Tensor` of shape `(B, T, d)`): normed states that ask.
            attention_mask (`torch.Tensor` of shape `(B, 1, T, S)`): additive mask.

        Returns:
            `torch.Tensor` of shape `(B, T, d)`.
        """
        query = self._heads(self.q_proj(states))
        if self.config.qk_norm:
            query = self.q_norm(query)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mask = attention_mask.to(query.dtype)
        output, _ = attend(self, query.transpose(1, 2), key, value, mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(output.reshape(*states.shape[:2], -1))


class CopilotMLP(nn.Module):
    """Feed-forward part, gated or plain, with the source's activation.

    Args:
        config ([`CopilotConfig`]): sizes, activation and whether there is a gate.
    """

    def __init__(self, config: CopilotConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=config.mlp_bias) if config.gated_mlp else None
        self.up_proj = nn.Linear(width, inner, bias=config.mlp_bias)
        self.down_proj = nn.Linear(inner, width, bias=config.mlp_bias)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: Tensor) -> Tensor:
        """Map each position by itself.

        Args:
            states (`torch.Tensor` of shape `(B, T, d)`): normed states.

        Returns:
            `torch.Tensor` of shape `(B, T, d)`.
        """
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(states)))
        return self.down_proj(self.activation(self.gate_proj(states)) * self.up_proj(states))


class CopilotLayer(GradientCheckpointingLayer):
    """One block. Decoder-only: self-attention in layers 1, 3, 5, …, cross-attention in its place in layers 2, 4, 6, …
    (App. A.2). Encoder-decoder: both in every layer (App. A.1).

    Args:
        config ([`CopilotConfig`]): sizes and the form.
        layer_index (`int`): number of the layer, from 0.
    """

    def __init__(self, config: CopilotConfig, layer_index: int) -> None:
        super().__init__()
        has_self = config.is_encoder_decoder or layer_index % 2 == 0
        has_cross = config.is_encoder_decoder or layer_index % 2 == 1
        # Number among the layers of its kind: where its keys stand in the cache.
        self.cache_index = layer_index if config.is_encoder_decoder else layer_index // 2
        width = config.hidden_size
        self.self_attn = CopilotAttention(config) if has_self else None
        self.input_layernorm = make_norm(config, width) if has_self else None
        self.cross_attn = CopilotAttention(config) if has_cross else None
        self.cross_layernorm = make_norm(config, width) if has_cross else None
        self.post_attention_layernorm = make_norm(config, width)
        self.mlp = CopilotMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: Tensor,
        question: Tensor,
        rationale: Tensor,
        mistakes_mask: Tensor,
        memory_mask: Tensor,
        cache: CopilotCache | None = None,
    ) -> Tensor:
        """One block's work.

        Args:
            states (`torch.Tensor` of shape `(B, T, d)`): the Copilot's sequence.
            question (`torch.Tensor` of shape `(B, Q, d)`): questions in the Copilot's width, of this call.
            rationale (`torch.Tensor` of shape `(B, T, d)`): rationales in the Copilot's width, of this call.
            mistakes_mask (`torch.Tensor` of shape `(B, 1, T, past + T)`): for self-attention.
            memory_mask (`torch.Tensor` of shape `(B, 1, T, questions + past + T)`): for cross-attention.
            cache ([`CopilotCache`], *optional*): keys and values of earlier positions, updated here.

        Returns:
            `torch.Tensor` of shape `(B, T, d)`.
        """
        if self.self_attn is not None:
            normed = self.input_layernorm(states)
            key, value = self.self_attn.keys_values(normed)
            if cache is not None:
                key, value = cache.mistakes.update(key, value, self.cache_index)
            states = states + self.dropout(self.self_attn(normed, key, value, mistakes_mask))
        if self.cross_attn is not None:
            key, value = self._memory(question, rationale, cache)
            normed = self.cross_layernorm(states)
            states = states + self.dropout(self.cross_attn(normed, key, value, memory_mask))
        return states + self.dropout(self.mlp(self.post_attention_layernorm(states)))

    def _memory(self, question: Tensor, rationale: Tensor, cache: CopilotCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of questions followed by rationales: Concat(X̃, Pool(h)) of Eq. 6."""
        rationale_key, rationale_value = self.cross_attn.keys_values(rationale)
        if cache is None:
            key, value = self.cross_attn.keys_values(question)
        elif cache.has_questions(self.cache_index):
            key, value = cache.stored_questions(self.cache_index)
        else:
            key, value = cache.questions.update(*self.cross_attn.keys_values(question), self.cache_index)
        if cache is not None:
            rationale_key, rationale_value = cache.rationales.update(rationale_key, rationale_value, self.cache_index)
        return torch.cat([key, rationale_key], dim=2), torch.cat([value, rationale_value], dim=2)


__all__ = ["CopilotAttention", "CopilotLayer", "CopilotMLP", "CopilotRMSNorm", "eager_attention", "make_norm"]
