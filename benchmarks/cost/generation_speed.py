"""Rows of the table about reading and writing text."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.cost.measuring import Row, announce, compare, time_interleaved
from benchmarks.cost.models import Kind, random_tokens
from benchmarks.cost.work import Parameters
from transformers_copilot import PilotCopilotForCausalLM


MOST_IDLE = 1.02


def writer(model: PreTrainedModel, rows: int, options: argparse.Namespace, **more: Any) -> Callable[[], Any]:
    """Greedy generation of a fixed number of tokens.

    Args:
        model: The Pilot or the pair.
        rows: Sequences at once.
        options: `length` of the prompt and `new_tokens`.
        **more: Further arguments of `generate`.

    Returns:
        A function that generates once.
    """
    ids = random_tokens(model, rows, options.length).to(model.device)
    mask = torch.ones_like(ids)
    count = options.new_tokens

    def write() -> Any:
        return model.generate(
            input_ids=ids, attention_mask=mask, min_new_tokens=count, max_new_tokens=count, do_sample=False, **more
        )

    return write


def reader(model: PreTrainedModel, rows: int, options: argparse.Namespace, **more: Any) -> Callable[[], Any]:
    """The first pass of `generate` over a prompt: keys and values of all of it, logits of the last position.

    Args:
        model: The Pilot or the pair.
        rows: Sequences at once.
        options: `length` of the prompt.
        **more: Further arguments of the forward pass.

    Returns:
        A function that reads once.
    """
    ids = random_tokens(model, rows, options.length).to(model.device)
    mask = torch.ones_like(ids)

    @torch.no_grad()
    def read() -> Any:
        return model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **more)

    return read


@dataclass
class Case:
    """One thing to be timed with the Pilot alone and with the pair.

    Args:
        name: Its name in the table.
        make: Makes the function to be timed.
        rows: Sequences at once.
        bound: What the ratio would be if only the counted work took time.
        bound_by: What is counted.
    """

    name: str
    make: Callable[..., Callable[[], Any]]
    rows: int
    bound: float
    bound_by: str


def generation_cases(work: Parameters, options: argparse.Namespace) -> list[Case]:
    """What is timed.

    Args:
        work: The pair's weights by part.
        options: The command line's options.

    Returns:
        The cases.
    """
    writing = work.generation(options.length, options.new_tokens)
    return [
        Case(f"prefill, batch {options.rows}", reader, options.rows, work.prefill(options.length), "operations"),
        Case("generation, batch 1", writer, 1, work.weights_read(), "weights read"),
        Case(f"generation, batch {options.rows}", writer, options.rows, writing, "operations"),
    ]


def generation_rows(
    kind: Kind, pilot: PreTrainedModel, pair: PilotCopilotForCausalLM, work: Parameters, options: argparse.Namespace
) -> list[Row]:
    """Greedy generation and prefill with the Copilot.

    Args:
        kind: Which pair.
        pilot: The Pilot alone.
        pair: A pair of the same Pilot.
        work: Its weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    rows = []
    for case in generation_cases(work, options):
        variants = {
            "pilot": case.make(pilot, case.rows, options),
            "pair": case.make(pair, case.rows, options, copilot_weight=1.0),
        }
        seconds = time_interleaved(variants, options.repeats, options.clock, options.device)
        bound = {"bound": case.bound, "bound_by": case.bound_by, "target": kind.most(pilot)}
        rows.append(announce(compare(kind.name, case.name, seconds["pilot"], seconds["pair"], **bound)))
    return rows


def idle_rows(
    pilot: PreTrainedModel, pair: PilotCopilotForCausalLM, work: Parameters, options: argparse.Namespace
) -> list[Row]:
    """The same at λ = 0, which is one code for every kind of pair.

    Args:
        pilot: The Pilot alone.
        pair: A pair of the same Pilot.
        work: Its weights by part.
        options: The command line's options.

    Returns:
        The rows.
    """
    rows = []
    for case in generation_cases(work, options):
        variants = {
            "pilot": case.make(pilot, case.rows, options),
            "idle": case.make(pair, case.rows, options, copilot_weight=0.0),
        }
        seconds = time_interleaved(variants, options.repeats, options.clock, options.device)
        nothing = {"bound": 1.0, "bound_by": "the same work", "target": MOST_IDLE}
        rows.append(announce(compare("any, at λ = 0", case.name, seconds["pilot"], seconds["idle"], **nothing)))
    return rows
