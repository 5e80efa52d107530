"""What a pair has to know of its Pilot: whether adapters are in it, which Auto class makes it, and what it reads.

A pair takes what its Pilot takes: `forward`'s signature names the Pilot's own inputs too. A Trainer keeps the columns
of a data set that `forward` names, and `generate` refuses arguments that it does not name. Both look at the signature
only; the inputs themselves come through `**kwargs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import partial, update_wrapper, wraps
from types import MethodType
from typing import Any

from torch.compiler import is_compiling
from transformers import AutoModelForMultimodalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)


def has_adapter(part: PreTrainedModel) -> bool:
    """Whether adapters are in a model, whoever put them there.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot.

    Returns:
        `bool`
    """
    # PEFT writes its configurations on the model that it changes, and takes them away when it unloads; transformers'
    # own flag does not know of what `get_peft_model` did.
    return bool(vars(part).get("peft_config"))


def auto_class_for(config: PreTrainedConfig, text_class: Any) -> Any:
    """The Auto class whose model a Pilot's configuration is of.

    Args:
        config (`PreTrainedConfig`): the Pilot's; its family and `architectures` decide.
        text_class: the Auto class of Pilots that read text alone, `AutoModelForCausalLM` or `AutoModelForSeq2SeqLM`.

    Returns:
        `text_class`, or `AutoModelForMultimodalLM` where the family is known to that alone, or where the configuration
        says that the model is of the other of two classes (Llama 4 is both).
    """
    kind, architectures = config.model_type, config.architectures or []
    seq2seq = bool(config.is_encoder_decoder)
    of_text = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if seq2seq else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    other = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(kind)
    if other is None or other == of_text.get(kind):
        return text_class
    return AutoModelForMultimodalLM if kind not in of_text or other in architectures else text_class


class PilotInputs:
    """A `forward` whose signature, seen on a pair, has its Pilot's inputs; seen on the class it is the plain function.

    Args:
        function (callable): the pair's `forward`, with `**kwargs`.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, pair: Any, owner: type | None = None) -> Any:
        if pair is None:
            return self.function
        function = pair.__dict__.get("_forward", self.function)
        # `torch.compile` can't follow how a method is made, or takes what is made here for `pair.forward`: this again.
        return partial(function, pair) if is_compiling() else MethodType(function, pair)


def forward_with_inputs(function: Callable[..., Any], names: Collection[str]) -> Callable[..., Any]:
    """The same function, with further keyword arguments in its signature.

    Args:
        function (callable): a method with `**kwargs`.
        names (collection of `str`): the Pilot's inputs; those that are named already stay as they are.

    Returns:
        A function.
    """

    @wraps(function)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """See the function."""
        return function(self, *args, **kwargs)

    signature = inspect.signature(function)
    *named, rest = signature.parameters.values()  # the last one takes all others
    new = sorted(set(names) - set(signature.parameters))
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in new]
    forward.__signature__ = signature.replace(parameters=[*named, *added, rest])  # type: ignore[attr-defined]
    return forward


def parameters_of(model: Any) -> frozenset[str]:
    """What a model's `forward` names.

    Returns:
        `frozenset` of `str`: without what it takes by `**kwargs`.
    """
    taken = inspect.signature(model.forward).parameters.values()
    return frozenset(one.name for one in taken if one.kind is not one.VAR_KEYWORD)


__all__ = ["has_adapter", "auto_class_for", "PilotInputs", "forward_with_inputs", "parameters_of"]
