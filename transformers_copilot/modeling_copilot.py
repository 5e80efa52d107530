"""The Copilot: a small transformer that reads the Pilot's mistakes and writes a correction (§3.1, App. A)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .cache_copilot import CopilotCache
from .configuration_copilot import CopilotConfig
from .layers_copilot import CopilotLayer, make_norm
from .masks import CopilotMasks
from .mistakes import SparseMistake
from .random_stream import own_random_stream
from .validation import chosen


class CopilotPreTrainedModel(PreTrainedModel):
    """Weights' initialisation and what the Copilot supports, for transformers."""

    config: CopilotConfig
    config_class = CopilotConfig
    base_model_prefix = "copilot"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CopilotLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CopilotModel):
            # f is exactly zero at the start, so an untrained pair is exactly its Pilot.
            init.zeros_(module.correction_head.weight)
            init.normal_(module.segments, mean=0.0, std=self.config.initializer_range)


class CopilotModel(CopilotPreTrainedModel):
    """Reads ℓ_{<j}, X̃ and h̄; gives a state g_j and from it the correction f_j.

    It has no positions and no softmax at its end. With `config.head == "own"` it holds both vocabulary matrices; with
    `"pilot"` it is lent the Pilot's, which it only reads.

    Args:
        config ([`CopilotConfig`]): its shape.
    """

    def __init__(self, config: CopilotConfig) -> None:
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
        self.rationale_projection = _align(config.pilot_hidden_size, width)
        if config.rationale_input:
            self.rationale_input = nn.Linear(width, width, bias=False)
        self.segments = nn.Parameter(torch.zeros(2, width))  # tells X̃ from h̄
        self.layers = nn.ModuleList(CopilotLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = make_norm(config, width)
        self.post_init()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CopilotModel:
        """What `to`, `half`, `bfloat16`, `cuda` and the like do to every weight. A Copilot is small and learns from
        small differences: where the pair is narrowed, it moves along but stays float32.

        Args:
            fn (callable): changes one tensor.
            recurse (`bool`, *optional*, defaults to `True`): its layers' too.

        Returns:
            The Copilot.
        """

        def changed(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            if not (new.is_floating_point() and new.itemsize < torch.float32.itemsize <= tensor.itemsize):
                return new
            return tensor.to(new.device, torch.float32)  # of the old values: the narrow ones have lost digits

        return super()._apply(changed, recurse)

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
            rationale (`torch.Tensor` of shape `(batch, length, pilot_hidden_size)`): h̄.
            masks ([`CopilotMasks`]): who may see what.
            pilot_embedding (`torch.Tensor`, *optional*): see [`CopilotModel.embed_mistakes`].
            cache ([`CopilotCache`], *optional*): earlier positions' keys and values, updated here.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden_size)`.
        """
        with self._random_stream(mistakes.token_ids):
            return self._states(mistakes, question, rationale, masks, pilot_embedding, cache)

    def _random_stream(self, content: Tensor) -> AbstractContextManager[None]:
        """The Copilot's own, where it draws anything."""
        draws = self.training and (self.config.dropout > 0.0 or self._hf_peft_config_loaded)
        return own_random_stream(self, content) if draws else nullcontext()

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
        rationale = self.rationale_projection(self.rationale_norm(rationale.to(self.dtype))) + self.segments[1]
        if self.config.rationale_input:
            states = states + self.rationale_input(rationale)
        for layer in self.layers:
            states = layer(states, question, rationale, masks.mistakes, masks.memory, cache)
        return self.norm(states)

    def correction(self, states: Tensor, pilot_head: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """f, the correction (a vector over the vocabulary at every position).

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`): g.
            pilot_head (callable, *optional*): the Pilot's language model head, read only; needed with `head="pilot"`.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.
        """
        with self._random_stream(torch.tensor(states.shape, device=states.device)):  # an adapter's dropout
            output = self.correction_head(states)
        return (output if chosen("head", self.config.head) == "own" else pilot_head(output)).float()

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


__all__ = ["CopilotModel", "CopilotPreTrainedModel"]
