"""An experiment's questions as token ids, and the tokenizer where the Pilot has none of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from benchmarks.experiments.spec import Experiment
from examples.sum_questions import SumStream, build_tokenizer
from transformers_copilot import tasks
from transformers_copilot.data.items import encode_items


PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
SOME_TEST = "svamp"
Row = dict[str, Any]


@dataclass
class ExperimentData:
    """What the runs of one seed train on and are tested on.

    Args:
        train: Training questions: `prompt`, `target`, `answer`, `question`.
        dev: Those that λ is chosen on.
        test: Those that are reported.
        tokenizer: The Pilot's, or one that was made for it.
        task: The task, or `None` for sums.
        facts: Sizes and what was left out, for the results.
        others: By task, the same with another task's test questions.
        read: Training questions that only the Copilot reads, when it settles.
    """

    train: list[Row]
    dev: list[Row]
    test: list[Row]
    tokenizer: PreTrainedTokenizerBase
    task: Any
    facts: dict[str, Any]
    others: dict[str, ExperimentData] = field(default_factory=dict)
    read: list[Row] = field(default_factory=list)

    def encode(self, rows: list[Row], max_length: int, is_encoder_decoder: bool) -> list[dict[str, list[int]]]:
        """Token ids with the targets supervised."""
        texts = [(row["prompt"], row["target"]) for row in rows]
        return encode_items(self.tokenizer, texts, max_length, is_encoder_decoder)[0]


def load_data(spec: Experiment, data_dir: str | None, seed: int) -> ExperimentData:
    """Read or make an experiment's questions.

    Args:
        spec: The experiment.
        data_dir: Folder with the tasks' files; the Hub where none is given.
        seed: The run's seed; only fresh questions depend on it, a task's sets are the same for all seeds.

    Returns:
        The questions.
    """
    if spec.task == "sums":
        return _sums(spec, seed)
    name, options = spec.task, dict(spec.task_options)
    if spec.test_from_train and spec.measure == "tokens":
        # The task's own test questions are not asked for: some users have none of GSM8K's.
        name, options = SOME_TEST, {"train_tasks": [spec.task], **options}
    task = tasks.load(name, data_dir=data_dir, **options)
    sets = {name: [dict(row) for row in rows] for name, rows in task.dataset.items()}
    if spec.test_from_train:
        random.Random(0).shuffle(sets["train"])
        sets["test"], sets["train"] = sets["train"][: spec.test_from_train], sets["train"][spec.test_from_train :]
    everything, limits = sets["train"], dict(spec.limits)
    read = limits.pop("read", 0)
    for name, most in limits.items():
        sets[name] = some_of(sets[name], most)
    chosen = {(row["task"], row["id"]) for row in sets["train"]}
    sets["read"] = some_of([row for row in everything if (row["task"], row["id"]) not in chosen], read) if read else []
    facts = {"left_out": task.left_out, "test_size": task.test_size, "dev_from_train": task.dev_from_train}
    facts |= {f"{name}_questions": len(rows) for name, rows in sets.items()}
    tokenizer = _tokenizer(spec, sets, task)
    data = ExperimentData(sets["train"], sets["dev"], sets["test"], tokenizer, task, facts, read=sets["read"])
    sources = options.get("train_tasks") or [spec.task]
    for name in spec.also_test:
        other = tasks.load(name, data_dir=data_dir, **{**options, "train_tasks": sources})
        rows = [dict(row) for row in other.dataset["test"]]
        rows = some_of(rows, spec.limits.get("test", len(rows)))
        facts = {"left_out": other.left_out, "test_size": other.test_size, "test_questions": len(rows)}
        data.others[name] = replace(data, test=rows, task=other, facts=facts, others={})
    return data


def some_of(rows: list[Row], most: int) -> list[Row]:
    """A random part of some questions, with equal shares where they are of several tasks.

    Args:
        rows: The questions.
        most: Their number, at most.

    Returns:
        The questions, in random order; the same ones every time.
    """
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    parts = [random.Random(0).sample(own, len(own))[: most // len(by_task)] for own in by_task.values()]
    chosen = [row for part in parts for row in part]
    return chosen if len(parts) == 1 else random.Random(0).sample(chosen, len(chosen))


def _sums(spec: Experiment, seed: int) -> ExperimentData:
    stream = SumStream(seed)
    sizes = {name: spec.limits[name] for name in ("test", "dev", "train")} | {"read": spec.limits.get("read", 0)}
    sets = {
        name: [
            {"prompt": item.prompt, "target": item.answer, "answer": item.answer, "question": item.prompt}
            for item in stream.take(size)
        ]
        for name, size in sizes.items()
    }
    facts = {f"{name}_questions": size for name, size in sizes.items()}
    parts = (sets["train"], sets["dev"], sets["test"])
    return ExperimentData(*parts, build_tokenizer(), None, facts, read=sets["read"])


def _tokenizer(spec: Experiment, sets: dict[str, list[Row]], task: Any) -> PreTrainedTokenizerBase:
    if "path" in spec.pilot:
        tokenizer = AutoTokenizer.from_pretrained(spec.pilot["path"])
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer
    texts = [row["prompt"] + row["target"] for row in sets["train"]]
    if spec.pilot["tokenizer"] == "words":
        # Valid items that nobody interacted with are tokens, too: they can be recommended.
        texts += [f"item_{item}" for item in task.items]
        return word_tokenizer(texts)
    return byte_pair_tokenizer(texts, int(spec.pilot["tokenizer"]))


def word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, and one for each mark of punctuation.

    Args:
        texts: Texts that hold all words.

    Returns:
        The tokenizer.
    """
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[,.?]"), "isolated")]
    )
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)


def byte_pair_tokenizer(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-pair vocabulary learnt on texts; digits stay apart, as arithmetic wants them.

    Args:
        texts: The training texts.
        size: Tokens of the vocabulary.

    Returns:
        The tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[PAD, END], initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def is_encoder_decoder(spec: Experiment) -> bool:
    """Whether the Pilot is one."""
    if "path" in spec.pilot:
        return bool(AutoConfig.from_pretrained(spec.pilot["path"]).is_encoder_decoder)
    return bool(AutoConfig.for_model(spec.pilot["config"]["model_type"]).is_encoder_decoder)
