"""Families write in ways of their own, by methods that `generate` calls on the model: a pair asks its Pilot."""

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GenerationMixin,
    LlamaForCausalLM,
    PreTrainedModel,
    T5ForConditionalGeneration,
    set_seed,
)

from tests.conftest import SPECIAL, TINY, VOCAB, WIDTH, build_pair, build_pilot, some_ids
from transformers_copilot import PilotCopilotForCausalLM
from transformers_copilot.pair.generation_hooks import DELEGATED


NEW = 8
_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_BART = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
_T5GEMMA = {**_DECODER, "num_key_value_heads": 2, "head_dim": 8, **SPECIAL}
# With what of a family's own `generate` meets: hooks, arguments that `forward` lacks, positions, kinds of cache.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bart as a decoder": ("BartConfig", {**_BART, "is_decoder": True, "is_encoder_decoder": False}),
    "bert as a decoder": ("BertConfig", {**_DECODER, "is_decoder": True}),
    "bloom, without positions": ("BloomConfig", {"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": 2, "n_head": 4}),
    "ctrl": ("CTRLConfig", {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "dff": 48}),
    "falcon with alibi": ("FalconConfig", {**_DECODER, "alibi": True}),
    "gpt2": TINY["gpt2"],
    "mpt, without positions": (
        "MptConfig",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "phi3, which reads anew": (
        "Phi3Config",
        {**_DECODER, "original_max_position_embeddings": 8}
        | {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}},
    ),
    "bart": ("BartConfig", _BART),
    "t5": TINY["t5"],
    "t5gemma, with a cache of its own": (
        "T5GemmaConfig",
        {"encoder": _T5GEMMA, "decoder": {**_T5GEMMA, "sliding_window": 4}, "vocab_size": VOCAB},
    ),
}
ROUTES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 3},
    "looking up": {"prompt_lookup_num_tokens": 2},
    "assisted by itself": {"assisted": True},
    "assisted sampling": {"assisted": True, "do_sample": True},
}


def prompt(pilot: PreTrainedModel, rows: int) -> dict[str, Tensor]:
    """Padded rows, or one that repeats itself."""
    ids = some_ids(rows, 6)
    mask = torch.ones_like(ids)
    if rows == 1:
        ids = torch.cat([ids, ids[:, :3]], dim=1)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    columns = slice(4, None) if pilot.config.is_encoder_decoder else slice(0, 2)
    mask[0, columns] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def written(model: PreTrainedModel, inputs: dict[str, Any], assisted: bool = False, **settings: Any) -> Tensor:
    set_seed(3)
    helped = {"assistant_model": model} if assisted else {}
    return model.generate(**inputs, max_new_tokens=NEW, pad_token_id=0, **helped, **settings)


def first_scores(model: PreTrainedModel, inputs: dict[str, Any], **settings: Any) -> Tensor:
    """The scores of the first new token: texts of so small models may be the same by chance."""
    settings = {name: value for name, value in settings.items() if name not in ("assisted", "do_sample")}
    out = model.generate(
        **inputs, max_new_tokens=3, pad_token_id=0, output_scores=True, return_dict_in_generate=True, **settings
    )
    return out.scores[0]


@pytest.fixture(scope="module")
def pairs() -> dict[str, PreTrainedModel]:
    return {}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_writes_in_a_pair_as_it_does_alone(family: str, route: str, pairs: dict[str, PreTrainedModel]):
    if family not in pairs:
        pairs[family] = build_pair(build_pilot(*FAMILIES[family]), copilot={"num_hidden_layers": 2})
    pair, settings = pairs[family], ROUTES[route]
    one_row = "looking up" in route or "assisted" in route
    if one_row and family.startswith("mpt"):
        return  # keeps no cache, as transformers has it, and is refused for it alone as well as here
    inputs = prompt(pair.pilot, 1 if one_row else 2)
    alone = written(pair.pilot, inputs, **settings)
    assert torch.equal(written(pair, inputs, copilot_weight=0.0, **settings), alone)
    corrected = written(pair, inputs, **settings)
    assert not torch.equal(first_scores(pair, inputs, **settings), first_scores(pair.pilot, inputs, **settings))
    if not one_row:
        assert torch.equal(written(pair, inputs, **settings, use_cache=False), corrected)
    elif not settings.get("do_sample"):
        assert torch.equal(written(pair, inputs), corrected)


def marked(kind: type[PreTrainedModel], seen: list[str]) -> type[PreTrainedModel]:
    """A class of models that writes down which hooks it is asked for, and with how many of the pair's own arguments."""

    def own(name: str) -> Any:
        usual = inspect.getattr_static(kind, name)

        def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return usual(self, *args, **kwargs)

        return asked

    hooks = [name for name in DELEGATED if not isinstance(inspect.getattr_static(kind, name), classmethod)]
    return type(f"Marked{kind.__name__}", (kind,), {name: own(name) for name in hooks})


@pytest.mark.parametrize("kind", [LlamaForCausalLM, T5ForConditionalGeneration])
@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2, "rows": 1}])
def test_each_hook_of_the_pilot_is_asked_as_often_as_alone(
    kind: type[PreTrainedModel], weight: float, settings: dict[str, Any]
):
    seen: list[str] = []
    settings = dict(settings)
    pilot = build_pilot(*TINY["llama" if kind is LlamaForCausalLM else "t5"])
    pilot.__class__ = marked(kind, seen)
    inputs = prompt(pilot, settings.pop("rows", 2))
    pair = build_pair(pilot, copilot={"num_hidden_layers": 2})
    written(pair.pilot, inputs, **settings)
    alone = list(seen)
    seen.clear()
    written(pair, inputs, copilot_weight=weight, **settings)
    assert seen == alone
    assert len(set(alone)) > 12


@pytest.mark.parametrize("name", ["_sample", "_prefill", "_prepare_generation_config", "generate", "heal_tokens"])
def test_a_pilot_with_a_loop_of_its_own_is_refused_by_name(name: str):
    pilot = build_pilot(*TINY["llama"])
    pilot.__class__ = type("Own", (LlamaForCausalLM,), {name: lambda self, *args, **kwargs: None})
    with pytest.raises(ValueError, match=f"Own has its own `{name}`"):
        PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2})


def test_a_pilot_that_orders_its_beams_itself_writes_without_beams_only():
    """As models of older code on the Hub do."""
    pilot = build_pilot(*TINY["llama"])
    pilot.__class__ = type("Own", (LlamaForCausalLM,), {"_reorder_cache": staticmethod(lambda cache, beams: cache)})
    pair = build_pair(pilot, copilot={"num_hidden_layers": 2})
    inputs = prompt(pilot, 2)
    assert torch.equal(written(pair, inputs, copilot_weight=0.0), written(pair.pilot, inputs))
    for settings in ({}, {"do_sample": True}, {"copilot_weight": 0.0}):
        with pytest.raises(ValueError, match="Own puts its cache in the beams' order itself"):
            written(pair, inputs, num_beams=2, **settings)


def test_a_generate_that_was_put_on_the_pilot_is_refused():
    """As `from_pretrained` does with the `custom_generate` of a repository."""
    pair = build_pair(build_pilot(*TINY["llama"]), copilot={"num_hidden_layers": 2})
    pair.pilot.generate = lambda *args, **kwargs: None
    for weight in (0.0, 1.0):
        with pytest.raises(ValueError, match="del pair.pilot.generate"):
            pair.generate(some_ids(1, 4), copilot_weight=weight)
    del pair.pilot.generate
    pair.generate(some_ids(1, 4), max_new_tokens=2)


def test_a_pilot_that_adds_tokens_at_every_step_works_alone_and_is_refused_with_the_copilot():
    """XLM writes a mask after the text."""
    fields = {"vocab_size": VOCAB, "emb_dim": WIDTH, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
    pilot = build_pilot("XLMConfig", {**fields, "causal": True, "is_decoder": True, "mask_token_id": 5})
    pair = build_pair(pilot, copilot={"num_hidden_layers": 2})
    inputs = prompt(pilot, 2)
    for settings in ({}, {"num_beams": 2}):
        alone = written(pair.pilot, inputs, **settings)
        assert torch.equal(written(pair, inputs, copilot_weight=0.0, **settings), alone)
    with pytest.raises(ValueError, match="XLMWithLMHeadModel reads 7 tokens where the text has 6"):
        written(pair, inputs)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"num_beams": 2}, {"prefill_chunk_size": 2}])
@pytest.mark.parametrize("rows", [1, 2])
def test_token_types_reach_the_pilot_at_every_step(settings: dict[str, Any], rows: int):
    pair = build_pair(build_pilot(*TINY["gpt2"]), copilot={"num_hidden_layers": 2})
    inputs = prompt(pair.pilot, rows)
    inputs["token_type_ids"] = some_ids(rows, inputs["input_ids"].shape[1], seed=8)
    alone = written(pair.pilot, inputs, **settings)
    others = {**inputs, "token_type_ids": inputs["token_type_ids"].flip(1)}
    pilot = pair.pilot
    assert not torch.equal(first_scores(pilot, others, **settings), first_scores(pilot, inputs, **settings))
    assert torch.equal(written(pair, inputs, copilot_weight=0.0, **settings), alone)
    corrected = written(pair, inputs, **settings)
    if "prefill_chunk_size" not in settings:
        assert torch.equal(written(pair, inputs, **settings, use_cache=False), corrected)
    assert not torch.equal(first_scores(pair, others, **settings), first_scores(pair, inputs, **settings))
    if rows == 1 and not settings:
        for helped in ({"prompt_lookup_num_tokens": 2}, {"assisted": True}):
            assert torch.equal(written(pair, inputs, copilot_weight=0.0, **helped), alone)
            assert torch.equal(written(pair, inputs, **helped), corrected)


def test_an_argument_that_the_pilot_does_not_know_is_refused_as_it_is_alone():
    pair = build_pair(build_pilot(*TINY["llama"]), copilot={"num_hidden_layers": 2})
    for weight in (0.0, 1.0):
        with pytest.raises(ValueError, match="token_type_idz"):
            pair.generate(some_ids(1, 4), token_type_idz=some_ids(1, 4), copilot_weight=weight)


def test_positions_of_the_pilots_own_are_kept():
    """A family that counts positions otherwise, as Qwen2-VL does, is asked for them."""

    class Backwards(LlamaForCausalLM):
        def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
            usual = GenerationMixin._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
            return usual.flip(-1) + 20

    pilot = build_pilot(*TINY["llama"])
    inputs, usual = prompt(pilot, 2), copy.deepcopy(pilot)
    pilot.__class__ = Backwards
    pair = build_pair(pilot, copilot={"num_hidden_layers": 2})
    alone = written(pair.pilot, inputs)
    assert not torch.equal(alone, written(usual, inputs))
    assert torch.equal(written(pair, inputs, copilot_weight=0.0), alone)
    assert torch.equal(written(pair, inputs), written(pair, inputs, use_cache=False))
