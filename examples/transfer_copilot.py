"""Does a Copilot serve another Pilot of its kind (Table 3 of the paper)?

    python examples/transfer_copilot.py

Two Pilots of one kind learn sums from different seeds and different questions, each with a Copilot of its own, as in
`demo.py`. Both start from one base that has learnt for a while, as two fine-tuned models of a family do; with
`--base_steps 0` each starts from random weights of its own. Then each Copilot is saved alone and put beside the other
Pilot, which it has never seen, with the λ that was fitted beside its own. All answer the same test questions, which
neither Pilot nor Copilot has seen. It takes about twice the demonstration's time; other options are those of `demo.py`.
"""

import argparse
import copy
import time
import warnings
from pathlib import Path

import torch
from comparison import Comparison
from demo import BATCH_SIZE, HIDDEN_SIZE, Demo, build_pilot, copilot_fields
from demo import parse_arguments as parse_demo_arguments
from report import Contestant
from sum_questions import Sum, SumStream
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Trainer
from transformers.utils import logging

from transformers_copilot import CopilotTrainer, PilotCopilotForCausalLM, fit_copilot_weight


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options: the demonstration's, and `other_seed`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other_seed", type=int, help="seed of the second Pilot and its questions (default: seed + 1)")
    parser.add_argument("--output_dir", default="outputs/transfer", help="folder for Copilots and results")
    parser.add_argument("--base_steps", type=int, default=500, help="steps that the base of both Pilots has learnt for")
    own, rest = parser.parse_known_args(arguments)
    options = parse_demo_arguments([*rest, "--output_dir", own.output_dir])
    options.base_steps = min(own.base_steps, options.steps)  # few in a quick run
    options.other_seed = options.seed + 1 if own.other_seed is None else own.other_seed
    return options


def fresh_questions(demo: Demo, seed: int) -> list[Sum]:
    """As many training questions as the demonstration's, of another seed, without those that are asked later.

    Args:
        demo: The demonstration.
        seed: The seed.

    Returns:
        The questions.
    """
    asked = {question.prompt for question in [*demo.test, *demo.dev]}
    stream, questions = SumStream(seed), []
    while len(questions) < demo.options.steps * BATCH_SIZE:
        missing = demo.options.steps * BATCH_SIZE - len(questions)
        questions += [question for question in stream.take(missing) if question.prompt not in asked]
    return questions


def train_base(demo: Demo) -> PreTrainedModel | None:
    """The base that both Pilots start from, trained on questions of its own; `None` without one.

    Args:
        demo: The demonstration; its training questions stay what they are.

    Returns:
        The model.
    """
    options, questions = demo.options, demo.train_items
    if options.base_steps == 0:
        return None
    base = build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed)
    demo.train_items = demo.encode(fresh_questions(demo, options.seed + 1000)[: options.base_steps * BATCH_SIZE])
    demo.train(Trainer, base, "the base of both Pilots", options.learning_rate)
    demo.train_items = questions
    return base


def train_pair(demo: Demo, seed: int, base: PreTrainedModel | None) -> PreTrainedModel:
    """A Pilot of this seed and its Copilot, trained together, with λ fitted.

    Args:
        demo: The demonstration, whose training questions are this Pilot's.
        seed: Seed of the order, and of the weights where there is no base.
        base: The model that the Pilot starts from.

    Returns:
        The pair.
    """
    options = demo.options
    pilot = build_pilot(options.pilot_layers, HIDDEN_SIZE, seed) if base is None else copy.deepcopy(base)
    pair = PilotCopilotForCausalLM.from_pilot(pilot, copilot=copilot_fields(options))
    demo.train(CopilotTrainer, pair, f"the pair of seed {seed}", options.learning_rate)
    collator = DataCollatorForSeq2Seq(demo.tokenizer)
    dev = demo.encode(demo.dev)
    fit = fit_copilot_weight(pair, dev, data_collator=collator, batch_size=200, set_name="fresh sums", progress=False)
    print(f"λ = {fit.weight:g}, chosen on {len(dev):,} other questions")
    return pair


def compare(demo: Demo, seeds: tuple[int, int], pairs: tuple[PreTrainedModel, PreTrainedModel]) -> Comparison:
    """Put the first pair's Copilot beside the second pair's Pilot, and let all of them answer.

    Args:
        demo: The demonstration.
        seeds: The pairs' seeds.
        pairs: The pairs.

    Returns:
        The transferred pair against its Pilot alone and against that Pilot's own pair.
    """
    (source, target), folder = pairs, Path(demo.options.output_dir) / f"copilot-{seeds[0]}"
    source.save_copilot(folder, tokenizer=demo.tokenizer)
    joined = PilotCopilotForCausalLM.from_pilot(target.pilot, copilot=str(folder))
    size = target.num_parameters()

    def answer(name: str, model: PreTrainedModel, **weight: float) -> Contestant:
        return demo.answer(name, model, model.pilot.num_parameters() if weight else size, **weight)

    alone = answer(f"Pilot {seeds[1]} alone", target, copilot_weight=0.0)
    own = answer(f"Pilot {seeds[1]} + its own Copilot", target)
    transferred = answer(f"Pilot {seeds[1]} + Copilot of Pilot {seeds[0]}", joined)
    facts = {
        "options": vars(demo.options),
        "copilot_weight": {"own": target.config.copilot_weight, "transferred": joined.config.copilot_weight},
        "copilot_bytes": sum(file.stat().st_size for file in folder.iterdir()),
    }
    questions, expected = [item.prompt for item in demo.test], [item.answer for item in demo.test]
    return Comparison(questions, expected, transferred, [alone, own], facts)


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    started = time.perf_counter()
    demo = Demo(options)
    base = train_base(demo)
    first = train_pair(demo, options.seed, base)
    demo.train_items = demo.encode(fresh_questions(demo, options.other_seed))
    second = train_pair(demo, options.other_seed, base)
    seeds = (options.seed, options.other_seed)
    for numbers, pairs in ((seeds, (first, second)), (seeds[::-1], (second, first))):
        print(f"\n=== the Copilot of Pilot {numbers[0]} beside Pilot {numbers[1]} ===")
        comparison = compare(demo, numbers, pairs)
        comparison.print_and_save(Path(options.output_dir) / f"results-{numbers[0]}-to-{numbers[1]}.json")
    print(f"seeds {seeds[0]} and {seeds[1]}, {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
