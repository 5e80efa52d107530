"""Running the Copilot beside a Pilot's forward pass: the one place where corrections are made.

Scoring a whole text, generating step by step, chunked prefill and assisted decoding all come through
[`run_copilot`]; they differ only in how many positions a call has and in what the cache holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .cache_pilot_copilot import CopilotCache, PilotCopilotCache
from .configuration_pilot_copilot import PilotCopilotConfig
from .copilot_base import CopilotPreTrainedModel
from .fusion import rectified_log_probabilities
from .masks import copilot_masks, is_token_mask, key_visibility
from .mistake_batch import feedback_validity, shifted
from .mistakes import SparseMistake, log_normalizer, observed_mistake, pilot_distribution, probability_of, sparse_vector
from .options import chosen


class Corrector(Protocol):
    """What [`run_copilot`] needs of a pair."""

    config: PilotCopilotConfig
    copilot: CopilotPreTrainedModel

    def pilot_embedding(self) -> Tensor | None:
        """The Pilot's embedding matrix, read only, with `head="pilot"`.

        Returns:
            `torch.Tensor` of shape `(vocab, question_size)`, or `None`.
        """

    def correction(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """f from the Copilot's states.

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`, *optional*): g.
            head_states (`torch.Tensor` of shape `(..., pilot_hidden_size)`, *optional*): h, what the Pilot's head
                reads.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.
        """

    def get_output_embeddings(self) -> nn.Module:
        """The Pilot's language model head.

        Returns:
            `nn.Module`
        """


@dataclass
class PilotPass:
    """What one forward pass of the Pilot gives the Copilot.

    Args:
        token_ids (`torch.LongTensor` of shape `(batch, length)`): the (decoder's) tokens of this call.
        logits (`torch.Tensor` of shape `(batch, kept, vocab)`): the Pilot's, or with `rectified` the pair's.
        question (`torch.Tensor` of shape `(batch, questions, question_size)`, *optional*): X̃ of this call.
        rationale (`torch.Tensor` of shape `(batch, length, hidden)` or `(batch, length, layers, hidden)`, *optional*):
            h̄ of this call.
        attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
        question_mask (`torch.Tensor` of shape `(batch, questions)`, *optional*): encoder-decoder only.
        segments (`torch.LongTensor` of shape `(batch, length)`, *optional*): documents of packed rows.
        past (`int`): positions before this call.
        layers (`torch.Tensor` of shape `(decoder layers, rows, length, hidden)`, *optional*): every layer's output.
        correction (`torch.FloatTensor` of shape `(batch, 1, vocab)`, *optional*): f of a generated position, where the
            Copilot's row went through the Pilot's head together with the Pilot's own.
        head_states (`torch.Tensor` of shape `(batch, kept, hidden)`, *optional*): what the Pilot's head read.
        position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): as the Pilot had them.
        logits_are_kept (`bool`, *optional*, defaults to `False`): whether the Pilot made the logits of those positions
            only that are wanted; else they are those of all.
        rectified (`bool`, *optional*, defaults to `False`): whether the Pilot's head read what the Copilot had
            corrected.

    Raises:
        ValueError: the attention mask is not one number a token, or the rationale not one state a token.
    """

    token_ids: Tensor
    logits: Tensor
    question: Tensor | None
    rationale: Tensor | None
    attention_mask: Tensor | None
    question_mask: Tensor | None
    segments: Tensor | None
    past: int
    layers: Tensor | None = None
    correction: Tensor | None = None
    head_states: Tensor | None = None
    position_ids: Tensor | None = None
    logits_are_kept: bool = False
    rectified: bool = False

    def __post_init__(self) -> None:
        rows, length = self.token_ids.shape
        if self.rationale is None:  # a Copilot that sees its own position alone
            return
        mask: Any = self.attention_mask
        # A branch, which reads no question, takes whole masks as its Pilot does, a static cache's.
        whole = self.question is None and not is_token_mask(mask)
        if mask is not None and not whole and mask.shape != (rows, self.past + length):
            raise ValueError(
                f"the attention mask has the shape {tuple(mask.shape)}; for {length} tokens after "
                f"{self.past} in the cache it must be {(rows, self.past + length)}, 0 at padding and 1 elsewhere."
            )
        if self.rationale.shape[:2] != self.token_ids.shape:
            raise ValueError(
                f"the Pilot's decoder layers give outputs of shape {tuple(self.rationale.shape)} for tokens of shape "
                f"{tuple(self.token_ids.shape)}; a rationale needs one state a token, (batch, length, hidden_size). A "
                "family with several residual streams, or with time before batch, cannot be a Pilot."
            )


def feedback_kind(pair: Corrector) -> str | None:
    """What the pair's Copilot is told of the tokens before.

    Returns:
        `str`: `error_feedback`, or `None` of a form that reads nothing of the kind.
    """
    kind = chosen("error_feedback", pair.config.error_feedback)
    return kind if chosen("form", pair.copilot.config.form) == "decoder" else None


def reads_mistakes(pair: Corrector) -> bool:
    """Whether the Copilot needs the Pilot's mistake at every position before, prompts included.

    Returns:
        `bool`
    """
    return feedback_kind(pair) in ("observed", "predicted")


def token_feedback(token_ids: Tensor) -> SparseMistake:
    """Feedback of the `"token"` kind: each position's own token, ℓ_{j-1} without p̂.

    Returns:
        [`SparseMistake`] of shape `(batch, length, 1)`.
    """
    return SparseMistake(token_ids.unsqueeze(-1), torch.ones_like(token_ids, dtype=torch.float32).unsqueeze(-1))


def copilot_states(
    pair: Corrector,
    feedback: SparseMistake | None,
    question: Tensor | None,
    rationale: Tensor | None,
    attention_mask: Tensor | None,
    question_mask: Tensor | None,
    segments: Tensor | None,
    past: int = 0,
    cache: Any = None,
    position_ids: Tensor | None = None,
) -> Tensor | None:
    """The Copilot's states g, for training and inference alike.

    Args:
        feedback ([`SparseMistake`] of shape `(batch, length, entries)`, *optional*): ℓ_{j-1} at position j.
        question (`torch.Tensor` of shape `(batch, questions, question_size)`, *optional*): X̃.
        rationale (`torch.Tensor` of shape `(batch, length, hidden)` or `(batch, length, layers, hidden)`, *optional*):
            h̄.
        attention_mask, question_mask, segments, past, position_ids: see [`PilotPass`].
        cache (*optional*): the Copilot's own, of earlier positions, updated here.

    Returns:
        `torch.Tensor` of shape `(batch, length, hidden_size)`, or `None` of the form `"linear"`.
    """
    form = chosen("form", pair.copilot.config.form)
    if form == "linear" or rationale is None:
        return None
    if form == "branch":
        if segments is not None:  # packed rows: the family's own code tells documents apart by their positions
            attention_mask, position_ids = None, _positions_of(segments) if position_ids is None else position_ids
        encoded = question if question_mask is not None else None
        return pair.copilot(rationale, attention_mask, position_ids, cache, encoded, question_mask)
    batch, length = rationale.shape[:2]
    visible = key_visibility(attention_mask, segments, batch, length, past, rationale.device)
    masks = copilot_masks(visible, past, pair.copilot.config.rationale, pair.copilot.dtype, question_mask)
    return pair.copilot(feedback, question, rationale, masks, pair.pilot_embedding(), cache)


def _positions_of(segments: Tensor) -> Tensor:
    """Positions inside each document of packed rows."""
    places = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    starts = torch.nn.functional.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    return places - torch.where(starts, places, 0).cummax(dim=-1).values


def run_copilot(
    pair: Corrector, seen: PilotPass, cache: PilotCopilotCache | None, keep: slice | Tensor, prompt_length: int | None
) -> Tensor:
    """The correction f for the kept positions of this call.

    Args:
        seen ([`PilotPass`]): what the Pilot did.
        cache ([`PilotCopilotCache`], *optional*): earlier positions; the Copilot's part is updated here.
        keep (`slice` or tensor): positions of this call whose correction is wanted.
        prompt_length (`int`, *optional*): under "predicted" feedback while generating: how many tokens were given;
            later ones are fed the Copilot's own outputs. `None`: all of the text is given.

    Returns:
        `torch.FloatTensor` of shape `(batch, kept, vocab)`.

    Raises:
        ValueError: the Pilot's head gives logits of other tokens than the Copilot knows.
    """
    check_vocabulary(pair, seen.logits)
    if seen.correction is not None:
        if cache is not None and reads_mistakes(pair):
            _keep(pair, seen, cache, seen.correction, prompt_length)
        return seen.correction
    feedback = _feedback(pair, seen, cache)
    if prompt_length is not None and feedback is not None and feeds_back(pair, prompt_length):
        return _predicted(pair, seen, cache, feedback, prompt_length)[:, keep]
    own_cache = None if cache is None else cache.copilot
    states = _states(pair, seen, feedback, own_cache, 0, seen.token_ids.shape[1])
    head_states = seen.head_states
    if head_states is not None and not seen.logits_are_kept:
        head_states = head_states[:, keep]
    correction = pair.correction(None if states is None else states[:, keep], head_states)
    if cache is not None and reads_mistakes(pair):
        _keep(pair, seen, cache, correction, prompt_length)
    return correction


def check_vocabulary(pair: Corrector, logits: Tensor) -> None:
    """Refuse logits of other tokens than the Copilot knows.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's.

    Raises:
        ValueError: there are more or fewer.
    """
    if logits.shape[-1] != pair.copilot.config.vocab_size:
        raise ValueError(
            f"the Pilot gives {logits.shape[-1]} logits, and the Copilot corrects "
            f"{pair.copilot.config.vocab_size}: the Pilot's head was replaced after the pair was made, as transformers "
            "does with an assistant of another vocabulary while it samples. Make the pair anew with `from_pilot`, or "
            "leave the Copilot out with `copilot_weight=0`."
        )


def feeds_back(pair: Corrector, prompt_length: int | None) -> bool:
    """Whether generated positions read the Copilot's own outputs (Algorithm 2).

    Args:
        prompt_length (`int`, *optional*): tokens that were given; `None`: nothing is being generated.

    Returns:
        `bool`
    """
    return feedback_kind(pair) == "predicted" and prompt_length is not None


def _keep(
    pair: Corrector, seen: PilotPass, cache: PilotCopilotCache, correction: Tensor, prompt_length: int | None
) -> None:
    """Leave in the cache what the next call's first mistake is made of."""
    own = predicted_feedback(seen.logits, correction, pair.config.fusion) if feeds_back(pair, prompt_length) else None
    cache.keep_pending(seen.logits, own)


def _states(
    pair: Corrector, seen: PilotPass, feedback: SparseMistake | None, cache: Any, start: int, end: int
) -> Tensor | None:
    """States of positions start to end of a call, given their feedback; those before are in the cache."""
    past = seen.past + start
    fixed = seen.question_mask is not None
    mask = seen.attention_mask
    if is_token_mask(mask):
        mask = mask[:, : seen.past + end]
    return copilot_states(
        pair,
        feedback,
        seen.question if fixed or seen.question is None else seen.question[:, start:end],
        None if seen.rationale is None else seen.rationale[:, start:end],
        mask,
        seen.question_mask,
        seen.segments,
        past,
        cache,
        seen.position_ids,
    )


def _feedback(pair: Corrector, seen: PilotPass, cache: PilotCopilotCache | None) -> SparseMistake | None:
    """ℓ_{j-1} at every position of a call, the first from what the cache remembers; or the tokens alone."""
    if not reads_mistakes(pair):
        return token_feedback(seen.token_ids) if feedback_kind(pair) == "token" else None
    top_k = pair.config.mistake_top_k
    known = mistake_of(seen.logits[:, :-1], seen.token_ids[:, 1:], top_k)
    last = None if cache is None or seen.past == 0 else cache.last_logits()
    first = None if last is None else mistake_of(last, seen.token_ids[:, :1], top_k)
    valid = feedback_validity(seen.attention_mask, seen.segments, seen.token_ids.shape[1], seen.past)
    return shifted(known, first, valid)


def mistake_of(logits: Tensor, token_ids: Tensor, top_k: int | None) -> SparseMistake:
    """ℓ of some positions, from the Pilot's logits and the tokens that followed.

    Args:
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): the Pilot's.
        token_ids (`torch.LongTensor` of shape `(batch, length)`): the true tokens.
        top_k (`int`, *optional*): `mistake_top_k`.

    Returns:
        [`SparseMistake`] of shape `(batch, length, entries)`.
    """
    normalizer = log_normalizer(logits)
    belief = pilot_distribution(logits, top_k, normalizer)
    return observed_mistake(belief, token_ids, probability_of(logits, token_ids, normalizer))


def own_feedback(last: Tensor | None, top_k: int | None) -> SparseMistake:
    """Feedback of the "predicted" kind: from what the Copilot wrote last (Algorithm 2).

    Args:
        last (`torch.Tensor` of shape `(batch, 1, vocab)`, *optional*): its output at the position before.
        top_k (`int`, *optional*): `mistake_top_k`.

    Returns:
        [`SparseMistake`] of shape `(batch, 1, entries)`.

    Raises:
        ValueError: there is no such output.
    """
    if last is None:
        raise ValueError(
            "this cache does not hold what the Copilot wrote last, which error_feedback='predicted' feeds back to it: "
            "it was cropped, or not made by `generate`. Give `generate` the whole text without a cache, or "
            "call the cache's `activate_past_recording()` before the forward passes that may be undone."
        )
    return sparse_vector(last, top_k)


def predicted_feedback(logits: Tensor, correction: Tensor, fusion: str) -> Tensor:
    """What the Copilot predicts the mistake to be: f itself (Algorithm 2), or under logits fusion p̃ − p̂ at λ = 1.

    Args:
        logits (`torch.Tensor` of shape `(..., vocab)`): the Pilot's.
        correction (`torch.Tensor` of shape `(..., vocab)`): f.
        fusion (`str`): the pair's.

    Returns:
        `torch.FloatTensor` of shape `(..., vocab)`.
    """
    if chosen("fusion", fusion) == "probability":
        return correction
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return rectified_log_probabilities(log_probabilities, correction, 1.0, fusion).exp() - log_probabilities.exp()


def _predicted(
    pair: Corrector, seen: PilotPass, cache: PilotCopilotCache | None, observed: SparseMistake, prompt_length: int
) -> Tensor:
    """f at every position, given tokens read at once, generated ones one by one with f fed back (Algorithm 2)."""
    length, config = seen.token_ids.shape[1], pair.config
    inner = CopilotCache(seen.question_mask is not None) if cache is None else cache.copilot
    given = min(max(prompt_length - seen.past, 0), length)
    corrections: list[Tensor] = []
    if given:
        prompt = SparseMistake(observed.token_ids[:, :given], observed.values[:, :given])
        corrections.append(_corrected(pair, seen, prompt, inner, 0, given))
    last = None if cache is None else cache.last_feedback()
    if given:
        last = predicted_feedback(seen.logits[:, given - 1 : given], corrections[-1][:, -1:], config.fusion)
    for position in range(given, length):
        own = own_feedback(last, config.mistake_top_k)
        corrections.append(_corrected(pair, seen, own, inner, position, position + 1))
        last = predicted_feedback(seen.logits[:, position : position + 1], corrections[-1], config.fusion)
    result = torch.cat(corrections, dim=1)
    if cache is not None:
        _keep(pair, seen, cache, result, prompt_length)
    return result


def _corrected(pair: Corrector, seen: PilotPass, feedback: SparseMistake, cache: Any, start: int, end: int) -> Tensor:
    """f of positions start to end."""
    head_states = None if seen.head_states is None else seen.head_states[:, start:end]
    return pair.correction(_states(pair, seen, feedback, cache, start, end), head_states)


__all__ = [
    "Corrector",
    "PilotPass",
    "check_vocabulary",
    "copilot_states",
    "feedback_kind",
    "feeds_back",
    "mistake_of",
    "own_feedback",
    "predicted_feedback",
    "reads_mistakes",
    "run_copilot",
    "token_feedback",
]
