"""One round's mistakes as padded tensors on the Copilot's device: what the Copilot learns from.

Made from a forward pass of the Pilot, or from a [`MistakeRecord`] of the log; the Copilot cannot tell which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .configuration_pilot_copilot import PilotCopilotConfig
from .mistakes import (
    PilotDistribution,
    SparseMistake,
    log_normalizer,
    mistake_size,
    observed_mistake,
    pilot_distribution,
    probability_of,
)
from .options import chosen


# Fields with a row a lesson.
LESSON_FIELDS = (
    *("head_states", "lesson_logits"),
    *("true_probabilities", "predicted_ids", "predicted_probabilities", "mistake_sizes"),
)


@dataclass
class MistakeBatch:
    """Question, rationale and mistakes of one round (Eq. 3-5). All tensors are detached from the Pilot.

    Position j holds token w_j and what the Pilot believed of w_{j+1}. Positions that are lessons have p̂ whole, as the
    state that the Pilot's head made it of; the fields of shape `(lessons, ...)` go through them row by row.

    Args:
        token_ids (`torch.LongTensor` of shape `(batch, length)`): the tokens (an encoder-decoder's decoder input).
        attention_mask (`torch.BoolTensor` of shape `(batch, length)`): `False` where there is padding.
        labels (`torch.LongTensor` of shape `(batch, length)`): the supervised token *after* position j, or -100.
        lessons (`torch.BoolTensor` of shape `(batch, length)`): positions that can be learnt from.
        true_probabilities (`torch.FloatTensor` of shape `(lessons,)`): p̂ of the true token.
        predicted_ids (`torch.LongTensor` of shape `(lessons,)`): the most probable token of p̂.
        predicted_probabilities (`torch.FloatTensor` of shape `(lessons,)`): its probability.
        mistake_sizes (`torch.FloatTensor` of shape `(lessons,)`): ‖p − p̂‖².
        head_states (`torch.Tensor` of shape `(lessons, hidden)`, *optional*): what the Pilot's head read.
        lesson_logits (`torch.Tensor` of shape `(lessons, vocab)`, *optional*): the Pilot's logits themselves, of a
            family that makes them of the state in a way that is not known.
        question (`torch.Tensor` of shape `(batch, questions, question_size)`, *optional*): X̃. `None`: it is not read,
            or the Pilot's embedding is frozen, and `token_ids` say it all.
        rationale (`torch.Tensor` of shape `(batch, length, hidden)`, *optional*): h̄; of several layers
            `(batch, length, layers, hidden)`; `None` where the Copilot reads none.
        belief_ids (`torch.LongTensor` of shape `(batch, length, top_k)`, *optional*): most probable tokens of p̂ at
            every position, where the Copilot reads mistakes.
        belief_probabilities (`torch.FloatTensor` of shape `(batch, length, top_k)`, *optional*): their probabilities.
        next_probabilities (`torch.FloatTensor` of shape `(batch, length)`, *optional*): p̂_j(w_{j+1}); 0 at the last
            position.
        question_mask (`torch.BoolTensor` of shape `(batch, questions)`, *optional*): encoder-decoder: the encoder's.
        segments (`torch.LongTensor` of shape `(batch, length)`, *optional*): documents of packed rows.
        layers (`torch.Tensor` of shape `(decoder layers, rows, length, hidden)`, *optional*): every layer's output for
            the first rows, for looking into.
        is_whole (`bool`, *optional*, defaults to `False`): the fields of shape `(lessons, ...)` have a row for every
            position, of shape `(batch * length, ...)`. So a compiled pass makes them: its shapes can't depend on how
            many lessons there are.
    """

    token_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    lessons: Tensor
    true_probabilities: Tensor
    predicted_ids: Tensor
    predicted_probabilities: Tensor
    mistake_sizes: Tensor
    head_states: Tensor | None = None
    lesson_logits: Tensor | None = None
    question: Tensor | None = None
    rationale: Tensor | None = None
    belief_ids: Tensor | None = None
    belief_probabilities: Tensor | None = None
    next_probabilities: Tensor | None = None
    question_mask: Tensor | None = None
    segments: Tensor | None = None
    layers: Tensor | None = None
    is_whole: bool = False

    @classmethod
    @torch.no_grad()
    def from_pilot(
        cls,
        logits: Tensor,
        token_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None,
        config: PilotCopilotConfig,
        *,
        head_states: Tensor | None = None,
        keep_belief: bool = True,
        columns: Tensor | None = None,
        segments: Tensor | None = None,
        **read: Tensor | None,
    ) -> MistakeBatch:
        """A round as the Pilot's forward pass leaves it.

        Args:
            logits (`torch.Tensor` of shape `(batch, length, vocab)`): the Pilot's.
            token_ids, labels, segments: see the class.
            attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 0 at padding; `None`: no padding.
            config ([`PilotCopilotConfig`]): the pair's: which positions are lessons (`mistakes_from`), and how many
                tokens of p̂ a mistake keeps that is read (`mistake_top_k`).
            head_states (`torch.Tensor` of shape `(batch, length, hidden)`, *optional*): what the Pilot's head read.
                Without, the logits of lessons are kept themselves.
            keep_belief (`bool`, *optional*, defaults to `True`): keep the most probable tokens at every position, for
                a Copilot that reads mistakes.
            columns (`torch.LongTensor` of shape `(kept,)`, *optional*): the positions, in order, that `logits` and
                `head_states` are of, where that is not all; every lesson is among them. Not with `keep_belief`.
            **read: `question`, `question_mask`, `rationale` and `layers`; see the class.

        Returns:
            [`MistakeBatch`]

        Raises:
            ValueError: the Pilot's logits hold NaN or inf at a real position; the message names the rows.
        """
        logits = logits.detach()
        real = torch.ones_like(token_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lessons = lesson_positions(labels, real, segments, config.mistakes_from)
        following = torch.cat([token_ids[:, 1:], token_ids[:, :1]], dim=1)
        at = lessons if columns is None else lessons[:, columns]
        true = _rows_at(lessons, torch.where(labels >= 0, labels, following))
        belief: dict[str, Tensor] = {}
        if keep_belief:
            normalizer = log_normalizer(logits)
            if not is_compiling():
                _check_finite(normalizer, real)
            kept = pilot_distribution(logits, config.mistake_top_k, normalizer)
            next_probabilities = probability_of(logits, following, normalizer)
            next_probabilities[:, -1] = 0.0
            belief = {
                "belief_ids": kept.token_ids,
                "belief_probabilities": kept.probabilities,
                "next_probabilities": next_probabilities,
            }
        at_lessons = _rows_at(at, logits)
        normalizer = log_normalizer(at_lessons)
        if not keep_belief and not is_compiling():
            _check_finite(lessons.float().masked_scatter(lessons, normalizer), lessons)
        most = pilot_distribution(at_lessons, 1, normalizer)
        values = {name: None if value is None else value.detach() for name, value in read.items()}
        mask = values.get("question_mask")
        values["question_mask"] = None if mask is None else mask.bool()
        return cls(
            token_ids=token_ids,
            attention_mask=real,
            labels=labels,
            lessons=lessons,
            true_probabilities=probability_of(at_lessons, true, normalizer),
            predicted_ids=most.token_ids[..., 0],
            predicted_probabilities=most.probabilities[..., 0],
            mistake_sizes=mistake_size(at_lessons, true),
            head_states=None if head_states is None else _rows_at(at, head_states.detach()),
            lesson_logits=at_lessons.clone() if head_states is None else None,
            segments=segments,
            is_whole=is_compiling(),
            **belief,
            **values,
        )

    def feedback(self) -> SparseMistake:
        """ℓ_{j-1} at position j: what the Copilot reads under teacher forcing.

        Returns:
            [`SparseMistake`] of shape `(batch, length, top_k + 1)`, zero at the first token of a sequence.

        Raises:
            ValueError: mistakes were not kept at every position.
        """
        if self.belief_ids is None or self.belief_probabilities is None or self.next_probabilities is None:
            raise ValueError(
                "this round was recorded without the mistakes of every position, which a Copilot with "
                "error_feedback='observed' or 'predicted' reads. Record it with such a pair, or use "
                "error_feedback='token'."
            )
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

        Raises:
            ValueError: some of them were not recorded as lessons.
        """
        wanted = lesson_positions(self.labels, self.attention_mask, self.segments, mistakes_from)
        if not is_compiling() and (wanted & ~self.lessons).any():
            raise ValueError(
                f"this round was recorded with other lessons than mistakes_from={mistakes_from!r} asks for: the states "
                "of those positions were not kept. Record it again, or set mistakes_from='labels'."
            )
        return wanted

    def at(self, wanted: Tensor, values: Tensor | None) -> Tensor | None:
        """Those rows of a field of shape `(lessons, ...)` that belong to some positions.

        Args:
            wanted (`torch.BoolTensor` of shape `(batch, length)`): lessons, or some of them.
            values (`torch.Tensor` of shape `(lessons, ...)`, *optional*): a field of this round; `None` stays `None`.

        Returns:
            `torch.Tensor` of shape `(wanted, ...)`; in a compiled pass of shape `(batch * length, ...)`, with zeros
            where nothing is wanted; `None` where there is no such field.
        """
        if values is None:
            return None
        if not is_compiling():
            return values[wanted.flatten() if self.is_whole else wanted[self.lessons]]
        shape = (-1, *[1] * (values.dim() - 1))
        if not self.is_whole:
            places = self.lessons.reshape(shape).expand(-1, *values.shape[1:])
            values = values.new_zeros(places.shape).masked_scatter(places, values)
        return values.masked_fill(~wanted.reshape(shape), 0)

    def of_lessons(self) -> MistakeBatch:
        """The same round with rows of its lessons only, where a compiled pass has left one for every position.

        Returns:
            [`MistakeBatch`]

        Raises:
            ValueError: the Pilot's logits held NaN or inf at a lesson, which the compiled pass did not look at.
        """
        if not self.is_whole:
            return self
        _check_finite(self.true_probabilities.view_as(self.lessons), self.lessons)
        places = self.lessons.flatten()
        rows: dict[str, Any] = {name: getattr(self, name) for name in LESSON_FIELDS}
        rows = {name: None if row is None else row[places] for name, row in rows.items()}
        return replace(self, is_whole=False, **rows)

    def believed(self, wanted: Tensor, vocab_size: int) -> Tensor | None:
        """log p̂ as it was, at some positions, where every token of it was kept (`mistake_top_k=None`).

        Args:
            wanted (`torch.BoolTensor` of shape `(batch, length)`): the positions to give it for.
            vocab_size (`int`): the size of the vocabulary.

        Returns:
            `torch.FloatTensor` of shape `(wanted, vocab)`, in a compiled pass of shape `(batch * length, vocab)`, or
            `None` where less was kept.
        """
        if self.belief_ids is None or self.belief_probabilities is None or self.belief_ids.shape[-1] < vocab_size:
            return None
        token_ids = _rows_at(wanted, self.belief_ids)
        probabilities = _rows_at(wanted, self.belief_probabilities).float()
        whole = torch.zeros_like(probabilities).scatter(-1, token_ids, probabilities)
        return whole.clamp_min(torch.finfo(torch.float32).tiny).log()

    def targets(self) -> Tensor:
        """The true token after every position: the label where there is one, else the next token.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`; meaningless where neither is known.
        """
        following = torch.cat([self.token_ids[:, 1:], self.token_ids[:, :1]], dim=1)
        return torch.where(self.labels >= 0, self.labels, following)


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


def _rows_at(wanted: Tensor, values: Tensor) -> Tensor:
    """The values at some positions one below the other; in a compiled pass those of all positions."""
    return values.flatten(0, 1) if is_compiling() else values[wanted]


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


__all__ = ["LESSON_FIELDS", "MistakeBatch", "feedback_validity", "lesson_positions", "shifted", "target_mask"]
