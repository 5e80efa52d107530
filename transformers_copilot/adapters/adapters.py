"""Adapters (LoRA and PEFT's others) on either part of a pair: put in, told apart from the weights below, merged.

Each part gets an adapter of its own, inside that part, so module names in a configuration are the part's own: `q_proj`
in the Pilot's never reaches the Copilot. Which methods there are, and which a pair can't have: `adapter_methods`.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from transformers.utils import find_adapter_config_file

from ..pair.installed_package import advice_for_own_code
from ..pair.options import chosen
from ..pair.pilot import has_adapter
from ..pair.rationale import RationaleRecorder
from .adapter_methods import METHODS, kind_of, start_that_changes_base, start_that_reads_data, why_refused


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

PARTS = ("pilot", "copilot")
# Every matrix of a decoder's layers; its other parts are trained whole, see `add_adapters`. The other forms have no
# matrices besides those of their layers, or the one map.
COPILOT_TARGETS = r"layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj"
# Dropout of the Copilot's adapter is the paper's too (0.08); the Pilot's is 0.05.
PAPER_LORA: dict[str, dict[str, Any]] = {
    "pilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.05},
    "copilot": {"r": 32, "lora_alpha": 64, "lora_dropout": 0.08},
}
PEFT_PREFIX = "base_model.model."  # what PEFT puts before a model's names in its files


@dataclass
class _Beside:
    """A part's `PeftModel`, kept where `nn.Module` does not look: there every weight would count twice.

    It holds what a method shares between layers, and it is what PEFT's own reading and writing works on.
    """

    peft_model: Any


def peft_library() -> Any:
    """PEFT, or an error that says how to get it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ImportError("adapters need PEFT: `python -m pip install peft`.") from error
    return peft


def _peft_layers() -> tuple[Any, Any]:
    """PEFT's classes of a layer with an adapter, and of a module that is trained as a copy or in some rows."""
    peft = peft_library()
    return peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.AuxiliaryTrainingWrapper


def _prompted_attention() -> tuple[Any, Any]:
    """PEFT's classes around attention that reads a learnt prompt, the one method without layers of the usual class."""
    layers = peft_library().tuners.adaption_prompt.layer
    return layers.AdaptedAttention, layers.AdaptedAttentionGPT


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


# ---- what a pair is given ----


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
    _keep_beside(model, pilot)
    check_adapter(model, "pilot")
    return model


def refuse_adapter_alone(pilot: str, finding: dict[str, Any], error: Exception) -> None:
    """Say so where what was given for a Pilot, and holds no model, is an adapter.

    Args:
        pilot (`str`): the id or path.
        finding (`dict`): keywords that say where to look, such as `revision` and `token`.
        error (`Exception`): why no model was found there.

    Raises:
        ValueError: it is one.
    """
    where = {name: finding[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in finding}
    if find_adapter_config_file(pilot, **where) is not None:
        raise ValueError(
            f"{pilot} holds an adapter and not the model that it belongs to. Load both and give the PeftModel: "
            f"from_pilot(peft.AutoPeftModelForCausalLM.from_pretrained({pilot!r}, is_trainable=True))."
        ) from error


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


def check_not_around_pair(model: Any) -> None:
    """Refuse a `PeftModel` of a pair.

    Args:
        model: any model; only a `PeftModel` around a pair is refused.

    Raises:
        ValueError: it is one.
    """
    if "peft" not in sys.modules:
        return
    peft = peft_library()
    if not isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        return
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

    if any(isinstance(module, PilotCopilotPreTrainedModel) for module in model.modules()):
        raise ValueError(
            f"the model is a {type(model).__name__} around a pair, whose adapters reach both parts by the same names "
            "and are in no file of the pair's. Take them off (`model.unload()`) and put an adapter into either part: "
            "`pair.add_adapters(pilot=config)`, `pair.add_adapters(copilot=config)`."
        )


def check_adapter(model: PreTrainedModel, part: str) -> None:
    """Refuse adapters that a pair can't run, train, save and load as they are.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot, with adapters or without.
        part (`str`): `"pilot"` or `"copilot"`, for messages.

    Raises:
        ValueError: there are several, or one of a method that a pair can't have, or it is merged or switched off, or
            layers of one that was taken out are left.
    """
    if "peft" not in sys.modules:
        return
    tuner_layer, _ = _peft_layers()
    found = {path: layer for path, layer in model.named_modules() if _wrapped_child(layer) is not None}
    if not has_adapter(model):
        if found:
            raise ValueError(
                f"the {part} has {len(found)} layers of an adapter that was deleted, {next(iter(found))} first. Take "
                "them out with PEFT's `unload()`."
            )
        return
    name = adapter_name(model)
    config = model.peft_config[name]
    refused = why_refused(config)
    if refused is not None:
        raise ValueError(f"the {part} cannot have this adapter: {refused}")
    if _peft_model(model) is None and _keeps_state_outside(config):
        raise ValueError(
            f"{kind_of(config)} keeps weights outside the layers, in the PeftModel that the {part} was taken out of. "
            "Give the PeftModel itself."
        )
    switched_off = (
        f"the {part}'s adapter {name!r} is switched off ({{}}), and a pair would be saved as if it were on. Switch it "
        "on (`enable_adapter_layers()`, `enable_adapters()`, `set_adapter`), or take it out with PEFT's `unload()`."
    )
    if not found:
        raise ValueError(switched_off.format("no layer has it"))
    for path, layer in found.items():
        if isinstance(layer, _prompted_attention()):
            continue
        if isinstance(layer, tuner_layer) and layer.merged:
            raise ValueError(
                f"the {part}'s adapter {name!r} is merged into the weights for now (at {path}), so saving would keep "
                "what it learnt twice. Undo that with `unmerge_adapter()`, or make it a part of the weights with "
                "`merge_and_unload()`."
            )
        if layer.disable_adapters or name not in layer.active_adapters:
            raise ValueError(switched_off.format(f"at {path}"))


def _keeps_state_outside(config: Any) -> bool:
    tuner = peft_library().mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    return kind_of(config) != "ADAPTION_PROMPT" and bool(tuner.uses_shared_state)


def adapter_names(pair: PilotCopilotPreTrainedModel) -> dict[str, str]:
    """Which parts of a pair have an adapter.

    Returns:
        `dict`: part (`"pilot"`, `"copilot"`) to the adapter's name.
    """
    parts = {part: getattr(pair, part) for part in PARTS}
    return {part: adapter_name(model) for part, model in parts.items() if has_adapter(model)}


def adapter_name(part: PreTrainedModel) -> str:
    """The name of a model's one adapter.

    Args:
        part (`PreTrainedModel`): Pilot or Copilot, with an adapter.

    Raises:
        ValueError: it has several.
    """
    names = list(part.peft_config)
    if not names:
        raise ValueError(
            f"{type(part).__name__} has no adapter any more, but its layers; take them out with `unload()`."
        )
    if len(names) > 1:
        raise ValueError(
            f"{type(part).__name__} has {len(names)} adapters, {', '.join(names)}; a pair keeps one for each part. "
            "Delete the others with `delete_adapter`, or merge first (`merge_and_unload()`)."
        )
    return names[0]


# ---- put in ----


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
        _keep_beside(model, wrapped)
        check_adapter(model, part)
    if start is not None:
        config.init_lora_weights = start
    model.train(model.training)  # the adapter's dropout
    follow_embeddings(pair)


def _keep_beside(model: PreTrainedModel, peft_model: Any) -> None:
    model.peft_config = peft_model.peft_config
    model._peft_beside = _Beside(peft_model)
    model._hf_peft_config_loaded = True  # transformers' own flag: `active_adapters()` and others work from here on


def _peft_model(model: PreTrainedModel) -> Any:
    """The `PeftModel` around a part; `None` where transformers put the adapter in."""
    beside = vars(model).get("_peft_beside")
    return None if beside is None else beside.peft_model


def _forget(model: PreTrainedModel) -> None:
    """The part is without an adapter again."""
    vars(model).pop("_peft_beside", None)
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False


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
            _forget(model)


def follow_embeddings(pair: PilotCopilotPreTrainedModel) -> None:
    """Read the Pilot's layers and embeddings anew, after modules of it were replaced."""
    pair.recorder.remove()
    pair.recorder = RationaleRecorder(pair.pilot)


# ---- told apart from the weights below ----


def plain_state(model: PreTrainedModel, state: dict[str, Tensor] | None = None, prefix: str = "") -> dict[str, Tensor]:
    """A model's weights under the names that they have without adapters; the adapters' own are left out.

    Args:
        model (`PreTrainedModel`): a Pilot or a Copilot, with an adapter or without.
        state (`dict`, *optional*): weights to rename, instead of the model's.
        prefix (`str`, *optional*): what stands before the model's names in `state`.

    Returns:
        `dict` of name to tensor.
    """
    state = model.state_dict() if state is None else state
    if not has_adapter(model):
        return dict(state)
    plain = {}
    for name, tensor in state.items():
        if name.startswith(prefix):
            below = _plain_name(model, name.removeprefix(prefix))
            if below is None:
                continue
            name = prefix + below
        plain[name] = tensor
    return plain


def _plain_name(model: nn.Module, name: str) -> str | None:
    """What a weight is called without adapters; `None` for one that is an adapter's own.

    The modules are followed, not the name's spelling: wrappers lie inside each other, and a model may have modules
    whose names look like PEFT's.
    """
    module, parts, plain = model, name.split("."), []
    for index, part in enumerate(parts):
        inner = _wrapped_child(module)
        if inner is not None and part != inner:
            return None
        child = module._modules.get(part)
        if child is None:  # the weight itself, or what its own module calls it
            plain += parts[index:]
            break
        if inner is None:
            plain.append(part)
        module = child
    return ".".join(plain)


def _wrapped_child(module: nn.Module) -> str | None:
    """What a module of PEFT's calls the module that it wraps; `None` for any other module."""
    tuner_layer, trained_copy = _peft_layers()
    if isinstance(module, tuner_layer):
        return "base_layer"
    if isinstance(module, _prompted_attention()):
        return "model"
    if isinstance(module, trained_copy):  # the whole module beside a copy, or a layer of its own around it
        return "token_adapter" if "token_adapter" in module._modules else "original_module"
    return None


def _module_below(module: nn.Module) -> nn.Module:
    """The module that all of PEFT's around it wrap."""
    inner = _wrapped_child(module)
    return module if inner is None else _module_below(module.get_submodule(inner))


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """Show a model as it is without its adapters, to code that reads its layers.

    Args:
        model (`PreTrainedModel`): with adapters or without.

    Yields:
        Nothing; adapters are back in place afterwards.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    if has_adapter(model):
        for path, module in _outermost(model):
            parent, _, child = path.rpartition(".")
            swapped.append((model.get_submodule(parent), child, module))
    try:
        for owner, child, module in swapped:
            setattr(owner, child, _module_below(module))
        yield
    finally:
        for owner, child, module in swapped:
            setattr(owner, child, module)


def _outermost(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """PEFT's modules in a model, without those that lie inside one of them, and their paths."""
    found: list[tuple[str, nn.Module]] = []
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if not path.startswith(inside) and _wrapped_child(module) is not None:
            found.append((path, module))
            inside += (f"{path}.",)
    return found


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a part's adapter is made of, under the names of PEFT's files.

    Args:
        model (`PreTrainedModel`): Pilot or Copilot, with an adapter.

    Returns:
        `dict` of name to tensor.
    """
    peft, wrapped = peft_library(), _peft_model(model)
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
    return list(load(_peft_model(model), state, adapter_name=adapter_name(model)).unexpected_keys)


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
    return sorted(name for name in learning - held if _plain_name(model, name) is not None)


# ---- merged ----


@torch.no_grad()
def merge_all(pair: PilotCopilotPreTrainedModel) -> None:
    """Add the adapters of both parts to the weights below them and take them out, as `merge_and_unload` does.

    Raises:
        ValueError: a method can't be merged, merged weights are not finite, or one of several modules that share a
            weight has an adapter. Nothing is changed then.
    """
    names = adapter_names(pair)
    for part in names:
        _check_merging(getattr(pair, part), part)
    for part, name in names.items():
        _merge(getattr(pair, part), name)
    if names:
        pair.all_tied_weights_keys = pair.get_expanded_tied_weights_keys(all_submodels=True)
        follow_embeddings(pair)


def _merge(model: PreTrainedModel, name: str) -> None:
    was_tied = _head_is_tied(model)
    while found := _outermost(model):  # a module that was trained as a copy may have adapters inside
        for path, module in found:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, _merged(module, name))
    _forget(model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() and type(parameter) is nn.Parameter)
    if was_tied and not _head_is_tied(model):  # one of the two was trained as a copy
        for config in (model.config, model.config.get_text_config(decoder=True)):
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _merged(module: Any, name: str) -> nn.Module:
    """What a module of PEFT's becomes: the one below, with what the adapter learnt."""
    unload = getattr(module, "unload_and_optionally_merge_module", None)  # some of PEFT's have a way of their own
    if unload is not None:
        return unload(merge=True, safe_merge=True, adapter_names=[name])
    module.merge(safe_merge=True, adapter_names=[name])
    return module.get_base_layer()


def _head_is_tied(model: PreTrainedModel) -> bool:
    """Whether head and embeddings are one weight, below adapters."""
    if not model.can_generate():
        return False
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None:
        return False
    return _module_below(head).weight is _module_below(embeddings).weight


def _check_merging(model: PreTrainedModel, part: str) -> None:
    tuner_layer, _ = _peft_layers()
    check_adapter(model, part)
    config = model.peft_config[adapter_name(model)]
    kind = kind_of(config)
    keep = "Save it as it is: `save_pretrained` or `save_adapters`."
    reason = METHODS[kind].not_merged
    if reason is not None:
        raise ValueError(f"the {part}'s adapter cannot be merged: {kind} {reason}. {keep}")
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, tuner_layer)}
    if kind == "BEFT" or vars(config).get("lora_bias"):
        for path, layer in layers.items():
            if getattr(layer.get_base_layer(), "bias", None) is None:
                raise ValueError(
                    f"the {part}'s adapter cannot be merged: it learnt a bias, and {path} has none. {keep}"
                )
    own = set(model.state_dict()) - _names_below(model)
    for name, tensor in model.state_dict().items():
        if name in own and isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"the {part}'s adapter cannot be merged: {name} is not finite.")
    _refuse_shared(model, part, keep)


def _names_below(model: PreTrainedModel) -> set[str]:
    return {name for name in model.state_dict() if _plain_name(model, name) is not None}


def _refuse_shared(model: PreTrainedModel, part: str, keep: str) -> None:
    """An adapter on one of several modules that share their weight cannot be merged: the others would change too."""
    tuner_layer, trained_copy = _peft_layers()
    tokens = peft_library().tuners.trainable_tokens.TrainableTokensLayer
    users: dict[int, list[str]] = {}
    wrapped: dict[str, nn.Module] = {}  # module below an adapter, by its path, to the innermost layer around it
    dropped: tuple[str, ...] = ()  # what a trained copy takes the place of
    for path, module in model.named_modules(remove_duplicate=False):
        inner = _wrapped_child(module)
        if isinstance(module, tuner_layer):
            wrapped[f"{path}.{inner}"] = module
        elif isinstance(module, trained_copy) and inner == "original_module":
            dropped += (f"{path}.{inner}",)
        for parameter in module.parameters(recurse=False):
            if not path.startswith(dropped):
                users.setdefault(id(parameter), []).append(path)
    for paths in users.values():
        adapted = [wrapped[path] for path in paths if path in wrapped]
        # Rows of tied weights: one layer learns, the others follow it.
        followed = {id(layer.tied_adapter or layer) for layer in adapted if isinstance(layer, tokens)}
        in_step = len(adapted) == len(paths) and len(followed) == 1 and all(isinstance(x, tokens) for x in adapted)
        if adapted and len(paths) > 1 and not in_step:
            raise ValueError(
                f"the {part}'s adapter is on {' and '.join(paths)}, which share one weight: merged, it would change "
                f"each of them. {keep}"
            )


__all__ = [
    "COPILOT_TARGETS",
    "PARTS",
    "PEFT_PREFIX",
    "adapter_name",
    "adapter_names",
    "adapter_of_trainer",
    "adapter_state",
    "check_adapter",
    "check_not_around_pair",
    "follow_embeddings",
    "has_adapter",
    "learns_outside_adapter",
    "merge_all",
    "paper_lora",
    "peft_library",
    "plain_state",
    "put_adapter",
    "refuse_adapter_alone",
    "set_adapter_state",
    "unwrapped_pilot",
    "without_adapter",
]
