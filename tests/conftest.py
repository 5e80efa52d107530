"""Tiny models for every test, built in code from configurations: no network, no files, one thread."""

import os


# Before transformers is imported: an accidental look at the Hub fails at once instead of hanging.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the processes of `hub_fixtures` set it to 0: they have a Hub
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.helpers.hub_fixtures import hub, hub_server  # noqa: F401 (fixtures)
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A case of bytes takes its argument's name: what is in the bytes (a time, in gzip's) may differ between two
    workers, and they must collect the same tests."""
    return argname if isinstance(val, bytes) else None


VOCAB, WIDTH = 64, 32
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_WIDE_HEADS = {**_SIZES, "head_dim": 12}  # heads · head_dim is not the width: nothing may take it for granted
_GPT2 = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 128}
_T5 = {"vocab_size": VOCAB, "d_model": WIDTH, "d_ff": 48, "d_kv": 6, "num_heads": 4, "num_layers": 3}

# Of each family: configuration class and its fields.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SIZES),
    "qwen2": ("Qwen2Config", _SIZES),
    "qwen3": ("Qwen3Config", _WIDE_HEADS),
    "mistral": ("MistralConfig", {**_WIDE_HEADS, "sliding_window": None}),
    "gemma": ("GemmaConfig", _WIDE_HEADS),
    "gpt2": ("GPT2Config", _GPT2),
    "t5": ("T5Config", {**_T5, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}),
}
DECODER_ONLY = [name for name in TINY if name != "t5"]


def shake(pair: nn.Module, scale: float = 0.2) -> nn.Module:
    """Move the Copilot's weights that learn off their start, so that f is not zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in filter(lambda one: one.requires_grad, pair.copilot.parameters()):
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
    return pair


def build_pilot(config_class: str, fields: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A model whose every weight, biases too, is random, and whose distributions are far from flat."""
    config = getattr(transformers, config_class)(**{**SPECIAL, **fields})
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(seed)
    pilot = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in pilot.parameters():
            parameter += 0.12 * torch.randn_like(parameter)
    pilot.generation_config.eos_token_id = None  # most tests want as many tokens as they ask for
    return pilot


def build_pair(pilot: PreTrainedModel, **options: Any) -> PreTrainedModel:
    """A pair beside a copy of the Pilot, in evaluation mode, its Copilot shaken."""
    pair_class = PilotCopilotForSeq2SeqLM if pilot.config.is_encoder_decoder else PilotCopilotForCausalLM
    options = {"copilot": {"num_hidden_layers": 4}, "mistake_top_k": None, **options}
    if isinstance(options["copilot"], dict) and options["copilot"].get("form", "decoder") == "decoder":
        options.setdefault("error_feedback", "observed")
    torch.manual_seed(1)
    return shake(pair_class.from_pilot(copy.deepcopy(pilot), **options)).eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices are slower on several threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread_again() -> Iterator[None]:
    """Programs that a test calls set torch's threads, and two round otherwise than one: the next test would see it."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def little_to_collect() -> Iterator[None]:
    """Trainer has all garbage collected before it trains; what is there already need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def _pilots() -> dict[Any, PreTrainedModel]:
    return {}


@pytest.fixture
def tiny_pilot(_pilots: dict[Any, PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """`tiny_pilot("llama", seed=0)`: a copy of a tiny model, which the test may change."""

    def make(family: str, seed: int = 0) -> PreTrainedModel:
        if (family, seed) not in _pilots:
            _pilots[family, seed] = build_pilot(*TINY[family], seed=seed)
        return copy.deepcopy(_pilots[family, seed])

    return make


@pytest.fixture
def tiny_pair(tiny_pilot: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """`tiny_pair("llama", head="pilot", …)`: a pair with a shaken Copilot of four layers and dense mistakes."""

    def make(family: str = "llama", **options: Any) -> PreTrainedModel:
        return build_pair(tiny_pilot(family), **options)

    return make


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One word a token, `w3` … `w63`, and the special tokens of the tiny models; pads on the left."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{index}": index for index in range(3, VOCAB - 1)}}
    vocabulary["<unk>"] = VOCAB - 1
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """That of [`make_tokenizer`]."""
    return make_tokenizer()


def some_ids(rows: int, length: int, seed: int = 3) -> torch.Tensor:
    """Random tokens, none of them special."""
    return torch.randint(3, VOCAB - 1, (rows, length), generator=torch.Generator().manual_seed(seed))
