"""Every setting of transformers' trainers: a Pilot in a pair learns exactly what it learns alone, whatever is set.

Each field of the training arguments and each argument of the trainers is in one of three groups. EQUAL: the Pilot is
trained alone by transformers' own trainer and in a pair by ours, under a value that changes the training, what is
logged or what is written, and everything that the one reports the other reports too. REFUSED: the error is asserted.
NO_EFFECT: nothing that a model could notice. A field that a newer transformers adds is in no group, and fails the test.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import ParallelismConfig
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tests.helpers.training_helpers import PAD, VOCAB, collate, largest_difference, make_pilot, reversal_rows, state
from transformers_copilot import (
    CopilotSeq2SeqTrainer,
    CopilotSeq2SeqTrainingArguments,
    CopilotTrainer,
    CopilotTrainingArguments,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
)
from transformers_copilot.training.arguments import CopilotArguments


pytestmark = pytest.mark.usefixtures("little_to_collect")

DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
PLAIN = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "learning_rate": 0.1,
    "optim": "sgd",
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}
# What no two runs share, and what is of the pair as a whole: its loss, and the work of both parts.
NOT_COMPARED = ("runtime", "per_second", "preparation_time", "train_loss", "total_flos", "mem_")


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as the tiny models have."""
    from tokenizers import Tokenizer, models

    vocabulary = {f"w{index}": index for index in range(3, VOCAB)} | {"<pad>": 0, "<s>": 1, "</s>": 2}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@dataclasses.dataclass
class Case:
    """A setting that is tried.

    `settings` are training arguments, `trainer` those of the trainer, made anew for each of the two (`is_pair` tells
    which). `beside` are settings that it needs, which alone are no change. `same_as_plain` says why it changes nothing,
    `by_processor` why it changes something on some processors only.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    beside: dict[str, Any] = dataclasses.field(default_factory=dict)
    trainer: Callable[[Any], dict[str, Any]] | None = None
    family: str = "gpt2"
    pilot: dict[str, Any] = dataclasses.field(default_factory=dict)
    resume: bool = False
    predict: bool = False
    same_as_plain: str = ""
    by_processor: str = ""
    within: float = 0.0
    change: Callable[[Any], None] | None = None
    of_trainer: bool = False  # the trainer's arguments are what is tried
    slow: bool = False


@dataclasses.dataclass
class Outcome:
    """What became of a Pilot and what its trainer reported."""

    weights: dict[str, torch.Tensor]
    log: list[dict[str, Any]]
    metrics: dict[str, float]
    predictions: Any
    files: set[str]
    trainer: Any


def make_model(case: Case, pair: bool) -> Any:
    changes = {**DROPOUT, **case.pilot} if case.family == "gpt2" else {"dropout_rate": 0.1, **case.pilot}
    pilot = make_pilot(case.family, **changes)
    if case.change is not None:
        case.change(pilot)
    if not pair:
        return pilot
    kind = PilotCopilotForSeq2SeqLM if case.family == "t5" else PilotCopilotForCausalLM
    # λ = 0: what the pair's evaluation reports is its Pilot's.
    model = kind.from_pilot(pilot, {"num_hidden_layers": 2}, copilot_weight=0.0, objective="mse")
    with torch.no_grad():
        model.copilot.correction_head.weight.normal_(0.0, 0.1)
    return model


def make_trainer(folder: Path, case: Case, pair: bool, **more: Any) -> Any:
    seq2seq = case.family == "t5"
    plain = (Seq2SeqTrainingArguments, Seq2SeqTrainer) if seq2seq else (TrainingArguments, Trainer)
    ours = (CopilotTrainingArguments, CopilotTrainer)
    if seq2seq:
        ours = (CopilotSeq2SeqTrainingArguments, CopilotSeq2SeqTrainer)
    arguments, trainer = ours if pair else plain
    # A copy: some settings are changed by whoever reads them.
    args = arguments(str(folder), **copy.deepcopy({**PLAIN, **case.beside, **case.settings, **more}))
    model = make_model(case, pair)
    given = {
        "model": model,
        "train_dataset": reversal_rows(12, seq2seq=seq2seq),
        "eval_dataset": reversal_rows(5, seed=1, seq2seq=seq2seq),
        "data_collator": collate,
        **({} if case.trainer is None else case.trainer(model)),
    }
    return trainer(args=args, **given)


def run(folder: Path, case: Case, pair: bool) -> Outcome:
    """Train three steps, evaluate, and tell all."""
    if case.slow:  # what was compiled of a Pilot alone has no hooks, and torch would use it again
        torch.compiler.reset()
    if case.resume:
        make_trainer(folder, case, pair, save_strategy="steps", save_steps=1).train()
    trainer = make_trainer(folder, case, pair)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if case.resume else None)
    metrics = trainer.evaluate()
    predictions = trainer.predict(trainer.eval_dataset) if case.predict else None
    if predictions is not None:
        metrics.update(predictions.metrics)
    model = trainer.model
    model = getattr(model, "_orig_mod", model)
    files = {str(path.relative_to(folder)) for path in folder.rglob("checkpoint-*")}
    return Outcome(
        state(model.pilot if pair else model), trainer.state.log_history, metrics, predictions, files, trainer
    )


def trained_alone(folder: Path, case: Case) -> Outcome:
    """The Pilot alone, by transformers' own trainer."""
    return run(folder / "alone", case, False)


def trained_in_a_pair(folder: Path, case: Case) -> Outcome:
    """The same Pilot in a pair, by ours."""
    return run(folder / "pair", case, True)


def compared(entry: dict[str, Any], pair: bool) -> dict[str, Any]:
    """What one line of a log says, as far as it is about the Pilot."""
    kept = {k: v for k, v in entry.items() if not any(name in k for name in NOT_COMPARED)}
    if "loss" in kept:  # logged with four digits
        kept["loss"] = round(float(kept.pop("pilot_loss") if pair else kept["loss"]), 4)
    return kept


def assert_same(alone: Outcome, pair: Outcome, within: float) -> None:
    """The two Pilots are one."""
    assert largest_difference(alone.weights, pair.weights) <= within
    assert len(alone.log) == len(pair.log)
    lines = [*zip(alone.log, pair.log, strict=True), (alone.metrics, pair.metrics)]
    for left, right in lines:
        wanted, found = compared(left, False), compared(right, True)
        for name, value in wanted.items():
            exact = name == "step" or name == "epoch"
            tolerance = 1e-4 if name == "loss" else max(1e-6, 10 * within)
            assert found[name] == (value if exact else pytest.approx(value, abs=tolerance, rel=1e-5)), name
    assert alone.files == pair.files
    if alone.predictions is not None:
        for left, right in zip(alone.predictions[:2], pair.predictions[:2], strict=True):
            assert_same_arrays(left, right)


def assert_same_arrays(left: Any, right: Any) -> None:
    if isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same_arrays(one, other)
    else:
        np.testing.assert_allclose(left, right, atol=1e-5)


def differ(left: Outcome, right: Outcome) -> bool:
    """Whether a setting has done anything at all."""

    def told(outcome: Outcome) -> Any:
        return [compared(line, False) for line in [*outcome.log, outcome.metrics]]

    same_weights = left.weights.keys() == right.weights.keys() and (
        largest_difference(left.weights, right.weights) <= 1e-9
    )
    return not same_weights or told(left) != told(right) or left.files != right.files or predictions_differ(left, right)


def predictions_differ(left: Outcome, right: Outcome) -> bool:
    if left.predictions is None:
        return False
    try:
        assert_same_arrays(left.predictions[0], right.predictions[0])
    except (AssertionError, ValueError):  # ValueError: of other shapes
        return True
    return False


# ---- data, losses, metrics and optimisers of the cases ----


def with_columns(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """A dataset with a column that no model takes, and one of lengths that are not the rows' own."""
    more = [{**row, "note": index, "long": (index * 7) % 5} for index, row in enumerate(rows)]
    return datasets.Dataset.from_list(more)


def with_decoder_inputs(model: Any) -> dict[str, Any]:
    """Where the labels are taken out of a batch, an encoder-decoder needs its decoder's inputs."""

    def with_inputs(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        return {**batch, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}

    return {"data_collator": with_inputs}


def rows_with_notes(model: Any) -> dict[str, Any]:
    return {"train_dataset": with_columns(reversal_rows(12))}


def likelihood_of_others(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    """A loss of the user's own: squared error of the probabilities."""
    logits, targets = outputs.logits[:, :-1], labels[:, 1:]
    kept = targets != -100
    wrong = logits[kept].softmax(-1) - F.one_hot(targets[kept], logits.shape[-1])
    return wrong.square().sum() / num_items_in_batch


def accuracy(prediction: Any) -> dict[str, float]:
    """A metric of predictions, labels, and of losses and inputs where they are asked for."""
    logits, labels = prediction.predictions, prediction.label_ids
    pieces = zip(logits, labels, strict=True) if isinstance(logits, list) else [(logits, labels)]
    right = [(a[:, :-1].argmax(-1) == b[:, 1:])[b[:, 1:] != -100].mean() for a, b in pieces]
    found = {"accuracy": float(np.mean(right)), "width": float(logits[0].shape[-1])}
    if prediction.losses is not None:
        found["mean_loss"] = float(np.mean(prediction.losses))
    if prediction.inputs is not None:
        found["mean_id"] = float(np.mean(prediction.inputs))
    return found


class BatchAccuracy:
    """A metric that is told batch by batch."""

    def __init__(self) -> None:
        self.right: list[float] = []
        self.told = 0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        guesses, labels = prediction.predictions[:, :-1].argmax(-1), prediction.label_ids[:, 1:]
        self.right += torch.as_tensor(guesses == labels)[torch.as_tensor(labels != -100)].float().tolist()
        self.told += 1
        return {"accuracy": float(np.mean(self.right)), "told": self.told} if compute_result else {}


def with_accuracy(model: Any) -> dict[str, Any]:
    return {"compute_metrics": accuracy}


class Stop(TrainerCallback):
    """Ends training after two steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


class OutOfMemory(TrainerCallback):
    """Runs out of memory in the second step of the first try."""

    def __init__(self) -> None:
        self.tries = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tries += state.global_step == 1
        if self.tries == 1 and state.global_step == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 TiB.")


def own_optimizer(kind: Any, schedule: bool = False, **options: Any) -> Callable[[Any], dict[str, Any]]:
    def make(model: Any) -> dict[str, Any]:
        optimizer = kind(model.parameters(), **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if schedule else None
        return {"optimizers": (optimizer, scheduler)}

    return make


def flattening(**options: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda model: {"data_collator": DataCollatorWithFlattening(**options)}


def streamed(model: Any) -> dict[str, Any]:
    return {"train_dataset": datasets.Dataset.from_list(reversal_rows(12)).to_iterable_dataset()}


def freeze_embedding(model: Any) -> None:
    model.get_input_embeddings().weight.requires_grad_(False)


def of_another_init(model: Any) -> dict[str, Any]:
    """`model_init` in place of a model. A new Pilot, and a Copilot beside it, draw random numbers."""
    pair = isinstance(model, PilotCopilotForCausalLM)

    def init() -> Any:
        pilot = AutoModelForCausalLM.from_config(model.config.pilot if pair else model.config)
        return type(model).from_pilot(pilot, copilot_weight=0.0) if pair else pilot

    return {"model": None, "model_init": init}


WHOLE_EPOCH = {"max_steps": 6}  # or the worker is waited for while it still reads
ADAM = {"optim": "adamw_torch", "learning_rate": 0.01}
EVALUATE = {"eval_strategy": "steps", "eval_steps": 1}
SAVE = {"save_strategy": "steps", "save_steps": 1}
LAST_BATCH = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 5}

EQUAL: dict[str, list[Case]] = {
    "per_device_train_batch_size": [Case({"per_device_train_batch_size": 3})],
    "num_train_epochs": [Case({"max_steps": -1, "num_train_epochs": 0.3})],
    "max_steps": [Case({"max_steps": 2})],
    "learning_rate": [Case({"learning_rate": 0.05})],
    "lr_scheduler_type": [Case({"lr_scheduler_type": "constant"}), Case({"lr_scheduler_type": "cosine"})],
    "lr_scheduler_kwargs": [
        Case({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.02}}),
    ],
    "warmup_steps": [Case({"warmup_steps": 2}), Case({"warmup_steps": 0.5})],
    "optim": [Case({"optim": "adamw_torch", "learning_rate": 0.01})],
    "optim_args": [Case({"optim_args": "momentum=0.9,nesterov=true"})],
    "weight_decay": [Case({"weight_decay": 0.5}), Case({"weight_decay": 0.5}, ADAM)],
    "adam_beta1": [Case({"adam_beta1": 0.5}, ADAM)],
    "adam_beta2": [Case({"adam_beta2": 0.5}, ADAM)],
    "adam_epsilon": [Case({"adam_epsilon": 0.1}, ADAM)],
    "gradient_accumulation_steps": [
        Case({"gradient_accumulation_steps": 2}),
        Case({"gradient_accumulation_steps": 2}, LAST_BATCH),
        Case({"gradient_accumulation_steps": 3}, family="t5"),
    ],
    "average_tokens_across_devices": [
        Case({"average_tokens_across_devices": False}, same_as_plain="one process has them all"),
    ],
    "max_grad_norm": [Case({"max_grad_norm": 0.01}), Case({"max_grad_norm": 0.0})],
    "label_smoothing_factor": [
        Case({"label_smoothing_factor": 0.3}),
        Case({"label_smoothing_factor": 0.3, "gradient_accumulation_steps": 2}),
        Case({"label_smoothing_factor": 0.3}, trainer=with_decoder_inputs, family="t5"),
    ],
    "bf16": [Case({"bf16": True})],
    "fp16": [Case({"fp16": True}, same_as_plain="a CPU trains in full precision all the same")],
    "bf16_full_eval": [Case({"bf16_full_eval": True})],
    "fp16_full_eval": [Case({"fp16_full_eval": True})],
    "activation_checkpointing": [
        Case({"activation_checkpointing": True}, same_as_plain="it saves memory alone"),
        Case({"activation_checkpointing": True}, family="t5", same_as_plain="it saves memory alone"),
    ],
    "activation_checkpointing_kwargs": [
        Case(
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}},
            same_as_plain="it saves memory alone",
        )
        for reentrant in (True, False)
    ],
    "gradient_checkpointing": [Case({"gradient_checkpointing": True}, same_as_plain="it saves memory alone")],
    "gradient_checkpointing_kwargs": [
        Case(
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}},
            same_as_plain="it saves memory alone",
        )
        for reentrant in (True, False)
    ],
    "torch_compile": [
        Case({"torch_compile": True, "torch_compile_backend": "eager"}, same_as_plain="speed", slow=True),
    ],
    "torch_compile_backend": [Case({"torch_compile_backend": "aot_eager"}, same_as_plain="speed", slow=True)],
    "use_cache": [
        Case({"use_cache": True}, by_processor="another mask, so another way of rounding"),
        Case({"use_cache": True}, family="t5", same_as_plain="what else it returns"),
    ],
    "neftune_noise_alpha": [
        Case({"neftune_noise_alpha": 5.0}),
        Case({"neftune_noise_alpha": 5.0}, change=freeze_embedding),
    ],
    "torch_empty_cache_steps": [Case({"torch_empty_cache_steps": 1}, same_as_plain="memory of a GPU")],
    "auto_find_batch_size": [
        Case({"auto_find_batch_size": True}, trainer=lambda _: {"callbacks": [OutOfMemory()]}, of_trainer=True),
    ],
    "logging_strategy": [Case({"logging_strategy": "no"})],
    "logging_steps": [Case({"logging_steps": 2})],
    "logging_first_step": [Case({"logging_first_step": True, "logging_steps": 2})],
    "logging_nan_inf_filter": [Case({"logging_nan_inf_filter": False}, same_as_plain="no loss is NaN here")],
    "include_num_input_tokens_seen": [
        Case({"include_num_input_tokens_seen": "all"}),
        Case({"include_num_input_tokens_seen": "non_padding"}),
    ],
    "eval_strategy": [Case({"eval_strategy": "steps", "eval_steps": 1})],
    "eval_steps": [Case({"eval_steps": 2}, {"eval_strategy": "steps"})],
    "eval_delay": [Case({"eval_delay": 2}, EVALUATE)],
    "per_device_eval_batch_size": [Case({"per_device_eval_batch_size": 3})],
    "prediction_loss_only": [Case({"prediction_loss_only": True}, trainer=with_accuracy)],
    "eval_on_start": [Case({"eval_on_start": True}), Case({"eval_on_start": True}, EVALUATE)],
    "eval_do_concat_batches": [Case({"eval_do_concat_batches": False}, trainer=with_accuracy, predict=True)],
    "eval_use_gather_object": [
        Case({"eval_use_gather_object": True}, trainer=with_accuracy, same_as_plain="how processes send to each other"),
    ],
    "eval_accumulation_steps": [
        Case({"eval_accumulation_steps": 1}, trainer=with_accuracy, predict=True, same_as_plain="memory of a GPU"),
    ],
    "include_for_metrics": [Case({"include_for_metrics": ["inputs", "loss"]}, trainer=with_accuracy)],
    "batch_eval_metrics": [
        Case({"batch_eval_metrics": True}, trainer=lambda model: {"compute_metrics": BatchAccuracy()})
    ],
    "save_only_model": [Case({"save_only_model": True}, SAVE, same_as_plain="which files a checkpoint has")],
    "save_strategy": [Case({"save_strategy": "steps", "save_steps": 2}), Case({"save_strategy": "epoch"})],
    "save_steps": [Case({"save_steps": 1}, {"save_strategy": "steps"})],
    "save_total_limit": [Case({"save_total_limit": 1}, SAVE)],
    "load_best_model_at_end": [
        Case({"load_best_model_at_end": True}, {**SAVE, **EVALUATE, "learning_rate": 10.0, "max_grad_norm": 0.0}),
    ],
    "metric_for_best_model": [
        Case(
            {"metric_for_best_model": "accuracy", "load_best_model_at_end": True},
            {**SAVE, **EVALUATE, "learning_rate": 3.0, "max_grad_norm": 0.0},
            trainer=with_accuracy,
        ),
    ],
    "greater_is_better": [
        Case(
            {"greater_is_better": True, "load_best_model_at_end": True, "metric_for_best_model": "loss"},
            {**SAVE, **EVALUATE, "learning_rate": 3.0, "max_grad_norm": 0.0},
        ),
    ],
    "ignore_data_skip": [Case({"ignore_data_skip": True}, resume=True)],
    "restore_callback_states_from_checkpoint": [
        Case({"restore_callback_states_from_checkpoint": True}, SAVE, resume=True, same_as_plain="only callbacks' own"),
    ],
    "full_determinism": [Case({"full_determinism": True}, same_as_plain="a CPU is deterministic")],
    "seed": [Case({"seed": 7})],
    "data_seed": [Case({"data_seed": 7})],
    "accelerator_config": [
        Case({"accelerator_config": {"use_seedable_sampler": False}}),
        Case({"accelerator_config": {"split_batches": True, "even_batches": False}}, same_as_plain="one process"),
        Case({"accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 2}}}),
    ],
    "parallelism_config": [Case({"parallelism_config": ParallelismConfig()}, same_as_plain="one process")],
    "dataloader_drop_last": [Case({"dataloader_drop_last": True}, LAST_BATCH)],
    "dataloader_num_workers": [Case({"dataloader_num_workers": 1}, WHOLE_EPOCH, same_as_plain="who reads the data")],
    "dataloader_persistent_workers": [
        Case(
            {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
            WHOLE_EPOCH,
            same_as_plain="who reads the data",
        ),
    ],
    "dataloader_prefetch_factor": [
        Case(
            {"dataloader_prefetch_factor": 3, "dataloader_num_workers": 1},
            WHOLE_EPOCH,
            same_as_plain="who reads the data",
        ),
    ],
    "remove_unused_columns": [
        Case({"remove_unused_columns": True}, trainer=rows_with_notes, same_as_plain="the default"),
        Case({"remove_unused_columns": False}, same_as_plain="no row has any"),
        Case({"remove_unused_columns": False}, trainer=rows_with_notes, same_as_plain="the collator leaves them"),
    ],
    "label_names": [
        Case({"label_names": ["labels"]}, predict=True, trainer=with_accuracy, same_as_plain="the default"),
        Case({"label_names": []}),
    ],
    "train_sampling_strategy": [
        Case({"train_sampling_strategy": "sequential"}),
        Case({"train_sampling_strategy": "group_by_length"}),
        Case({"train_sampling_strategy": "batch_rebalance"}),
    ],
    "length_column_name": [
        Case(
            {"length_column_name": "long"},
            {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False},
            trainer=rows_with_notes,
        ),
    ],
    "debug": [
        Case({"debug": "underflow_overflow"}, pilot={"attn_implementation": "eager"}, same_as_plain="it looks for NaN")
    ],
    "skip_memory_metrics": [Case({"skip_memory_metrics": False}, same_as_plain="it measures memory")],
    # Seq2SeqTrainingArguments
    "predict_with_generate": [
        Case({"predict_with_generate": True}, {"generation_max_length": 6}, family="t5", predict=True)
    ],
    "generation_max_length": [
        Case({"generation_max_length": 4}, {"predict_with_generate": True}, family="t5", predict=True)
    ],
    "generation_num_beams": [
        Case(
            {"generation_num_beams": 3},
            {"predict_with_generate": True, "generation_max_length": 6},
            family="t5",
            predict=True,
        ),
    ],
    "generation_config": [
        Case(
            {
                "generation_config": GenerationConfig(
                    max_length=7, num_beams=2, eos_token_id=2, pad_token_id=PAD, decoder_start_token_id=PAD
                )
            },
            {"predict_with_generate": True},
            family="t5",
            predict=True,
        ),
    ],
    "sortish_sampler": [
        Case({"sortish_sampler": True}, family="t5", same_as_plain="read by transformers' scripts alone")
    ],
}

# Trainer.__init__ and Seq2SeqTrainer.__init__
EQUAL_TRAINER: dict[str, list[Case]] = {
    "model": [Case(family="t5", same_as_plain="a model and no more")],
    "args": [Case({"learning_rate": 0.02})],
    "data_collator": [
        Case(trainer=flattening(), predict=True),
        Case(trainer=flattening(return_flash_attn_kwargs=True), predict=True),
        Case(trainer=flattening(return_seq_idx=True), predict=True),
        Case({"gradient_accumulation_steps": 2}, trainer=flattening()),
        Case({"label_smoothing_factor": 0.3}, trainer=flattening()),
        Case(trainer=lambda model: {"data_collator": lambda rows: collate(rows, "left")}, predict=True),
    ],
    "train_dataset": [Case(trainer=streamed), Case(trainer=rows_with_notes, same_as_plain="the same rows")],
    "eval_dataset": [
        Case(EVALUATE, trainer=lambda model: {"eval_dataset": {"a": reversal_rows(3), "b": reversal_rows(3, 5)}}),
    ],
    "processing_class": [
        Case(trainer=lambda model: {"processing_class": words()}, same_as_plain="the collator does it")
    ],
    "model_init": [Case(trainer=of_another_init)],
    "compute_loss_func": [
        Case(trainer=lambda model: {"compute_loss_func": likelihood_of_others}),
        Case({"gradient_accumulation_steps": 2}, trainer=lambda model: {"compute_loss_func": likelihood_of_others}),
    ],
    "compute_metrics": [Case(trainer=with_accuracy, predict=True)],
    "callbacks": [Case(trainer=lambda model: {"callbacks": [Stop()]})],
    "optimizers": [
        Case(trainer=own_optimizer(torch.optim.AdamW, lr=0.01, weight_decay=0.1)),
        Case(trainer=own_optimizer(torch.optim.SGD, schedule=True, lr=0.2, momentum=0.9)),
    ],
    "optimizer_cls_and_kwargs": [
        Case(trainer=lambda model: {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.5})}),
        Case(trainer=lambda model: {"optimizer_cls_and_kwargs": (torch.optim.Adam, {"lr": torch.tensor(0.03)})}),
    ],
    "preprocess_logits_for_metrics": [
        Case(
            predict=True,
            trainer=lambda model: {
                "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1),
                "compute_metrics": lambda prediction: {"mean": float(prediction.predictions.mean())},
            },
        ),
    ],
}

# The Copilot's own arguments leave its Pilot alone.
EQUAL_COPILOT: dict[str, dict[str, Any]] = {
    "copilot_learning_rate": {"copilot_learning_rate": 1.0},
    "copilot_lr_scheduler_type": {"copilot_lr_scheduler_type": "cosine"},
    "copilot_lr_scheduler_kwargs": {
        "copilot_lr_scheduler_type": "polynomial",
        "copilot_lr_scheduler_kwargs": {"lr_end": 0.01},
    },
    "copilot_warmup_steps": {"copilot_warmup_steps": 2},
    "copilot_weight_decay": {"copilot_weight_decay": 0.5},
    "copilot_max_grad_norm": {"copilot_max_grad_norm": 0.001},
    "use_mistake_log": {"use_mistake_log": False},
    "mistake_log_rounds": {"mistake_log_rounds": 1},
    "mistake_log_max_bytes": {"mistake_log_max_bytes": 10_000},
    "mistake_log_draw": {"mistake_log_draw": "uniform"},
    "mistake_log_dtype": {"mistake_log_dtype": "float32"},
    "mistake_log_layers": {"mistake_log_layers": 2},
    "mistake_log_export_rows": {"mistake_log_export_rows": 100},
    "mistake_picture_steps": {"mistake_picture_steps": 1},
    "copilot_steps_per_round": {"copilot_steps_per_round": 3},
    "mistakes_from": {"mistakes_from": "all"},
}

# Settings, error, and what it says. What transformers refuses itself on this machine is refused alone too.
REFUSED: dict[str, list[tuple[dict[str, Any], Any, str]]] = {
    "tf32": [({"tf32": True}, ValueError, "tf32 requires Ampere")],
    "optim_target_modules": [
        ({"optim": "galore_adamw", "optim_target_modules": "all-linear"}, ImportError, "galore_torch"),
        ({"optim": "apollo_adamw", "optim_target_modules": ["attn"]}, ImportError, "apollo_torch"),
    ],
    "use_liger_kernel": [({"use_liger_kernel": True}, ImportError, "liger")],
    "liger_kernel_config": [({"use_liger_kernel": True, "liger_kernel_config": {}}, ImportError, "liger")],
    "fsdp": [({"fsdp": True}, ValueError, "fsdp only works in distributed training")],
    "fsdp_config": [({"fsdp": True, "fsdp_config": {"version": 2}}, ValueError, "only works in distributed")],
    "deepspeed": [({"deepspeed": {"train_batch_size": 2}}, ImportError, "deepspeed|DeepSpeed")],
}

NO_EFFECT: dict[str, str] = {
    "output_dir": "where files go; every case has one",
    "torch_compile_mode": "handed to torch.compile, whose backends here have no modes",
    "log_on_each_node": "which machines write",
    "log_level": "what is printed",
    "log_level_replica": "what is printed",
    "disable_tqdm": "what is printed",
    "report_to": "who is told the log; the log is compared",
    "run_name": "a name for trackers",
    "project": "a name for trackers",
    "trackio_space_id": "a name for trackers",
    "trackio_bucket_id": "a name for trackers",
    "trackio_static_space_id": "a name for trackers",
    "save_on_each_node": "which machines write",
    "enable_jit_checkpoint": "a checkpoint more when the process is told to end",
    "push_to_hub": "uploads what is saved; test_hub_trainer.py",
    "hub_token": "who uploads",
    "hub_private_repo": "where to",
    "hub_model_id": "where to",
    "hub_strategy": "when uploads happen",
    "hub_always_push": "when uploads happen",
    "hub_revision": "where to",
    "use_cpu": "every case here has it",
    "dataloader_pin_memory": "memory of a GPU",
    "dataloader_multiprocessing_context": "how workers are started",
    "dataloader_in_order": "order among several workers; with False nothing is repeatable",
    "ddp_find_unused_parameters": "several processes; test_trainer.py",
    "ddp_bucket_cap_mb": "how processes send to each other",
    "ddp_broadcast_buffers": "how processes send to each other",
    "ddp_static_graph": "how processes send to each other",
    "ddp_backend": "how processes send to each other",
    "ddp_timeout": "how long processes wait for each other",
    "do_train": "read by scripts alone",
    "do_eval": "read by scripts alone",
    "do_predict": "read by scripts alone",
    "resume_from_checkpoint": "read by scripts alone; `train` has its own",
    "local_rank": "set by launchers",
}
NO_EFFECT_COPILOT = {
    "freeze_pilot": "the Pilot stays as it is; test_gradients.py",
    "held_out_mistakes": "the Pilot has fewer rows to learn from; test_trainer.py",
}
# Fields that only some of the supported releases have: the release that brought one, or took it.
ONLY_FROM: dict[str, str] = {}
ONLY_UNTIL: dict[str, str] = {}


def groups_of(names: set[str], *groups: Any) -> dict[str, int]:
    return {name: sum(name in group for group in groups) for name in names}


def fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_every_field_of_the_training_arguments_is_in_one_group():
    own = fields(CopilotArguments)
    known = fields(CopilotSeq2SeqTrainingArguments) | fields(CopilotTrainingArguments)
    counts = groups_of(known - own, EQUAL, REFUSED, NO_EFFECT)
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert {name: n for name, n in groups_of(own, EQUAL_COPILOT, NO_EFFECT_COPILOT).items() if n != 1} == {}
    listed = {*EQUAL, *REFUSED, *NO_EFFECT, *EQUAL_COPILOT, *NO_EFFECT_COPILOT}
    assert listed - known <= {*ONLY_FROM, *ONLY_UNTIL}


def test_every_argument_of_the_trainers_is_in_one_group():
    taken = {*inspect.signature(Trainer.__init__).parameters, *inspect.signature(Seq2SeqTrainer.__init__).parameters}
    assert taken - {"self"} == set(EQUAL_TRAINER)


PLAIN_OUTCOMES: dict[str, Outcome] = {}


def plain_outcome(folder: Path, case: Case) -> Outcome:
    """The Pilot alone without the setting, but with what the setting needs beside it."""
    trainer = None if case.of_trainer else case.trainer
    bare = Case(
        {}, case.beside, trainer, case.family, case.pilot, resume=case.resume, predict=case.predict, change=case.change
    )
    key = repr(bare)
    if key not in PLAIN_OUTCOMES:
        PLAIN_OUTCOMES[key] = run(folder / "plain", bare, False)
    return PLAIN_OUTCOMES[key]


def named(cases: dict[str, list[Case]]) -> list[Any]:
    return [
        pytest.param(
            case,
            id=name if len(several) == 1 else f"{name}-{index}",
            marks=[pytest.mark.slow] if case.slow else [],
        )
        for name, several in cases.items()
        for index, case in enumerate(several)
    ]


def of_trainer(cases: dict[str, list[Case]]) -> dict[str, list[Case]]:
    return {name: [dataclasses.replace(case, of_trainer=True) for case in several] for name, several in cases.items()}


@pytest.fixture(autouse=True)
def _global_switches():
    yield
    torch.use_deterministic_algorithms(False)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*deprecated and will be removed in v6:FutureWarning")
@pytest.mark.parametrize("case", [*named(EQUAL), *named(of_trainer(EQUAL_TRAINER))])
def test_the_pilot_learns_what_it_learns_alone(tmp_path, case):
    alone, pair = trained_alone(tmp_path, case), trained_in_a_pair(tmp_path, case)
    assert_same(alone, pair, case.within)
    changed = differ(alone, plain_outcome(tmp_path, case))
    if not case.by_processor:
        assert changed == (not case.same_as_plain), case.same_as_plain or "the setting is to change something"


@pytest.mark.parametrize("name", EQUAL_COPILOT)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_copilots_arguments_leave_its_pilot_alone(tmp_path, name, accumulation):
    case = Case(beside={"gradient_accumulation_steps": accumulation})
    ours = Case(EQUAL_COPILOT[name], beside=case.beside)
    assert_same(plain_outcome(tmp_path, case), trained_in_a_pair(tmp_path, ours), 0.0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(tmp_path, name):
    for settings, error, message in REFUSED[name]:
        with pytest.raises(error, match=message):
            make_trainer(tmp_path, Case(settings), True).train()
