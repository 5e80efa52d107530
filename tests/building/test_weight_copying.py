"""Weights copied from a decoder into a Copilot, family by family."""

import copy
import logging

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from transformers_copilot import PilotCopilotForCausalLM
from transformers_copilot.building.families import FAMILIES
from transformers_copilot.building.weight_copying import copy_decoder_weights, spread_layers
from transformers_copilot.pair.configuration_copilot import CopilotConfig
from transformers_copilot.pair.modeling_copilot import CopilotModel


WIDTH, INNER, VOCAB, LAYERS = 32, 48, 61, 5
LOGGER = "transformers_copilot.building.weight_copying"

_LLAMA_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
_T5_LIKE = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_ff": INNER,
    "d_kv": 6,
    "num_heads": 4,
    "num_layers": 3,
    "num_decoder_layers": LAYERS,
}
_GPT2_LIKE = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_inner": INNER}
_QWEN2_LIKE = {name: value for name, value in _LLAMA_LIKE.items() if name != "head_dim"}
SOURCES: dict[str, tuple[str, str, dict]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA_LIKE),
    "llama-biased": ("LlamaConfig", "LlamaForCausalLM", {**_LLAMA_LIKE, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _QWEN2_LIKE),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _LLAMA_LIKE),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _LLAMA_LIKE),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2_LIKE),
    "t5": ("T5Config", "T5ForConditionalGeneration", _T5_LIKE),
    "t5-gated": ("T5Config", "T5ForConditionalGeneration", {**_T5_LIKE, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", {**_T5_LIKE, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5Config", "UMT5ForConditionalGeneration", {**_T5_LIKE, "feed_forward_proj": "gated-gelu"}),
}
DECODER_ONLY = [name for name in SOURCES if "t5" not in name]


@pytest.fixture(scope="module")
def sources() -> dict[str, PreTrainedModel]:
    """A tiny model of each family, every weight random, so that a tensor in the wrong place shows."""
    made = {}
    for name, (config_class, model_class, settings) in SOURCES.items():
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.2)
        made[name] = model
    return made


def make_copilot(source: PreTrainedModel, num_hidden_layers: int = 4, **overrides) -> CopilotModel:
    torch.manual_seed(1)
    config = CopilotConfig.from_pilot(source.config, num_hidden_layers=num_hidden_layers, **overrides)
    return CopilotModel(config).eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def source_sublayers(source: PreTrainedModel, layer: int, states: Tensor) -> dict[str, Tensor]:
    """What the source layer computes from `(batch, length, width)`: queries, keys, values, feed-forward output.

    Each goes through the source's own modules and its own norm in front.
    """
    decoder = source.get_decoder()
    if source.config.model_type == "gpt2":
        block = decoder.h[layer]
        query, key, value = block.attn.c_attn(block.ln_1(states)).split(WIDTH, dim=2)
        return {"q": query, "k": key, "v": value, "mlp": block.mlp(block.ln_2(states))}
    if source.config.is_encoder_decoder:
        attention, cross, last = decoder.block[layer].layer
        result = {part: getattr(attention.SelfAttention, part)(attention.layer_norm(states)) for part in "qkv"}
        result["cross_q"] = cross.EncDecAttention.q(cross.layer_norm(states))
        return {**result, "cross_k": cross.EncDecAttention.k(states), "mlp": last(states) - states}
    block = decoder.layers[layer]
    normed = block.input_layernorm(states)
    result = {part: getattr(block.self_attn, f"{part}_proj")(normed) for part in "qkv"}
    if source.config.model_type == "qwen3":
        for part in "qk":
            heads = result[part].unflatten(-1, (-1, block.self_attn.head_dim))
            result[part] = getattr(block.self_attn, f"{part}_norm")(heads).flatten(-2)
    return {**result, "mlp": block.mlp(block.post_attention_layernorm(states))}


def copilot_attention_input(block: nn.Module, states: Tensor, kind: str) -> dict[str, Tensor]:
    attention = block.self_attn if kind == "self" else block.cross_attn
    norm = block.input_layernorm if kind == "self" else block.cross_layernorm
    normed = norm(states)
    result = {part: getattr(attention, f"{part}_proj")(normed) for part in "qkv"}
    if attention.config.qk_norm:
        for part in "qk":
            heads = result[part].unflatten(-1, (-1, attention.head_dim))
            result[part] = getattr(attention, f"{part}_norm")(heads).flatten(-2)
    return result


@pytest.mark.parametrize(
    ("num_layers", "num_source_layers", "expected"),
    [
        (6, 30, [0, 6, 12, 17, 23, 29]),
        (4, 4, [0, 1, 2, 3]),
        (2, 12, [0, 11]),
        (5, 3, [0, 0, 1, 2, 2]),
        (4, 1, [0, 0, 0, 0]),
        (1, 12, [0]),
    ],
)
def test_layers_are_evenly_spaced(num_layers, num_source_layers, expected):
    assert spread_layers(num_layers, num_source_layers) == list(enumerate(expected))


@pytest.mark.parametrize("name", SOURCES)
def test_sublayers_compute_what_the_source_does(sources, name):
    source = sources[name]
    copilot = make_copilot(source)
    report = copy_decoder_weights(copilot, source)
    states = torch.randn(2, 3, WIDTH)
    assert report.family == source.config.model_type
    assert report.layer_map == [(0, 0), (1, 1), (2, 3), (3, 4)]
    for to, index in report.layer_map:
        block = copilot.layers[to]
        expected = source_sublayers(source, index, states)
        got = copilot_attention_input(block, states, "self" if block.self_attn is not None else "cross")
        for part in "qkv":
            torch.testing.assert_close(got[part], expected[part], rtol=1e-5, atol=1e-5)
        if source.config.is_encoder_decoder:
            cross = copilot_attention_input(block, states, "cross")
            torch.testing.assert_close(cross["q"], expected["cross_q"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(block.cross_attn.k_proj(states), expected["cross_k"], rtol=1e-5, atol=1e-5)
        mlp = block.mlp(block.post_attention_layernorm(states))
        torch.testing.assert_close(mlp, expected["mlp"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SOURCES)
def test_every_decoder_tensor_is_copied_and_none_is_shared(sources, name):
    source = sources[name]
    copilot = make_copilot(source)
    before, source_before = state(copilot), state(source)
    report = copy_decoder_weights(copilot, source)
    of_the_decoder = {key for key in before if key.startswith(("layers.", "norm."))} | {"mistake_embedding.weight"}
    assert set(report.copied) == of_the_decoder
    assert len(report.copied) == len(set(report.copied))
    # Only a decoder-only Copilot meets source tensors that it has no place for, and these families have none.
    assert report.skipped == {}
    after = state(copilot)
    assert {key for key in after if not torch.equal(after[key], before[key])} == of_the_decoder
    assert not copilot.correction_head.weight.any()
    with torch.no_grad():
        for parameter in copilot.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, source_before[key]) for key, tensor in source.state_dict().items())


def test_attention_block_equals_llama_by_hand(sources):
    """Self-attention of layer 1 and cross-attention of layer 2, written out from Llama's own weights."""
    source = sources["llama"]
    copilot = make_copilot(source, num_hidden_layers=LAYERS)
    copy_decoder_weights(copilot, source)
    states, memory = torch.randn(1, 4, WIDTH), torch.randn(1, 6, WIDTH)
    for index, attended in ((0, None), (1, memory)):
        layer = source.model.layers[index]
        normed = layer.input_layernorm(states)
        keys = normed if attended is None else attended
        heads = [
            projection(given).unflatten(-1, (-1, 8)).transpose(1, 2)
            for projection, given in (
                (layer.self_attn.q_proj, normed),
                (layer.self_attn.k_proj, keys),
                (layer.self_attn.v_proj, keys),
            )
        ]
        query, key, value = heads[0], *(part.repeat_interleave(2, dim=1) for part in heads[1:])
        mask = torch.zeros(1, 1, 4, keys.shape[1])
        if attended is None:
            mask = mask.masked_fill(torch.ones(4, 4).triu(1).bool(), torch.finfo(torch.float32).min)
        mixed = torch.softmax(query @ key.mT / 8**0.5 + mask, dim=-1) @ value
        expected = layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(-2))
        block = copilot.layers[index]
        attention = block.self_attn if attended is None else block.cross_attn
        norm = block.input_layernorm if attended is None else block.cross_layernorm
        own = norm(states)
        got = attention(own, *attention.keys_values(own if attended is None else attended), mask)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SOURCES)
def test_final_norm_and_embedding(sources, name):
    source = sources[name]
    copilot = make_copilot(source)
    copy_decoder_weights(copilot, source)
    decoder, states = source.get_decoder(), torch.randn(2, WIDTH)
    names = {"gpt2": "ln_f"} | dict.fromkeys(("t5", "mt5", "umt5"), "final_layer_norm")
    norm = getattr(decoder, names.get(source.config.model_type, "norm"))
    torch.testing.assert_close(copilot.norm(states), norm(states), rtol=1e-5, atol=1e-5)
    assert torch.equal(copilot.mistake_embedding.weight, source.get_input_embeddings().weight)


def test_every_family_of_the_table_is_tested():
    assert {SOURCES[name][0].removesuffix("Config").lower() for name in SOURCES} == set(FAMILIES)


def test_a_longer_copilot_repeats_layers(sources):
    copilot = make_copilot(sources["llama"], num_hidden_layers=8)
    report = copy_decoder_weights(copilot, sources["llama"])
    assert [index for _, index in report.layer_map] == [0, 1, 1, 2, 2, 3, 3, 4]
    expected = sources["llama"].model.layers[1].mlp.up_proj.weight
    assert torch.equal(copilot.layers[1].mlp.up_proj.weight, expected)
    assert torch.equal(copilot.layers[2].mlp.up_proj.weight, expected)


def test_pilot_head_has_no_vocabulary_to_copy(sources):
    copilot = make_copilot(sources["llama"], head="pilot")
    report = copy_decoder_weights(copilot, sources["llama"])
    assert not any("embedding" in name for name in (*report.copied, *report.skipped))
    assert not copilot.correction_head.weight.any()


def test_other_vocabulary_keeps_the_copilots_embedding(sources):
    copilot = make_copilot(sources["llama"], vocab_size=VOCAB + 3)
    before = copilot.mistake_embedding.weight.clone()
    report = copy_decoder_weights(copilot, sources["llama"])
    assert f"({VOCAB}, {WIDTH})" in report.skipped["mistake_embedding.weight"]
    assert torch.equal(copilot.mistake_embedding.weight, before)
    assert "layers.0.mlp.up_proj.weight" in report.copied


@pytest.mark.parametrize("rows", [510, 514])
def test_a_vocabulary_padded_to_another_size_is_the_same(tmp_path, rows):
    """Qwen2.5-7B has 128 rows more than the sizes that its Copilots are made of; no token uses them."""
    config = transformers.Qwen2Config(**{**_QWEN2_LIKE, "vocab_size": rows})
    source = transformers.Qwen2ForCausalLM(config)
    source.save_pretrained(tmp_path)
    pilot = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**_QWEN2_LIKE, "vocab_size": 512}))
    pair = PilotCopilotForCausalLM.from_pilot(pilot, str(tmp_path))
    assert pair.config.copilot.vocab_size == 512 and pair.config.copilot.num_hidden_layers == LAYERS
    own, copied = pair.copilot.mistake_embedding.weight, source.get_input_embeddings().weight
    shared = min(rows, 512)
    assert torch.equal(own[:shared], copied[:shared])
    assert pair.eval()(torch.tensor([[1, 511]])).logits.shape[-1] == 512


def test_dtype_of_the_copilot_stays(sources):
    source = copy.deepcopy(sources["gemma"]).to(torch.bfloat16)
    copilot = make_copilot(sources["gemma"])
    copy_decoder_weights(copilot, source)
    assert {parameter.dtype for parameter in copilot.parameters()} == {torch.float32}
    # 1 + w in float32: summed in bfloat16 it would lose most digits of a small w.
    expected = 1.0 + source.model.layers[0].input_layernorm.weight.float()
    assert torch.equal(copilot.layers[0].input_layernorm.weight, expected)


def test_base_model_as_source(sources):
    copilot, other = make_copilot(sources["gpt2"]), make_copilot(sources["gpt2"])
    copy_decoder_weights(copilot, sources["gpt2"])
    copy_decoder_weights(other, sources["gpt2"].transformer)
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in copilot.state_dict().items())


def test_source_without_cross_attention_in_an_encoder_decoder(sources):
    copilot = make_copilot(sources["llama"], is_encoder_decoder=True)
    before = copilot.layers[0].cross_attn.q_proj.weight.clone()
    report = copy_decoder_weights(copilot, sources["llama"])
    assert report.skipped["layers.0.cross_attn.q_proj.weight"] == "the source has no such tensor"
    assert "layers.0.self_attn.q_proj.weight" in report.copied
    assert torch.equal(copilot.layers[0].cross_attn.q_proj.weight, before)


def test_source_with_more_than_the_copilot(sources):
    copilot = make_copilot(sources["qwen2"], attention_bias=False)
    report = copy_decoder_weights(copilot, sources["qwen2"])
    assert report.skipped["layers.0.self_attn.q_proj.bias"] == "the Copilot has no such tensor"
    assert report.skipped["layers.1.cross_attn.q_proj.bias"] == "the Copilot has no such tensor"


def assert_untouched(copilot: CopilotModel, source: PreTrainedModel) -> None:
    before = state(copilot)
    report = copy_decoder_weights(copilot, source)
    assert report.copied == []
    assert all(torch.equal(tensor, before[key]) for key, tensor in copilot.state_dict().items())


def test_unknown_family_warns_and_names_the_known(caplog):
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=INNER, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=16,
    )  # fmt: skip
    source = transformers.OPTForCausalLM(config)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        assert_untouched(make_copilot(source), source)
    (message,) = warnings_of(caplog)
    assert "'opt'" in message
    assert all(name in message for name in FAMILIES)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"hidden_size": 16}, ("(32, 32)", "(16, 16)")),
        ({"num_key_value_heads": 4}, ("k_proj.weight", "(16, 32)", "(32, 32)")),
        ({"intermediate_size": 20}, ("(48, 32)", "(20, 32)")),
        # The same matrices, cut into other heads.
        ({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}, ("head_dim", "8", "16")),
        ({"gated_mlp": False}, ("gated_mlp",)),
        ({"norm_type": "layer_norm"}, ("norm_type", "'rms_norm'", "'layer_norm'")),
    ],
)
def test_a_source_that_does_not_fit_is_not_copied(sources, caplog, overrides, named):
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        assert_untouched(make_copilot(sources["llama"], **overrides), sources["llama"])
    (message,) = warnings_of(caplog)
    assert all(part in message for part in named), message


def _quantize_layer(source: PreTrainedModel) -> None:
    weight = source.model.layers[1].mlp.up_proj.weight
    source.model.layers[1].mlp.up_proj.weight = nn.Parameter(weight.to(torch.uint8), requires_grad=False)


def _float8_layer(source: PreTrainedModel) -> None:
    weight = source.model.layers[1].mlp.up_proj.weight
    source.model.layers[1].mlp.up_proj.weight = nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)


def _offload_layer(source: PreTrainedModel) -> None:
    source.model.layers[1].to("meta")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_quantize_layer, "torch.uint8"), (_float8_layer, "float8_e4m3fn"), (_offload_layer, "meta")],
)
def test_a_layer_that_cannot_be_read_stays_random(sources, caplog, spoil, reason):
    source = copy.deepcopy(sources["llama"])
    spoil(source)
    copilot = make_copilot(source)
    before = state(copilot)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        report = copy_decoder_weights(copilot, source)
    (message,) = warnings_of(caplog)
    assert reason in message and "1 of 4" in message
    assert {name.split(".")[1] for name in report.skipped} == {"1"}
    assert all(torch.equal(copilot.state_dict()[name], before[name]) for name in report.skipped)
    assert "layers.0.mlp.up_proj.weight" in report.copied


def test_copilot_on_meta_is_refused(sources):
    with torch.device("meta"):
        copilot = make_copilot(sources["llama"])
    with pytest.raises(ValueError, match="meta device"):
        copy_decoder_weights(copilot, sources["llama"])


def test_copied_copilot_still_corrects_nothing(sources):
    """An untrained pair is exactly its Pilot: f is zero whatever was copied."""
    copilot = make_copilot(sources["llama"])
    copy_decoder_weights(copilot, sources["llama"])
    correction = copilot.correction(torch.randn(2, 3, WIDTH))
    assert correction.shape == (2, 3, VOCAB)
    assert not correction.any()
