"""Every setting of `generate`, as a table: each field of `GenerationConfig` and each argument is in one place of three.

*equal*: a case is run. At λ = 0 the pair does exactly what its Pilot does alone, in tokens, scores, logits, cache and
the passes it makes; where it makes sense, at λ > 0 its text and scores are those of plain transformers with a slow
model (`slow_generation`). A case has to change what the Pilot alone does, or it would hold nothing.
*refused*: the error is asserted, of the pair and of the Pilot alone.
*no effect on the model*: with the reason.

What a newer transformers adds fails the tests at the end until somebody has put it somewhere. A name that only one of
the supported releases knows is listed with that release.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import transformers
from torch import Tensor
from transformers import (
    CompileConfig,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MuseGlimmerAssistantConfig,
    MuseGlimmerAssistantModel,
    PreTrainedModel,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TextStreamer,
    WatermarkingConfig,
    set_seed,
)
from transformers.generation import MaxLengthCriteria

from tests.conftest import TINY, build_pair, build_pilot, some_ids
from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.slow_generation import slow_model
from transformers_copilot.pair.compat import CACHE_NAME, cache_of
from transformers_copilot.pair.generation_hooks import DELEGATED, NOT_NEEDED


Settings = dict[str, Any]
Make = Settings | Callable[["Context"], Settings]
WEIGHT = 0.8
NEW = 6


@dataclass
class Context:
    """What a case may need to make its settings.

    Args:
        folder: an empty folder.
        model: the model that is to write.
        weight: `{"copilot_weight": …}` for a pair's own passes, or nothing for the Pilot's.
        ids: the prompts.
        free: what the Pilot writes after them, by default.
        seen: what the case's own functions were shown; part of the outcome.
    """

    folder: Path
    model: PreTrainedModel
    weight: Settings
    ids: Tensor
    free: Tensor
    seen: list[Any] = field(default_factory=list)

    @property
    def second(self) -> int:
        """The second token that the Pilot writes after the first prompt."""
        return int(self.free[0, self.ids.shape[1] + 1])


@dataclass
class Case:
    """One setting.

    Args:
        setting: what is tried.
        base: what the setting needs beside it, and is compared with.
        family: which Pilot: "llama", "t5", or "bytes", a Llama whose tokens are bytes.
        rows: prompts in the batch; 1 for assisted decoding.
        slow: whether the text and scores at λ > 0 are compared with the slow reference.
        slow_setting: what the slow model is given instead, where the setting only saves time.
        prompt: length of the prompts.
        eager: whether the Pilot's attention is the eager one, which can show its weights.
        spoilt: whether one of the Pilot's logits is not a number.
        others_go_on: how often another process says that it has not finished.
        compiles: whether passes are compiled, which takes long and rounds otherwise.
    """

    setting: Make
    base: Make = field(default_factory=dict)
    family: str = "llama"
    rows: int = 2
    slow: bool = True
    slow_setting: Settings | None = None
    prompt: int = 5
    eager: bool = False
    spoilt: bool = False
    others_go_on: int = 0
    compiles: bool = False


def assistant(vocabulary: int | None = None, **settings: Any) -> PreTrainedModel:
    """Another tiny Llama that drafts."""
    fields = TINY["llama"][1] if vocabulary is None else {**TINY["llama"][1], "vocab_size": vocabulary}
    model = build_pilot("LlamaConfig", fields, seed=5)
    model.generation_config.update(**settings)
    return model


def drafts(**settings: Any) -> Callable[[Context], Settings]:
    """Assisted decoding, with these settings of the assistant's own."""
    return lambda context: {"assistant_model": assistant(**{"assistant_confidence_threshold": 0.0, **settings})}


def letters(*more: str) -> Any:
    """The tokenizer of bytes, with tokens of several letters. Its vocabulary always comes in the same order, on which
    the draws of drafts between two vocabularies depend."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(more) or ["ab", "ba", "aa"])
    vocabulary = dict(sorted(tokenizer.get_vocab().items()))
    tokenizer.get_vocab = lambda: vocabulary
    return tokenizer


A, B = (int(letters().convert_tokens_to_ids(letter)) for letter in "ab")
ONLY_LETTERS = {"suppress_tokens": [token for token in range(len(letters())) if token not in (A, B)]}


def other_tokenizer(**settings: Any) -> Callable[[Context], Settings]:
    """Assisted decoding between two vocabularies."""

    def make(context: Context) -> Settings:
        others = letters("bb", "bab", "aab", "abb", "aba")
        model = assistant(len(others), assistant_confidence_threshold=0.0, **settings)
        return {"assistant_model": model, "tokenizer": letters(), "assistant_tokenizer": others}

    return make


def compiled(context: Context) -> Settings:
    """Compiling on whatever device there is, with a backend that leaves a graph as it is."""

    def backend(graph: Any, inputs: Any) -> Any:
        context.seen[:] = ["compiled"]
        return graph.forward

    config = CompileConfig(backend=backend, mode=None)
    config._compile_all_devices = True
    return {"compile_config": config, "disable_compile": False}


SAMPLED = {"do_sample": True, "top_k": 0}
BEAMS = {"num_beams": 3}
LOOKUP = {"prompt_lookup_num_tokens": 3}
STATIC = {"cache_implementation": "static", "disable_compile": True}

EQUAL_FIELDS: dict[str, Case] = {
    "assistant_confidence_threshold": Case(
        drafts(assistant_confidence_threshold=0.9), drafts(assistant_confidence_threshold=0.0), rows=1, slow_setting={}
    ),
    "assistant_early_exit": Case({"assistant_early_exit": 1}, rows=1, slow_setting={}),
    "assistant_ensemble_weight": Case({"assistant_ensemble_weight": 0.01}, drafts(), rows=1, slow=False),
    "assistant_lookbehind": Case(
        other_tokenizer(assistant_lookbehind=1),
        lambda context: {**other_tokenizer()(context), **ONLY_LETTERS},
        family="bytes",
        rows=1,
        slow=False,
        prompt=12,
    ),
    "bad_words_ids": Case(lambda context: {"bad_words_ids": [[context.second]]}),
    "begin_suppress_tokens": Case(
        lambda context: {"begin_suppress_tokens": context.free[:, context.ids.shape[1]].tolist()}
    ),
    "bos_token_id": Case({"inputs": None, "bos_token_id": 9}, {"inputs": None, "bos_token_id": 17}),
    "cache_implementation": Case(STATIC, slow=False),
    "compile_config": Case(compiled, STATIC, slow=False, compiles=True),
    "decoder_start_token_id": Case({"decoder_start_token_id": 11}, family="t5", slow=False),
    "do_sample": Case({"do_sample": True}),
    "early_stopping": Case({"early_stopping": True}, {**BEAMS, "eos_token_id": list(range(3, 20))}),
    "encoder_no_repeat_ngram_size": Case(
        lambda context: {"encoder_no_repeat_ngram_size": 1, "inputs": context.free[:, 1:]},
        lambda context: {"inputs": context.free[:, 1:]},
        family="t5",
        slow=False,
    ),
    "encoder_repetition_penalty": Case({"encoder_repetition_penalty": 3.0}),
    "eos_token_id": Case(lambda context: {"eos_token_id": [context.second]}),
    "epsilon_cutoff": Case({"epsilon_cutoff": 0.05}, SAMPLED),
    "eta_cutoff": Case({"eta_cutoff": 0.3}, SAMPLED),
    "exponential_decay_length_penalty": Case(
        {"exponential_decay_length_penalty": (1, 9.0), "eos_token_id": 3}, {"eos_token_id": 3}
    ),
    "forced_bos_token_id": Case({"forced_bos_token_id": 13}, family="t5", slow=False),
    "forced_eos_token_id": Case({"forced_eos_token_id": 13}),
    "guidance_scale": Case({"guidance_scale": 1.7}),
    "is_assistant": Case({"is_assistant": True, "assistant_confidence_threshold": 0.9}, slow=False, rows=1),
    "length_penalty": Case({"length_penalty": -2.0}, {**BEAMS, "output_scores": True}),
    "max_cache_len": Case({"max_cache_len": 40}, STATIC, slow=False),
    "max_length": Case({"max_length": 8, "max_new_tokens": None}),
    "max_matching_ngram_size": Case(
        lambda context: {"max_matching_ngram_size": 1, "inputs": context.free.repeat(1, 2)},
        lambda context: {**LOOKUP, "max_matching_ngram_size": 4, "inputs": context.free.repeat(1, 2)},
        rows=1,
        slow=False,
    ),
    "max_new_tokens": Case({"max_new_tokens": 3}),
    "max_time": Case({"max_time": 0.0}),
    "min_length": Case(
        lambda context: {"min_length": 9},
        lambda context: {"eos_token_id": [context.second]},
    ),
    "min_new_tokens": Case(
        lambda context: {"min_new_tokens": 4},
        lambda context: {"eos_token_id": [context.second]},
    ),
    "min_p": Case({"min_p": 0.3}, SAMPLED),
    "no_repeat_ngram_size": Case({"no_repeat_ngram_size": 1}),
    "num_assistant_tokens": Case(drafts(num_assistant_tokens=2), drafts(), rows=1, slow_setting={}),
    "num_assistant_tokens_schedule": Case(
        drafts(num_assistant_tokens=2, num_assistant_tokens_schedule="heuristic"),
        drafts(num_assistant_tokens=2, num_assistant_tokens_schedule="constant"),
        rows=1,
        slow_setting={},
    ),
    "num_beams": Case(BEAMS),
    "num_return_sequences": Case({"num_return_sequences": 3}, SAMPLED),
    "output_attentions": Case({"output_attentions": True}, slow=False, eager=True),
    "output_hidden_states": Case({"output_hidden_states": True}, slow=False),
    "output_logits": Case({"output_logits": True}, slow=False),
    "output_scores": Case({"output_scores": True}, {"output_scores": False}, slow=False),
    "pad_token_id": Case(lambda context: {"pad_token_id": 33}, lambda context: {"eos_token_id": [context.second]}),
    "prefill_chunk_size": Case({"prefill_chunk_size": 2}, slow_setting={}),
    "prompt_lookup_num_tokens": Case(
        lambda context: {**LOOKUP, "inputs": context.free.repeat(1, 2)},
        lambda context: {"inputs": context.free.repeat(1, 2)},
        rows=1,
        slow=False,
    ),
    "remove_invalid_values": Case({"remove_invalid_values": True}, slow=False, spoilt=True),
    "renormalize_logits": Case({"renormalize_logits": True}),
    "repetition_penalty": Case({"repetition_penalty": 2.5}),
    "return_dict_in_generate": Case(
        {"return_dict_in_generate": False, "output_scores": False}, {"output_scores": False}, slow=False
    ),
    "sequence_bias": Case(lambda context: {"sequence_bias": [[[context.second], -9.0]]}),
    "speculation_type": Case(
        lambda context: {"speculation_type": "dflash", **draft_of_blocks(context)}, rows=1, slow_setting={}
    ),
    "stop_strings": Case(
        {"stop_strings": ["a", "b"]},
        {"tokenizer": letters(), **ONLY_LETTERS},
        family="bytes",
        slow=False,
    ),
    "suppress_tokens": Case(lambda context: {"suppress_tokens": [context.second]}),
    "target_lookbehind": Case(
        other_tokenizer(target_lookbehind=1),
        lambda context: {**other_tokenizer()(context), **ONLY_LETTERS},
        family="bytes",
        rows=1,
        slow=False,
        prompt=12,
    ),
    "temperature": Case({"temperature": 3.0}, SAMPLED),
    "token_healing": Case({"token_healing": True}, {"tokenizer": letters()}, family="bytes", slow=False, prompt=7),
    "top_h": Case({"top_h": 0.3}, SAMPLED),
    "top_k": Case({"top_k": 3}, SAMPLED),
    "top_p": Case({"top_p": 0.5}, SAMPLED),
    "typical_p": Case({"typical_p": 0.4}, SAMPLED),
    "use_cache": Case({"use_cache": False}, slow_setting={}),
    "watermarking_config": Case({"watermarking_config": WatermarkingConfig(bias=9.0)}),
}


def noticed(context: Context) -> Settings:
    """A processor and a criterion that write down what they see."""

    class Note(TemperatureLogitsWarper):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            context.seen.append(scores.clone())
            return super().__call__(input_ids, scores)

    return {"logits_processor": LogitsProcessorList([Note(0.5)])}


class Heard(TextStreamer):
    """Keeps what is streamed."""

    def __init__(self, context: Context) -> None:
        super().__init__(letters())
        self.context = context

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.context.seen.append(text)


def alternating(batch_id: int, ids: Tensor) -> list[int]:
    """Even tokens after odd ones, and the other way round."""
    return list(range(4 + int(ids[-1]) % 2, 60, 2))


def own_loop(model: PreTrainedModel, input_ids: Tensor, generation_config: GenerationConfig, **kwargs: Any) -> Tensor:
    """A decoding loop of a user's: it takes the second likeliest token, by a pass without any arguments."""
    for _ in range(3):
        next_tokens = model(input_ids).logits[:, -1].topk(2).indices[:, 1:]
        input_ids = torch.cat([input_ids, next_tokens], dim=1)
    return input_ids


def loop_in_a_folder(context: Context) -> Settings:
    """The same as a folder, or a repository, holds it."""
    (context.folder / "custom_generate").mkdir(exist_ok=True)
    (context.folder / "custom_generate" / "generate.py").write_text(
        "import torch\n\n\ndef generate(model, inputs, **kwargs):\n    for _ in range(3):\n"
        "        tokens = model(inputs).logits[:, -1].topk(2).indices[:, 1:]\n"
        "        inputs = torch.cat([inputs, tokens], dim=1)\n    return inputs\n",
        encoding="utf-8",
    )
    return {"custom_generate": str(context.folder), "trust_remote_code": True}


def of_the_prompt(context: Context) -> Settings:
    """The cache of the first tokens."""
    with torch.no_grad():
        return {CACHE_NAME: cache_of(context.model(context.ids[:, :3], use_cache=True, **context.weight))}


def draft_of_blocks(context: Context) -> Settings:
    """A model that drafts a block at once from the states of the one that it drafts for."""
    fields = {name: TINY["llama"][1][name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    fields |= {"num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 1, "sliding_window": 16}
    fields |= {"block_size": 3, "mask_token_id": 4, "target_layer_ids": [0, 2], "pad_token_id": 0, "bos_token_id": 1}
    set_seed(7)
    return {"assistant_model": MuseGlimmerAssistantModel(MuseGlimmerAssistantConfig(**fields, eos_token_id=2)).eval()}


NEGATIVE = {"negative_prompt_ids": some_ids(2, 4, seed=9)}
EQUAL_ARGUMENTS: dict[str, Case] = {
    "inputs": Case(lambda context: {"inputs": context.ids.flip(1)}),
    "generation_config": Case({"generation_config": GenerationConfig(num_beams=2, max_new_tokens=4)}),
    "logits_processor": Case(noticed),
    "stopping_criteria": Case(
        lambda context: {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(max_length=8)])}
    ),
    "prefix_allowed_tokens_fn": Case({"prefix_allowed_tokens_fn": alternating}),
    "synced_gpus": Case({"synced_gpus": True}, rows=1, slow_setting={}, others_go_on=3 * NEW),
    "assistant_model": Case(drafts(), rows=1, slow_setting={}),
    "streamer": Case(lambda context: {"streamer": Heard(context)}, family="bytes", rows=1, slow=False),
    "negative_prompt_ids": Case(NEGATIVE, {"guidance_scale": 1.7}),
    "negative_prompt_attention_mask": Case(
        {"negative_prompt_attention_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])},
        {"guidance_scale": 1.7, **NEGATIVE},
    ),
    "custom_generate": Case({"custom_generate": own_loop}),
    # Those that `generate` reads out of its keywords:
    "tokenizer": Case(other_tokenizer(), family="bytes", rows=1, slow=False),
    "assistant_tokenizer": Case(
        lambda context: {**other_tokenizer()(context), **SAMPLED}, SAMPLED, family="bytes", rows=1, slow=False
    ),
    "trust_remote_code": Case(loop_in_a_folder, slow=False),
    CACHE_NAME: Case(of_the_prompt, slow_setting={}),
}

# The settings, and what the error names. transformers refuses each of them itself, of the Pilot too.
REFUSED_FIELDS: dict[str, tuple[Settings, str]] = {
    "cache_config": (
        {"cache_implementation": "quantized", "cache_config": {"backend": "none of these"}},
        "none of these|quantiz",
    ),
    "constraints": ({"constraints": [1], "num_beams": 2}, "[Cc]onstrained"),
    "diversity_penalty": ({"diversity_penalty": 0.5, "num_beams": 2, "num_beam_groups": 2}, "[Gg]roup"),
    "dola_layers": ({"dola_layers": "low"}, "[Dd]o[Ll]a"),
    "force_words_ids": ({"force_words_ids": [[7]], "num_beams": 2}, "[Cc]onstrained"),
    "low_memory": ({"low_memory": True, "penalty_alpha": 0.5, "top_k": 4}, "[Cc]ontrastive"),
    "num_beam_groups": ({"num_beams": 2, "num_beam_groups": 2}, "[Gg]roup"),
    "penalty_alpha": ({"penalty_alpha": 0.5, "top_k": 4}, "[Cc]ontrastive"),
    "use_mtp": ({"use_mtp": True}, "use_mtp"),
}
NO_EFFECT_FIELDS = {
    "_from_model_config": "where the configuration comes from; that λ in it is kept is in test_generation_weight",
    "continuous_batching_config": "read by `generate_batch` alone, which a pair refuses (test_generation)",
    "disable_compile": "whether the passes are compiled; what they compute stays (`compile_config` runs both ways)",
    "transformers_version": "which release wrote the configuration",
}
# Names that only one of the supported releases knows, with that release; there is none now.
ONLY_IN: dict[str, str] = {}
RELEASE = ".".join(transformers.__version__.split(".")[:2])
# Names that `generate` looks for among its keywords, and that are the model's own inputs.
INPUTS_OF_THE_MODEL = {"input_ids"}
# What `GenerationMixin` does and the pair does itself. A Pilot with its own version of one is refused.
OF_THE_PAIR = {
    "_assisted_decoding",
    "_beam_search",
    "_beam_search_has_unfinished_sequences",
    "_check_early_stop_heuristic",
    "_extract_generation_mode_kwargs",
    "_flatten_beam_dim",
    "_gather_beams",
    "_get_candidate_generator",
    "_get_deprecated_gen_repo",
    "_get_running_beams_for_next_iteration",
    "_get_top_k_continuations",
    "_has_unfinished_sequences",
    "_merge_criteria_processor_list",
    "_prefill",
    "_prepare_generation_config",
    "_sample",
    "_unflatten_beam_dim",
    "_update_finished_beams",
    "_valid_auto_compile_criteria",
    "generate",
    "heal_tokens",
}


@dataclass
class Models:
    """What a table's cases run with, made once.

    Args:
        pairs: of each kind, whose Copilot says a lot.
        slow: of each kind, the slow reference at λ.
    """

    pairs: dict[Any, PreTrainedModel] = field(default_factory=dict)
    slow: dict[Any, PreTrainedModel] = field(default_factory=dict)

    def pair(self, family: str, eager: bool = False) -> PreTrainedModel:
        """A pair; its Pilot is what writes alone."""
        if (family, eager) not in self.pairs:
            config_class, fields = TINY["t5" if family == "t5" else "llama"]
            fields = {**fields, "vocab_size": len(letters())} if family == "bytes" else fields
            pair = build_pair(build_pilot(config_class, fields), copilot={"num_hidden_layers": 2})
            if eager:
                pair.set_attn_implementation("eager")
            self.pairs[family, eager] = pair
        return self.pairs[family, eager]

    def reference(self, family: str) -> PreTrainedModel:
        """The slow model of a pair."""
        if family not in self.slow:
            self.slow[family] = slow_model(self.pair(family), WEIGHT)
        return self.slow[family]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


def prompts(case: Case) -> Tensor:
    """A case's prompts: tokens, or letters."""
    ids = some_ids(case.rows, case.prompt)
    return ids if case.family != "bytes" else torch.where(ids % 2 == 0, A, B)


def made(settings: Make, context: Context) -> Settings:
    """The settings of a case."""
    return dict(settings(context) if callable(settings) else settings)


def outcome(
    models: Models, case: Case, who: str, *parts: Make, folder: Path, weight: float | None = None, config: bool = False
) -> dict[str, Any]:
    """What one call of `generate` gives, and which passes it makes.

    Args:
        models: see there.
        case: the setting.
        who: "pilot", "pair" or "slow".
        parts: settings, later ones first.
        folder: an empty one.
        weight: λ.
        config: whether λ and every field are given in a `GenerationConfig`.
    """
    pair = models.pair(case.family, case.eager)
    model = {"pilot": lambda: pair.pilot, "pair": lambda: pair, "slow": lambda: models.reference(case.family)}[who]()
    ids = prompts(case)
    named = {} if weight is None else {"copilot_weight": weight}
    free = pair.pilot.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    context = Context(folder, model, named, ids, free)
    settings = {"inputs": ids, "max_new_tokens": NEW, "pad_token_id": 0}
    settings |= {"return_dict_in_generate": True, "output_scores": True}
    for part in parts:
        settings |= made(part, context)
    if "custom_generate" in settings and isinstance(settings["custom_generate"], str):
        settings = {name: settings[name] for name in ("inputs", "custom_generate", "trust_remote_code")}
    if config:
        fields = {name: settings.pop(name) for name in list(settings) if name in GenerationConfig().to_dict()}
        settings["generation_config"] = GenerationConfig(**fields, **named)
    else:
        settings |= named
    passes: list[Any] = []
    handles = [
        pair.pilot.get_input_embeddings().register_forward_pre_hook(
            lambda module, args: passes.append(tuple(args[0].shape))
        )
    ]
    if case.spoilt:
        handles.append(pair.pilot.get_output_embeddings().register_forward_hook(spoil))
    set_seed(11)
    try:
        given = settings.pop("inputs")
        found = model.generate(given, **settings)
    finally:
        for handle in handles:
            handle.remove()
    result = {"text": found} if isinstance(found, Tensor) else dict(found)
    cache = None if isinstance(found, Tensor) else cache_of(found)
    for name in ("cache", "past_key_values"):
        result.pop(name, None)
    result["cache"] = None if cache is None else (type(cache).__name__, cache.get_seq_length(), cache.get_max_length())
    return {**result, "passes": passes, "seen": context.seen}


def spoil(module: torch.nn.Module, args: Any, output: Tensor) -> Tensor:
    """One token's logit is not a number."""
    return output.index_fill(-1, torch.tensor([7]), float("nan"))


def differences(one: Any, other: Any, tolerance: float = 0.0, where: str = "") -> list[str]:
    """Where two outcomes differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [found for name in one for found in differences(one[name], other[name], tolerance, f"{where}.{name}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [where]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for number, (a, b) in pairs for found in differences(a, b, tolerance, f"{where}[{number}]")]
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.shape == other.shape and torch.allclose(
            one.double(), other.double(), atol=tolerance, rtol=tolerance, equal_nan=True
        )
        return [] if same else [where]
    return [] if type(one) is type(other) and one == other else [where]


def cases(table: dict[str, Case]) -> Any:
    """One test a setting."""
    slow = [pytest.param(name, marks=pytest.mark.slow) if case.compiles else name for name, case in table.items()]
    return pytest.mark.parametrize("name", slow)


@cases({**EQUAL_FIELDS, **EQUAL_ARGUMENTS})
def test_at_weight_zero_the_pair_does_what_its_pilot_does(
    name: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = {**EQUAL_FIELDS, **EQUAL_ARGUMENTS}[name]
    other_processes(case, monkeypatch)
    default = outcome(models, case, "pilot", case.base, folder=tmp_path)
    alone = outcome(models, case, "pilot", case.base, case.setting, folder=tmp_path)
    assert differences(default, alone), "the case changes nothing, so it holds nothing"
    beside = outcome(models, case, "pair", case.base, case.setting, folder=tmp_path, weight=0.0)
    assert differences(alone, beside) == []
    if name in EQUAL_FIELDS and not case.compiles:
        beside = outcome(models, case, "pair", case.base, case.setting, folder=tmp_path, weight=0.0, config=True)
        assert differences(alone, beside) == []


@cases({name: case for name, case in {**EQUAL_FIELDS, **EQUAL_ARGUMENTS}.items() if case.slow})
def test_with_the_copilot_it_is_the_setting_on_the_rectified_distribution(
    name: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = {**EQUAL_FIELDS, **EQUAL_ARGUMENTS}[name]
    other_processes(case, monkeypatch)
    setting = case.setting if case.slow_setting is None else case.slow_setting
    base = case.base if case.slow_setting is None else {}
    slow = outcome(models, case, "slow", base, setting, {"use_cache": False}, folder=tmp_path)
    fast = outcome(models, case, "pair", case.base, case.setting, folder=tmp_path, weight=WEIGHT)
    compared = [part for part in ("text", "sequences", "scores", "sequences_scores") if part in fast]
    assert differences({part: slow[part] for part in compared}, {part: fast[part] for part in compared}, 1e-3) == []
    alone = outcome(models, case, "pilot", case.base, case.setting, folder=tmp_path)
    assert differences(fast[compared[-1]], alone[compared[-1]])


def other_processes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes be asked that have more to write."""
    if case.others_go_on:
        asked: list[int] = []

        def all_reduce(flag: Tensor, op: Any = None) -> None:
            asked.append(1)
            flag += float(len(asked) % case.others_go_on != 0)

        monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)


def test_every_field_is_in_one_place():
    """A field that a newer transformers adds is in none."""
    places = [EQUAL_FIELDS, REFUSED_FIELDS, NO_EFFECT_FIELDS]
    known = set(GenerationConfig().to_dict()) | set(vars(GenerationConfig()))
    listed = [name for place in places for name in place if ONLY_IN.get(name, RELEASE) == RELEASE]
    assert sorted(listed) == sorted(known)


def test_every_argument_is_in_one_place():
    named = set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    read = set()
    for function in vars(GenerationMixin).values():
        if callable(function) and function.__name__ in ("generate", "_extract_generation_mode_kwargs"):
            source = inspect.getsource(inspect.unwrap(function))
            read |= set(re.findall(r"\bkwargs\.(?:pop|get)\(\"(\w+)\"", source))
    known = named | (read - set(GenerationConfig().to_dict()) - INPUTS_OF_THE_MODEL) | {CACHE_NAME}
    assert sorted(EQUAL_ARGUMENTS) == sorted(known)


def test_every_function_of_generation_is_the_pilots_or_the_pairs():
    """A hook that a newer transformers adds is in none."""
    known = [name for name in vars(GenerationMixin) if callable(getattr(GenerationMixin, name))]
    listed = [*DELEGATED, *NOT_NEEDED, *OF_THE_PAIR]
    assert sorted(listed) == sorted(name for name in known if not name.startswith("__"))


@pytest.mark.parametrize("name", REFUSED_FIELDS)
@pytest.mark.parametrize("weight", [0.0, WEIGHT])
def test_a_refused_setting_is_refused_by_name(name: str, weight: float, models: Models):
    settings, message = REFUSED_FIELDS[name]
    pair, ids = models.pair("llama"), some_ids(1, 5)
    for how in ({"copilot_weight": weight, **settings}, {"generation_config": GenerationConfig(**settings)}):
        with pytest.raises((ValueError, ImportError), match=message):
            pair.generate(ids, max_new_tokens=NEW, **how)
    with pytest.raises((ValueError, ImportError)):  # transformers refuses them of the Pilot alone, too
        pair.pilot.generate(ids, max_new_tokens=NEW, **settings)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cache_implementation", {"cache_implementation": "static"}, "static cache"),
        ("prefill_chunk_size", {"prefill_chunk_size": 2}, "prefill_chunk_size"),
    ],
)
def test_what_only_the_pilot_alone_can_do_is_refused_by_name(
    name: str, settings: Settings, message: str, models: Models
):
    """Of an encoder-decoder; of a decoder the second is among the equal ones."""
    pair, ids = models.pair("t5"), some_ids(1, 5)
    with pytest.raises(ValueError, match=message):
        pair.generate(ids, max_new_tokens=NEW, copilot_weight=WEIGHT, **settings)
    pair.generate(ids, max_new_tokens=NEW, copilot_weight=0.0, **settings)
