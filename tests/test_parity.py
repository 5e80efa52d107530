"""The pair against Algorithm 2 written out (`reference_inference.py`), family by family and choice by choice."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from conftest import DECODER_ONLY, TINY, VOCAB, some_ids
from reference_inference import SlowPair
from torch import Tensor
from transformers import PreTrainedModel

from transformers_copilot.compat import CACHE_NAME, cache_of


WINDOWS, FUSIONS, HEADS = ("preceding", "current"), ("logits", "probability"), ("own", "pilot")
FEEDBACKS = ("observed", "predicted")
CHOICES = list(product(WINDOWS, FUSIONS, HEADS))
# Window, pooling, and whether a position's own rationale is part of the Copilot's input.
RATIONALES = [(window, pooling, False) for window, pooling in product(WINDOWS, ("mean", "last"))][1:]
RATIONALES += [("current", "mean", True), ("current", "last", True)]
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
    """p̃ of a text that is read in pieces of the given sizes, with a cache."""
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
        found.append(out.logits.softmax(-1))
    return torch.cat(found, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("family", DECODER_ONLY)
@pytest.mark.parametrize(("window", "fusion", "head"), CHOICES)
def test_decoder_only_scores_as_the_reference(tiny_pair: PairOf, family: str, window: str, fusion: str, head: str):
    check_decoder_only(tiny_pair(family, rationale_window=window, fusion=fusion, head=head))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("window", "pooling", "own_rationale"), RATIONALES)
def test_every_kind_of_rationale_scores_as_the_reference(
    tiny_pair: PairOf, family: str, window: str, pooling: str, own_rationale: bool
):
    copilot = {"num_hidden_layers": 2, "rationale_input": own_rationale}
    check_decoder_only(tiny_pair(family, rationale_window=window, rationale_pooling=pooling, copilot=copilot))


def check_decoder_only(pair: PreTrainedModel) -> None:
    """The whole text, single tokens and uneven pieces all equal the reference."""
    ids, mask, positions = left_padded()
    out = pair(ids, attention_mask=mask, position_ids=positions, copilot_weight=WEIGHT)
    whole = out.logits.softmax(-1)
    assert (whole - out.pilot_logits.softmax(-1)).abs().max() > 1e-2, "the Copilot changes nothing: a test of nothing"
    slow = SlowPair(pair)
    expected = [slow.score(ids[0, LONG - SHORT :], WEIGHT), slow.score(ids[1], WEIGHT)]
    pieces = {"whole": whole}
    pieces["single tokens"] = step_by_step(pair, ids, mask, positions, [1] * LONG)
    pieces["uneven pieces"] = step_by_step(pair, ids, mask, positions, [2, 4, 1])
    for way, found in pieces.items():
        torch.testing.assert_close(found[0, LONG - SHORT :].double(), expected[0], atol=2e-5, rtol=0, msg=way)
        torch.testing.assert_close(found[1].double(), expected[1], atol=2e-5, rtol=0, msg=way)


@torch.no_grad()
@pytest.mark.parametrize(("window", "fusion", "head"), CHOICES)
def test_encoder_decoder_scores_as_the_reference(tiny_pair: PairOf, window: str, fusion: str, head: str):
    check_encoder_decoder(tiny_pair("t5", rationale_window=window, fusion=fusion, head=head))


@torch.no_grad()
@pytest.mark.parametrize(("window", "pooling", "own_rationale"), RATIONALES)
def test_an_encoder_decoders_rationales_of_every_kind(
    tiny_pair: PairOf, window: str, pooling: str, own_rationale: bool
):
    copilot = {"num_hidden_layers": 2, "rationale_input": own_rationale}
    check_encoder_decoder(tiny_pair("t5", rationale_window=window, rationale_pooling=pooling, copilot=copilot))


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
        steps.append(step.logits.softmax(-1))
    for row, length in enumerate((3, 5)):
        expected = SlowPair(pair, source[row, :length]).score(target[row], WEIGHT)
        for found in (out.logits.softmax(-1), torch.cat(steps, dim=1)):
            torch.testing.assert_close(found[row].double(), expected, atol=2e-5, rtol=0)


def check_greedy(pair: PreTrainedModel, source: Tensor, prompt: Tensor | None, use_cache: bool) -> None:
    """`generate` and the reference's own loop: the same tokens, the same distributions."""
    slow = SlowPair(pair, None if prompt is None else source[0])
    expected, distributions = slow.greedy(source[0] if prompt is None else prompt[0], NEW_TOKENS, WEIGHT)
    out = pair.generate(
        source,
        decoder_input_ids=prompt,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        copilot_weight=WEIGHT,
        use_cache=use_cache,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert out.sequences[0].tolist() == expected.tolist()
    found = torch.stack(out.scores, dim=1)[0].softmax(-1).double()
    torch.testing.assert_close(found, distributions, atol=2e-5, rtol=0)


# Every family with both feedbacks; the other choices vary along, and all eight of them occur with each feedback.
GREEDY = [
    (family, feedback, *CHOICES[(3 * number + turn * 5) % len(CHOICES)])
    for number, family in enumerate([*TINY, "llama"])
    for turn, feedback in enumerate(FEEDBACKS)
]


@pytest.mark.parametrize(("family", "feedback", "window", "fusion", "head"), GREEDY)
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_decodes_as_the_reference(
    tiny_pair: PairOf, family: str, feedback: str, window: str, fusion: str, head: str, use_cache: bool
):
    pair = tiny_pair(family, error_feedback=feedback, rationale_window=window, fusion=fusion, head=head)
    source = some_ids(1, 4, seed=5)
    prompt = torch.tensor([[0, 9, 11]]) if family == "t5" else None
    check_greedy(pair, source, prompt, use_cache)


@torch.no_grad()
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_a_given_text_is_scored_from_its_observed_mistakes_under_both_feedbacks(tiny_pair: PairOf, feedback: str):
    pair = tiny_pair(error_feedback=feedback)
    ids = some_ids(1, LONG)
    expected = SlowPair(pair).score(ids[0])
    torch.testing.assert_close(pair(ids).logits[0].softmax(-1).double(), expected, atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("top_k", [1, 5])
def test_sparse_mistakes_keep_the_true_token_and_the_most_probable(tiny_pair: PairOf, feedback: str, top_k: int):
    pair = tiny_pair(error_feedback=feedback, mistake_top_k=top_k)
    ids = some_ids(1, LONG)
    expected = SlowPair(pair).score(ids[0])
    torch.testing.assert_close(pair(ids).logits[0].softmax(-1).double(), expected, atol=2e-5, rtol=0)
    check_greedy(pair, ids[:, :4], None, use_cache=True)


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
def test_a_copilot_of_another_width_scores_as_the_reference(tiny_pair: PairOf, family: str):
    pair = tiny_pair(family, copilot={"num_hidden_layers": 3, "hidden_size": 16})
    ids = some_ids(1, LONG)
    if family == "t5":
        found = pair(ids, decoder_input_ids=ids[:, :5]).logits
        expected = SlowPair(pair, ids[0]).score(ids[0, :5])
    else:
        found, expected = pair(ids).logits, SlowPair(pair).score(ids[0])
    torch.testing.assert_close(found[0].softmax(-1).double(), expected, atol=2e-5, rtol=0)
