"""λ of a call of `generate`: which of the places it is given in counts, and that it reaches every pass of the call."""

import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TextIteratorStreamer,
    pipeline,
    set_seed,
)
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from tests.conftest import TINY, build_pair, build_pilot, make_tokenizer, some_ids
from tests.helpers.slow_generation import slow_model
from transformers_copilot.pair.compat import CACHE_NAME


NEW = 8
PairOf = Callable[..., PreTrainedModel]
SETTINGS = {"max_new_tokens": NEW, "pad_token_id": 0, "output_scores": True, "return_dict_in_generate": True}


@pytest.fixture
def pair(tiny_pair: PairOf) -> PreTrainedModel:
    return tiny_pair(copilot={"num_hidden_layers": 2})


def generated(model: PreTrainedModel, generation_config: GenerationConfig | None = None, **kwargs: Any) -> Tensor:
    """Scores of a call: of so small a model they tell λ better than the text."""
    set_seed(5)
    ids = kwargs.pop("inputs", some_ids(1, 6))
    if generation_config is not None:
        generation_config = copy.deepcopy(generation_config)
        generation_config.update(**SETTINGS)
        return torch.cat(model.generate(ids, generation_config=generation_config, **kwargs).scores)
    return torch.cat(model.generate(ids, **{**SETTINGS, **kwargs}).scores)


def test_the_first_place_that_is_set_counts(pair: PreTrainedModel):
    expected = {weight: generated(pair, copilot_weight=weight) for weight in (0.0, 0.3, 0.6, 0.9)}
    assert torch.equal(expected[0.0], generated(pair.pilot))
    assert len({float(scores.sum()) for scores in expected.values()}) == 4
    call, unset = GenerationConfig(copilot_weight=0.3), GenerationConfig(copilot_weight=None)
    pair.config.copilot_weight = 0.9
    assert torch.equal(generated(pair), expected[0.9])
    pair.generation_config.copilot_weight = 0.6
    assert torch.equal(generated(pair), expected[0.6])
    assert torch.equal(generated(pair, unset), expected[0.6])
    assert torch.equal(generated(pair, GenerationConfig()), expected[0.6])
    assert torch.equal(generated(pair, copilot_weight=None), expected[0.6])
    assert torch.equal(generated(pair, call), expected[0.3])
    assert torch.equal(generated(pair, call, copilot_weight=None), expected[0.3])
    assert torch.equal(generated(pair, call, copilot_weight=0.0), expected[0.0])
    assert call.copilot_weight == 0.3 and pair.generation_config.copilot_weight == 0.6
    pair.generation_config.copilot_weight = None
    assert torch.equal(generated(pair), expected[0.9])
    pair.generation_config.update(copilot_weight=0.0)
    assert torch.equal(generated(pair), expected[0.0])
    pair.generation_config = GenerationConfig(pad_token_id=0)  # one that knows nothing of λ
    assert torch.equal(generated(pair), expected[0.9])


def test_scoring_asks_the_configuration_alone(pair: PreTrainedModel):
    pair.generation_config.copilot_weight = 0.0
    ids = some_ids(1, 6)
    assert torch.equal(pair(ids).logits, pair(ids, copilot_weight=1.0).logits)
    generated(pair)
    assert torch.equal(pair(ids).logits, pair(ids, copilot_weight=1.0).logits), "what was in force is over"


@pytest.mark.parametrize(
    ("weight", "error"), [("0.5", TypeError), (True, TypeError), (-0.1, ValueError), (21, ValueError)]
)
@pytest.mark.parametrize("place", ["call", "call's configuration", "model's configuration", "pair's configuration"])
def test_a_bad_weight_is_refused_before_the_first_step(
    pair: PreTrainedModel, place: str, weight: Any, error: type[Exception]
):
    pair.pilot.get_input_embeddings().register_forward_pre_hook(lambda module, args: pytest.fail("a step was made"))
    call: dict[str, Any] = {}
    if place == "call":
        call["copilot_weight"] = weight
    elif place == "call's configuration":
        call["generation_config"] = GenerationConfig(copilot_weight=weight)
    elif place == "model's configuration":
        pair.generation_config.copilot_weight = weight
    else:
        pair.config.copilot_weight = weight
    with pytest.raises(error, match="copilot_weight"):
        generated(pair, **call)


@pytest.mark.parametrize("by", ["the pair", "the configuration", "hand", "hand, as an older pair was saved"])
def test_a_weight_is_saved_and_loaded_with_the_generation_configuration(pair: PreTrainedModel, tmp_path: Path, by: str):
    expected = generated(pair, copilot_weight=0.4)
    if by == "the pair":
        pair.generation_config.copilot_weight = 0.4
    pair.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    if by == "the configuration":
        GenerationConfig(pad_token_id=0, copilot_weight=0.4).save_pretrained(tmp_path)
    elif by != "the pair":
        flag = {"_from_model_config": True} if "older" in by else {}
        file.write_text(json.dumps({**json.loads(file.read_text()), **flag, "copilot_weight": 0.4}))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.copilot_weight == 0.4
    torch.testing.assert_close(generated(loaded), expected)
    if "older" not in by:  # what transformers reads of such a file by itself has no λ
        assert GenerationConfig.from_pretrained(tmp_path).copilot_weight == 0.4
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(generated(again), expected)
    given = AutoModelForCausalLM.from_pretrained(tmp_path, generation_config=GenerationConfig(copilot_weight=0.0))
    torch.testing.assert_close(generated(given), generated(pair.pilot))


class Expert(LogitsProcessor):
    """A user's processor that asks the model again, with λ or without."""

    def __init__(self, model: PreTrainedModel, **options: Any) -> None:
        self.model, self.options = model, options

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + self.model(input_ids, use_cache=False, **self.options).logits[:, -1]


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_guidance_writes_both_texts_with_the_weight_of_the_call(pair: PreTrainedModel, settings: dict[str, Any]):
    rows = settings.get("num_beams", 1)  # transformers does not repeat a negative prompt for the beams
    settings = {"guidance_scale": 1.7, "negative_prompt_ids": some_ids(1, 4, seed=9).repeat(rows, 1), **settings}
    assert torch.equal(generated(pair, copilot_weight=0.0, **settings), generated(pair.pilot, **settings))
    slow = generated(slow_model(pair, 0.6), use_cache=False, **settings)
    torch.testing.assert_close(generated(pair, copilot_weight=0.6, **settings), slow, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(generated(pair, copilot_weight=0.2, **settings), slow, atol=1e-2)


def test_guidance_feeds_back_what_the_copilot_wrote_where_the_first_text_does(tiny_pair: PairOf):
    """With the prompt itself as the negative one both texts are the same, so guidance changes nothing."""
    pair, ids = tiny_pair(error_feedback="predicted", copilot={"num_hidden_layers": 2}), some_ids(1, 6)
    plain = generated(pair, inputs=ids).log_softmax(-1)
    guided = generated(pair, inputs=ids, guidance_scale=3.0, negative_prompt_ids=ids)
    torch.testing.assert_close(guided, plain, atol=1e-4, rtol=1e-4)


def test_a_processor_of_the_users_asks_with_the_weight_of_the_call(pair: PreTrainedModel):
    def guidance(model: PreTrainedModel) -> LogitsProcessorList:
        return LogitsProcessorList([UnbatchedClassifierFreeGuidanceLogitsProcessor(1.7, model)])

    for make in (guidance, lambda model: LogitsProcessorList([Expert(model)])):
        alone = generated(pair.pilot, logits_processor=make(pair.pilot))
        assert torch.equal(generated(pair, copilot_weight=0.0, logits_processor=make(pair)), alone)
        other = generated(pair, copilot_weight=0.5, logits_processor=make(pair))
        pair.config.copilot_weight = 0.5
        assert torch.equal(generated(pair, logits_processor=make(pair)), other)
        pair.config.copilot_weight = 1.0
    told = LogitsProcessorList([Expert(pair, copilot_weight=0.5)])
    assert torch.equal(
        generated(pair, copilot_weight=0.5, logits_processor=told),
        generated(pair, copilot_weight=0.5, logits_processor=LogitsProcessorList([Expert(pair)])),
    )
    pilots = generated(pair, copilot_weight=0.5, logits_processor=LogitsProcessorList([Expert(pair.pilot)]))
    assert not torch.equal(pilots, other), "the Pilot that a user names stays the Pilot"


def weights_of(pair: PreTrainedModel) -> list[float]:
    """The λ of each pass that a pair will make."""
    seen: list[float] = []
    ask = pair.active_copilot_weight

    def asked(copilot_weight: float | None) -> float:
        seen.append(ask(copilot_weight))
        return seen[-1]

    pair.active_copilot_weight = asked
    return seen


@pytest.mark.parametrize("place", ["keyword", "configuration"])
@pytest.mark.parametrize("main", ["a pair", "a plain model"])
def test_the_weight_of_a_call_reaches_an_assistant_that_is_a_pair(
    tiny_pair: PairOf, pair: PreTrainedModel, place: str, main: str
):
    assistant = tiny_pair(copilot_weight=0.7)
    seen = weights_of(assistant)
    model = pair if main == "a pair" else pair.pilot
    expected = generated(model)
    torch.testing.assert_close(generated(model, assistant_model=assistant), expected, atol=1e-4, rtol=1e-4)
    assert set(seen) == {0.7}, "where the call names none it is the assistant's own"
    seen.clear()
    named: dict[str, Any] = {"copilot_weight": 0.2}
    if place == "configuration" or main == "a plain model":
        named = {"generation_config": GenerationConfig(copilot_weight=0.2)}
    generated(model, assistant_model=assistant, **named)
    assert set(seen) == {0.2}


@pytest.mark.parametrize("settings", [{"assistant": True}, {"assistant_early_exit": 1}])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_pair_that_drafts_for_itself_does_so_with_the_weight_of_the_call(
    pair: PreTrainedModel, settings: dict[str, Any], sampled: bool
):
    def run(model: PreTrainedModel, **kwargs: Any) -> Tensor:
        given = {"assistant_model": model} if "assistant" in settings else settings
        return generated(model, do_sample=sampled, **given, **kwargs)

    alone, seen = run(pair.pilot), weights_of(pair)
    assert torch.equal(run(pair, copilot_weight=0.0), alone)
    assert set(seen) == {0.0}
    seen.clear()
    run(pair, copilot_weight=0.4)
    assert set(seen) == {0.4}
    pair.generation_config.copilot_weight = 0.6
    seen.clear()
    run(pair)
    assert set(seen) == {0.6}


def test_calls_in_threads_have_each_its_weight(pair: PreTrainedModel):
    expected = {weight: generated(pair, copilot_weight=weight) for weight in (0.0, 0.5, 1.0)}
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        weight = (0.0, 0.5, 1.0)[number % 3]
        named = (
            {"copilot_weight": weight} if number < 3 else {"generation_config": GenerationConfig(copilot_weight=weight)}
        )
        processors = LogitsProcessorList([Expert(pair)])  # asks without λ, in between
        found[number] = generated(pair, logits_processor=processors, **named)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, scores in found.items():
        weight = (0.0, 0.5, 1.0)[number % 3]
        serial = generated(pair, copilot_weight=weight, logits_processor=LogitsProcessorList([Expert(pair)]))
        assert torch.equal(scores, serial)
        assert not torch.equal(scores, expected[weight])
    assert len(found) == 6


def test_a_server_that_streams_with_a_copy_of_the_models_configuration(
    pair: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
):
    """As `transformers serve` does: one configuration a request, a thread that writes, and a streamer."""
    pair.generation_config.copilot_weight = 0.0
    ids = some_ids(1, 6)
    texts = {}
    for request in ('{"max_new_tokens": 8}', '{"max_new_tokens": 8, "copilot_weight": 0.9}'):
        settings = copy.deepcopy(pair.generation_config)
        settings.update(**json.loads(request))
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
        call = {"generation_config": settings, "streamer": streamer}
        thread = threading.Thread(target=pair.generate, args=(ids,), kwargs=call)
        thread.start()
        texts[request] = "".join(streamer)
        thread.join()
    written = [
        tokenizer.decode(model.generate(ids, max_new_tokens=8, pad_token_id=0, **named)[0, 6:])
        for model, named in ((pair.pilot, {}), (pair, {"copilot_weight": 0.9}))
    ]
    assert list(texts.values()) == written and written[0] != written[1]


def test_a_pipeline_hands_the_weight_on(pair: PreTrainedModel, tokenizer: PreTrainedTokenizerFast):
    def text(pipe: Any, **call: Any) -> str:
        settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
        if "generation_config" in call:
            call["generation_config"].update(**{name: settings.pop(name) for name in ("max_new_tokens", "do_sample")})
        return pipe("w5 w6 w7", **settings, **call)[0]["generated_text"]

    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }} {% endfor %}"
    alone = text(pipeline("text-generation", model=pair.pilot, tokenizer=tokenizer, device="cpu"))
    pipe = pipeline("text-generation", model=pair, tokenizer=tokenizer, device="cpu")
    corrected = text(pipe)
    assert corrected != alone
    assert text(pipe, copilot_weight=0.0) == alone
    assert text(pipe, generation_config=GenerationConfig(copilot_weight=0.0)) == alone
    made = pipeline("text-generation", model=pair, tokenizer=tokenizer, device="cpu", copilot_weight=0.0)
    assert text(made) == alone and text(made, copilot_weight=1.0) == corrected
    chat = pipe([{"role": "user", "content": "w5 w6 w7"}], max_new_tokens=5, do_sample=False, copilot_weight=0.0)
    assert chat[0]["generated_text"][-1]["content"] == alone
    helped = pipeline("text-generation", model=pair, tokenizer=tokenizer, device="cpu", assistant_model=pair.pilot)
    assert text(helped, copilot_weight=0.0) == alone and text(helped) == corrected
    pair.generation_config.copilot_weight = 0.0
    assert text(pipeline("text-generation", model=pair, tokenizer=tokenizer, device="cpu")) == alone


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_weight_zero_from_any_place_is_the_pilot_with_a_cache_of_the_pairs_too(tiny_pair: PairOf, family: str):
    pair = tiny_pair(family, copilot={"num_hidden_layers": 2})
    alone = generated(pair.pilot)
    assert torch.equal(generated(pair, copilot_weight=0.0), alone)
    assert torch.equal(generated(pair, GenerationConfig(copilot_weight=0.0)), alone)
    pair.config.copilot_weight = 0.0
    assert torch.equal(generated(pair), alone)
    if family == "t5":
        return
    with torch.no_grad():
        own = pair(some_ids(1, 6)[:, :4], use_cache=True, copilot_weight=1.0)[CACHE_NAME]
        pilots = pair.pilot(some_ids(1, 6)[:, :4], use_cache=True)[CACHE_NAME]
    expected = generated(pair.pilot, **{CACHE_NAME: pilots})
    assert torch.equal(generated(pair, **{CACHE_NAME: own}), expected)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_taken_under_either_name_without_a_warning(
    pair: PreTrainedModel, name: str, recwarn: pytest.WarningsRecorder
):
    with torch.no_grad():
        cache = pair(some_ids(1, 6)[:, :4], use_cache=True)[CACHE_NAME]
    torch.testing.assert_close(generated(pair, **{name: cache}), generated(pair), atol=1e-4, rtol=1e-4)
    assert [warning for warning in recwarn if issubclass(warning.category, FutureWarning)] == []
    with pytest.raises(ValueError, match="two names of one argument"):
        generated(pair, cache=cache, past_key_values=cache)
    with torch.no_grad():  # and by a pass
        cache = pair(some_ids(1, 6)[:, :4], use_cache=True)[CACHE_NAME]
        rest = pair(some_ids(1, 6)[:, 4:], **{name: cache}).logits
    torch.testing.assert_close(rest, pair(some_ids(1, 6)).logits[:, 4:], atol=1e-4, rtol=1e-4)


def test_a_pair_is_no_draft_between_two_vocabularies_that_are_sampled_from():
    """transformers cuts the assistant's head down to the tokens that both know, which the Copilot's is not."""
    from tests.helpers.byte_tokenizer import byte_tokenizer

    wider = byte_tokenizer()
    wider.add_tokens(["ab", "ba"])
    fields = TINY["llama"][1]
    assistant = build_pair(build_pilot("LlamaConfig", {**fields, "vocab_size": len(wider)}), mistake_top_k=4)
    main = build_pilot("LlamaConfig", {**fields, "vocab_size": len(byte_tokenizer())})
    kwargs = {"assistant_model": assistant, "tokenizer": byte_tokenizer(), "assistant_tokenizer": wider}
    ids = byte_tokenizer()("abab", return_tensors="pt").input_ids
    greedy = main.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(main.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0, **kwargs), greedy)
    with pytest.raises(ValueError, match="copilot_weight=0"):
        main.generate(ids, max_new_tokens=5, do_sample=True, pad_token_id=0, **kwargs)
