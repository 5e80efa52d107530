"""The Copilot of the form "decoder" and its layers: a small transformer that reads the Pilot's mistakes and writes a
correction (§3.1, App. A of the paper)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cache_pilot_copilot import CopilotCache
from .configuration_copilot import CopilotConfig
from .copilot_base import CopilotPreTrainedModel, no_static_cache
from .masks import CopilotMasks
from .mistakes import SparseMistake
from .options import chosen


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
        config ([`CopilotConfig`]): `norm_type` names the kind, `norm_eps` what is added to the variance.
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


class CopilotModel(CopilotPreTrainedModel):
    """A Copilot of the form "decoder". Reads ℓ_{<j}, X̃ and h̄; gives a state g_j and from it the correction f_j.

    It has no positions and no softmax at its end. With `config.head == "own"` it holds both vocabulary matrices; with
    `"pilot"` it is lent the Pilot's, which it only reads.

    Args:
        config ([`CopilotConfig`]): its widths, layers and options; of the form "decoder".

    Raises:
        ValueError: the configuration is of another form.
    """

    _no_split_modules = ["CopilotLayer"]

    def __init__(self, config: CopilotConfig) -> None:
        if chosen("form", config.form) != "decoder":
            raise ValueError(f"the configuration is of the form {config.form!r}; `new_copilot` makes a Copilot of any.")
        super().__init__(config)
        width = config.hidden_size
        if chosen("head", config.head) == "own":
            self.mistake_embedding = nn.Embedding(config.vocab_size, width)
            self.correction_head = nn.Linear(width, config.vocab_size, bias=False)
        else:
            self.mistake_projection = nn.Linear(config.question_size, width, bias=False)
            self.correction_head = nn.Linear(width, config.pilot_hidden_size, bias=False)
        # Raw residual streams have huge dimensions: the memory passes a norm first, then a map where widths differ.
        self.question_norm = make_norm(config, config.question_size)
        self.rationale_norm = make_norm(config, config.pilot_hidden_size)
        self.question_projection = _align(config.question_size, width)
        self.rationale_projection = _align(config.rationale_states * config.pilot_hidden_size, width)
        if config.reads_own_rationale:
            self.rationale_input = nn.Linear(width, width, bias=False)
        self.segments = nn.Parameter(torch.zeros(2, width))  # tells X̃ from h̄
        self.layers = nn.ModuleList(CopilotLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = make_norm(config, width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CopilotModel):
            # f is exactly zero at the start, so an untrained pair is exactly its Pilot.
            init.zeros_(module.correction_head.weight)
            init.normal_(module.segments, mean=0.0, std=self.config.initializer_range)

    @property
    def draws_in_training(self) -> bool:  # type: ignore[override]
        """Whether there is dropout."""
        return self.config.dropout > 0.0

    def layers_read(self, num_layers: int) -> str | tuple[int, ...] | None:
        """What it reads of the Pilot's decoder layers, by `config.rationale`.

        Args:
            num_layers (`int`): how many decoder layers the Pilot has.

        Returns:
            `"mean"`, or the numbers of the layers.
        """
        rationale = chosen("rationale", self.config.rationale)
        if rationale == "depths":
            return tuple(max(1, round(num_layers * third / 3)) - 1 for third in (1, 2, 3))
        return (num_layers - 1,) if rationale == "last" else "mean"

    def new_cache(self, length: int | None = None) -> CopilotCache:
        """An empty cache.

        Args:
            length (`int`, *optional*): asks for a static one.

        Returns:
            [`CopilotCache`]

        Raises:
            ValueError: a static one is asked for.
        """
        if length is not None:
            raise ValueError(
                no_static_cache("a decoder keeps mistakes, questions and rationales that grow with the text")
            )
        return CopilotCache(fixed_questions=self.config.is_encoder_decoder)

    def embed_mistakes(self, mistakes: SparseMistake, pilot_embedding: Tensor | None = None) -> Tensor:
        """W_in ℓ: mistakes in the Copilot's width. Linear in ℓ, as the paper's projection from V to d_C.

        Args:
            mistakes ([`SparseMistake`] of shape `(batch, length, entries)`): ℓ of the token before each position.
            pilot_embedding (`torch.Tensor` of shape `(vocab, question_size)`, *optional*): the Pilot's embedding
                matrix, needed with `head="pilot"`.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden_size)`.
        """
        table = self.mistake_embedding.weight if chosen("head", self.config.head) == "own" else pilot_embedding
        batch, length, entries = mistakes.token_ids.shape
        rows = F.embedding_bag(
            mistakes.token_ids.reshape(-1, entries),
            table,
            per_sample_weights=mistakes.values.reshape(-1, entries).to(table.dtype),
            mode="sum",
        ).view(batch, length, -1)
        return rows if chosen("head", self.config.head) == "own" else self.mistake_projection(rows.to(self.dtype))

    def forward(
        self,
        mistakes: SparseMistake,
        question: Tensor,
        rationale: Tensor,
        masks: CopilotMasks,
        pilot_embedding: Tensor | None = None,
        cache: CopilotCache | None = None,
    ) -> Tensor:
        """States g from which [`CopilotModel.correction`] makes f.

        Args:
            mistakes ([`SparseMistake`] of shape `(batch, length, entries)`):
                ℓ_{j-1} at position j; zero where there is none (the first token, after padding).
            question (`torch.Tensor` of shape `(batch, questions, question_size)`): X̃.
            rationale (`torch.Tensor` of shape `(batch, length, pilot_hidden_size)`): h̄; with `rationale="depths"` of
                shape `(batch, length, 3, pilot_hidden_size)`.
            masks ([`CopilotMasks`]): who may see what.
            pilot_embedding (`torch.Tensor`, *optional*): see [`CopilotModel.embed_mistakes`].
            cache ([`CopilotCache`], *optional*): earlier positions' keys and values, updated here.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden_size)`.
        """
        with self._random_stream(mistakes.token_ids):
            return self._states(mistakes, question, rationale, masks, pilot_embedding, cache)

    def _states(
        self,
        mistakes: SparseMistake,
        question: Tensor,
        rationale: Tensor,
        masks: CopilotMasks,
        pilot_embedding: Tensor | None,
        cache: CopilotCache | None,
    ) -> Tensor:
        states = self.embed_mistakes(mistakes, pilot_embedding).to(self.dtype)
        if cache is None or not cache.has_questions(0):  # an encoder's output is read once
            question = self.question_projection(self.question_norm(question.to(self.dtype))) + self.segments[0]
        normed = self.rationale_norm(rationale.to(self.dtype)).flatten(2)
        rationale = self.rationale_projection(normed) + self.segments[1]
        if self.config.reads_own_rationale:
            states = states + self.rationale_input(rationale)
        for layer in self.layers:
            states = layer(states, question, rationale, masks.mistakes, masks.memory, cache)
        return self.norm(states)

    def correction(self, states: Tensor) -> Tensor:
        """f, the correction (a vector over the vocabulary at every position), with `head="own"`.

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`): g.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.
        """
        return self._out(states).float()

    def head_shift(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """u, with `head="pilot"`: a small map of g.

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`): g.
            head_states: not read.

        Returns:
            `torch.FloatTensor` of shape `(..., pilot_hidden_size)`.
        """
        return self._out(states).float()

    def _out(self, states: Tensor | None) -> Tensor:
        with self._random_stream(torch.tensor(states.shape, device=states.device)):  # an adapter's dropout
            return self.correction_head(states)

    def resize_vocabulary(self, vocab_size: int) -> None:
        """Follow the Pilot's change of vocabulary. New tokens start without a correction (f = 0).

        Args:
            vocab_size (`int`): the new number of tokens.
        """
        if chosen("head", self.config.head) == "own":
            self.mistake_embedding = _resized(self.mistake_embedding, vocab_size, self.config.initializer_range)
            self.correction_head = _resized(self.correction_head, vocab_size, 0.0)
        self.config.vocab_size = vocab_size


def _align(source: int, target: int) -> nn.Module:
    return nn.Identity() if source == target else nn.Linear(source, target, bias=False)


@torch.no_grad()
def _resized(module: nn.Embedding | nn.Linear, rows: int, std: float) -> Any:
    """A copy of an embedding or a head with another number of vocabulary rows."""
    old = module.weight
    if isinstance(module, nn.Embedding):
        new: nn.Embedding | nn.Linear = nn.Embedding(rows, old.shape[1], device=old.device, dtype=old.dtype)
    else:
        new = nn.Linear(old.shape[1], rows, bias=False, device=old.device, dtype=old.dtype)
    new.weight.normal_(0.0, std)
    kept = min(rows, old.shape[0])
    new.weight[:kept] = old[:kept]
    new.weight.requires_grad_(old.requires_grad)
    return new


__all__ = [
    "CopilotAttention",
    "CopilotLayer",
    "CopilotMLP",
    "CopilotRMSNorm",
    "eager_attention",
    "make_norm",
    "CopilotModel",
]
