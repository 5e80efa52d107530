"""What is looked at before several processes train together: what launched them, what splits the pair over them, and
whether they have the same data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

import torch

from ..mistake_log.recording import data_digest


_SHARDS_NOTHING = (
    "{name} is asked for, and accelerate spreads nothing here: it does so on accelerators only, and would train with "
    "DDP without saying so. Use examples/accelerate/ddp.yaml on a CPU."
)
_NOT_SIZED, _NOT_COMPARED = -1, 0
# accelerate's ways of dividing up one text or one layer, of which a mistake has to be whole.
_DIVIDED = {"tp": "tensor parallelism", "cp": "context parallelism", "sp": "sequence parallelism"}


def check_launch(args: Any, accelerator: Any) -> None:
    """Refuse what launched processes can't do with a pair, by its name.

    Args:
        args ([`CopilotTrainingArguments`]): how many processes the Trainer knows of.
        accelerator (`Accelerator`): what it does with them.

    Raises:
        ValueError: the launched processes don't know of each other, or are to divide the pair up in a way that isn't
            right for it, or that this machine can't.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if launched > args.world_size:
        raise ValueError(
            f"{launched} processes were launched, and each would train alone, in the same folder: accelerate looks for "
            "an accelerator, and this machine has none. Say `use_cpu=True` (`--use_cpu`) to train on its CPU."
        )
    _check_fsdp(args, accelerator)
    _check_deepspeed(args, accelerator)
    divided = getattr(accelerator, "parallelism_config", None)
    for name, what in _DIVIDED.items():
        size = getattr(divided, f"{name}_size", 1) or 1
        if size > 1:
            raise ValueError(
                f"`{name}_size={size}` ({what}) is refused: it divides up what a mistake is made of. Leave it out; DDP "
                "and FSDP2 divide rows and weights only."
            )
    if os.environ.get("ACCELERATE_USE_MEGATRON_LM", "false").lower() == "true":
        raise ValueError("Megatron-LM is refused: it trains models of its own only. Use DDP or FSDP2.")


@contextmanager
def spread_errors_explained() -> Iterator[None]:
    """Say what to do where accelerate spreads a model that torch then refuses.

    Yields:
        Nothing.

    Raises:
        ValueError: torch's own, with a note.
    """
    try:
        yield
    except ValueError as error:
        if "managed by another FSDP group" in str(error):
            error.add_note(
                "accelerate's FSDP2 can't spread a model in which more than two modules share a weight, as those of "
                "T5 do, in a pair or alone. Use DDP (examples/accelerate/ddp.yaml) or DeepSpeed (zero3.yaml)."
            )
        raise


def _check_fsdp(args: Any, accelerator: Any) -> None:
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    wanted = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if plugin is None and wanted:
        raise ValueError(_SHARDS_NOTHING.format(name="FSDP"))
    if plugin is not None and plugin.fsdp_version != 2:
        raise ValueError(
            "`fsdp_version: 1` is refused: it clips gradients of each part by those of one process only. Set "
            "`fsdp_version: 2`, as examples/accelerate/fsdp2.yaml does."
        )


def _check_deepspeed(args: Any, accelerator: Any) -> None:
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if plugin is None:
        if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
            raise ValueError(_SHARDS_NOTHING.format(name="DeepSpeed"))
        return
    own, of_copilot = args.max_grad_norm, args.of_copilot("max_grad_norm")
    fixed = plugin.deepspeed_config.get("gradient_clipping")
    clips = own > 0 or of_copilot > 0 or (isinstance(fixed, (int, float)) and fixed > 0)
    if clips and not (args.freeze_pilot and own == of_copilot):
        raise ValueError(
            f"`max_grad_norm={own}`, `copilot_max_grad_norm={of_copilot}` beside DeepSpeed: it clips by one norm of "
            "all weights, and each part is to be clipped by its own. Set `max_grad_norm=0` (`--max_grad_norm 0`), "
            "leave `copilot_max_grad_norm` out, and say `gradient_clipping: auto` in its configuration; or take FSDP2."
        )
    if args.copilot_steps_per_round > 1:
        raise ValueError(
            f"`copilot_steps_per_round={args.copilot_steps_per_round}` beside DeepSpeed, whose engine knows of one "
            "kind of step only, in which all weights move. Set it to 1, or take DDP or FSDP2."
        )


def check_same_data(accelerator: Any, sets: Mapping[str, Any]) -> None:
    """Refuse data sets that are not the same in all processes: each process takes its rows out of the whole set by
    their numbers, so that some would be read twice and others never.

    Args:
        accelerator (`Accelerator`): gathers from all processes; each has to call this.
        sets (`dict`): data sets by the name of their argument. Streamed ones are not looked at, and of those whose rows
            come out differently each time only the length is.

    Raises:
        ValueError: one differs; the message names it and the process.
    """
    if accelerator.num_processes == 1 or not sets:
        return
    own = torch.tensor([_about(data) for data in sets.values()], dtype=torch.long, device=accelerator.device)
    found = accelerator.gather(own.unsqueeze(0)).tolist()
    for place, name in enumerate(sets):
        first = found[0][place]
        for process, others in enumerate(found):
            length, digest = others[place]
            if length != first[0]:
                told = f"has {_rows(length)} in process {process} and {_rows(first[0])} in process 0"
            elif digest != first[1] and _NOT_COMPARED not in (digest, first[1]):
                told = f"holds other rows in process {process} than in process 0, or the same in another order"
            else:
                continue
            raise ValueError(
                f"`{name}` {told}. Every process has to have the whole set, in one order: the Trainer shares it out. "
                "Don't shard it yourself, and seed what shuffles it alike in all processes."
            )


def _rows(length: int) -> str:
    return "no length" if length == _NOT_SIZED else f"{length:,} rows"


def _about(data: Any) -> list[int]:
    """The length and a digest of some rows."""
    if isinstance(data, torch.utils.data.IterableDataset) or not isinstance(data, Sized):
        return [_NOT_SIZED, _NOT_COMPARED]
    digests = {data_digest(data) for _ in range(2)} if len(data) else {None}
    digest = digests.pop()
    if digest is None or digests:
        return [len(data), _NOT_COMPARED]
    return [len(data), int(digest[:15], 16) or 1]


__all__ = ["check_launch", "check_same_data", "spread_errors_explained"]
