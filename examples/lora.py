"""Fine-tune a pair by LoRA, on Pilot and Copilot, the Pilot in 8 bits if you like; save, load and merge the adapters.

    python examples/lora.py
    python examples/lora.py --quantize
    hf auth login
    python examples/lora.py --namespace user      # user/sums-base and user/sums-adapters on the Hub

A small Pilot learns sums first, as in `demo.py`, and is saved: it stands for the model that you have. Then adapters of
the paper's size (r = 32, α = 64) learn in it and in its Copilot, while the Pilot's own weights stay as they are.
Other options are those of `demo.py`.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from demo import HIDDEN_SIZE, INITIALIZER_RANGE, Demo, build_pilot
from demo import parse_arguments as parse_demo_arguments
from report import accuracy_table
from transformers import PreTrainedModel, Trainer
from transformers.utils import logging

from transformers_copilot import CopilotTrainer, PilotCopilotForCausalLM, paper_lora


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options: the demonstration's, `quantize`, `namespace` and `private`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", action="store_true", help="load the Pilot in 8 bits (needs torchao)")
    parser.add_argument("--namespace", help="user or organization on the Hub; without it, only folders are written")
    parser.add_argument("--private", action="store_true", help="make the repositories private ones")
    parser.add_argument("--output_dir", default="outputs/lora", help="folder for Pilot, adapters and merged pair")
    own, rest = parser.parse_known_args(arguments)
    options = parse_demo_arguments([*rest, "--output_dir", own.output_dir])
    options.quantize, options.namespace, options.private = own.quantize, own.namespace, own.private
    return options


def pilot_keywords(quantize: bool) -> dict[str, Any]:
    """How the Pilot is loaded.

    Args:
        quantize: Whether in 8 bits.

    Returns:
        Keywords of `from_pretrained`.
    """
    if not quantize:
        return {}
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}


def learning(model: PreTrainedModel) -> str:
    """How many of a model's weights learn.

    Args:
        model: The model.

    Returns:
        `"1,024 of 65,536"`.
    """
    return f"{model.num_parameters(only_trainable=True):,} of {model.num_parameters():,}"


def publish_pilot(demo: Demo, base: PreTrainedModel) -> str:
    """Save the model that adapters are to be put into, or push it.

    Args:
        demo: The demonstration.
        base: The model.

    Returns:
        Its folder, or its id on the Hub.
    """
    options = demo.options
    if options.namespace:
        name = f"{options.namespace}/sums-base"
        base.push_to_hub(name, private=options.private)
        demo.tokenizer.push_to_hub(name)
        return name
    folder = Path(options.output_dir) / "pilot"
    base.save_pretrained(folder)
    demo.tokenizer.save_pretrained(folder)
    return str(folder)


def there_and_back(
    demo: Demo, pair: PilotCopilotForCausalLM, pilot: str, keywords: dict[str, Any]
) -> PilotCopilotForCausalLM:
    """Save a pair's adapters, or push them, and load them again.

    Args:
        demo: The demonstration.
        pair: The pair.
        pilot: Folder or id of its Pilot.
        keywords: How the Pilot is loaded.

    Returns:
        The pair as it came back.
    """
    options = demo.options
    folder = Path(options.output_dir) / "adapters"
    pair.save_adapters(folder, tokenizer=demo.tokenizer)
    for file in sorted(folder.rglob("*.*")):
        print(f"{file.stat().st_size:>12,}  {file.relative_to(folder)}")
    if not options.namespace:
        return PilotCopilotForCausalLM.from_pilot(pilot, copilot=str(folder), **keywords)
    # The Pilot's own weights stayed as they were, so the repository that it came from is the one that is recorded.
    name = f"{options.namespace}/sums-adapters"
    pushed = pair.push_copilot_to_hub(name, tokenizer=demo.tokenizer, private=options.private)
    print(f"pushed {pushed.commit_url}")
    with tempfile.TemporaryDirectory() as cache:
        return PilotCopilotForCausalLM.from_copilot(name, cache_dir=cache, **keywords)


def main(arguments: list[str] | None = None) -> None:
    """Train, save or push, load, merge and compare.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    demo = Demo(options)
    base = build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed)
    demo.train(Trainer, base, "the Pilot", options.learning_rate)
    pilot, keywords = publish_pilot(demo, base), pilot_keywords(options.quantize)
    copilot = {"num_hidden_layers": options.copilot_layers, "initializer_range": INITIALIZER_RANGE}
    pair = PilotCopilotForCausalLM.from_pilot(pilot, copilot=copilot, **keywords)
    pair.add_adapters(pilot=paper_lora("pilot"), copilot=paper_lora("copilot"))
    print(f"\nweights that learn: Pilot {learning(pair.pilot)}, Copilot {learning(pair.copilot)}")
    demo.train(CopilotTrainer, pair, "the adapters", options.learning_rate)
    loaded = there_and_back(demo, pair, pilot, keywords)
    contestants = [
        demo.answer("the Pilot before", base, base.num_parameters()),
        demo.answer("with adapters", pair, pair.num_parameters()),
        demo.answer("loaded again", loaded, loaded.num_parameters()),
    ]
    loaded.merge_adapters()
    loaded.save_pretrained(Path(options.output_dir) / "merged")
    contestants.append(demo.answer("merged", loaded, loaded.num_parameters()))
    print(f"\n{accuracy_table(contestants)}")
    if contestants[1].answers != contestants[2].answers:
        raise SystemExit("the loaded adapters DIFFER")
    print("the loaded adapters answer as before")


if __name__ == "__main__":
    logging.set_verbosity_warning()
    main()
