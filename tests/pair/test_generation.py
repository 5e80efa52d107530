"""Every decoding route of `generate`, and the order of things in it."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StaticCache,
    TextIteratorStreamer,
    pipeline,
    set_seed,
)

from tests.conftest import TINY, VOCAB, build_pair, build_pilot, some_ids
from transformers_copilot import CopilotLogitsProcessor, PilotCopilotCache
from transformers_copilot.pair.compat import CACHE_NAME, cache_of


NEW = 8
FEEDBACKS = ("observed", "predicted")
FUSIONS = ("logits", "probability")
PairOf = Callable[..., PreTrainedModel]
ROUTES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.95},
    "beams": {"do_sample": False, "num_beams": 3, "length_penalty": 0.7},
    "beam sampling": {"do_sample": True, "num_beams": 3, "temperature": 1.3},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "several beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "stopped beams": {"do_sample": False, "num_beams": 3, "early_stopping": True, "eos_token_id": [5, 9, 21]},
}


def generated(pair: PreTrainedModel, ids: Tensor, **kwargs: Any) -> Tensor:
    """The sequences of one seeded call, without an end-of-sequence token unless one is asked for."""
    set_seed(11)
    kwargs = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **kwargs}
    return pair.generate(ids, **kwargs)


def padded_rows() -> tuple[Tensor, Tensor, list[Tensor]]:
    """A left-padded batch of three rows, its mask, and the rows alone."""
    rows = [some_ids(1, length, seed=length) for length in (3, 6, 5)]
    batch = torch.cat([torch.nn.functional.pad(row, (6 - row.shape[1], 0)) for row in rows])
    return batch, (batch != 0).long(), rows


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize(("fusion", "head"), [("logits", "pilot"), ("probability", "own")])
def test_cache_or_not_and_prefill_in_pieces_make_no_difference(
    tiny_pair: PairOf, route: str, feedback: str, fusion: str, head: str
):
    pair = tiny_pair(error_feedback=feedback, fusion=fusion, head=head)
    ids, mask, _ = padded_rows()
    expected = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    assert not torch.equal(expected, generated(pair, ids, attention_mask=mask, copilot_weight=0.0, **ROUTES[route]))
    assert torch.equal(generated(pair, ids, attention_mask=mask, use_cache=False, **ROUTES[route]), expected)
    if "several" not in route:
        chunked = generated(pair, ids, attention_mask=mask, prefill_chunk_size=4, **ROUTES[route])
        assert torch.equal(chunked, expected)


@pytest.mark.parametrize("route", ["greedy", "beams", "beam sampling", "several samples"])
@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("head", ["own", "pilot"])
def test_an_encoder_decoder_decodes_the_same_with_and_without_a_cache(
    tiny_pair: PairOf, route: str, feedback: str, head: str
):
    pair = tiny_pair("t5", error_feedback=feedback, head=head)
    ids = some_ids(2, 6)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    expected = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    assert torch.equal(generated(pair, ids, attention_mask=mask, use_cache=False, **ROUTES[route]), expected)
    assert not torch.equal(expected, generated(pair, ids, attention_mask=mask, copilot_weight=0.0, **ROUTES[route]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize(("feedback", "head"), [("observed", "pilot"), ("predicted", "own"), ("predicted", "pilot")])
@pytest.mark.parametrize("route", ["greedy", "beams"])
def test_a_left_padded_batch_is_its_rows(tiny_pair: PairOf, family: str, feedback: str, head: str, route: str):
    pair = tiny_pair(family, error_feedback=feedback, head=head)
    ids, mask, rows = padded_rows()
    batch = generated(pair, ids, attention_mask=mask, **ROUTES[route])
    for index, row in enumerate(rows):
        assert torch.equal(batch[index, 6:], generated(pair, row, **ROUTES[route])[0, row.shape[1] :])


def test_rows_that_end_early_do_not_disturb_the_others(tiny_pair: PairOf):
    pair = tiny_pair()
    ids, mask, rows = padded_rows()
    free = generated(pair, ids, attention_mask=mask)
    ends = int(free[0, 8])  # the first row's third new token
    batch = generated(pair, ids, attention_mask=mask, eos_token_id=ends)
    assert (batch[0, 9:] == 0).all()
    for index, row in enumerate(rows):
        alone = generated(pair, row, eos_token_id=ends)[0, row.shape[1] :]
        assert torch.equal(batch[index, 6 : 6 + len(alone)], alone)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("route", ["greedy", "beams", "sampling"])
def test_weight_zero_is_exactly_the_pilot(tiny_pair: PairOf, family: str, route: str):
    pair, ids = tiny_pair(family), some_ids(2, 5)
    kwargs = {**ROUTES[route], "output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    mine, pilots = (generated(pair, ids, copilot_weight=0.0, **kwargs), generated(pair.pilot, ids, **kwargs))
    assert torch.equal(mine.sequences, pilots.sequences)
    for one, other in zip(mine.logits + mine.scores, pilots.logits + pilots.scores, strict=True):
        assert torch.equal(one, other)


def test_the_weight_of_a_call_wins_over_the_configurations(tiny_pair: PairOf):
    pair, ids = tiny_pair(copilot_weight=0.4), some_ids(1, 5)
    kwargs = {"output_scores": True, "return_dict_in_generate": True}
    by_config, by_call = generated(pair, ids, **kwargs), generated(pair, ids, copilot_weight=1.7, **kwargs)
    pair.config.copilot_weight = 1.7
    assert torch.equal(generated(pair, ids, **kwargs).scores[0], by_call.scores[0])
    assert not torch.allclose(by_config.scores[0], by_call.scores[0], atol=1e-2)


@pytest.mark.parametrize(("weight", "error"), [("much", TypeError), (-0.1, ValueError), (20.5, ValueError)])
def test_a_weight_that_is_none_is_refused(tiny_pair: PairOf, weight: Any, error: type[Exception]):
    with pytest.raises(error, match="copilot_weight"):
        generated(tiny_pair(), some_ids(1, 4), copilot_weight=weight)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_logits_are_the_pilots_and_scores_the_rectified(tiny_pair: PairOf, fusion: str, family: str, num_beams: int):
    pair, ids = tiny_pair(family, fusion=fusion), some_ids(1, 5)
    kwargs = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True, "num_beams": num_beams}
    out = generated(pair, ids, max_new_tokens=1, **kwargs)
    passed = pair(ids, **({"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if family == "t5" else {}))
    for row in range(num_beams):
        torch.testing.assert_close(out.logits[0][row], passed.pilot_logits[0, -1])
        expected = passed.logits[0, -1] if num_beams == 1 else passed.logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(out.scores[0][row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_later_logits_and_scores_are_those_of_the_written_text(tiny_pair: PairOf, fusion: str):
    """What `compute_transition_scores` makes of the scores is the pair's own log-likelihood of the text."""
    pair, ids = tiny_pair(fusion=fusion), some_ids(2, 5)
    out = generated(pair, ids, output_scores=True, output_logits=True, return_dict_in_generate=True)
    whole = pair(out.sequences)
    found = torch.stack(out.logits, dim=1)
    torch.testing.assert_close(found, whole.pilot_logits[:, 4:-1], atol=1e-4, rtol=1e-4)
    scores = pair.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    likelihoods = whole.logits.log_softmax(-1)[:, 4:-1].gather(-1, out.sequences[:, 5:, None])[..., 0]
    torch.testing.assert_close(scores, likelihoods, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_beams_score_is_the_texts_rectified_log_likelihood(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 5)
    out = generated(pair, ids, num_beams=4, length_penalty=0.0, output_scores=True, return_dict_in_generate=True)
    log_probabilities = pair(out.sequences).logits.log_softmax(-1)[:, 4:-1]
    likelihood = log_probabilities.gather(-1, out.sequences[:, 5:, None]).sum()
    torch.testing.assert_close(out.sequences_scores[0], likelihood, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_samples_follow_the_rectified_distribution(tiny_pair: PairOf, fusion: str):
    pair, ids, draws = tiny_pair(fusion=fusion), some_ids(1, 5), 4000
    expected = pair(ids).logits[0, -1].softmax(-1)
    found = generated(pair, ids, do_sample=True, top_k=0, max_new_tokens=1, num_return_sequences=draws)[:, -1]
    shares = torch.bincount(found, minlength=VOCAB) / draws
    assert (shares - expected).abs().max() < 4 * 0.5 / draws**0.5
    pilots = pair(ids).pilot_logits[0, -1].softmax(-1)
    assert (shares - pilots).abs().max() > 4 * 0.5 / draws**0.5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_going_on_from_the_text_is_writing_on(tiny_pair: PairOf, family: str):
    pair, ids = tiny_pair(family), some_ids(2, 4)
    twenty = generated(pair, ids, max_new_tokens=20)
    ten = generated(pair, ids, max_new_tokens=10)
    assert torch.equal(twenty[:, :14], ten)
    assert torch.equal(generated(pair, ten, max_new_tokens=10), twenty)


@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_going_on_from_the_cache_is_writing_on(tiny_pair: PairOf, feedback: str):
    pair, ids = tiny_pair(error_feedback=feedback), some_ids(2, 4)
    twenty = generated(pair, ids, max_new_tokens=20)
    ten = generated(pair, ids, max_new_tokens=10, return_dict_in_generate=True)
    assert isinstance(cache_of(ten), PilotCopilotCache)
    more = generated(pair, ten.sequences, max_new_tokens=10, **{CACHE_NAME: cache_of(ten)})
    if feedback == "observed":
        assert torch.equal(more, twenty)
    else:  # only the last token, which no pass has read yet, counts as given instead of written
        assert torch.equal(more[:, :14], twenty[:, :14])


def test_going_on_from_the_cache_with_more_text_given(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 4)
    first = generated(pair, ids, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, some_ids(1, 3, seed=8)], dim=1)
    expected = generated(pair, longer)
    assert torch.equal(generated(pair, longer, **{CACHE_NAME: cache_of(first)}), expected)


@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize(("family", "fusion", "head"), [("llama", "logits", "pilot"), ("gpt2", "probability", "own")])
def test_assisted_decoding_is_greedy_decoding(
    tiny_pair: PairOf, tiny_pilot: Callable[..., PreTrainedModel], feedback: str, family: str, fusion: str, head: str
):
    pair = tiny_pair(family, error_feedback=feedback, fusion=fusion, head=head)
    ids = some_ids(1, 6).repeat(1, 2)
    expected = generated(pair, ids, max_new_tokens=14)
    assert torch.equal(generated(pair, ids, max_new_tokens=14, prompt_lookup_num_tokens=3), expected)
    assert torch.equal(generated(pair, ids, max_new_tokens=14, assistant_model=tiny_pilot(family, seed=5)), expected)
    assert torch.equal(generated(pair, ids, max_new_tokens=14, assistant_model=pair.pilot), expected)
    assert torch.equal(generated(pair, ids, max_new_tokens=14, assistant_model=pair), expected)


def test_a_pair_assists_a_plain_model(tiny_pair: PairOf, tiny_pilot: Callable[..., PreTrainedModel]):
    plain, ids = tiny_pilot("llama", seed=5), some_ids(1, 6)
    expected = generated(plain, ids, max_new_tokens=14)
    assert torch.equal(generated(plain, ids, max_new_tokens=14, assistant_model=tiny_pair()), expected)


def test_assisted_decoding_with_the_weight_of_a_call_and_with_an_end(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 6)
    for kwargs in ({"copilot_weight": 0.3}, {"copilot_weight": 0.0}, {"min_new_tokens": 5, "eos_token_id": [7, 8, 30]}):
        expected = generated(pair, ids, max_new_tokens=14, **kwargs)
        assert torch.equal(generated(pair, ids, max_new_tokens=14, assistant_model=pair.pilot, **kwargs), expected)
        assert torch.equal(generated(pair, ids, max_new_tokens=14, prompt_lookup_num_tokens=3, **kwargs), expected)


@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_assisted_decoding_of_an_encoder_decoder_is_greedy_decoding(tiny_pair: PairOf, feedback: str):
    pair, ids = tiny_pair("t5", error_feedback=feedback), some_ids(1, 6)
    expected = generated(pair, ids, max_new_tokens=10)
    assert torch.equal(generated(pair, ids, max_new_tokens=10, prompt_lookup_num_tokens=3), expected)
    assert torch.equal(generated(pair, ids, max_new_tokens=10, assistant_model=pair.pilot), expected)


@torch.no_grad()
@pytest.mark.parametrize("how", ["prompt lookup", "the pilot", "the pair"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_assisted_logits_are_the_pilots_and_scores_the_rectified(tiny_pair: PairOf, how: str, family: str):
    pair, ids = tiny_pair(family), some_ids(1, 6)
    assistant = {
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
        "the pilot": {"assistant_model": pair.pilot},
        "the pair": {"assistant_model": pair},
    }[how]
    kwargs = {"output_scores": True, "output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 10}
    plain, assisted = generated(pair, ids, **kwargs), generated(pair, ids, **assistant, **kwargs)
    assert torch.equal(plain.sequences, assisted.sequences)
    for one, other in zip(plain.logits + plain.scores, assisted.logits + assisted.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(assisted.logits[0], assisted.scores[0], atol=1e-2)


def test_assisted_sampling_runs(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 6)
    found = generated(pair, ids, do_sample=True, assistant_model=pair.pilot)
    assert found.shape == (1, 6 + NEW)


class Seen(LogitsProcessor):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores.append(scores.clone())
        return scores


@torch.no_grad()
def test_processors_act_on_the_rectified_scores(tiny_pair: PairOf):
    pair, ids, seen = tiny_pair(fusion="probability"), some_ids(1, 5), Seen()
    generated(pair, ids, max_new_tokens=1, logits_processor=LogitsProcessorList([seen]))
    torch.testing.assert_close(seen.scores[0], pair(ids).logits[:, -1], atol=1e-4, rtol=1e-4)


def test_our_processor_is_the_first_of_the_list(tiny_pair: PairOf):
    pair, lists = tiny_pair(), []
    original = pair._get_logits_processor
    pair._get_logits_processor = lambda *args, **kwargs: lists.append(original(*args, **kwargs)) or lists[-1]
    kwargs = {"repetition_penalty": 1.3, "min_new_tokens": 2, "eos_token_id": 4}
    generated(pair, some_ids(1, 5), **kwargs)
    generated(pair, some_ids(1, 5), copilot_weight=0.0, **kwargs)
    generated(pair, some_ids(1, 5), prompt_lookup_num_tokens=2, **kwargs)
    kinds = [[type(processor) for processor in processors] for processors in lists]
    assert kinds[0] == [CopilotLogitsProcessor, *kinds[1]]
    assert len(kinds[1]) >= 2
    assert CopilotLogitsProcessor not in kinds[1], "at λ = 0 it has no place"
    assert kinds[2] == kinds[0], "assisted decoding rectifies by the processor, too"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_min_new_tokens_is_kept_where_the_copilot_wants_to_end(tiny_pair: PairOf, fusion: str):
    """p̂ + λf would bring back a token that was ruled out, had it been added after the masks."""
    pair, ids = tiny_pair(fusion=fusion), some_ids(2, 5)
    ends = generated(pair, ids, max_new_tokens=1)[:, -1].unique().tolist()
    found = generated(pair, ids, min_new_tokens=6, eos_token_id=ends)
    assert not torch.isin(found[:, 5:11], torch.tensor(ends)).any()


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_repetition_penalty_acts_on_rectified_logits(tiny_pair: PairOf, fusion: str):
    """It divides positive logits and multiplies negative ones, so a logit's level counts: z + λf is a plain model's
    own, and of p̂ + λf the log-normaliser is the Pilot's."""
    pair, ids, penalty = tiny_pair(fusion=fusion), some_ids(1, 5), 1.9
    out = pair(ids, return_correction=True)
    logits, z = out.logits[0, -1].clone(), out.pilot_logits[0, -1]
    if fusion == "logits":
        torch.testing.assert_close(logits, z + out.correction[0, -1])
    else:
        torch.testing.assert_close(logits.logsumexp(-1), z.logsumexp(-1))
    logits[ids[0]] = torch.where(logits[ids[0]] < 0, logits[ids[0]] * penalty, logits[ids[0]] / penalty)
    kwargs = {"repetition_penalty": penalty, "output_scores": True, "return_dict_in_generate": True}
    out = generated(pair, ids, max_new_tokens=1, **kwargs)
    torch.testing.assert_close(out.scores[0][0], logits, atol=1e-4, rtol=1e-4)


def test_two_calls_do_not_know_of_each_other(tiny_pair: PairOf):
    pair, one, other = tiny_pair(error_feedback="predicted"), some_ids(1, 5), some_ids(3, 7, seed=6)
    expected = generated(pair, one)
    generated(pair, other, num_beams=2)
    generated(pair, one[:, :3], assistant_model=pair.pilot)
    assert torch.equal(generated(pair, one), expected)


def test_threads_do_not_know_of_each_other(tiny_pair: PairOf):
    pair, texts, found = tiny_pair(), [some_ids(2, 6), some_ids(1, 9, seed=8)], {}
    expected = [generated(pair, text) for text in texts]

    def work(index: int) -> None:
        found[index] = pair.generate(texts[index % 2], max_new_tokens=NEW, do_sample=False, pad_token_id=0)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[index], expected[index % 2]) for index in range(6))


@pytest.mark.parametrize("head", ["own", "pilot"])
def test_a_bfloat16_pilot_decodes_the_same_on_every_route(tiny_pair: PairOf, head: str):
    pair, ids = tiny_pair(head=head), some_ids(1, 5)
    pair.pilot.to(torch.bfloat16)
    assert {parameter.dtype for parameter in pair.copilot.parameters()} == {torch.float32}
    out = generated(pair, ids, output_scores=True, return_dict_in_generate=True)
    assert out.scores[0].dtype == torch.float32
    assert torch.equal(generated(pair, ids, prompt_lookup_num_tokens=3), out.sequences)
    assert torch.equal(generated(pair, ids, use_cache=False), out.sequences)


def test_a_pilot_with_a_sliding_window_decodes_the_same_on_every_route():
    pilot = build_pilot("MistralConfig", {**TINY["mistral"][1], "sliding_window": 4})
    pair, ids = build_pair(pilot, head="pilot"), some_ids(1, 7)
    expected = generated(pair, ids, max_new_tokens=12)
    for kwargs in ({"use_cache": False}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": pair}):
        assert torch.equal(generated(pair, ids, max_new_tokens=12, **kwargs), expected)
    assert torch.equal(generated(pair, ids, max_new_tokens=12, prefill_chunk_size=3), expected)


def test_streaming_gives_the_text_word_by_word(tiny_pair: PairOf, tokenizer: PreTrainedTokenizerFast):
    pair, ids = tiny_pair(), some_ids(1, 5)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    found = generated(pair, ids, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(found[0, 5:])


def test_the_text_generation_pipeline(tiny_pair: PairOf, tokenizer: PreTrainedTokenizerFast):
    pair = tiny_pair()
    pipe = pipeline("text-generation", model=pair, tokenizer=tokenizer, device="cpu")
    kwargs = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
    texts = pipe(["w5 w6 w7", "w9 w10 w11 w12 w13"], batch_size=2, **kwargs)
    alone = [pipe(text, **kwargs) for text in ("w5 w6 w7", "w9 w10 w11 w12 w13")]
    assert texts == alone
    batch = tokenizer(["w5 w6 w7"], return_tensors="pt")
    expected = pair.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=4, do_sample=False)
    assert texts[0][0]["generated_text"] == tokenizer.decode(expected[0, 3:], skip_special_tokens=True)
    pilots = pipe("w5 w6 w7", copilot_weight=0.0, **kwargs)
    assert pilots != alone[0]


def test_the_pipeline_of_a_folder(tiny_pair: PairOf, tokenizer: PreTrainedTokenizerFast, tmp_path: Path):
    pair = tiny_pair()
    pair.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = pipeline("text-generation", model=str(tmp_path), device="cpu")
    assert type(pipe.model) is type(pair)
    found = pipe("w5 w6 w7", max_new_tokens=4, do_sample=False, return_full_text=False)[0]["generated_text"]
    expected = generated(pair, torch.tensor([[5, 6, 7]]), max_new_tokens=4)[0, 3:]
    assert found == tokenizer.decode(expected, skip_special_tokens=True)


def test_guidance_which_runs_the_model_inside_a_processor(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(2, 5)
    guided = generated(pair, ids, guidance_scale=1.7)
    assert torch.equal(generated(pair, ids, guidance_scale=1.7, use_cache=False), guided)
    assert not torch.equal(generated(pair, ids), guided)


def test_a_configured_weight_of_zero_is_the_pilot(tiny_pair: PairOf):
    pair, ids = tiny_pair(copilot_weight=0.0), some_ids(2, 5)
    assert torch.equal(generated(pair, ids), generated(pair.pilot, ids))
    assert not torch.equal(generated(pair, ids, copilot_weight=1.0), generated(pair.pilot, ids))


@torch.no_grad()
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_the_pilot_rules_out_stays_ruled_out(tiny_pair: PairOf, fusion: str):
    pair, ids, banned = tiny_pair(fusion=fusion), some_ids(2, 5), torch.tensor([5, 6, 40])

    def rule_out(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output.index_fill(-1, banned, float("-inf"))

    pair.pilot.lm_head.register_forward_hook(rule_out)
    out = pair(ids)
    assert torch.isneginf(out.logits[..., banned]).all()
    torch.testing.assert_close(out.logits.softmax(-1).sum(-1), torch.ones(2, 5))
    for route in ("sampling", "beams"):
        assert not torch.isin(generated(pair, ids, **ROUTES[route])[:, 5:], banned).any()


@torch.no_grad()
def test_a_prompts_cache_is_used_again_for_several_texts(tiny_pair: PairOf):
    pair, prompt = tiny_pair(), some_ids(1, 5)
    cache = cache_of(pair(prompt, **{CACHE_NAME: DynamicCache(config=pair.config)}))
    for seed in (5, 6):
        text = torch.cat([prompt, some_ids(1, 3, seed=seed)], dim=1)
        assert torch.equal(generated(pair, text, **{CACHE_NAME: copy.deepcopy(cache)}), generated(pair, text))


@torch.no_grad()
def test_a_caches_rows_are_repeated_and_selected_together(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(3, 6)
    cache = cache_of(pair(ids[:, :4], use_cache=True))
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    rows = ids[[2, 2, 0, 0]]
    found = pair(rows[:, 4:], **{CACHE_NAME: cache}).logits
    torch.testing.assert_close(found, pair(rows).logits[:, 4:], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (2, 5), (1, 6)])
def test_an_attention_mask_of_another_shape_is_refused(tiny_pair: PairOf, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"must be \(2, 6\)"):
        tiny_pair()(some_ids(2, 6), attention_mask=torch.ones(shape, dtype=torch.bool))


@torch.no_grad()
def test_the_pilots_states_are_handed_on(tiny_pair: PairOf):
    ids = some_ids(2, 4)
    pair = tiny_pair()
    assert len(pair(ids, output_hidden_states=True).hidden_states) == 4
    out = generated(pair, ids, output_hidden_states=True, return_dict_in_generate=True)
    assert len(out.hidden_states) == NEW
    pair.set_attn_implementation("eager")
    assert len(pair(ids, output_attentions=True).attentions) == 3
    both = generated(tiny_pair("t5"), ids, output_hidden_states=True, return_dict_in_generate=True)
    assert len(both.decoder_hidden_states) == NEW
    assert isinstance(pair(ids, return_dict=False), tuple)


def test_an_empty_cache_of_the_pilots_is_taken(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(2, 5)
    expected = generated(pair, ids)
    assert torch.equal(generated(pair, ids, **{CACHE_NAME: DynamicCache(config=pair.config)}), expected)
    assert torch.equal(generated(pair, ids, cache_implementation="dynamic"), expected)


def test_static_caches_are_refused_but_not_for_the_pilot_alone(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 5)
    with pytest.raises(ValueError, match="static cache"):
        generated(pair, ids, cache_implementation="static")
    static = StaticCache(config=pair.config.pilot, max_cache_len=32)
    with pytest.raises(ValueError, match="static cache"):
        pair(ids, **{CACHE_NAME: static})


def test_a_plain_cache_that_holds_text_is_refused(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 5)
    with torch.no_grad():
        plain = cache_of(pair.pilot(ids[:, :4], use_cache=True))
    with pytest.raises(ValueError, match="DynamicCache of 4 positions"):
        pair(ids[:, 4:], **{CACHE_NAME: plain})
    with pytest.raises(ValueError, match="DynamicCache of 4 positions"):
        generated(pair, ids, **{CACHE_NAME: plain})


@torch.no_grad()
def test_a_cache_that_ran_ahead_at_weight_zero_is_refused(tiny_pair: PairOf):
    """At λ = 0 the Copilot does not run, so what the Pilot adds to a pair's cache is unknown to it."""
    pair, ids = tiny_pair(), some_ids(1, 6)
    cache = cache_of(pair(ids[:, :3], use_cache=True))
    pair(ids[:, 3:5], **{CACHE_NAME: cache}, copilot_weight=0.0)
    with pytest.raises(ValueError, match="2 positions that the Copilot has not seen"):
        pair(ids[:, 5:], **{CACHE_NAME: cache})


@torch.no_grad()
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_a_cache_cropped_without_a_record_is_refused(tiny_pair: PairOf, feedback: str):
    pair, ids = tiny_pair(error_feedback=feedback), some_ids(1, 6)
    cache = cache_of(pair(ids, use_cache=True))
    cache.crop(-2)
    with pytest.raises(ValueError, match="cropped"):
        pair(ids[:, 4:], **{CACHE_NAME: cache})
    cache.crop(-cache.get_seq_length())
    whole = pair(ids, **{CACHE_NAME: cache}).logits
    torch.testing.assert_close(whole, pair(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("crops", [[0], [-1], [-3], [-1, -1, -2], [0, -2, 0]])
def test_a_recorded_cache_goes_back_to_any_position_since_the_last_crop(tiny_pair: PairOf, crops: list[int]):
    pair, ids = tiny_pair().double(), some_ids(2, 9)  # in float32 some processors round by 2e-5 here
    expected = pair(ids).logits
    cache = cache_of(pair(ids[:, :2], use_cache=True))
    cache.activate_past_recording()
    for crop in crops:
        end = cache.get_seq_length()
        pair(ids[:, end : end + 2], **{CACHE_NAME: cache})
        pair(ids[:, end + 2 : end + 3], **{CACHE_NAME: cache})
        cache.crop(crop)
    end = cache.get_seq_length()
    rest = pair(ids[:, end:], **{CACHE_NAME: cache}).logits if end < 9 else expected[:, 9:]
    torch.testing.assert_close(rest, expected[:, end:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_recorded_cache_cropped_past_its_record_is_refused(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 9)
    cache = cache_of(pair(ids[:, :4], use_cache=True))
    cache.activate_past_recording()
    pair(ids[:, 4:8], **{CACHE_NAME: cache})
    cache.crop(-6)
    with pytest.raises(ValueError, match="cropped"):
        pair(ids[:, 2:], **{CACHE_NAME: cache})


def test_continuous_batching_is_refused(tiny_pair: PairOf):
    pair = tiny_pair()
    with pytest.raises(NotImplementedError, match="continuous batching"):
        pair.generate_batch([[4, 5, 6], [7, 8]], max_new_tokens=3)
    with pytest.raises(NotImplementedError, match="continuous batching"):
        generated(pair, some_ids(1, 4), cache_implementation="paged")
    with pytest.raises(NotImplementedError, match="continuous batching"):
        pair.init_continuous_batching()


def test_embeddings_instead_of_tokens_are_refused(tiny_pair: PairOf):
    pair = tiny_pair()
    embeddings = pair.get_input_embeddings()(some_ids(1, 4)).detach()
    with pytest.raises(ValueError, match="input_ids"):
        pair.generate(inputs_embeds=embeddings, max_new_tokens=3)
