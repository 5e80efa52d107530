"""One round's mistakes as padded tensors on the Copilot's device: what the Copilot learns from.

Made from a forward pass of the Pilot, or from a [`MistakeRecord`] of the log; the Copilot cannot tell which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .configuration_pilot_copilot import PilotCopilotConfig
from .mistakes import (
    PilotDistribution,
    SparseMistake,
    draw_tail,
    full_probabilities,
    log_normalizer,
    observed_mistake,
    pilot_distribution,
    probability_of,
)
from .validation import chosen


@dataclass
class MistakeBatch:
    """Question, rationale and mistakes of one round (Eq. 3-5). All tensors are detached from the Pilot.

    Position j holds token w_j and what the Pilot believed of w_{j+1}.

    Args:
        token_ids (`torch.LongTensor` of shape `(batch, length)`): the tokens (an encoder-decoder's decoder input).
        attention_mask (`torch.BoolTensor` of shape `(batch, length)`): `False` where there is padding.
        question (`torch.Tensor` of shape `(batch, questions, question_size)`, *optional*): X̃. `None`: the Pilot's
            embedding is frozen, and `token_ids` say it all.
        rationale (`torch.Tensor` of shape `(batch, length, hidden)`): h̄.
        belief_ids (`torch.LongTensor` of shape `(batch, length, top_k)`): most probable tokens of p̂.
        belief_probabilities (`torch.FloatTensor` of shape `(batch, length, top_k)`): their probabilities.
        next_probabilities (`torch.FloatTensor` of shape `(batch, length)`): p̂_j(w_{j+1}); 0 at the last position.
        label_probabilities (`torch.FloatTensor` of shape `(batch, length)`): p̂_j of the label, where there is one.
        labels (`torch.LongTensor` of shape `(batch, length)`): the supervised token *after* position j, or -100.
        question_mask (`torch.BoolTensor` of shape `(batch, questions)`, *optional*): encoder-decoder: the encoder's.
        segments (`torch.LongTensor` of shape `(batch, length)`, *optional*): documents of packed rows.
        layers (`torch.Tensor` of shape `(decoder layers, rows, length, hidden)`, *optional*): every layer's output for
            the first rows, for looking into.
        tail_ids (`torch.LongTensor` of shape `(batch, length, count)`, *optional*): at the positions that are lessons,
            tokens drawn from what the most probable ones leave of p̂. `None` where they leave nothing.
    """

    token_ids: Tensor
    attention_mask: Tensor
    question: Tensor | None
    rationale: Tensor
    belief_ids: Tensor
    belief_probabilities: Tensor
    next_probabilities: Tensor
    label_probabilities: Tensor
    labels: Tensor
    question_mask: Tensor | None = None
    segments: Tensor | None = None
    layers: Tensor | None = None
    tail_ids: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def from_pilot(
        cls,
        logits: Tensor,
        token_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None,
        question: Tensor | None,
        rationale: Tensor,
        config: PilotCopilotConfig,
        question_mask: Tensor | None = None,
        segments: Tensor | None = None,
        layers: Tensor | None = None,
    ) -> MistakeBatch:
        """A round as the Pilot's forward pass leaves it.

        Args:
            logits (`torch.Tensor` of shape `(batch, length, vocab)`): the Pilot's.
            token_ids, labels, question, rationale, question_mask, segments, layers: see the class.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 0 at padding; `None`: no padding.
            config ([`PilotCopilotConfig`]): the pair's: how many tokens of p̂ to keep (`mistake_top_k`), how many to
                draw from the rest (`mistake_tail`), and which positions are lessons (`mistakes_from`).

        Returns:
            [`MistakeBatch`]

        Raises:
            ValueError: the Pilot's logits hold NaN or inf at a real position; the message names the rows.
        """
        logits = logits.detach()
        real = torch.ones_like(token_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        normalizer = log_normalizer(logits)
        _check_finite(normalizer, real)
        following = torch.cat([token_ids[:, 1:], token_ids[:, :1]], dim=1)
        belief = pilot_distribution(logits, config.mistake_top_k, normalizer)
        following_probability = probability_of(logits, following, normalizer)
        following_probability[:, -1] = 0.0
        label_probability = probability_of(logits, labels.clamp_min(0), normalizer).masked_fill(labels < 0, 0.0)
        made = cls(
            token_ids=token_ids,
            attention_mask=real,
            question=None if question is None else question.detach(),
            rationale=rationale.detach(),
            belief_ids=belief.token_ids,
            belief_probabilities=belief.probabilities,
            next_probabilities=following_probability,
            label_probabilities=label_probability,
            labels=labels,
            question_mask=None if question_mask is None else question_mask.bool(),
            segments=segments,
            layers=layers,
        )
        if belief.token_ids.shape[-1] < logits.shape[-1]:
            made._draw_tail(logits, config)
        return made

    def _draw_tail(self, logits: Tensor, config: PilotCopilotConfig) -> None:
        """Draw from the rest of p̂ where the Copilot is to learn. The draw depends on the round's tokens alone."""
        lessons = self.supervised(config.mistakes_from)
        self.tail_ids = self.token_ids.new_zeros(*lessons.shape, config.mistake_tail)
        if lessons.any():
            belief = PilotDistribution(self.belief_ids[lessons], self.belief_probabilities[lessons])
            seed = int(self.token_ids.sum())
            self.tail_ids[lessons] = draw_tail(logits[lessons], belief, config.mistake_tail, seed)

    def lesson(self, mistakes_from: str, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the Copilot's loss compares its correction with, position by position.

        Args:
            mistakes_from (`str`): see [`lesson_positions`].
            vocab_size (`int`): the size of the vocabulary.

        Returns:
            The positions, of shape `(batch, length)`; p̂ there, `(positions, vocab)`; the true tokens, `(positions,)`.
        """
        supervised = self.supervised(mistakes_from)
        token_ids, probabilities = (values[supervised] for values in self.targets())
        belief = PilotDistribution(self.belief_ids[supervised], self.belief_probabilities[supervised])
        tail_ids = None if self.tail_ids is None else self.tail_ids[supervised]
        full = full_probabilities(belief, token_ids, probabilities, vocab_size, tail_ids)
        return supervised, full, token_ids

    def feedback(self) -> SparseMistake:
        """ℓ_{j-1} at position j: what the Copilot reads under teacher forcing.

        Returns:
            [`SparseMistake`] of shape `(batch, length, top_k + 1)`, zero at the first token of a sequence.
        """
        known = observed_mistake(
            PilotDistribution(self.belief_ids[:, :-1], self.belief_probabilities[:, :-1]),
            self.token_ids[:, 1:],
            self.next_probabilities[:, :-1],
        )
        return shifted(known, None, feedback_validity(self.attention_mask, self.segments, self.token_ids.shape[1], 0))

    def supervised(self, mistakes_from: str) -> Tensor:
        """Positions that the Copilot's loss covers.

        Args:
            mistakes_from (`str`): `"labels"`, those with a label, or `"all"`, every one whose next token is known.

        Returns:
            `torch.BoolTensor` of shape `(batch, length)`.
        """
        return lesson_positions(self.labels, self.attention_mask, self.segments, mistakes_from)

    def targets(self) -> tuple[Tensor, Tensor]:
        """The true token after every position and p̂ of it: the label where there is one, else the next token.

        Returns:
            Two tensors of shape `(batch, length)`; meaningless at positions that are not supervised.
        """
        following = torch.cat([self.token_ids[:, 1:], self.token_ids[:, :1]], dim=1)
        labelled = self.labels >= 0
        probabilities = torch.where(labelled, self.label_probabilities, self.next_probabilities)
        return torch.where(labelled, self.labels, following), probabilities


def lesson_positions(labels: Tensor, real: Tensor, segments: Tensor | None, mistakes_from: str) -> Tensor:
    """Positions that the Copilot's loss covers.

    Args:
        labels (`torch.LongTensor` of shape `(batch, length)`): the supervised token after each position, or -100.
        real (`torch.BoolTensor` of shape `(batch, length)`): `False` where there is padding.
        segments (`torch.LongTensor` of shape `(batch, length)`, *optional*): documents of packed rows.
        mistakes_from (`str`): `"labels"`, those with a label, or `"all"`, every one whose next token is known.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`.
    """
    labelled = (labels >= 0) & real
    if chosen("mistakes_from", mistakes_from) == "labels":
        return labelled
    known = torch.zeros_like(labelled)
    known[:, :-1] = real[:, :-1] & real[:, 1:]
    if segments is not None:
        known[:, :-1] &= segments[:, :-1] == segments[:, 1:]
    return labelled | known


def target_mask(labels: Tensor) -> Tensor:
    """An encoder-decoder's decoder positions up to a row's last label: what follows is padding.

    Args:
        labels (`torch.LongTensor` of shape `(batch, length)`): targets, -100 at padding.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`.
    """
    return (labels >= 0).flip(-1).cummax(dim=-1).values.flip(-1)


def _check_finite(normalizer: Tensor, real: Tensor) -> None:
    bad = ~torch.isfinite(normalizer) & real
    if bad.any():
        rows = bad.any(dim=-1).nonzero().flatten().tolist()
        raise ValueError(
            f"the Pilot's logits hold NaN or inf in rows {rows} of the batch, so there is no mistake to log. Lower the "
            "learning rate, clip gradients (`max_grad_norm`), or train in bfloat16 or float32 instead of float16."
        )


def feedback_validity(attention_mask: Tensor | None, segments: Tensor | None, length: int, past: int) -> Tensor | None:
    """Where the mistake of the token before is one: that token exists, is no padding and is of the same document.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
        segments (`torch.LongTensor` of shape `(batch, length)`, *optional*): documents of packed rows.
        length (`int`): positions of this call.
        past (`int`): positions before it.

    Returns:
        `torch.BoolTensor` of shape `(batch, length)`; `None`: everywhere (except at the very first token, which has
        no mistake before it in any case).
    """
    valid = None
    if attention_mask is not None:
        mask = torch.nn.functional.pad(attention_mask.bool(), (1, 0))  # a missing token before the first
        valid = mask[:, past : past + length] & mask[:, past + 1 : past + 1 + length]
    if segments is not None:
        same = torch.nn.functional.pad(segments[:, 1:] == segments[:, :-1], (1, 0))
        valid = same if valid is None else valid & same
    return valid


def shifted(known: SparseMistake, first: SparseMistake | None, valid: Tensor | None) -> SparseMistake:
    """Put mistakes one position later, where the Copilot reads them.

    Args:
        known ([`SparseMistake`] of shape `(batch, length - 1, entries)`): of the tokens inside this call.
        first ([`SparseMistake`] of shape `(batch, 1, entries)`, *optional*): of the token before this call's first;
            zero without.
        valid (`torch.BoolTensor` of shape `(batch, length)`, *optional*): see [`feedback_validity`].

    Returns:
        [`SparseMistake`] of shape `(batch, length, entries)`.
    """
    if first is None:
        batch, _, entries = known.token_ids.shape
        shape = (batch, 1, entries)
        first = SparseMistake(known.token_ids.new_zeros(shape), known.values.new_zeros(shape))
    token_ids = torch.cat([first.token_ids, known.token_ids], dim=1)
    values = torch.cat([first.values, known.values], dim=1)
    if valid is not None:
        values = torch.where(valid.unsqueeze(-1), values, 0.0)
    return SparseMistake(token_ids, values)


__all__ = ["MistakeBatch", "feedback_validity", "lesson_positions", "shifted", "target_mask"]
