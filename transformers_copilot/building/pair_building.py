"""Making a pair from a Pilot: the Copilot's configuration, what its weights are copied from, and where it is put."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import resolve_revision

from ..adapters.adapter_checks import check_adapter, refuse_adapter_alone
from ..adapters.adapters import unwrapped_pilot
from ..hub.copilot_alone import CopilotCheckpoint
from ..pair.compatibility import check_pairing, check_pilot, keep_attention_plain, question_size, refuse_spread_weights
from ..pair.configuration_copilot import CopilotConfig
from ..pair.configuration_pilot_copilot import PilotCopilotConfig
from ..pair.copilot_forms import new_copilot
from ..pair.fusion import make_room_for_weight
from ..pair.options import COPILOT_OPTIONS, PAIR_OPTIONS, chosen
from ..pair.pilot import auto_class_for
from ..pair.provenance import commit_of, hub_id
from ..pair.quantization import adopt_quantization
from .copilot_start import start_copilot
from .weight_copying import same_but_for_padding


# A new Copilot where nothing is said of it, and the layers of one that has layers.
DEFAULT_FORM: str = COPILOT_OPTIONS["form"].default
DEFAULT_COPILOT_LAYERS = 2
_MIN_COPILOT_LAYERS = 2
# Keywords of `from_pretrained` that say where a configuration is, and whether its code may run.
_FINDING = (
    *("revision", "token", "cache_dir", "local_files_only", "subfolder", "trust_remote_code", "code_revision"),
    *("gguf_file", "force_download", "proxies"),
)


@dataclass
class LoadedPilot:
    """A Pilot and where it comes from.

    Args:
        model (`PreTrainedModel`): the Pilot, loaded or as it was given.
        name (`str`, *optional*): its Hub id; `None` for a folder or a model made in memory.
        revision (`str`, *optional*): the commit that was loaded, where it was loaded here.
    """

    model: PreTrainedModel
    name: str | None
    revision: str | None


def load_pilot(auto_class: Any, pilot: PreTrainedModel | str, options: dict[str, Any]) -> LoadedPilot:
    """The Pilot, loaded if it was given by its id or path.

    Args:
        auto_class: the Auto class that loads Pilots of this form.
        pilot (`PreTrainedModel` or `str`): a model, or the id or path of one.
        options (`dict`): keywords of the Pilot's `from_pretrained`; none where a model is given.

    Raises:
        TypeError: there are keywords left, but nothing to load.
    """
    if isinstance(pilot, str):
        where = {name: options[name] for name in ("token", "cache_dir", "local_files_only") if name in options}
        # One commit for every file, and the one that the pair's configuration then names.
        revision = resolve_revision(pilot, options.get("revision"), **where)
        if revision is not None:
            options = {**options, "revision": revision}
        model = pilot_class(auto_class, pilot, options).from_pretrained(pilot, **options)
        return LoadedPilot(model, hub_id(pilot), commit_of(revision))
    if options:
        raise TypeError(
            f"unknown options {sorted(options)}: expected {sorted(PAIR_OPTIONS)}. Keywords of `from_pretrained` are "
            "taken only when the Pilot is given by its id or path."
        )
    # What is no model is refused by name later on.
    return LoadedPilot(pilot, hub_id(pilot.name_or_path) if isinstance(pilot, PreTrainedModel) else None, None)


def pilot_class(auto_class: Any, pilot: str, options: dict[str, Any]) -> Any:
    """The Auto class that loads a Pilot, text alone or with images.

    Args:
        auto_class: that of Pilots that read text alone.
        pilot (`str`): id or path of the Pilot.
        options (`dict`): keywords of the Pilot's `from_pretrained`; a `config` among them saves reading the Pilot's.

    Returns:
        An Auto class.
    """
    config = options.get("config")
    if not isinstance(config, PreTrainedConfig):
        finding = {name: options[name] for name in _FINDING if name in options}
        try:
            config = AutoConfig.from_pretrained(pilot, **finding)
        except (OSError, ValueError) as error:
            refuse_adapter_alone(pilot, finding, error)
            raise
    return auto_class_for(config, auto_class)


def form_of(copilot: dict[str, Any] | None, head: str | None, options: dict[str, Any]) -> str:
    """The form of a new Copilot.

    Args:
        copilot (`dict`, *optional*): fields of its configuration.
        head (`str`, *optional*): the Copilot's vocabulary matrices.
        options (`dict`): the pair's options that are given.

    Returns:
        `str`: the form that is given; a decoder where something is that only a decoder has; else [`DEFAULT_FORM`].
    """
    fields = {} if head is None else {"head": head}
    fields |= copilot or {}
    if "form" in fields:
        return fields["form"]
    plain = "error_feedback" not in options and fields in ({}, {"head": "pilot"})
    return DEFAULT_FORM if plain else "decoder"


def copilot_config_for(
    auto_class: Any,
    pilot: PreTrainedModel,
    copilot: CopilotConfig | dict[str, Any] | str | None,
    head: str | None,
    choices: dict[str, Any] | None = None,
) -> tuple[CopilotConfig, PreTrainedModel]:
    """The Copilot's configuration, and the model that its layers are copied from.

    Args:
        auto_class: the Auto class that loads Pilots of this form.
        copilot: as [`PilotCopilotForCausalLM.from_pilot`] takes it.
        head (`str`, *optional*): wins over the configuration's.
        choices (`dict`, *optional*): fields that hold where `copilot` does not name them.

    Returns:
        [`CopilotConfig`] and `PreTrainedModel`

    Raises:
        TypeError: `copilot` is of no type that is understood.
    """
    source = pilot
    if isinstance(copilot, CopilotConfig):
        config = copy.deepcopy(copilot)
    else:
        fields: dict[str, Any] = dict(choices or {})
        if isinstance(copilot, str):
            source = pilot_class(auto_class, copilot, {}).from_pretrained(copilot)
        elif isinstance(copilot, dict):
            fields |= copilot
            form = fields.get("form", "decoder")
            if "rationale" in copilot and chosen("form", form) != "decoder":
                raise ValueError(
                    f"`rationale` is given for a Copilot of the form {form!r}, which reads none: leave it out, "
                    "or choose form='decoder'."
                )
        elif copilot is not None:
            raise TypeError(
                f"`copilot` is a {type(copilot).__name__}; give a CopilotConfig, a dict of its fields such as "
                '{"num_hidden_layers": 6}, or the id or path of a checkpoint to copy.'
            )
        if "num_hidden_layers" not in fields and fields.get("form", "decoder") != "linear":
            layers = source.config.get_text_config(decoder=True).num_hidden_layers
            wanted = layers if isinstance(copilot, str) else DEFAULT_COPILOT_LAYERS
            fields["num_hidden_layers"] = max(_MIN_COPILOT_LAYERS, wanted)
        if head is not None:
            fields["head"] = head
        width = pilot.config.get_text_config(decoder=True).hidden_size
        fields = {"pilot_hidden_size": width, "question_size": question_size(pilot), **fields}
        if isinstance(copilot, str) and _padded_alike(pilot.config, source.config):
            fields.setdefault("vocab_size", pilot.config.get_text_config(decoder=True).vocab_size)
        config = CopilotConfig.from_pilot(source.config, **fields)
    if head is not None and config.head != head:
        config = CopilotConfig(**{**config.to_dict(), "head": head})
    return config, source


def _padded_alike(pilot: PreTrainedConfig, source: PreTrainedConfig) -> bool:
    """Whether two checkpoints are of one family whose vocabulary they have, whatever it is padded to."""
    one, other = pilot.get_text_config(decoder=True), source.get_text_config(decoder=True)
    return one.model_type == other.model_type and same_but_for_padding(one.vocab_size, other.vocab_size)


def build_pair(
    pair_class: Any,
    pilot: Any,
    copilot: Any,
    config: PilotCopilotConfig | None,
    head: str | None,
    options: dict[str, Any],
) -> PreTrainedModel:
    """A pair from its Pilot; arguments as [`PilotCopilotForCausalLM.from_pilot`] takes them.

    Args:
        pilot: a model, or the id or path of one.
        copilot: a configuration, fields of one, or the id or path of a checkpoint.
        config ([`PilotCopilotConfig`], *optional*): options as a whole.
        head (`str`, *optional*): whose vocabulary matrices the Copilot uses: its `"own"` or the `"pilot"`'s. `None`
            leaves it to the configuration.
        options (`dict`): options by name, and keywords of the Pilot's `from_pretrained`.
    """
    refuse_spread_weights()
    named = {name: options.pop(name) for name in PAIR_OPTIONS if name in options}
    own = {**(config.option_values() if config is not None else {}), **named}
    checkpoint = CopilotCheckpoint.find(copilot, options.pop("copilot_revision", None), options)
    loaded = load_pilot(pair_class._auto_pilot_class, unwrapped_pilot(pilot), options)
    pilot = loaded.model
    check_pilot(pilot, pair_class.config_class().is_encoder_decoder)
    check_adapter(pilot, "pilot")  # one that was loaded by its id or path may have brought an adapter
    if checkpoint is not None:
        checkpoint.check_head(head)
        copilot, given, own = checkpoint.config, own, {**checkpoint.pairing.options, **own}
    # The form and what it reads are a part of the options that are given as a whole, such as the paper's.
    choices = {} if config is None else {name: getattr(config.copilot, name) for name in COPILOT_OPTIONS}
    if copilot is None or isinstance(copilot, dict):
        choices.setdefault("form", form_of(copilot, head, own))
    copilot_config, source = copilot_config_for(pair_class._auto_pilot_class, pilot, copilot, head, choices)
    _check_feedback(copilot_config, named)
    check_pairing(pilot.config, copilot_config, question_size(pilot))
    pair_config = pair_class.config_class(
        pilot=pilot.config,
        copilot=copilot_config,
        pilot_name_or_path=loaded.name,
        pilot_revision=loaded.revision,
        **own,
    )
    keep_attention_plain(copilot_config, pilot.config)
    # Nothing is taken from torch's random stream: after a seed, what comes next (a Trainer's order of the data after
    # `model_init`, the Pilot's dropout) is what it would be without a Copilot.
    with torch.random.fork_rng(devices=[pilot.device] if pilot.device.type == "cuda" else []):
        made = new_copilot(copilot_config).to(device=pilot.device, dtype=torch.float32)
        pair = pair_class(pair_config, pilot=pilot, copilot=made)
        if checkpoint is None:
            start_copilot(pair, source)
    if checkpoint is not None:
        checkpoint.load_into(pair, fitted="copilot_weight" not in given)
    adopt_quantization(pair)
    pair.generation_config = copy.deepcopy(pilot.generation_config)
    make_room_for_weight(pair.generation_config)
    pair.train(pilot.training)
    return pair


def _check_feedback(copilot: CopilotConfig, named: dict[str, Any]) -> None:
    if "error_feedback" in named and chosen("form", copilot.form) != "decoder":
        raise ValueError(
            f"`error_feedback={named['error_feedback']!r}` is given for a Copilot of the form {copilot.form!r}, which "
            "is told nothing of earlier tokens: leave it out, or choose form='decoder'."
        )


__all__ = ["DEFAULT_FORM", "LoadedPilot", "build_pair", "copilot_config_for", "form_of", "load_pilot"]
