"""What an experiment measures on test questions: answers, ranks of items, likelihoods of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, set_seed

from benchmarks.experiments.clock import seconds_now
from benchmarks.experiments.data import ExperimentData, is_encoder_decoder
from benchmarks.experiments.judges import Judge, choice_judge, item_judge
from benchmarks.experiments.spec import Experiment
from transformers_copilot.metrics.answers import same_answer
from transformers_copilot.pair.mistakes import mistake_size
from transformers_copilot.tasks.answering import write_replies


SUMS_TOKENS = 8


@dataclass
class Measured:
    """What one model did on the test questions.

    Args:
        questions: One number a question, of which the score is the mean: right or wrong; the right item's rank; the
            mean log-likelihood of the target's tokens.
        seconds: Time that the answers took.
        tokens: Means over the supervised tokens: `loss`, `mistake_size` (E‖p − p̂‖²), `top1`, and their number.
        likelihoods: Of each question the mean log-likelihood of the target's tokens, where `questions` is not that.
    """

    questions: list[float]
    seconds: float
    tokens: dict[str, float]
    likelihoods: list[float] | None = None


def measure(spec: Experiment, data: ExperimentData, model: PreTrainedModel, weight: float | None = None) -> Measured:
    """Measure a model on the experiment's test questions, in the type of its weights whatever it was trained in.

    Args:
        spec: The experiment.
        data: Its data.
        model: A pair or any other model.
        weight: λ of a pair; its own where none is given. 0 is the Pilot alone.

    Returns:
        The measurements.
    """
    model.eval()
    options = {} if weight is None else {"copilot_weight": weight}
    by_beams = spec.measure == "ranking" and "num_beams" in spec.generation
    judge = {"ranking": item_judge, "choices": choice_judge}.get("" if by_beams else spec.measure, _no_judge)(data)
    device = model.device.type
    started = seconds_now(device)
    likelihoods, marks, tokens = _teacher_forced(spec, data, model, options, judge)
    if spec.measure == "tokens":
        return Measured(likelihoods, seconds_now(device) - started, tokens)
    if spec.measure == "answers" or by_beams:
        started = seconds_now(device)
        marks = (ranks_by_beams if by_beams else _answers)(spec, data, model, options)
    return Measured(marks, seconds_now(device) - started, tokens, likelihoods)


def _no_judge(data: ExperimentData) -> Judge:
    """Nothing is marked."""
    return lambda index, scores, true: 0.0


def _answers(spec: Experiment, data: ExperimentData, model: PreTrainedModel, options: dict[str, Any]) -> list[float]:
    """1 for each question that is answered right, 0 for each that isn't, one without an answer among them."""
    limit = spec.max_new_tokens or (SUMS_TOKENS if data.task is None else data.task.max_new_tokens)
    batch = spec.training.get("per_device_eval_batch_size", 32)
    prompts, options = [row["prompt"] for row in data.test], {**spec.generation, **options}
    if options.get("do_sample"):
        set_seed(0)  # the same draws in whatever piece of a run they are made
    replies = write_replies(model, data.tokenizer, prompts, limit, batch, **options)
    found = replies if data.task is None else [data.task.extract_answer(reply) for reply in replies]
    return [float(same_answer(got, row["answer"])) for got, row in zip(found, data.test, strict=True)]


@torch.no_grad()
def ranks_by_beams(
    spec: Experiment, data: ExperimentData, model: PreTrainedModel, options: dict[str, Any]
) -> list[float]:
    """The right item's place among the beams over valid items, for items that take several tokens.

    Args:
        spec: The experiment; `num_beams` of its `generation` says how many places there are.
        data: Its data, of a recommendation task.
        model: A pair or any other model.
        options: More options of `generate`, such as a pair's λ.

    Returns:
        A rank a question, from 1; of an item that no beam ends in, the number of items.
    """
    trie, ranks = data.task.target_trie(data.tokenizer), []
    # Where one token alone is valid, as the end after an item, its probability does not tell items apart.
    options = {"do_sample": False, "renormalize_logits": True, **spec.generation, **options}
    beams = options["num_beams"] = min(options["num_beams"], trie.count)
    size = spec.training.get("per_device_eval_batch_size", 32)
    for start in range(0, len(data.test), size):
        rows = data.test[start : start + size]
        texts = [row["prompt"] for row in rows]
        batch = data.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        before = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        written = model.generate(
            **inputs,
            pad_token_id=data.tokenizer.pad_token_id,
            num_return_sequences=beams,
            max_new_tokens=trie.longest,
            prefix_allowed_tokens_fn=trie.prefix_allowed_tokens_fn(before),
            **options,
        )
        replies = data.tokenizer.batch_decode(written[:, before:], skip_special_tokens=True)
        for index, row in enumerate(rows):
            found = [data.task.extract_answer(reply) for reply in replies[index * beams : (index + 1) * beams]]
            ranks.append(float(found.index(row["answer"]) + 1 if row["answer"] in found else trie.count))
    return ranks


@torch.no_grad()
def _teacher_forced(
    spec: Experiment, data: ExperimentData, model: PreTrainedModel, options: dict[str, Any], judge: Judge
) -> tuple[list[float], list[float], dict[str, float]]:
    """Each question's log-likelihood and mark, and the means over tokens."""
    sums, likelihoods, marks = TokenSums(), [], []
    for batch in batches(spec, data, model.device):
        inputs, targets = at_targets(model, batch)
        logits = model(**inputs, use_cache=False, **options).logits
        for row_logits, row_targets in zip(logits, targets, strict=True):
            supervised = row_targets >= 0
            scores, true = row_logits[supervised].float(), row_targets[supervised]
            marks.append(judge(len(marks), scores, true))
            likelihoods.append(-sums.add(scores, true))
    return likelihoods, marks, sums.means()


class TokenSums:
    """Sums over supervised tokens, of which [`Measured`] has the means."""

    def __init__(self) -> None:
        self.sums = {"loss": 0.0, "mistake_size": 0.0, "top1": 0.0}
        self.count = 0

    def add(self, scores: Tensor, true: Tensor) -> float:
        """Add a question's tokens: logits `(tokens, vocab)` and what they were to predict. Gives their mean loss."""
        losses = torch.nn.functional.cross_entropy(scores, true, reduction="none")
        self.sums["loss"] += float(losses.sum())
        self.sums["mistake_size"] += float(mistake_size(scores, true).sum())
        self.sums["top1"] += float((scores.argmax(-1) == true).sum())
        self.count += len(true)
        return float(losses.mean())

    def means(self) -> dict[str, float]:
        """Means over the tokens, and `tokens`, their number."""
        return {name: value / self.count for name, value in self.sums.items()} | {"tokens": self.count}


def batches(spec: Experiment, data: ExperimentData, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The test questions with their targets, padded on the right.

    Args:
        spec: The experiment; its evaluation batch size.
        data: Its data.
        device: Where they are needed.

    Yields:
        Inputs with `labels`.
    """
    items = data.encode(data.test, 100_000, is_encoder_decoder(spec))
    collate = DataCollatorForSeq2Seq(data.tokenizer, padding=True)
    size = spec.training.get("per_device_eval_batch_size", 32)
    return (dict(batch.to(device)) for batch in DataLoader(items, size, collate_fn=collate))


def at_targets(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[dict[str, Any], Tensor]:
    """What to give a model so that only the logits that targets are compared with are computed, and no loss.

    Prompts are most of a causal model's positions, and logits of a large vocabulary cost as much as some layers.

    Args:
        model: A pair or any other model.
        batch: Inputs with `labels`, `(batch, length)`.

    Returns:
        The inputs, and the true token at each kept position, `(batch, kept)`: below 0 where a row has none. An
        encoder-decoder makes its decoder's inputs of the labels, so its inputs keep them.
    """
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        return batch, labels
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    columns = (targets >= 0).any(dim=0).nonzero().flatten()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return {**inputs, "logits_to_keep": columns}, targets[:, columns]


def supervised_of(model: PreTrainedModel, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Values at the supervised positions, and the true tokens.

    Args:
        model: What gave the values.
        values: `(batch, length, vocab)`, logits or what is added to them.
        labels: `(batch, length)`.

    Returns:
        In float32 `(tokens, vocab)`, and `(tokens,)`.
    """
    if not model.config.is_encoder_decoder:
        values, labels = values[:, :-1], labels[:, 1:]
    supervised = labels >= 0
    return values[supervised].float(), labels[supervised]
