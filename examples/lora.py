"""Fine-tune a pair by LoRA, on Pilot and Copilot, the Pilot in 8 bits if you like; save, load and merge the adapters.

    python examples/lora.py
    python examples/lora.py --quantize

A small Pilot learns sums first, as in `demo.py`, and is saved: it stands for the model that you have. Then adapters of
the paper's size (r = 32, α = 64) learn in it and in its Copilot, while the Pilot's own weights stay as they are.
Other options are those of `demo.py`.
"""

import argparse
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
        The options: the demonstration's, and `quantize`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantize", action="store_true", help="load the Pilot in 8 bits (needs torchao)")
    parser.add_argument("--output_dir", default="outputs/lora", help="folder for Pilot, adapters and merged pair")
    own, rest = parser.parse_known_args(arguments)
    options = parse_demo_arguments([*rest, "--output_dir", own.output_dir])
    options.quantize = own.quantize
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


def main(arguments: list[str] | None = None) -> None:
    """Train, save, load, merge and compare.

    Args:
        arguments: The command line without the program's name.
    """
    options = parse_arguments(arguments)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="torch")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    demo, output = Demo(options), Path(options.output_dir)
    base = build_pilot(options.pilot_layers, HIDDEN_SIZE, options.seed)
    demo.train(Trainer, base, "the Pilot", options.learning_rate)
    base.save_pretrained(output / "pilot")
    demo.tokenizer.save_pretrained(output / "pilot")

    keywords = pilot_keywords(options.quantize)
    pair = PilotCopilotForCausalLM.from_pilot(
        str(output / "pilot"),
        copilot={"num_hidden_layers": options.copilot_layers, "initializer_range": INITIALIZER_RANGE},
        **keywords,
    )
    pair.add_adapters(pilot=paper_lora("pilot"), copilot=paper_lora("copilot"))
    print(f"\nweights that learn: Pilot {learning(pair.pilot)}, Copilot {learning(pair.copilot)}")
    demo.train(CopilotTrainer, pair, "the adapters", options.learning_rate)
    pair.save_adapters(output / "adapters")
    for file in sorted((output / "adapters").rglob("*.*")):
        print(f"{file.stat().st_size:>12,}  {file.relative_to(output / 'adapters')}")

    loaded = PilotCopilotForCausalLM.from_pilot(str(output / "pilot"), copilot=str(output / "adapters"), **keywords)
    contestants = [
        demo.answer("the Pilot before", base, base.num_parameters()),
        demo.answer("with adapters", pair, pair.num_parameters()),
        demo.answer("loaded again", loaded, loaded.num_parameters()),
    ]
    loaded.merge_adapters()
    loaded.save_pretrained(output / "merged")
    contestants.append(demo.answer("merged", loaded, loaded.num_parameters()))
    print(f"\n{accuracy_table(contestants)}")
    same = contestants[1].answers == contestants[2].answers
    print("the loaded adapters answer as before" if same else "the loaded adapters DIFFER")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
