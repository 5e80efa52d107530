"""Tiny Pilots, pairs, data and trainers for the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from transformers_copilot import (
    CopilotSeq2SeqTrainer,
    CopilotSeq2SeqTrainingArguments,
    CopilotTrainer,
    CopilotTrainingArguments,
    PilotCopilotConfig,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
    PilotCopilotSeq2SeqConfig,
)


VOCAB, PAD = 23, 0
_LLAMA_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "llama-tied": ("LlamaConfig", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "mixtral": ("MixtralConfig", {**_LLAMA_LIKE, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": VOCAB,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "t5": (
        "T5Config",
        {
            "vocab_size": VOCAB,
            "d_model": 16,
            "d_ff": 24,
            "d_kv": 4,
            "num_heads": 4,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "dropout_rate": 0.0,
            "pad_token_id": PAD,
            "eos_token_id": 2,
            "decoder_start_token_id": PAD,
        },
    ),
}


def make_pilot(family: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model of a family with random weights, on the CPU."""
    name, fields = _FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, name)(**{**fields, **changes})
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return auto.from_config(config)


def make_pair(
    family: str = "llama",
    *,
    pilot: PreTrainedModel | None = None,
    paper: bool = False,
    random_head: bool = False,
    **options: Any,
) -> Any:
    """A tiny pair; a decoder reads mistakes unless another feedback is asked for. `paper`: with the paper's options;
    `random_head`: with f other than zero from the start."""
    pilot = make_pilot(family) if pilot is None else pilot
    seq2seq = pilot.config.is_encoder_decoder
    pair_class = PilotCopilotForSeq2SeqLM if seq2seq else PilotCopilotForCausalLM
    if paper:
        options["config"] = (PilotCopilotSeq2SeqConfig if seq2seq else PilotCopilotConfig).paper()
    copilot = options.pop("copilot", {"num_hidden_layers": 2})
    if "config" not in options and isinstance(copilot, dict) and copilot.get("form", "decoder") == "decoder":
        options.setdefault("error_feedback", "observed")
    torch.manual_seed(1)
    pair = pair_class.from_pilot(pilot, copilot, **options)
    if random_head:
        with torch.no_grad():
            if pair.copilot.config.form == "decoder":
                pair.copilot.correction_head.weight.normal_(0.0, 0.1)
            else:  # a branch starts as a copy of the Pilot's layers, a linear one with a map of zeros
                for parameter in filter(lambda one: one.requires_grad, pair.copilot.parameters()):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return pair


def reversal_rows(count: int, seed: int = 0, seq2seq: bool = False, longest: int = 8) -> list[dict[str, list[int]]]:
    """Questions of random tokens, with the first three of them in reverse as the answer."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(3, longest + 1, (), generator=generator))
        question = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        answer = [*reversed(question[:3]), 2][: 2 + length % 3]
        if seq2seq:
            rows.append({"input_ids": [*question, 2], "labels": answer})
        else:
            rows.append({"input_ids": question + answer, "labels": [-100] * length + answer})
    return rows


def collate(rows: list[dict[str, list[int]]], side: str = "right") -> dict[str, Tensor]:
    """Pad ids and labels, each to its longest."""

    def padded(name: str, value: int) -> Tensor:
        longest = max(len(row[name]) for row in rows)
        fill = [[value] * (longest - len(row[name])) for row in rows]
        both = [f + row[name] if side == "left" else row[name] + f for f, row in zip(fill, rows, strict=True)]
        return torch.tensor(both)

    ids = padded("input_ids", PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": padded("labels", -100)}


class RecordingMixin:
    """Remembers the batches a trainer was given and the numbers of the rounds it drew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.batches: list[dict[str, Tensor]] = []
        self.drawn: list[int] = []
        super().__init__(*args, **kwargs)

    def _draw(self, again: int = 0) -> Any:
        record = super()._draw(again)
        kept = list(self.mistake_log)
        self.drawn.append(self.state.global_step if record is None else [r is record for r in kept].index(True))
        return record

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            self.batches.append({name: value.clone() for name, value in inputs.items()})
        return super().compute_loss(model, inputs, *args, **kwargs)


class RecordingTrainer(RecordingMixin, CopilotTrainer):
    pass


class RecordingSeq2SeqTrainer(RecordingMixin, CopilotSeq2SeqTrainer):
    pass


def make_trainer(
    folder: Path | str,
    pair: Any = None,
    *,
    rows: Any = None,
    eval_rows: Any = None,
    data_collator: Callable[..., Any] = collate,
    trainer_kwargs: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A trainer of a tiny pair on `reversal_rows`; further keywords are training arguments."""
    pair = make_pair() if pair is None else pair
    seq2seq = pair.config.is_encoder_decoder
    given = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "mistake_log_draw": "uniform",  # the log is read from the first step on
        **arguments,
    }
    args = (CopilotSeq2SeqTrainingArguments if seq2seq else CopilotTrainingArguments)(str(folder), **given)
    trainer: dict[str, Any] = {
        "model": pair,
        "train_dataset": reversal_rows(32, seq2seq=seq2seq) if rows is None else rows,
        "eval_dataset": reversal_rows(10, seed=1, seq2seq=seq2seq) if eval_rows is None else eval_rows,
        "data_collator": data_collator,
        **(trainer_kwargs or {}),
    }
    return (RecordingSeq2SeqTrainer if seq2seq else RecordingTrainer)(args=args, **trainer)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of two sets of weights with the same names."""
    assert left.keys() == right.keys()
    return max(float((left[name].float() - right[name].float()).abs().max()) for name in left)


def logged(trainer: Any, name: str) -> list[float]:
    """A logged quantity, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
