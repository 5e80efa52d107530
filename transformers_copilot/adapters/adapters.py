"""Adapters (LoRA and PEFT's others) on either part of a pair: put in, read and loaded.

Each part gets an adapter of its own, inside that part, so module names in a configuration are the part's own: `q_proj`
in the Pilot's never reaches the Copilot. Which methods there are, and which a pair can't have: `adapter_methods` and
`adapter_checks`. Merging: `adapter_merging`.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel, set_seed

from ..pair.installed_package import advice_for_own_code
from ..pair.options import chosen
from ..pair.pilot import has_adapter
from ..pair.rationale import RationaleRecorder
from .adapter_checks import PARTS, adapter_name, check_adapter, check_not_around_pair
from .adapter_layers import forget_adapter, keep_beside, peft_library, peft_model_of, plain_name
from .adapter_methods import kind_of, start_that_changes_base, start_that_reads_data, why_refused


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

# Every matrix of a decoder's layers; its other parts are trained whole, see `add_adapters`. The other forms have no
# matrices besides those of their layers, or the one map.
COPILOT_TARGETS = r"layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
# Dropout of the Copilot's adapter is the paper's too (0.08); the Pilot's is 0.05.
PAPER_LORA: dict[str, dict[str, Any]] = {
    "pilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.05},
    "copilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.08},
}
PEFT_PREFIX = "base_model.model."  # what PEFT puts before a model's names in its files


def paper_lora(part: str) -> Any:
    """The paper's LoRA configuration: r = 32, α = 64, on every matrix of the part's layers.

    Args:
        part (`str`): `"pilot"` (dropout 0.05) or `"copilot"` (0.08).

    Returns:
        `peft.LoraConfig`

    Raises:
        ValueError: there is no such part.
    """
    if part not in PARTS:
        raise ValueError(f"`part` is {part!r}; a pair has {PARTS[0]!r} and {PARTS[1]!r}.")
    targets = "all-linear" if part == "pilot" else COPILOT_TARGETS
    return peft_library().LoraConfig(target_modules=targets, **PAPER_LORA[part])


def unwrapped_pilot(pilot: Any) -> Any:
    """The transformers model inside a `PeftModel`, its adapter in place; anything else as it is.

    Args:
        pilot: what `from_pilot` was given.

    Raises:
        ValueError: the adapter is of a method or in a state that a pair can't have, there are several, or it is around
            a pair.
    """
    if "peft" not in sys.modules:  # then there is no adapter, and no need for the seconds that importing PEFT takes
        return pilot
    peft = peft_library()
    if isinstance(pilot, PreTrainedModel):
        check_adapter(pilot, "pilot")
        return pilot
    if isinstance(pilot, peft.PeftMixedModel):
        raise ValueError(
            "the Pilot is a PeftMixedModel, which mixes several adapters; a pair keeps one for each part. Merge them "
            "first (`merge_and_unload()`), or give a PeftModel with one adapter."
        )
    if not isinstance(pilot, peft.PeftModel):
        return pilot
    check_not_around_pair(pilot)
    for config in pilot.peft_config.values():
        refused = why_refused(config)
        if refused is not None:
            raise ValueError(f"the Pilot is a PeftModel with {kind_of(config)}, which a pair cannot have: {refused}")
    adapter_name(pilot)
    model = pilot.get_base_model()
    keep_beside(model, pilot)
    check_adapter(model, "pilot")
    return model


@contextmanager
def adapter_of_trainer(model: Any, config: Any, seed: int, pilot_is_frozen: bool) -> Iterator[None]:
    """Put a trainer's `peft_config` into the Pilot; taken out again if the trainer can't be made.

    Args:
        model: what the trainer was given as `model`. It has to be a pair if there is a configuration.
        config (`peft.PeftConfig`, *optional*): `None`: nothing is done.
        seed (`int`): set before, as TRL's trainers do: the adapter begins as it would around the Pilot alone.
        pilot_is_frozen (`bool`): whether the trainer is to freeze the Pilot.

    Raises:
        ValueError: the model is no pair yet, the Pilot is to be frozen, or `add_adapters` refuses the configuration.
        TypeError: `config` is no PEFT configuration.
    """
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

    if config is None:
        yield
        return
    if not isinstance(model, PilotCopilotPreTrainedModel):
        raise ValueError(
            advice_for_own_code(model)
            or f"`peft_config` goes into the Pilot of a pair, and `model` is a {type(model).__name__}. Give the pair "
            "itself (`PilotCopilotForCausalLM.from_pretrained(...)`); with `model_init`, call "
            "`pair.add_adapters(pilot=config)` in it."
        )
    if pilot_is_frozen:
        raise ValueError(
            "`peft_config` puts an adapter into the Pilot, which learns nothing with `freeze_pilot=True`. Leave one of "
            "the two out; the Copilot's adapter is `pair.add_adapters(copilot=config)`."
        )
    if has_adapter(model.pilot):
        raise ValueError(
            f"`peft_config` is given, and the Pilot has the adapter {adapter_name(model.pilot)!r} already. Leave "
            "`peft_config` out to train that one, or merge it first (`pair.merge_adapters()`)."
        )
    try:
        with _as_it_was_on_error(model.pilot):
            set_seed(seed)
            model.add_adapters(pilot=config)
            yield
    except BaseException:
        follow_embeddings(model)  # of the modules that are back
        raise


def put_adapter(
    pair: PilotCopilotPreTrainedModel, part: str, config: Any, name: str = "default", stored: bool = False
) -> None:
    """Put an adapter into one part; the part's other weights stop learning.

    Args:
        part (`str`): the part that gets it: `"pilot"` or `"copilot"`.
        config (`peft.PeftConfig`): of a method that a pair can have, with the part's own module names.
        name (`str`, *optional*, defaults to `"default"`): what PEFT is to call the adapter.
        stored (`bool`, *optional*, defaults to `False`): its weights, and those below, are about to be loaded: nothing
            is worked out of the part's weights, nor taken out of them.

    Raises:
        ValueError: the part has one already, no module fits the configuration, or a pair can't have the method.
        TypeError: `config` is no PEFT configuration.
    """
    peft = peft_library()
    model = getattr(pair, part)
    if not isinstance(config, peft.PeftConfig):
        raise TypeError(
            f"the {part}'s adapter is a {type(config).__name__}; give a PEFT configuration, such as "
            f"`peft.LoraConfig(r=32, lora_alpha=64, target_modules='all-linear')` or `paper_lora({part!r})`."
        )
    if has_adapter(model):
        raise ValueError(f"the {part} has the adapter {adapter_name(model)!r} already; merge it first.")
    refused = why_refused(config)
    if refused is not None:
        raise ValueError(f"the {part} cannot have this adapter: {refused}")
    start = start_that_reads_data(config)
    if start is not None and not stored:
        raise ValueError(
            f"`init_lora_weights={start!r}` reads data, which `add_adapters` has none of. Start the adapter on the "
            "model alone, as PEFT's documentation says, and give the PeftModel to `from_pilot`."
        )
    config = copy.deepcopy(config)
    if part == "copilot" and vars(config).get("target_modules") in (None, COPILOT_TARGETS):
        # PEFT knows no defaults for a Copilot
        decoder = chosen("form", pair.copilot.config.form) == "decoder"
        config.target_modules = COPILOT_TARGETS if decoder else "all-linear"
    if stored:
        config.inference_mode = False  # adapters that were loaded learn on
        start = start_that_changes_base(config) or start
        if start is not None:
            config.init_lora_weights = True
    with _as_it_was_on_error(model), warnings.catch_warnings():
        # PEFT 0.21 asks transformers by the old name of `is_activation_checkpointing`.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # Not transformers' `add_adapter`: it leaves out methods that share weights between layers.
        wrapped = peft.PeftModel(model, config, adapter_name=name)
        keep_beside(model, wrapped)
        check_adapter(model, part)
    if start is not None:
        config.init_lora_weights = start
    model.train(model.training)  # the adapter's dropout
    follow_embeddings(pair)


@contextmanager
def _as_it_was_on_error(model: PreTrainedModel) -> Iterator[None]:
    """PEFT replaces module after module, and one that it can't take must not leave half an adapter behind."""
    children = [(module, dict(module.named_children())) for module in model.modules()]
    learnt = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            for module, before in children:
                for name, child in before.items():
                    if getattr(module, name) is not child:
                        setattr(module, name, child)
            for parameter, learns in learnt:
                parameter.requires_grad_(learns)
            forget_adapter(model)


def follow_embeddings(pair: PilotCopilotPreTrainedModel) -> None:
    """Read the Pilot's layers and embeddings anew, after modules of it were replaced."""
    pair.recorder.remove()
    pair.recorder = RationaleRecorder(pair.pilot)


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a part's adapter is made of, under the names of PEFT's files.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot, with an adapter.

    Returns:
        `dict` of name to tensor.
    """
    peft, wrapped = peft_library(), peft_model_of(model)
    # The base weights lie beside it or in the Pilot's own repository, so embeddings are never needed here.
    options = {"adapter_name": adapter_name(model), "save_embedding_layers": False}
    if wrapped is not None:
        return peft.get_peft_model_state_dict(wrapped, **options)
    return {PEFT_PREFIX + key: tensor for key, tensor in peft.get_peft_model_state_dict(model, **options).items()}


def set_adapter_state(model: PreTrainedModel, state: dict[str, Tensor]) -> list[str]:
    """Load what a part's adapter is made of.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot, with an adapter that was put in by [`put_adapter`].
        state (`dict`): the adapter's weights, under the names that [`adapter_state`] gives.

    Returns:
        `list[str]`: names that belong nowhere.
    """
    load = peft_library().set_peft_model_state_dict
    return list(load(peft_model_of(model), state, adapter_name=adapter_name(model)).unexpected_keys)


def learns_outside_adapter(model: PreTrainedModel) -> list[str]:
    """Weights of a part that learn and that its adapter's file does not hold.

    Args:
        model (`PreTrainedModel`): a Pilot or a Copilot. Without an adapter, all weights that learn are named.

    Returns:
        `list[str]`, sorted.
    """
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if not has_adapter(model):
        return sorted(learning)
    held = {key.removeprefix(PEFT_PREFIX) for key in adapter_state(model)}  # biases that learn too, among others
    return sorted(name for name in learning - held if plain_name(model, name) is not None)


__all__ = [
    "COPILOT_TARGETS",
    "PAPER_LORA",
    "PEFT_PREFIX",
    "adapter_of_trainer",
    "adapter_state",
    "follow_embeddings",
    "learns_outside_adapter",
    "paper_lora",
    "put_adapter",
    "set_adapter_state",
    "unwrapped_pilot",
]
