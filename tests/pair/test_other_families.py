"""The contract on families that no line of the package was written for, and on models that cannot be Pilots."""

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from tests.conftest import SPECIAL, VOCAB, WIDTH, build_pilot, shake, some_ids
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM
from transformers_copilot.pair.compat import CACHE_NAME, cache_of


_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_WIDE = {**_GROUPED, "head_dim": 12}
_SMALL_GPT = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}
_UNEVEN = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": WIDTH,
    "d_ff": 48,
    "d_kv": 6,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "decoder_start_token_id": 0,
}
_BERT = {**_DECODER, "num_hidden_layers": 2}
_BERTS = {
    "encoder": {"model_type": "bert", **_BERT, **SPECIAL},
    "decoder": {
        "model_type": "bert",
        **{**_BERT, "num_hidden_layers": 3, "is_decoder": True, "add_cross_attention": True},
        **SPECIAL,
    },
    "decoder_start_token_id": 1,
}
_MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

DECODER_ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "bert as a decoder": ("BertConfig", {**_DECODER, "is_decoder": True}),
    "bloom (ALiBi)": ("BloomConfig", {"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": 3, "n_head": 4}),
    "cohere (parallel, scaled logits)": ("CohereConfig", {**_GROUPED, "logit_scale": 0.5}),
    "cohere2 (window)": ("Cohere2Config", {**_GROUPED, "sliding_window": 4}),
    "deepseek v3 (latent attention, experts)": ("DeepseekV3Config", {**_GROUPED, "num_key_value_heads": 4, **_MLA}),
    "falcon": ("FalconConfig", _DECODER),
    "gemma2 (softcap, window)": ("Gemma2Config", {**_WIDE, "sliding_window": 4}),
    "gemma3 (window)": ("Gemma3TextConfig", {**_WIDE, "sliding_window": 4}),
    "gemma4 (layers of several shapes)": (
        "Gemma4TextConfig",
        {**_WIDE, "global_head_dim": 16, "sliding_window": 4, "vocab_size_per_layer_input": VOCAB}
        | {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0},
    ),
    "gpt bigcode (one key head)": ("GPTBigCodeConfig", _SMALL_GPT),
    "gpt-j": ("GPTJConfig", {**_SMALL_GPT, "rotary_dim": 4}),
    "gpt-neox": ("GPTNeoXConfig", _DECODER),
    "granite (multipliers)": ("GraniteConfig", {**_GROUPED, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "lfm2 (convolutions)": (
        "Lfm2Config",
        {**_GROUPED, "num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2},
    ),
    "mixtral (experts)": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4}),
    "modernbert decoder": ("ModernBertDecoderConfig", {**_DECODER, "local_attention": 4}),
    "mpt": ("MptConfig", {"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    "olmo2 (norms after)": ("Olmo2Config", _GROUPED),
    "openai gpt (no cache)": ("OpenAIGPTConfig", _SMALL_GPT),
    "opt (narrow embedding, norms after)": (
        "OPTConfig",
        {**{**_DECODER, "ffn_dim": 48}, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "phi (head with a bias)": ("PhiConfig", _DECODER),
    "phi3 (one matrix for queries, keys and values)": ("Phi3Config", _GROUPED),
    "stablelm": ("StableLmConfig", _GROUPED),
    "xglm": (
        "XGLMConfig",
        {"vocab_size": VOCAB, "d_model": WIDTH, "ffn_dim": 48, "num_layers": 3}
        | {"attention_heads": 4, "max_position_embeddings": 64},
    ),
}
ENCODER_DECODER: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("BartConfig", _UNEVEN),
    "bert to bert": ("EncoderDecoderConfig", _BERTS),
    "m2m": ("M2M100Config", _UNEVEN),
    "marian": ("MarianConfig", {**_UNEVEN, "decoder_vocab_size": VOCAB, "decoder_start_token_id": 0}),
    "mbart": ("MBartConfig", _UNEVEN),
    "mt5": ("MT5Config", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "pegasus": ("PegasusConfig", {**_UNEVEN, "decoder_start_token_id": 0}),
    "t5, more decoder layers": ("T5Config", _T5),
    "t5gemma": (
        "T5GemmaConfig",
        {"encoder": {**_WIDE, "num_hidden_layers": 2, **SPECIAL}, "decoder": {**_WIDE, **SPECIAL}, "vocab_size": VOCAB},
    ),
    "umt5": ("UMT5Config", _T5),
}
FAMILIES = {**DECODER_ONLY, **ENCODER_DECODER}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def new_pair(pilot: PreTrainedModel, **options: Any) -> PreTrainedModel:
    """An untrained pair with a decoder for a Copilot, and with dense mistakes."""
    kind = PilotCopilotForSeq2SeqLM if pilot.config.is_encoder_decoder else PilotCopilotForCausalLM
    copilot = {"num_hidden_layers": 2, "rationale": options.pop("rationale", "preceding")}
    return kind.from_pilot(pilot, copilot, mistake_top_k=None, **options).eval()


def texts(pilot: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two rows; an encoder-decoder's first source is padded."""
    ids = some_ids(2, 8)
    if not pilot.config.is_encoder_decoder:
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask, "decoder_input_ids": some_ids(2, 7)}


def step_by_step(pair: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rectified probabilities of a text read token by token; GPT-1, which has no cache, reads it anew each time."""
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    cache, found = None, []
    for j in range(inputs[name].shape[1]):
        start = j if cache is not None else 0
        step = {**inputs, name: inputs[name][:, start : j + 1]}
        out = pair(**step, use_cache=True, **{CACHE_NAME: cache})
        cache = cache_of(out)
        found.append(out.logits[:, -1:].softmax(-1))
    return torch.cat(found, dim=1)


# EncoderDecoderModel tells everybody who gives it labels that its loss has moved.
@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way to train:FutureWarning")
def test_the_contract(family: str):
    """Untrained it is its Pilot; moved, it scores as it writes; λ = 0 is the Pilot again; it trains."""
    pilot = build_pilot(*FAMILIES[family])
    inputs = texts(pilot)
    with torch.no_grad():
        alone = pilot(**inputs).logits
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        kwargs = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        uneven = pilot.config.model_type in ("t5", "mt5", "umt5")  # their own cache has too few layers (transformers)
        written = pilot.generate(ids, **kwargs, use_cache=not uneven)
        for head, rationale, feedback in (
            ("own", "current", "observed"),
            ("pilot", "preceding", "observed"),
            ("pilot", "depths", "token"),
            ("own", "last", "token"),
        ):
            if head == "pilot" and family.startswith("opt"):
                continue  # refused, see below
            pair = new_pair(pilot, head=head, rationale=rationale, error_feedback=feedback)
            torch.testing.assert_close(pair(**inputs).logits, alone, atol=1e-5, rtol=1e-5)
            shake(pair)
            whole = pair(**inputs)
            assert (whole.logits.softmax(-1) - alone.softmax(-1)).abs().max() > 1e-3
            torch.testing.assert_close(whole.pilot_logits, alone, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(step_by_step(pair, inputs), whole.logits.softmax(-1), atol=2e-5, rtol=0)
            assert torch.equal(pair.generate(ids, **kwargs), pair.generate(ids, **kwargs, use_cache=False))
            assert torch.equal(pair.generate(ids, **kwargs, copilot_weight=0.0), written)
    out = pair.train()(**{**inputs, "labels": inputs.get("decoder_input_ids", ids)})
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(parameter.grad is not None for parameter in pair.copilot.parameters())


@pytest.mark.parametrize("family", DECODER_ONLY)
def test_left_padding_changes_nothing(family: str):
    pilot = build_pilot(*FAMILIES[family])
    pair, ids = shake(new_pair(pilot)), some_ids(1, 5)
    padded = torch.nn.functional.pad(ids, (3, 0))
    mask = (padded != 0).long()
    kwargs = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    expected = pair.generate(ids, **kwargs)[:, 5:]
    assert torch.equal(pair.generate(padded, attention_mask=mask, **kwargs)[:, 8:], expected)


_STATE = {"time_step_rank": 4, "state_size": 4}
REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "an encoder": ("BertForMaskedLM", "BertConfig", _BERT, "does not write text"),
    "an encoder's bare model": ("BertModel", "BertConfig", _BERT, "does not write text"),
    "a classifier": ("LlamaForSequenceClassification", "LlamaConfig", _GROUPED, "does not write text"),
    "a BERT that looks both ways": ("BertLMHeadModel", "BertConfig", _BERT, "is_decoder=True"),
    "a BertGeneration that looks both ways": (
        "BertGenerationDecoder",
        "BertGenerationConfig",
        _BERT,
        "is_decoder=True",
    ),
    "Mamba": ("MambaForCausalLM", "MambaConfig", {**_DECODER, **_STATE}, "recurrent state"),
    "Mamba 2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
        }
        | {"state_size": 4},
        "recurrent state",
    ),
    "RWKV": ("RwkvForCausalLM", "RwkvConfig", {**_DECODER, "attention_hidden_size": WIDTH}, "recurrent state"),
    "Jamba, a hybrid": (
        "JambaForCausalLM",
        "JambaConfig",
        {**_GROUPED, "num_experts": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
        "hybrid",
    ),
    "MiniMax, a hybrid with a cache of its own": (
        "MiniMaxForCausalLM",
        "MiniMaxConfig",
        {**_GROUPED, "num_local_experts": 2},
        "hybrid",
    ),
    "XLNet": (
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": VOCAB, "d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 48},
        "memory of its own kind",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_a_pilot_is_refused(kind: str):
    model_class, config_class, fields, message = REFUSED[kind]
    config = getattr(transformers, config_class)(**{**SPECIAL, **fields})
    with torch.device("meta"):
        model = getattr(transformers, model_class)(config)
    with pytest.raises(ValueError, match=message) as error:
        PilotCopilotForCausalLM.from_pilot(model, {"num_hidden_layers": 2})
    assert model_class in str(error.value)


def test_a_residual_stream_of_several_rows_is_refused_before_anything_is_written():
    """Gemma 3n's layers hand on four streams at once."""
    fields = {**_WIDE, "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    fields |= {
        "num_kv_shared_layers": 0,
        "layer_types": ["full_attention"] * 3,
        "activation_sparsity_pattern": [0.0] * 3,
    }
    pair = new_pair(build_pilot("Gemma3nTextConfig", fields))
    with pytest.raises(ValueError, match="one state a token"):
        pair(some_ids(1, 4))


def test_the_pilots_head_is_refused_where_it_reads_another_width():
    pilot = build_pilot(*FAMILIES["opt (narrow embedding, norms after)"])
    with pytest.raises(ValueError, match="32.* reads 16.*head='own'"):
        new_pair(pilot, head="pilot")


def test_the_other_form_is_refused_and_the_right_class_named():
    llama, bart = build_pilot("LlamaConfig", _GROUPED), build_pilot("BartConfig", _UNEVEN)
    with pytest.raises(ValueError, match="PilotCopilotForCausalLM"):
        PilotCopilotForSeq2SeqLM.from_pilot(llama)
    with pytest.raises(ValueError, match="PilotCopilotForSeq2SeqLM"):
        PilotCopilotForCausalLM.from_pilot(bart)


def test_what_is_no_transformers_model_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        PilotCopilotForCausalLM.from_pilot(torch.nn.Linear(2, 2))
