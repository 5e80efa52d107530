"""Copilots of the forms "linear" and "branch": exactly their Pilot until they have learnt, then a plain model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, StaticCache

from tests.conftest import TINY, VOCAB, WIDTH, build_pilot, some_ids
from tests.pair.test_other_families import FAMILIES, step_by_step, texts
from transformers_copilot import (
    CopilotConfig,
    MistakeRecord,
    PilotCopilotCache,
    PilotCopilotConfig,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
)
from transformers_copilot.pair.compat import CACHE_NAME, cache_of
from transformers_copilot.pair.configuration_copilot import branch_config
from transformers_copilot.pair.pilot_head import HeadMap


FORMS: dict[str, dict[str, Any]] = {
    "linear": {"form": "linear"},
    "branch of 1": {"form": "branch", "num_hidden_layers": 1},
    "branch of 2": {"form": "branch", "num_hidden_layers": 2},
}
ALL = {**{name: TINY[name] for name in ("llama", "qwen3", "gpt2", "gemma", "t5")}, **FAMILIES}
# Families whose branch is refused, and what the message says.
NO_BRANCH = {
    "bert as a decoder": "not its Pilot",  # something stands between its decoder and its head
    "bert to bert": "does not say how many layers",
    "deepseek v3 (latent attention, experts)": "not its Pilot",  # its first layer is of another kind
    "gemma4 (layers of several shapes)": "can't be built",
    "modernbert decoder": "not its Pilot",  # as BERT
    "opt (narrow embedding, norms after)": "reads 16",
    "t5gemma": "does not say how many layers",
}
NO_LINEAR = {"opt (narrow embedding, norms after)": "reads 16"}


def pair_of(pilot: PreTrainedModel, form: str, **options: Any) -> PreTrainedModel:
    """An untrained pair beside a copy of the Pilot."""
    kind = PilotCopilotForSeq2SeqLM if pilot.config.is_encoder_decoder else PilotCopilotForCausalLM
    return kind.from_pilot(copy.deepcopy(pilot), dict(FORMS[form]), **options).eval()


def moved(pair: PreTrainedModel, scale: float = 0.1) -> PreTrainedModel:
    """Its Copilot's learning weights moved off their start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in pair.copilot.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return pair


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way to train:FutureWarning")
@pytest.mark.parametrize(
    ("family", "form"),
    [(family, form) for family in ALL for form in ("linear", "branch of 2")] + [("t5", "branch of 1")],
)
def test_the_contract_of_every_family(family: str, form: str):
    """Untrained it is its Pilot, to the last bit; moved, it scores as it writes; it merges; it trains."""
    pilot = build_pilot(*ALL[family])
    refused = (NO_LINEAR if form == "linear" else NO_BRANCH).get(family)
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            pair_of(pilot, form)
        return
    pair, inputs = pair_of(pilot, form), texts(pilot)
    with torch.no_grad():
        alone = pilot(**inputs).logits
        assert torch.equal(pair(**inputs).logits, alone)
        whole = moved(pair)(**inputs)
        assert (whole.logits.softmax(-1) - alone.softmax(-1)).abs().max() > 1e-3
        assert torch.equal(whole.pilot_logits, alone)
        torch.testing.assert_close(step_by_step(pair, inputs), whole.logits.softmax(-1), atol=2e-5, rtol=0)
        merged = pair.merge_copilot()
        assert type(merged) is type(pilot) and merged.num_parameters() <= pilot.num_parameters() + VOCAB * (WIDTH + 1)
        torch.testing.assert_close(merged(**inputs).logits, whole.logits, atol=1e-5, rtol=1e-4)
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        uneven = pilot.config.model_type in ("t5", "mt5", "umt5")  # their own cache has too few layers (transformers)
        kwargs = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        for more in ({}, {"num_beams": 2, "repetition_penalty": 1.3}):
            written = merged.generate(ids, **kwargs, **more, use_cache=not uneven)
            assert torch.equal(pair.generate(ids, **kwargs, **more), written), more
        assert torch.equal(
            pair.generate(ids, **kwargs, copilot_weight=0.0), pilot.generate(ids, **kwargs, use_cache=not uneven)
        )
    out = pair.train()(**{**inputs, "labels": inputs.get("decoder_input_ids", ids)}, return_mistakes=True)
    out.copilot_loss.backward()
    assert torch.isfinite(out.loss)
    assert all(parameter.grad is not None for parameter in pair.copilot.parameters() if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in pair.pilot.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2 (softcap, window)", "bloom (ALiBi)", "t5"])
def test_a_saved_pair_and_its_merged_model_load_as_they_were(family: str, form: str, tmp_path):
    pilot = build_pilot(*ALL[family])
    pair, inputs = moved(pair_of(pilot, form)), texts(pilot)
    expected = pair(**inputs).logits
    pair.save_pretrained(tmp_path / "pair")
    torch.testing.assert_close(
        type(pair).from_pretrained(tmp_path / "pair")(**inputs).logits, expected, rtol=0, atol=1e-5
    )
    pair.save_copilot(tmp_path / "copilot")
    joined = type(pair).from_pilot(copy.deepcopy(pilot), str(tmp_path / "copilot")).eval()
    torch.testing.assert_close(joined(**inputs).logits, expected, rtol=0, atol=1e-5)
    merged = pair.merge_copilot()
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(pilot).from_pretrained(tmp_path / "merged").eval()
    assert loaded.config.model_type == pilot.config.model_type
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3 (window)"])
def test_left_padding_and_pieces_change_nothing(family: str, form: str, padded: bool):
    pair, ids = moved(pair_of(build_pilot(*ALL[family]), form)), some_ids(2, 9)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    whole = pair(ids, attention_mask=mask, position_ids=positions).logits.softmax(-1)
    alone = pair(ids[:1, 4:]).logits.softmax(-1) if padded else pair(ids[:1]).logits.softmax(-1)
    torch.testing.assert_close(whole[:1, 4 * padded :], alone, atol=2e-5, rtol=0)
    cache, found = None, []
    for start, end in ((0, 3), (3, 4), (4, 9)):
        given = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end], CACHE_NAME: cache}
        out = pair(ids[:, start:end], **given, use_cache=True)
        cache = cache_of(out)
        found.append(out.logits.softmax(-1))
    real = mask.bool()
    torch.testing.assert_close(torch.cat(found, dim=1)[real], whole[real], atol=2e-5, rtol=0)


def test_no_later_token_is_seen(form: str):
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(1, 8)
    whole = pair(ids).logits
    for place in range(1, 8):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] - 2) % (VOCAB - 4) + 3
        torch.testing.assert_close(pair(changed).logits[:, :place], whole[:, :place], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_the_logged_loss_is_that_of_the_round_under_way(family: str, form: str):
    pilot = build_pilot(*ALL[family])
    pair, inputs = moved(pair_of(pilot, form)), texts(pilot)
    labels = inputs.get("decoder_input_ids", inputs["input_ids"]).clone()
    labels[0, -3:] = -100
    # Left padding: a logged round has it on the other side.
    if not pilot.config.is_encoder_decoder:
        inputs["attention_mask"] = torch.ones_like(labels)
        inputs["attention_mask"][1, :3], labels[1, :4] = 0, -100
    pair.train()
    for part in pair.modules():  # dropout differs from pass to pass
        part.p = 0.0 if isinstance(part, torch.nn.Dropout) else getattr(part, "p", None)
    out = pair(**inputs, labels=labels, return_mistakes=True)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        logged = pair.copilot_loss(MistakeRecord.from_batch(out.mistakes, dtype).to_batch())
        torch.testing.assert_close(logged, out.copilot_loss, atol=0, rtol=bound)
    assert (out.mistakes.rationale is None) == (form == "linear") and out.mistakes.belief_ids is None


def test_packed_rows_are_read_document_by_document(form: str):
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(1, 9)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    pair.train()
    labels = ids.clone()
    labels[:, 4] = -100  # a document's first token is predicted by none
    packed = pair(ids, position_ids=positions, labels=labels, return_mistakes=True)
    # In rows of their own:
    rows = torch.zeros(2, 5, dtype=torch.long)
    rows[0, :4], rows[1] = ids[0, :4], ids[0, 4:]
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    apart = pair(rows, attention_mask=mask, labels=rows.masked_fill(mask == 0, -100))
    torch.testing.assert_close(packed.copilot_loss, apart.copilot_loss, atol=1e-6, rtol=1e-5)
    logged = pair.copilot_loss(MistakeRecord.from_batch(packed.mistakes, torch.float32).to_batch())
    torch.testing.assert_close(logged, packed.copilot_loss, atol=1e-6, rtol=1e-5)


# ---- caches ----


def test_a_linear_copilot_has_no_cache_and_goes_on_from_any():
    pilot = build_pilot(*TINY["llama"])
    pair, ids = moved(pair_of(pilot, "linear")), some_ids(1, 8)
    whole = pair(ids).logits
    of_pilot = cache_of(pilot(ids[:, :5], use_cache=True))
    out = pair(ids[:, 5:], use_cache=True, **{CACHE_NAME: of_pilot})
    torch.testing.assert_close(out.logits, whole[:, 5:], atol=1e-5, rtol=1e-5)
    assert not isinstance(cache_of(out), PilotCopilotCache)
    expected = pair.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(pair.generate(ids, max_new_tokens=5, do_sample=False, cache_implementation="static"), expected)
    static = StaticCache(pilot.config, max_cache_len=32)
    assert torch.equal(pair.generate(ids, max_new_tokens=5, do_sample=False, **{CACHE_NAME: static}), expected)


def test_a_branch_has_a_cache_of_its_layers_and_refuses_what_it_has_not_seen():
    pilot = build_pilot(*TINY["llama"])
    pair, ids = moved(pair_of(pilot, "branch of 2")), some_ids(1, 8)
    cache = cache_of(pair(ids[:, :5], use_cache=True))
    assert isinstance(cache, PilotCopilotCache) and len(cache.copilot.layers) == 2 and len(cache.pilot.layers) == 3
    with pytest.raises(ValueError, match="has not seen"):
        pair(ids[:, 5:], **{CACHE_NAME: cache_of(pilot(ids[:, :5], use_cache=True))})


def test_assisted_decoding_writes_what_greedy_decoding_writes(form: str):
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(1, 6)
    expected = pair.generate(ids, max_new_tokens=12, do_sample=False)
    assert torch.equal(pair.generate(ids, max_new_tokens=12, do_sample=False, assistant_model=pair.pilot), expected)
    assert torch.equal(pair.generate(ids, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=2), expected)


def test_the_pilots_logits_are_shown_where_they_are_asked_for(form: str):
    """And the scores are the same, whether one product makes them or two."""
    pilot = build_pilot(*TINY["llama"])
    pair, ids = moved(pair_of(pilot, form)), some_ids(2, 6)
    kwargs: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True}
    one = pair.generate(ids, **kwargs, output_scores=True)
    two = pair.generate(ids, **kwargs, output_scores=True, output_logits=True)
    assert torch.equal(one.sequences, two.sequences)
    torch.testing.assert_close(torch.stack(one.scores), torch.stack(two.scores), atol=2e-5, rtol=0)
    shown = torch.stack(two.logits, dim=1)
    torch.testing.assert_close(shown, pilot(one.sequences).logits[:, 5:-1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("weight", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("family", ["llama", "gemma2 (softcap, window)", "granite (multipliers)"])
def test_every_weight_is_one_function_whole_and_generated(family: str, form: str, weight: float):
    pair, ids = moved(pair_of(build_pilot(*ALL[family]), form)), some_ids(2, 6)
    out = pair(ids, copilot_weight=weight, return_correction=True)
    torch.testing.assert_close(out.logits, out.pilot_logits + weight * out.correction, atol=1e-5, rtol=1e-5)
    kwargs: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True}
    written = pair.generate(ids, **kwargs, output_scores=True, copilot_weight=weight)
    whole = pair(written.sequences, copilot_weight=weight).logits[:, 5:-1]
    torch.testing.assert_close(torch.stack(written.scores, dim=1), whole, atol=2e-5, rtol=0)


def test_the_head_reads_once_and_the_vocabulary_is_gone_over_once(form: str):
    """Prefill makes the logits of one position only, and a step has one product."""
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(2, 7)
    pair.head_map  # noqa: B018 - found out beforehand
    rows: list[int] = []
    pair.pilot.lm_head.register_forward_hook(lambda module, args, out: rows.append(out[..., 0].numel()))
    pair.generate(ids, max_new_tokens=3, do_sample=False)
    assert rows == [2, 2, 2]


# ---- what a family does after its head ----


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", HeadMap()),
        ("cohere (parallel, scaled logits)", HeadMap(scale=0.5)),
        ("granite (multipliers)", HeadMap(scale=0.5)),
        ("phi (head with a bias)", HeadMap()),
        ("t5", HeadMap()),
    ],
)
def test_what_a_family_does_after_its_head_is_found_out(family: str, expected: HeadMap):
    assert pair_of(build_pilot(*ALL[family]), "linear").head_map == expected


def test_a_softcap_is_found_out_and_its_linear_copilot_merges_at_one_only():
    config, fields = ALL["gemma2 (softcap, window)"]
    pair = moved(pair_of(build_pilot(config, {**fields, "final_logit_softcapping": 1.5}), "linear"))
    assert pair.head_map == HeadMap(softcap=1.5)
    ids = some_ids(1, 6)
    torch.testing.assert_close(pair.merge_copilot()(ids).logits, pair(ids).logits, atol=1e-5, rtol=1e-4)
    pair.config.copilot_weight = 0.5
    with pytest.raises(ValueError, match="bounds its logits.*at λ = 1 only"):
        pair.merge_copilot()


def test_a_head_that_is_not_understood_refuses_the_forms_and_logs_whole_logits():
    pilot = build_pilot(*TINY["llama"])
    forward = pilot.forward

    @functools.wraps(forward)
    def odd(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.logits = outputs.logits.pow(3) + outputs.logits.sin()
        return outputs

    pilot.forward = odd
    for copilot in FORMS.values():
        with pytest.raises(ValueError, match="not known.*form='decoder' with head='own'"):
            PilotCopilotForCausalLM.from_pilot(pilot, dict(copilot))
    pair = PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}).train()
    ids = some_ids(2, 6)
    out = pair(ids, labels=ids, return_mistakes=True)
    assert out.mistakes.head_states is None and out.mistakes.lesson_logits.shape == (10, VOCAB)
    logged = pair.copilot_loss(MistakeRecord.from_batch(out.mistakes, torch.float32).to_batch())
    torch.testing.assert_close(logged, out.copilot_loss, atol=1e-6, rtol=1e-5)


# ---- bad input ----


def test_a_branch_that_is_not_its_pilot_is_refused_with_the_reason():
    pilot = build_pilot(*TINY["llama"])
    last = pilot.model.layers[-1]
    pilot.model.layers[-1].register_forward_hook(lambda module, args, out: out + 0.1 * last.mlp.up_proj.weight.sum())
    with pytest.raises(ValueError, match="an untrained branch of LlamaForCausalLM is not its Pilot: .* differs by"):
        PilotCopilotForCausalLM.from_pilot(pilot, {"form": "branch", "num_hidden_layers": 1})


@pytest.mark.parametrize("layers", [0, 3, 7])
def test_a_branch_of_no_or_all_layers_is_refused(layers: int):
    with pytest.raises(ValueError, match=f"`num_hidden_layers` is {layers}.*fewer layers than the Pilot's.* 3"):
        pair_with({"form": "branch", "num_hidden_layers": layers})


def pair_with(copilot: dict[str, Any], **options: Any) -> PreTrainedModel:
    return PilotCopilotForCausalLM.from_pilot(build_pilot(*TINY["llama"]), copilot, **options)


@pytest.mark.parametrize(
    ("copilot", "message"),
    [
        ({"form": "linear", "num_hidden_layers": 2}, "'linear' has no layers"),
        ({"form": "linear", "head": "own"}, "'linear' works on what the Pilot's head reads"),
        ({"form": "branch", "num_hidden_layers": 1, "hidden_size": 16}, "has the Pilot's width, 32"),
        ({"form": "tree"}, "'decoder', 'branch', 'linear'"),
        ({"form": "linear", "rationale": "current"}, "`rationale` is given.*'linear', which reads none"),
    ],
)
def test_fields_that_a_form_does_not_have_are_refused(copilot: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pair_with(copilot)


def test_merging_refuses_what_is_no_plain_model():
    with pytest.raises(ValueError, match="'decoder'.*no plain model"):
        pair_with({"num_hidden_layers": 2}).merge_copilot()
    with pytest.raises(ValueError, match="λ.* is 0.5.*at λ = 1 only"):
        pair_with({"form": "branch", "num_hidden_layers": 1}, copilot_weight=0.5).merge_copilot()
    with pytest.raises(ValueError, match="'probability'.*'logits' can be merged"):
        pair_with({"form": "linear"}, fusion="probability").merge_copilot()
    pair = pair_with({"form": "linear"})
    pair.add_adapters(pilot=LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge_adapters"):
        pair.merge_copilot()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_branch_of_a_pilot_with_an_adapter_is_refused():
    pilot = build_pilot(*TINY["llama"])
    adapted = get_peft_model(pilot, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="have an adapter: merge it first"):
        PilotCopilotForCausalLM.from_pilot(adapted, {"form": "branch", "num_hidden_layers": 1})


def test_merging_leaves_the_pair_as_it_is_and_drops_its_weight():
    pair, ids = moved(pair_with({"form": "linear"}, copilot_weight=0.5)), some_ids(1, 5)
    before = pair(ids).logits
    merged = pair.merge_copilot()
    assert torch.equal(pair(ids).logits, before) and not hasattr(merged.generation_config, "copilot_weight")
    torch.testing.assert_close(merged(ids).logits, before, atol=1e-5, rtol=1e-4)
    assert not any("recorder" in str(hook) for module in merged.modules() for hook in module._forward_hooks.values())


def test_the_papers_settings_bring_their_form():
    pair = PilotCopilotForCausalLM.from_pilot(build_pilot(*TINY["llama"]), config=PilotCopilotConfig.paper())
    copilot = pair.config.copilot
    assert (copilot.form, copilot.rationale, copilot.head) == ("decoder", "preceding", "own")
    assert pair.config.error_feedback == "predicted" and pair.config.mistake_top_k is None


def test_a_branchs_configuration_is_the_pilots_with_its_last_layers():
    config = build_pilot(*ALL["gemma3 (window)"]).config
    made = branch_config(config, 1)
    assert made["num_hidden_layers"] == 1 and made["layer_types"] == config.layer_types[-1:]
    assert (
        CopilotConfig.from_pilot(config, form="branch", num_hidden_layers=2).branch_config["layer_types"]
        == (config.layer_types[-2:])
    )


def test_a_wider_vocabulary_is_followed(form: str):
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(1, 5)
    before = pair(ids).logits
    pair.resize_token_embeddings(VOCAB + 8)
    after = pair(ids).logits
    assert after.shape[-1] == VOCAB + 8
    torch.testing.assert_close(after[..., :VOCAB], before, atol=1e-6, rtol=0)


def test_a_narrow_pilots_copilot_stays_float32_and_starts_near_zero(form: str):
    pilot = build_pilot(*TINY["llama"]).bfloat16()
    pair, ids = pair_of(pilot, form), some_ids(2, 6)
    assert all(parameter.dtype == torch.float32 for parameter in pair.copilot.parameters())
    out = pair(ids)
    # A branch in float32 rounds less than its Pilot does.
    assert (out.logits - out.pilot_logits).float().abs().max() <= (0.0 if form == "linear" else 0.1)


def load_auto(folder: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def test_an_auto_class_loads_either_form(form: str, tmp_path):
    pair, ids = moved(pair_of(build_pilot(*TINY["llama"]), form)), some_ids(1, 5)
    pair.save_pretrained(tmp_path)
    loaded: Callable[..., Any] = load_auto(tmp_path)
    torch.testing.assert_close(loaded(ids).logits, pair(ids).logits, rtol=0, atol=1e-5)
