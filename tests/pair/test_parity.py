"""The pair against Algorithm 2 written out (`reference_inference.py`), family by family and choice by choice."""

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.conftest import DECODER_ONLY, TINY, VOCAB, build_pair, build_pilot, some_ids
from tests.helpers.reference_inference import SlowPair
from transformers_copilot.pair.compat import CACHE_NAME, cache_of


RATIONALES, FUSIONS, HEADS = ("preceding", "current", "last", "depths"), ("logits", "probability"), ("own", "pilot")
FEEDBACKS = ("observed", "predicted", "token")
# How a given text is read: "predicted" feedback is that of observed mistakes there.
CHOICES = list(product(RATIONALES, FUSIONS, HEADS, ("observed", "token")))
# Half of them, with every pair of values in it: for each family with its own order of fusion and feedback.
HALVES = [[choice for number, choice in enumerate(CHOICES) if number.bit_count() % 2 == half] for half in (0, 1)]
NAMES = ("rationale", "fusion", "head", "feedback")
SHORT, LONG, WEIGHT = 4, 7, 0.7
NEW_TOKENS = 5
PairOf = Callable[..., PreTrainedModel]


def left_padded() -> tuple[Tensor, Tensor, Tensor]:
    """Two rows, the first with padding on the left: tokens, mask, positions."""
    ids = some_ids(2, LONG)
    mask = torch.ones_like(ids)
    mask[0, : LONG - SHORT] = 0
    return ids.masked_fill(mask == 0, 0), mask, (mask.cumsum(-1) - 1).clamp_min(0)


def step_by_step(pair: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, sizes: list[int]) -> Tensor:
    """Rectified logits of a text that is read in pieces of the given sizes, with a cache."""
    cache, found, start = None, [], 0
    for size in sizes:
        end = start + size
        out = pair(
            ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, start:end],
            **{CACHE_NAME: cache},
            use_cache=True,
            copilot_weight=WEIGHT,
        )
        cache, start = cache_of(out), end
        found.append(out.logits)
    return torch.cat(found, dim=1)


FAMILY_CHOICES = [
    (family, *choice) for turn, family in enumerate(DECODER_ONLY) for choice in HALVES[turn % len(HALVES)]
]


def choose(rationale: str, fusion: str, head: str, feedback: str, layers: int = 4) -> dict[str, Any]:
    """The options of a pair."""
    copilot = {"num_hidden_layers": layers, "rationale": rationale}
    return {"copilot": copilot, "fusion": fusion, "head": head, "error_feedback": feedback}


def test_halves_hold_every_pair_of_values():
    for half, (one, other) in product(HALVES, combinations(range(4), 2)):
        pairs = {(choice[one], choice[other]) for choice in half}
        assert pairs == {(choice[one], choice[other]) for choice in CHOICES}
    assert sorted(HALVES[0] + HALVES[1]) == sorted(CHOICES)


@torch.no_grad()
@pytest.mark.parametrize(("family", *NAMES), FAMILY_CHOICES)
def test_decoder_only_scores_as_the_reference(
    tiny_pair: PairOf, family: str, rationale: str, fusion: str, head: str, feedback: str
):
    layers = 4 if feedback == "observed" else 2
    check_decoder_only(tiny_pair(family, **choose(rationale, fusion, head, feedback, layers)))


@torch.no_grad()
@pytest.mark.parametrize("layers", [2, 5, 7])
def test_depths_are_thirds_of_any_number_of_layers(layers: int):
    """Of 2 layers the states after 1, 1 and 2; of 5 those after 2, 3 and 5; of 7 those after 2, 5 and 7."""
    pilot = build_pilot("LlamaConfig", {**TINY["llama"][1], "num_hidden_layers": layers})
    check_decoder_only(build_pair(pilot, **choose("depths", "logits", "own", "token", layers=2)))


def check_decoder_only(pair: PreTrainedModel) -> None:
    """The whole text, single tokens and uneven pieces all equal the reference."""
    ids, mask, positions = left_padded()
    out = pair(ids, attention_mask=mask, position_ids=positions, copilot_weight=WEIGHT)
    changed = (out.logits.softmax(-1) - out.pilot_logits.softmax(-1)).abs().max()
    assert changed > 1e-2, "the Copilot changes nothing: a test of nothing"
    slow = SlowPair(pair)
    expected = [slow.score_logits(ids[0, LONG - SHORT :], WEIGHT), slow.score_logits(ids[1], WEIGHT)]
    pieces = {"whole": out.logits}
    pieces["single tokens"] = step_by_step(pair, ids, mask, positions, [1] * LONG)
    pieces["uneven pieces"] = step_by_step(pair, ids, mask, positions, [2, 4, 1])
    for way, found in pieces.items():
        check_logits(found[0, LONG - SHORT :], expected[0], way)
        check_logits(found[1], expected[1], way)


def check_logits(found: Tensor, expected: Tensor, way: str = "whole") -> None:
    """The same distributions, and the same logits up to rounding; of what probability fusion has clamped, nothing."""
    probabilities = expected.softmax(-1)
    torch.testing.assert_close(found.softmax(-1).double(), probabilities, atol=2e-5, rtol=0, msg=way)
    counted = probabilities > 1e-6
    torch.testing.assert_close(found.double()[counted], expected[counted], atol=1e-4, rtol=1e-2, msg=way)
    level, wanted = found.double().logsumexp(-1), expected.logsumexp(-1)
    torch.testing.assert_close(level, wanted, atol=1e-4, rtol=1e-5, msg=way)


@torch.no_grad()
@pytest.mark.parametrize(NAMES, CHOICES)
def test_encoder_decoder_scores_as_the_reference(
    tiny_pair: PairOf, rationale: str, fusion: str, head: str, feedback: str
):
    check_encoder_decoder(tiny_pair("t5", **choose(rationale, fusion, head, feedback)))


def check_encoder_decoder(pair: PreTrainedModel) -> None:
    """The whole text and single tokens equal the reference."""
    source, target = some_ids(2, 5), some_ids(2, 6, seed=4)
    source_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    target[:, 0] = pair.config.pilot.decoder_start_token_id
    out = pair(source, attention_mask=source_mask, decoder_input_ids=target, copilot_weight=WEIGHT)
    assert (out.logits.softmax(-1) - out.pilot_logits.softmax(-1)).abs().max() > 1e-2
    cache, steps = None, []
    for j in range(target.shape[1]):
        step = pair(
            source,
            attention_mask=source_mask,
            encoder_outputs=None if cache is None else (out.encoder_last_hidden_state,),
            decoder_input_ids=target[:, j : j + 1],
            **{CACHE_NAME: cache},
            use_cache=True,
            copilot_weight=WEIGHT,
        )
        cache = cache_of(step)
        steps.append(step.logits)
    for row, length in enumerate((3, 5)):
        expected = SlowPair(pair, source[row, :length]).score_logits(target[row], WEIGHT)
        check_logits(out.logits[row], expected)
        check_logits(torch.cat(steps, dim=1)[row], expected, "single tokens")


def check_greedy(pair: PreTrainedModel, source: Tensor, prompt: Tensor | None = None) -> None:
    """`generate` and the reference's own loop: the same tokens, the same rectified logits. Where the Pilot's own are
    not asked for, its head may read what the Copilot has corrected."""
    slow = SlowPair(pair, None if prompt is None else source[0])
    expected, logits = slow.greedy(source[0] if prompt is None else prompt[0], NEW_TOKENS, WEIGHT)
    for use_cache, output_logits in ((True, False), (False, False), (True, True)):
        out = pair.generate(
            source,
            decoder_input_ids=prompt,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            copilot_weight=WEIGHT,
            use_cache=use_cache,
            output_scores=True,
            output_logits=output_logits,
            return_dict_in_generate=True,
        )
        assert out.sequences[0].tolist() == expected.tolist()
        check_logits(torch.stack(out.scores, dim=1)[0], logits)
        if output_logits:
            steps = [slow.pilot.step(expected[:end]).logits for end in range(len(expected) - NEW_TOKENS, len(expected))]
            check_logits(torch.stack(out.logits, dim=1)[0], torch.stack(steps))


# Every family with every feedback and every rationale; fusion and head vary along.
GREEDY = [
    (family, rationale, FUSIONS[(number + turn) % 2], HEADS[(number // 2 + place) % 2], feedback)
    for number, family in enumerate(TINY)
    for turn, rationale in enumerate(RATIONALES)
    for place, feedback in enumerate(FEEDBACKS)
]


def test_greedy_choices_hold_every_combination():
    assert {choice[1:] for choice in GREEDY} == set(product(RATIONALES, FUSIONS, HEADS, FEEDBACKS))


@pytest.mark.parametrize(("family", *NAMES), GREEDY)
def test_greedy_decodes_as_the_reference(
    tiny_pair: PairOf, family: str, rationale: str, fusion: str, head: str, feedback: str
):
    pair = tiny_pair(family, **choose(rationale, fusion, head, feedback, layers=2))
    source = some_ids(1, 4, seed=5)
    prompt = torch.tensor([[0, 9, 11]]) if family == "t5" else None
    check_greedy(pair, source, prompt)


@torch.no_grad()
@pytest.mark.parametrize("feedback", ["observed", "predicted"])
def test_a_given_text_is_scored_from_its_observed_mistakes_under_both_feedbacks(tiny_pair: PairOf, feedback: str):
    pair = tiny_pair(error_feedback=feedback)
    ids = some_ids(1, LONG)
    check_logits(pair(ids).logits[0], SlowPair(pair).score_logits(ids[0]))


@torch.no_grad()
@pytest.mark.parametrize("feedback", ["observed", "predicted"])
@pytest.mark.parametrize("top_k", [1, 5])
def test_sparse_mistakes_keep_the_true_token_and_the_most_probable(tiny_pair: PairOf, feedback: str, top_k: int):
    pair = tiny_pair(error_feedback=feedback, mistake_top_k=top_k)
    ids = some_ids(1, LONG)
    check_logits(pair(ids).logits[0], SlowPair(pair).score_logits(ids[0]))
    check_greedy(pair, ids[:, :4])


@torch.no_grad()
@pytest.mark.parametrize("family", list(TINY))
def test_a_round_holds_questions_mean_rationales_and_mistakes(tiny_pair: PairOf, family: str):
    """Eq. 3-5, as a training pass hands them to the log."""
    pair = tiny_pair(family)
    pair.freeze_pilot()  # so that it has no dropout in training
    pair.train()
    ids, source = some_ids(1, LONG), some_ids(1, 5, seed=8)
    given = {"input_ids": source, "decoder_input_ids": ids} if family == "t5" else {"input_ids": ids}
    found = pair(**given, labels=ids, return_mistakes=True).mistakes
    slow = SlowPair(pair.eval(), source[0] if family == "t5" else None)
    steps = [slow.pilot.step(ids[0, : j + 1]) for j in range(LONG)]
    questions = torch.stack([step.question for step in steps] if slow.encoded is None else slow.encoded)
    torch.testing.assert_close(found.question[0].double(), questions, atol=1e-4, rtol=1e-4)
    rationales = torch.stack([step.rationale for step in steps])
    torch.testing.assert_close(found.rationale[0].double(), rationales, atol=1e-4, rtol=1e-4)
    feedback = found.feedback()
    dense = torch.zeros(LONG, VOCAB).scatter_add(-1, feedback.token_ids[0], feedback.values[0])
    entries = [slow.observed(steps[j - 1], ids[0, j]) for j in range(1, LONG)]
    torch.testing.assert_close(dense[1:].double(), torch.stack(entries), atol=1e-5, rtol=0)
    assert (dense[0] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("rationale", RATIONALES)
@pytest.mark.parametrize("width", [16, 96])  # 96: three states of the Pilot's 32 fit without a map
def test_a_copilot_of_another_width_scores_as_the_reference(tiny_pair: PairOf, family: str, rationale: str, width: int):
    copilot = {"num_hidden_layers": 3, "hidden_size": width, "rationale": rationale}
    pair = tiny_pair(family, copilot=copilot)
    ids = some_ids(1, LONG)
    if family == "t5":
        found = pair(ids, decoder_input_ids=ids[:, :5]).logits
        expected = SlowPair(pair, ids[0]).score_logits(ids[0, :5])
    else:
        found, expected = pair(ids).logits, SlowPair(pair).score_logits(ids[0])
    check_logits(found[0], expected)
