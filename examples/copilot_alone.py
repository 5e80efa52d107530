"""Publish a Copilot without its Pilot, and join it again: to the Pilot that it names, and to another of its kind.

    python examples/copilot_alone.py                       # folders only
    hf auth login
    python examples/copilot_alone.py --namespace user      # user/sums-pilot and user/sums-copilot on the Hub

A small pair learns sums first, as in `demo.py`, whose other options hold here too.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
from demo import HIDDEN_SIZE, INITIALIZER_RANGE, MAX_ANSWER_TOKENS, Demo, build_pilot
from demo import parse_arguments as parse_demo_arguments
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from transformers_copilot import CardFacts, CardResult, CopilotTrainer, PilotCopilotForCausalLM
from transformers_copilot.tasks.answering import write_replies


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options: the demonstration's, `namespace` and `private`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", help="user or organization on the Hub; without it, only folders are written")
    parser.add_argument("--private", action="store_true", help="make the repositories private ones")
    parser.add_argument("--output_dir", default="outputs/copilot_alone", help="folder for what is written here")
    own, rest = parser.parse_known_args(arguments)
    options = parse_demo_arguments([*rest, "--output_dir", own.output_dir])
    options.namespace, options.private = own.namespace, own.private
    return options


def train(demo: Demo) -> PreTrainedModel:
    """A pair that has learnt sums, with what was measured ready for its card.

    Args:
        demo: The demonstration.

    Returns:
        The pair.
    """
    options = demo.options
    pair = PilotCopilotForCausalLM.from_pilot(
        build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed),
        copilot={"num_hidden_layers": options.copilot_layers, "initializer_range": INITIALIZER_RANGE},
    )
    demo.train(CopilotTrainer, pair, "the pair", options.learning_rate)
    alone = demo.answer("alone", pair, 0, copilot_weight=0.0).accuracy
    together = demo.answer("pair", pair, 0).accuracy
    result = CardResult(
        test_set="fresh sums",
        metric="accuracy",
        count=together.total,
        pilot=alone.share,
        pair=together.share,
        pilot_interval=(alone.low, alone.high),
        pair_interval=(together.low, together.high),
        copilot_weight=pair.config.copilot_weight,
    )
    pair.card_facts = CardFacts([result], license="apache-2.0", training={"steps": options.steps})
    return pair


def by_the_hub(
    pair: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> PreTrainedModel:
    """Push Pilot and Copilot to repositories of their own, and join them from an empty cache.

    Args:
        pair: The pair.
        tokenizer: Its tokenizer.
        options: The options.

    Returns:
        The pair as it came back.
    """
    pilot, copilot = f"{options.namespace}/sums-pilot", f"{options.namespace}/sums-copilot"
    pair.pilot.push_to_hub(pilot, private=options.private)
    commit = tokenizer.push_to_hub(pilot).oid
    # The Pilot has learnt too, so it is the pushed one that belongs to the Copilot.
    pushed = pair.push_copilot_to_hub(
        copilot, tokenizer=tokenizer, pilot=pilot, pilot_revision=commit, private=options.private
    )
    print(f"pushed {pushed.commit_url}")
    with tempfile.TemporaryDirectory() as cache:
        return PilotCopilotForCausalLM.from_copilot(copilot, cache_dir=cache)


def main(arguments: list[str] | None = None) -> None:
    """Train, publish, join and compare.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    demo = Demo(options)
    pair, folder = train(demo), Path(options.output_dir) / "copilot"
    pair.save_copilot(folder, tokenizer=demo.tokenizer)
    for file in sorted(folder.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file.name}")
    if options.namespace:
        joined = by_the_hub(pair, demo.tokenizer, options)
    else:
        joined = PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(folder))
    another = build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed + 1)
    beside_another = PilotCopilotForCausalLM.from_pilot(another, copilot=str(folder))
    prompts = [question.prompt for question in demo.test[:20]]
    before, after, other = (
        write_replies(model, demo.tokenizer, prompts, MAX_ANSWER_TOKENS) for model in (pair, joined, beside_another)
    )
    print(f"{sum(a == b for a, b in zip(before, after, strict=True))} of {len(prompts)} answers are as before")
    print(f"beside another Pilot, which has learnt nothing: {prompts[0]}{other[0]}")
    if before != after:
        raise SystemExit("the joined pair DIFFERS from the one that was saved")


if __name__ == "__main__":
    logging.set_verbosity_warning()
    main()
