"""Whether the models fit into the device's memory, judged before they are made."""

import argparse

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.cost.models import Kind, all_kinds, shape_named
from transformers_copilot.building.pair_building import copilot_config_for
from transformers_copilot.mistake_log.device_memory import MOMENTS, described, free_bytes, logit_bytes, size_text
from transformers_copilot.pair.copilot_forms import new_copilot


BYTES = {"float32": 4, "bfloat16": 2}
COPILOT_BYTES = 4  # a Copilot stays in float32


def count_weights(options: argparse.Namespace, kind: Kind) -> tuple[int, int]:
    """The weights of a pair that is not made: its shapes alone are, on the meta device.

    Args:
        options: `pilot` and `shape`.
        kind: Which pair.

    Returns:
        The Pilot's, and the Copilot's own.
    """
    config = shape_named(options.shape) if options.pilot is None else AutoConfig.from_pretrained(options.pilot)
    with torch.device("meta"):
        pilot = AutoModelForCausalLM.from_config(config)
        copilot = new_copilot(copilot_config_for(AutoModelForCausalLM, pilot, dict(kind.copilot), None, {})[0])
    return pilot.num_parameters(), copilot.num_parameters()


def needed_bytes(pilot: int, copilot: int, vocabulary: int, options: argparse.Namespace) -> dict[str, int]:
    """What the run takes at once, by what takes it: an estimate, without what lies between the layers.

    Two Pilots are there, the one alone and the pair's. A training step adds a gradient and AdamW's two moments to every
    weight of the pair.

    Args:
        pilot: Weights of the Pilot.
        copilot: Weights of the Copilot.
        vocabulary: Tokens that the Pilot knows.
        options: `dtype`, `batch`, `length`, `rows` and `no_training`.

    Returns:
        Bytes by name.
    """
    pair = pilot * BYTES[options.dtype] + copilot * COPILOT_BYTES
    needed = {"weights": pilot * BYTES[options.dtype] + pair}
    logit = vocabulary * logit_bytes(BYTES[options.dtype], learnt=not options.no_training)
    if options.no_training:
        return {**needed, "logits": options.rows * logit}
    needed["gradients and AdamW's moments"] = (1 + MOMENTS) * pair
    return {**needed, "logits": options.batch * options.length * logit}


def check_room(options: argparse.Namespace) -> None:
    """Refuse a run that the device has too little memory for.

    Args:
        options: The command line's options.

    Raises:
        ValueError: The message says what is needed, what is there, and which options to lower.
    """
    free = free_bytes(torch.device(options.device))
    if free is None:
        return
    counted = {kind.name: count_weights(options, kind) for kind in all_kinds(options)}
    name = max(counted, key=lambda one: counted[one][1])
    config = shape_named(options.shape) if options.pilot is None else AutoConfig.from_pretrained(options.pilot)
    vocabulary = config.get_text_config(decoder=True).vocab_size
    needed = needed_bytes(*counted[name], vocabulary, options)
    if sum(needed.values()) <= free:
        return
    lower = ["--branch_layers", "--copilot_layers", "--forms"]
    if not options.no_training:
        lower = ["--batch", "--length", *lower]
    more = ["--dtype bfloat16"] if options.dtype == "float32" else []
    more += [] if options.no_training else ["--no_training, which measures reading and writing alone"]
    raise ValueError(
        f"{name!r} needs about {described(needed)} on {options.device}, without what lies between the layers, and "
        f"{size_text(free)} are free. Lower {', '.join(lower)}" + "".join(f", or take {one}" for one in more) + "."
    )
