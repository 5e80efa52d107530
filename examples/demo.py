"""A demonstration that needs nothing but this package: does a Copilot make a small Pilot better at sums?

    python examples/demo.py

The Pilot is a Llama of 0.1 million weights; the questions are integers' sums, differences and products, digit by digit,
made on the spot and never twice. Pilot and Copilot learn together in one pass. Beside them a Pilot alone of the pair's
total size learns from the same questions, for as many steps, with the plain Trainer. All three then answer test
questions that none of them has seen. λ is chosen on other questions. Under 8 minutes on 2 CPU cores.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from comparison import Comparison
from report import Contestant, make_contestant
from sum_questions import Sum, SumStream, build_tokenizer
from training_progress import PrintProgress
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    set_seed,
)
from transformers.utils import logging

from transformers_copilot import CopilotTrainer, CopilotTrainingArguments, PilotCopilotForCausalLM, fit_copilot_weight
from transformers_copilot.data.items import encode_items
from transformers_copilot.tasks.answering import write_replies


HIDDEN_SIZE = 64
BATCH_SIZE = 64
INITIALIZER_RANGE = 0.1  # transformers' 0.02 suits wider models; at this width learning takes half as long again
MAX_ANSWER_TOKENS = 8


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of questions, weights and order")
    parser.add_argument("--steps", type=int, default=1000, help=f"training steps of {BATCH_SIZE} questions")
    parser.add_argument("--test_questions", type=int, default=2000, help="questions to be answered")
    parser.add_argument("--dev_questions", type=int, default=1000, help="questions that λ is chosen on")
    parser.add_argument("--pilot_layers", type=int, default=2, help="the Pilot's layers")
    parser.add_argument("--copilot_layers", type=int, default=4, help="the Copilot's layers")
    parser.add_argument("--learning_rate", type=float, default=4e-3, help="peak learning rate of Pilots")
    parser.add_argument("--rival_learning_rate", type=float, default=2e-3, help="the same of the larger, deeper Pilot")
    parser.add_argument("--copilot_learning_rate", type=float, default=3e-3, help="peak learning rate of the Copilot")
    parser.add_argument("--copilot_steps", type=int, default=4, help="the Copilot's steps for each of the Pilot's")
    parser.add_argument("--rationale", default="preceding", help="what the Copilot sees of the Pilot's layers")
    parser.add_argument("--output_dir", default="outputs/demo", help="folder for results.json")
    parser.add_argument("--quick", action="store_true", help="a run of seconds that shows nothing but that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.test_questions, options.dev_questions = 12, 40, 40
    return options


def build_pilot(layers: int, hidden_size: int, seed: int) -> LlamaForCausalLM:
    """A Llama with fresh weights.

    Args:
        layers: Number of layers.
        hidden_size: Width, a multiple of 8 (rotary positions need heads of even width).
        seed: Seed of the weights.

    Returns:
        The model.
    """
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=8 * hidden_size // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=INITIALIZER_RANGE,
    )
    set_seed(seed)
    return LlamaForCausalLM(config)


def build_rival(pair_size: int, seed: int) -> LlamaForCausalLM:
    """A Pilot of the pair's size: of the same width, with so many layers that its weights come nearest to the pair's.

    Args:
        pair_size: The pair's number of weights.
        seed: Seed of the weights.

    Returns:
        The model.
    """
    one, two = (build_pilot(layers, HIDDEN_SIZE, seed).num_parameters() for layers in (1, 2))
    return build_pilot(1 + max(1, round((pair_size - one) / (two - one))), HIDDEN_SIZE, seed)


def copilot_fields(options: argparse.Namespace) -> dict[str, Any]:
    """What the Copilot's configuration is given.

    Args:
        options: The command line's options.

    Returns:
        Field to value.
    """
    layers, rationale = options.copilot_layers, options.rationale
    return {"num_hidden_layers": layers, "initializer_range": INITIALIZER_RANGE, "rationale": rationale}


class Demo:
    """Questions, tokenizer and what is done with models on them.

    Args:
        options: The command line's options.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer: PreTrainedTokenizerBase = build_tokenizer()
        stream = SumStream(options.seed)
        # One stream never repeats itself, so the three sets have no question in common.
        self.test, self.dev = stream.take(options.test_questions), stream.take(options.dev_questions)
        self.train_items = self.encode(stream.take(options.steps * BATCH_SIZE))

    def encode(self, questions: list[Sum]) -> list[dict[str, list[int]]]:
        """Token ids with the answers supervised."""
        return encode_items(self.tokenizer, [(item.prompt, item.answer) for item in questions], max_length=32)[0]

    def training_arguments(self, learning_rate: float) -> CopilotTrainingArguments:
        """One pass over the training questions."""
        options = self.options
        return CopilotTrainingArguments(
            output_dir=options.output_dir,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=learning_rate,
            copilot_learning_rate=options.copilot_learning_rate,
            copilot_steps_per_round=options.copilot_steps,
            mistake_log_draw="uniform",  # Algorithm 1's, with which README's figures were measured
            lr_scheduler_type="cosine",
            warmup_steps=min(100, options.steps // 4),
            weight_decay=0.0,
            adam_beta2=0.98,
            logging_steps=max(1, options.steps // 10),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=options.seed,
            use_cpu=True,
        )

    def train(self, kind: type[Trainer], model: PreTrainedModel, name: str, learning_rate: float) -> float:
        """Train a model or a pair, and print how it goes; returns the seconds taken."""
        steps = len(self.train_items) // BATCH_SIZE
        print(f"\ntraining {name}: {model.num_parameters():,} weights, {steps:,} steps of {BATCH_SIZE}")
        trainer = kind(
            model=model,
            args=self.training_arguments(learning_rate),
            train_dataset=self.train_items,
            data_collator=DataCollatorForSeq2Seq(self.tokenizer),
            processing_class=self.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(PrintProgress())
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started

    def answer(self, name: str, model: PreTrainedModel, weights: int, **generate_options: Any) -> Contestant:
        """Answer the test questions and mark the answers."""
        prompts = [question.prompt for question in self.test]
        started = time.perf_counter()
        replies = write_replies(model, self.tokenizer, prompts, MAX_ANSWER_TOKENS, 500, **generate_options)
        seconds = time.perf_counter() - started
        return make_contestant(name, weights, replies, [question.answer for question in self.test], seconds)


def main(arguments: list[str] | None = None) -> None:
    """Run the demonstration.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    started = time.perf_counter()
    demo = Demo(options)
    pilot = build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed)
    pair = PilotCopilotForCausalLM.from_pilot(pilot, copilot=copilot_fields(options))
    seconds = {"training the pair": demo.train(CopilotTrainer, pair, "the pair", options.learning_rate)}
    collator = DataCollatorForSeq2Seq(demo.tokenizer)
    dev = demo.encode(demo.dev)
    fit = fit_copilot_weight(pair, dev, data_collator=collator, batch_size=200, set_name="fresh sums", progress=False)
    print(f"λ = {fit.weight:g}, chosen on {len(dev):,} other questions")
    rival = build_rival(pair.num_parameters(), options.seed)
    name = "a Pilot alone of the pair's size"
    seconds["training the larger Pilot"] = demo.train(Trainer, rival, name, options.rival_learning_rate)
    alone = demo.answer("Pilot alone", pair, pair.pilot.num_parameters(), copilot_weight=0.0)
    together = demo.answer("Pilot + Copilot", pair, pair.num_parameters())
    larger = demo.answer("larger Pilot alone", rival, rival.num_parameters())
    facts = {"options": vars(options), "copilot_weight": fit.weight, "seconds": seconds}
    questions, expected = [item.prompt for item in demo.test], [item.answer for item in demo.test]
    comparison = Comparison(questions, expected, together, [alone, larger], facts)
    comparison.print_and_save(Path(options.output_dir) / "results.json")
    print(f"seed {options.seed}, {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
