"""Which of PEFT's methods a pair can have, which of them merge, and what to use in place of the others.

A pair runs the layers of a part, and nothing of the `PeftModel` around them. So a method is right in a pair if what it
learns acts inside the layers; one that adds to the loss, reads other arguments or runs the model twice is not. What no
test has tried is refused too: `docs/adapters.md` has the table, and a test holds it against the PEFT that is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AdapterMethod:
    """What a pair can do with one of PEFT's methods.

    Args:
        refused (`str`, *optional*): why a pair can't have it, as a phrase with a verb; `None`: it can.
        not_merged (`str`, *optional*): why it can't become a part of the weights, likewise; `None`: it can.
    """

    refused: str | None = None
    not_merged: str | None = None


_MERGED = AdapterMethod()
_PROMPT = AdapterMethod(
    "learns a prompt, no weights in the model's layers, and the Copilot could not read it. Use an adapter inside the "
    "layers, such as LoRA."
)
_MERGE_FIRST = "Use LoRA, or give the trained model merged: `peft_model.merge_and_unload()`."

# By the name of PEFT's type. A type that is not here is refused, until a test has tried it.
METHODS: dict[str, AdapterMethod] = {
    **dict.fromkeys(
        (
            *("LORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA"),
            *("HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA"),
            *("RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA"),
            *("VERA", "WAVEFT"),
        ),
        _MERGED,
    ),
    "ADAPTION_PROMPT": AdapterMethod(not_merged="lets attention read a learnt prompt, which no weight can stand for"),
    "LILY": AdapterMethod(not_merged="chooses among its matrices by the input, so no one weight can stand for it"),
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"), _PROMPT
    ),
    "ADALORA": AdapterMethod(
        "adds a loss of its own in `PeftModel.forward` and drops ranks at every step of training (`update_and_allocate`"
        f"), and a pair does neither. {_MERGE_FIRST}"
    ),
    "POLY": AdapterMethod("needs `task_ids` at every call, which a pair does not have. Use LoRA."),
    "SHADOW": AdapterMethod(
        "runs a small model of its own beside the layers, with a loss and a cache of its own in `PeftModel.forward`. "
        "Use LoRA."
    ),
    "XLORA": AdapterMethod(
        "mixes several adapters by a first pass of the model, and a pair keeps one adapter for each part. Train with "
        "LoRA, or merge the adapters into one (`add_weighted_adapter`)."
    ),
}

# Options that need more than the layers: name of the field to why. Any value but `None` and `False` is refused.
_REFUSED_OPTIONS: dict[str, str] = {
    "alora_invocation_tokens": "acts from a token on that `PeftModel.forward` looks for. Leave it out",
    "arrow_config": "mixes several adapters, and a pair keeps one for each part. Leave it out",
    "kasa_config": "cuts the weights below and adds two losses of its own, for which a pair has no place. Leave it out",
    "layer_replication": "changes how many layers the model has. Save the deeper model first, then adapt it",
    "megatron_config": "is for Megatron's layers, which no transformers model has. Leave it out",
    "monteclora_config": "adds a loss of its own, for which a pair has no place. Leave it out",
    "save_only_topk_weights": "saves less than was learnt, so that training cannot be resumed. Leave it out",
    "use_asa": "masks subspaces at every step of training (`update_and_allocate`), which a pair does not. Leave it out",
}
# Ways to start LoRA that take a part out of the weights below: the adapter alone does not hold the model.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Ways that read data or gradients, which PEFT collects on the model alone.
_READ_DATA = ("eva", "corda", "lora_ga")


def kind_of(config: Any) -> str:
    """The name of a configuration's method.

    Args:
        config (`peft.PeftConfig`): an adapter's configuration, of any method.

    Returns:
        `str`: as PEFT spells it, e.g. `"LORA"`.
    """
    return str(getattr(config.peft_type, "value", config.peft_type))


def why_refused(config: Any) -> str | None:
    """Why a pair can't have an adapter.

    Args:
        config (`peft.PeftConfig`): the adapter's configuration, of which the method and the options are looked at.

    Returns:
        `str`: the method or its option, why, and what to do instead; `None` where it can.
    """
    kind = kind_of(config)
    if kind not in METHODS:
        return (
            f"{kind} is a method that this version of the package does not know. Use LoRA, or give the model merged "
            "(`merge_and_unload()`)."
        )
    method = METHODS[kind]
    if method.refused is not None:
        return f"{kind} {method.refused}"
    for name, reason in _REFUSED_OPTIONS.items():
        if vars(config).get(name) not in (None, False):
            return f"{kind} with `{name}` {reason}."
    return None


def start_that_changes_base(config: Any) -> str | None:
    """The way an adapter was started, if that changed the weights below it.

    Args:
        config (`peft.PeftConfig`): the adapter's configuration, of which `init_lora_weights` is looked at.

    Returns:
        `str`: the value of `init_lora_weights`, e.g. `"pissa"`; `None` where the weights below stay as they were.
    """
    return _start_among(config, _CHANGE_BASE)


def start_that_reads_data(config: Any) -> str | None:
    """The way an adapter is to be started, if that needs data or gradients.

    Args:
        config (`peft.PeftConfig`): the adapter's configuration, of which `init_lora_weights` is looked at.

    Returns:
        `str`: the value of `init_lora_weights`, e.g. `"eva"`; `None` where it needs neither.
    """
    return _start_among(config, _READ_DATA)


def _start_among(config: Any, starts: tuple[str, ...]) -> str | None:
    start = vars(config).get("init_lora_weights")
    return start if isinstance(start, str) and start.lower().startswith(starts) else None


__all__ = [
    "METHODS",
    "AdapterMethod",
    "kind_of",
    "start_that_changes_base",
    "start_that_reads_data",
    "why_refused",
]
