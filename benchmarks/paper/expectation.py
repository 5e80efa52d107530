"""What a row takes, before it starts: memory and hours from its shape, by formulas whose inputs are printed.

None of it was measured at these sizes. The memory of activations and the speed of the machine are rough; the rest is
counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cost.work import count_parameters
from benchmarks.experiments.spec import Experiment, Variant
from benchmarks.paper.shapes import pair_on_meta
from transformers_copilot.mistake_log.device_memory import MOMENTS, logit_bytes


TASKS = Path(__file__).with_name("tasks.yaml")
# Bytes a weight that learns has besides its own: a gradient and AdamW's moments, in float32.
LEARNING_BYTES = 4 * (1 + MOMENTS)
# Bytes of activations that a layer keeps for a token and a unit of its width, in 16-bit numbers.
ACTIVATION_BYTES = 34
LOGIT_BYTES = logit_bytes(2)


@dataclass(frozen=True)
class Machine:
    """What a machine is assumed to do.

    Args:
        tflops: Operations a second of training, in millions of millions: what is reached, not what a data sheet says.
        gigabytes: Bytes of weights a second that generation reads, in thousand millions.
        layer_milliseconds: What a layer takes at least, however little it has to do: a forward pass, or each of the
            three that a training step is about worth.
    """

    tflops: float = 150.0
    gigabytes: float = 1000.0
    layer_milliseconds: float = 1.0


@dataclass(frozen=True)
class Expectation:
    """Memory and time of one run of a row.

    Args:
        memory: Bytes by what holds them.
        steps: Training steps.
        training_operations: Floating-point operations of all training steps.
        training_hours: Their time.
        answering_hours: The time of the answers of the Pilot alone and of the pair, over all tests.
        inputs: What the formulas were given, in words.
    """

    memory: dict[str, float]
    steps: int
    training_operations: float
    training_hours: float
    answering_hours: float
    inputs: list[str]

    @property
    def fixed_bytes(self) -> float:
        """Bytes that no smaller batch saves."""
        return self.memory["weights"] + self.memory["gradients and AdamW's moments"]

    @property
    def bytes(self) -> float:
        """Bytes of all."""
        return sum(self.memory.values())

    def lines(self) -> list[str]:
        """The expectation as it is printed."""
        parts = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in self.memory.items())
        return [
            f"  expected memory {self.bytes / 1e9:.1f} GB: {parts}",
            f"  expected hours {self.training_hours + self.answering_hours:.1f} a seed: training "
            f"{self.training_hours:.1f} ({self.steps:,} steps, {self.training_operations:.2g} operations), answers "
            f"{self.answering_hours:.1f}",
            *(f"    {line}" for line in self.inputs),
        ]


def expect(spec: Experiment, variant: Variant, machine: Machine) -> Expectation:
    """What a run of a row takes.

    Args:
        spec: The row.
        variant: Which of its Copilots.
        machine: What the machine is assumed to do.

    Returns:
        The expectation.
    """
    pair, plain = pair_on_meta(spec, variant), count_parameters(pair_on_meta(replace(spec, lora={}), variant))
    pilot_bytes = 2 if spec.pilot.get("dtype") == "bfloat16" else 4
    stored = sum(p.numel() for p in pair.parameters())
    below = plain.stored[0]
    learnt = sum(p.numel() for p in pair.parameters() if p.requires_grad)
    sets, batch = _sets(), spec.training["per_device_train_batch_size"]
    questions = sum(sets[task]["train"] for task in spec.task_options.get("train_tasks") or [spec.task])
    tokens, supervised = _mean_tokens(spec, sets)
    steps = math.ceil(questions / batch) * spec.training["num_train_epochs"]

    # A product costs 2 operations a weight forward, 2 for its input's gradient, and 2 for its weight's where it learns.
    passes = 4 if spec.lora else 6
    pilot = passes * tokens * (plain.pilot_body + plain.pilot_head)
    copilot = passes * tokens * (plain.copilot_body + plain.copilot_memory) + 6 * supervised * plain.copilot_head
    operations = steps * batch * (pilot + copilot)

    depths = {part: _layers(getattr(pair, part).config) for part in ("pilot", "copilot")}
    kept = sum(layers * getattr(pair, part).config.hidden_size for part, layers in depths.items())
    longest = batch * spec.max_length
    vocabulary = pair.config.vocab_size
    logits = batch * vocabulary * LOGIT_BYTES * (tokens + supervised)
    memory = {
        "weights": below * pilot_bytes + (stored - below) * 4.0,
        "gradients and AdamW's moments": learnt * float(LEARNING_BYTES),
        "activations": float(longest * kept * ACTIVATION_BYTES * (1 if spec.training.get("bf16") else 2)),
        "logits": float(logits),
    }
    inputs = [
        f"Pilot {below:,} weights of {pilot_bytes} bytes, all others {stored - below:,} of 4; {learnt:,} learn, "
        f"{LEARNING_BYTES} bytes each",
        f"activations: {ACTIVATION_BYTES} bytes a token, layer and unit of width, {batch} texts of {spec.max_length}; "
        f"logits: {LOGIT_BYTES} bytes, {tokens:.0f} tokens a text, {supervised:.0f} of them learnt",
        f"{questions:,} questions; {passes} operations a weight and token, for the Pilot {pilot:.3g} a text, for its "
        f"Copilot {copilot:.3g}",
        f"assumed: {machine.tflops:g} TFLOP/s in training, {machine.gigabytes:g} GB/s in generation, "
        f"{machine.layer_milliseconds:g} ms a layer at least; none of it was measured here",
    ]
    answers = [
        _answering_seconds(spec, sets, *one, machine)
        for one in (
            (plain.stored[0], plain.stored[0] * pilot_bytes, depths["pilot"]),
            (sum(plain.stored), plain.stored[0] * pilot_bytes + 4 * plain.stored[1], sum(depths.values())),
        )
    ]
    seconds = operations / (machine.tflops * 1e12)
    seconds = max(seconds, steps * 3 * sum(depths.values()) * machine.layer_milliseconds / 1000)
    return Expectation(memory, steps, operations, seconds / 3600, sum(answers) / 3600, inputs)


def _layers(config: Any) -> int:
    """All layers of a model, an encoder's among them; a Copilot's configuration has a decoder alone."""
    return config.num_hidden_layers + (getattr(config, "num_decoder_layers", None) or 0)


def _answering_seconds(
    spec: Experiment, sets: dict[str, Any], weights: int, size: int, layers: int, machine: Machine
) -> float:
    """Seconds of all answers of one model: each new token reads all weights once a batch, or multiplies them with every
    beam, or waits for its layers."""
    beams, batch = spec.generation["num_beams"], spec.training["per_device_eval_batch_size"]
    reading, waiting = size / (machine.gigabytes * 1e9), layers * machine.layer_milliseconds / 1000
    seconds = 0.0
    for task in (spec.task, *spec.also_test):
        # A batch ends with its longest reply: somewhere between the mean target and the limit.
        new = min(spec.max_new_tokens or 2 * sets[task]["target"], 2 * sets[task]["target"])
        each = 2 * weights * batch / (machine.tflops * 1e12)
        seconds += math.ceil(sets[task]["test"] / batch) * (
            each * sets[task]["prompt"] + new * max(reading, each * beams, waiting)
        )
    return seconds


def _sets() -> dict[str, Any]:
    return yaml.safe_load(TASKS.read_text(encoding="utf-8"))


def _mean_tokens(spec: Experiment, sets: dict[str, Any]) -> tuple[float, float]:
    """Mean tokens of a training text, and of its target, its end among them."""
    sources = [sets[task] for task in spec.task_options.get("train_tasks") or [spec.task]]
    total = sum(source["train"] for source in sources)
    prompt, target = (sum(one["train"] * one[name] for one in sources) / total for name in ("prompt", "target"))
    return prompt + target + 1, target + 1
