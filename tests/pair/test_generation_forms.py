"""Every decoding route of Copilots that read no mistakes: the Pilot's head may read what is corrected already, and
their caches can be cropped and shared in ways that others can't."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tests.conftest import TINY, build_pair, build_pilot, some_ids
from tests.pair.test_generation import ROUTES, generated, padded_rows
from tests.pair.test_parity import check_logits
from transformers_copilot import PilotCopilotCache
from transformers_copilot.pair.compat import CACHE_NAME, cache_of


PairOf = Callable[..., PreTrainedModel]
BRANCH = {"copilot": {"form": "branch", "num_hidden_layers": 2}}
LINEAR = {"copilot": {"form": "linear"}}
# Copilots that read no mistakes.
KINDS: dict[str, dict[str, Any]] = {
    "tokens, the Pilot's head": {
        "error_feedback": "token",
        "head": "pilot",
        "copilot": {"num_hidden_layers": 2, "rationale": "depths"},
    },
    "tokens, own head": {
        "error_feedback": "token",
        "head": "own",
        "fusion": "probability",
        "copilot": {"num_hidden_layers": 2, "rationale": "preceding"},
    },
    "linear": LINEAR,
    "linear, probabilities": {**LINEAR, "fusion": "probability"},
    "branch": BRANCH,
    "branch, probabilities": {**BRANCH, "fusion": "probability"},
}


def weaker(pair: PreTrainedModel, scale: float) -> PreTrainedModel:
    """A shaken pair, its Copilot's matrices nearer to what is of use, so that texts don't end in one token."""
    with torch.no_grad():
        for parameter in pair.copilot.parameters():
            parameter.mul_(scale)
    return pair


def a_pair(tiny_pair: PairOf, kind: str, family: str = "llama") -> PreTrainedModel:
    pair = tiny_pair(family, **KINDS[kind])
    return weaker(pair, 0.3) if kind.startswith("linear") and family != "t5" else pair


def given(family: str, rows: int = 2) -> dict[str, Tensor]:
    """A batch with padding: on the left, or of an encoder's text on the right."""
    mask = torch.ones(rows, 6, dtype=torch.long)
    if family == "t5":
        mask[0, 4:] = 0
        target = some_ids(rows, 5, seed=4)
        target[:, 0] = 0
        return {"input_ids": some_ids(rows, 6), "attention_mask": mask, "decoder_input_ids": target}
    mask[0, :2] = 0
    return {"input_ids": some_ids(rows, 6), "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp_min(0)}


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_pieces_is_the_text(tiny_pair: PairOf, kind: str, family: str):
    pair, batch = a_pair(tiny_pair, kind, family), given(family)
    whole = pair(**batch, copilot_weight=0.8).logits
    name = "decoder_input_ids" if family == "t5" else "input_ids"
    for sizes in ([1] * 6, [2, 3, 1]):
        cache, encoded, pieces, start = None, None, [], 0
        for size in sizes:
            end = min(start + size, batch[name].shape[1])
            if start == end:
                continue
            part = {**batch, name: batch[name][:, start:end]}
            if family == "t5":
                part["encoder_outputs"] = encoded
            else:
                part["attention_mask"] = batch["attention_mask"][:, :end]
                part["position_ids"] = batch["position_ids"][:, start:end]
            out = pair(**part, **{CACHE_NAME: cache}, use_cache=True, copilot_weight=0.8)
            cache, start = cache_of(out), end
            encoded = (out.encoder_last_hidden_state,) if family == "t5" else None
            pieces.append(out.logits)
        real = batch["attention_mask"].bool() if family != "t5" else torch.ones(2, 5, dtype=torch.bool)
        check_logits(torch.cat(pieces, dim=1)[real], whole[real].double())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
def test_cache_or_not_and_prefill_in_pieces_make_no_difference(tiny_pair: PairOf, route: str, kind: str):
    pair = a_pair(tiny_pair, kind)
    ids, mask, _ = padded_rows()
    expected = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    assert not torch.equal(expected, generated(pair, ids, attention_mask=mask, copilot_weight=0.0, **ROUTES[route]))
    assert torch.equal(generated(pair, ids, attention_mask=mask, use_cache=False, **ROUTES[route]), expected)
    if "several" not in route:
        chunked = generated(pair, ids, attention_mask=mask, prefill_chunk_size=4, **ROUTES[route])
        assert torch.equal(chunked, expected)


@pytest.mark.parametrize("route", ["greedy", "beams", "several samples"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_decoder_decodes_the_same_with_and_without_a_cache(tiny_pair: PairOf, route: str, kind: str):
    pair, ids = a_pair(tiny_pair, kind, "t5"), some_ids(2, 6)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    expected = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    assert torch.equal(generated(pair, ids, attention_mask=mask, use_cache=False, **ROUTES[route]), expected)
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": some_ids(2, 4)}
    assert (pair(**given).logits - pair(**given, copilot_weight=0.0).logits).abs().max() > 1e-2


@pytest.mark.parametrize(("family", "route"), [("llama", "greedy"), ("gpt2", "beams")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_left_padded_batch_is_its_rows(tiny_pair: PairOf, family: str, kind: str, route: str):
    pair = a_pair(tiny_pair, kind, family)
    ids, mask, rows = padded_rows()
    batch = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    for index, row in enumerate(rows):
        assert torch.equal(batch[index, 6:], generated(pair, row, **ROUTES[route])[0, row.shape[1] :])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("weight", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_same_whether_the_pilots_logits_are_asked_for_or_not(
    tiny_pair: PairOf, kind: str, weight: float, family: str
):
    """Where they are not, the Pilot's head may read what the Copilot has corrected."""
    pair, ids = a_pair(tiny_pair, kind, family), some_ids(2, 5)
    kwargs = {"output_scores": True, "return_dict_in_generate": True, "copilot_weight": weight}
    direct, apart = generated(pair, ids, **kwargs), generated(pair, ids, output_logits=True, **kwargs)
    assert torch.equal(direct.sequences, apart.sequences)
    for one, other in zip(direct.scores, apart.scores, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(apart.logits[0], apart.scores[0], atol=1e-2)
    if family == "llama":
        whole = pair(direct.sequences, copilot_weight=weight)
        torch.testing.assert_close(torch.stack(direct.scores, 1), whole.logits[:, 4:-1], atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(torch.stack(apart.logits, 1), whole.pilot_logits[:, 4:-1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("kind", KINDS)
def test_assisted_decoding_is_greedy_decoding(
    tiny_pair: PairOf, tiny_pilot: Callable[..., PreTrainedModel], kind: str, family: str
):
    pair = a_pair(tiny_pair, kind, family)
    ids = some_ids(1, 6).repeat(1, 2)
    expected = generated(pair, ids, max_new_tokens=14)
    helpers = [{"prompt_lookup_num_tokens": 3}, {"assistant_model": pair.pilot}]
    if family != "t5":
        helpers += [{"assistant_model": tiny_pilot(family, seed=5)}, {"assistant_model": pair}]
    for helper in helpers:
        assert torch.equal(generated(pair, ids, max_new_tokens=14, **helper), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_the_cache_is_writing_on(tiny_pair: PairOf, kind: str):
    pair, ids = a_pair(tiny_pair, kind), some_ids(2, 4)
    twenty = generated(pair, ids, max_new_tokens=20)
    ten = generated(pair, ids, max_new_tokens=10, return_dict_in_generate=True)
    assert isinstance(cache_of(ten), DynamicCache if kind.startswith("linear") else PilotCopilotCache)
    every = torch.ones_like(ten.sequences)  # the token for padding may have been written
    more = generated(pair, ten.sequences, max_new_tokens=10, attention_mask=every, **{CACHE_NAME: cache_of(ten)})
    assert torch.equal(more, twenty)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_cropped_cache_can_go_on_without_a_record(tiny_pair: PairOf, kind: str):
    """Nothing is needed of what the Pilot believed before."""
    pair, ids = a_pair(tiny_pair, kind), some_ids(1, 6)
    cache = cache_of(pair(ids, use_cache=True))
    cache.crop(-2)
    torch.testing.assert_close(
        pair(ids[:, 4:], **{CACHE_NAME: cache}).logits, pair(ids).logits[:, 4:], atol=1e-4, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_caches_rows_are_repeated_and_selected_together(tiny_pair: PairOf, kind: str):
    pair, ids = a_pair(tiny_pair, kind), some_ids(3, 6)
    cache = cache_of(pair(ids[:, :4], use_cache=True))
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    rows = ids[[2, 2, 0, 0]]
    torch.testing.assert_close(
        pair(rows[:, 4:], **{CACHE_NAME: cache}).logits, pair(rows).logits[:, 4:], atol=1e-4, rtol=0
    )


SLIDING = ("Gemma2Config", {**TINY["llama"][1], "head_dim": 8, "sliding_window": 4})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("form", ["linear", "branch"])
def test_a_static_cache_changes_nothing_that_is_written(form: str, family: str):
    """Greedy search, sampling and beams, of rows padded on the left; Gemma 2 has two kinds of masks."""
    fields = {"num_hidden_layers": 2} if form == "branch" else {}
    pilot = build_pilot(*(SLIDING if family == "gemma2" else TINY[family]))
    pair, ids = build_pair(pilot, copilot={"form": form, **fields}), some_ids(2, 6)
    mask = torch.ones_like(ids)
    ids[0, :2], mask[0, :2] = 0, 0
    for more in ({}, {"do_sample": True}, {"num_beams": 3}, {"output_logits": True, "return_dict_in_generate": True}):
        written = []
        for cache in ("dynamic", "static"):
            torch.manual_seed(0)
            out = generated(pair, ids, attention_mask=mask, cache_implementation=cache, **more)
            written.append(out if isinstance(out, torch.Tensor) else out.sequences)
        assert torch.equal(*written), more


def test_who_can_have_no_static_cache_says_why(tiny_pair: PairOf):
    with pytest.raises(ValueError, match="static cache .* a branch of an encoder-decoder"):
        generated(tiny_pair("t5", copilot={"form": "branch"}), some_ids(1, 5), cache_implementation="static")
    with pytest.raises(ValueError, match="static cache .* a decoder keeps mistakes"):
        generated(tiny_pair(error_feedback="token"), some_ids(1, 5), cache_implementation="static")


def test_a_linear_copilot_takes_the_caches_that_its_pilot_takes(tiny_pair: PairOf):
    pair, ids = a_pair(tiny_pair, "linear"), some_ids(1, 5)
    for direct in (True, False):
        found = generated(
            pair, ids, cache_implementation="static", output_logits=not direct, return_dict_in_generate=True
        )
        assert torch.equal(found.sequences, generated(pair, ids))
    plain = cache_of(pair.pilot(ids[:, :4], use_cache=True))  # there is nothing that the Copilot has missed
    torch.testing.assert_close(pair(ids[:, 4:], **{CACHE_NAME: plain}).logits, pair(ids).logits[:, 4:])
