"""The Copilot of the form "decoder": a small transformer that reads the Pilot's mistakes and writes a correction (§3.1,
App. A of the paper)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .cache_copilot import CopilotCache
from .configuration_copilot import CopilotConfig
from .copilot_base import CopilotPreTrainedModel
from .layers_copilot import CopilotLayer, make_norm
from .masks import CopilotMasks
from .mistakes import SparseMistake
from .validation import chosen


class CopilotModel(CopilotPreTrainedModel):
    """A Copilot of the form "decoder". Reads ℓ_{<j}, X̃ and h̄; gives a state g_j and from it the correction f_j.

    It has no positions and no softmax at its end. With `config.head == "own"` it holds both vocabulary matrices; with
    `"pilot"` it is lent the Pilot's, which it only reads.

    Args:
        config ([`CopilotConfig`]): its shape.

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

    def new_cache(self) -> CopilotCache:
        """An empty cache.

        Returns:
            [`CopilotCache`]
        """
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


__all__ = ["CopilotModel"]
