"""A Copilot's own checkpoint: its weights and configuration, λ, and which Pilot it was trained beside.

The Pilot itself is not in it, so the checkpoint is small, and joins the recorded Pilot or another of its kind.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers.utils import cached_file, logging
from transformers.utils.hub import resolve_revision

from ..adapters.adapter_checks import adapter_names
from ..adapters.adapter_files import ADAPTER_FOLDER, Sums, adapter_sums, load_adapter, save_adapter
from ..adapters.adapter_layers import plain_state
from ..pair.configuration_copilot import CopilotConfig
from ..pair.configuration_pilot_copilot import PilotCopilotConfig
from ..pair.loading import check_finite, check_kinds, read_config
from ..pair.options import PAIR_OPTIONS
from ..pair.provenance import (
    FIELDS_FINGERPRINT,
    check_unchanged,
    fields_fingerprint,
    hub_id,
    is_newer,
    unknown_fields,
    upgrade_advice,
)
from ..pair.published_text import publishable_fit
from ..pair.saved_files import (
    CHECKSUMS,
    READING_ERRORS,
    check_digest,
    checksums_in,
    digest_of,
    opened_weights,
    read_json,
)
from ..pair.version import __version__
from .pilot_fingerprint import (
    differences,
    pair_fingerprint,
    refuse_other_tokenizer,
    tokenizer_hash,
    tokenizer_hash_of,
)


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

logger = logging.get_logger(__name__)

COPILOT_WEIGHTS = "copilot.safetensors"
PAIRING = "pairing.json"
# Keywords of `from_pretrained` that say how to reach the Hub, and so hold for both repositories.
_HUB_KEYWORDS = ("token", "cache_dir", "force_download", "local_files_only", "proxies")
# What fields of a pairing are, where they are not null.
_TYPES = {
    **dict.fromkeys(("fingerprint", "options", "copilot_weight_fit", "adapters"), dict),
    **dict.fromkeys(("pilot_name_or_path", "pilot_revision", "transformers_copilot_version"), str),
}
_NEEDED = ("options",)


@dataclass
class Pairing:
    """What a Copilot's checkpoint says beside its weights and configuration.

    Args:
        pilot_name_or_path (`str`, *optional*): the Hub id of the Pilot that it was trained beside, if it has one.
        pilot_revision (`str`, *optional*): the commit of it that was loaded.
        fingerprint (`dict`): architecture, vocabulary, width, decoder layers and tokenizer hash of that Pilot.
        options (`dict`): the pair's options, λ among them.
        copilot_weight_fit (`dict`, *optional*): where λ was fitted.
        adapters (`dict`): the parts whose adapters lie beside the weights (`"pilot"`, `"copilot"`) and their names.
        checksums (`dict`): sums of the files beside it, which tell whether they are those that were saved.
        transformers_copilot_version (`str`, *optional*): the version of this package that wrote it.
        former_rationale (`tuple`, *optional*): `rationale_window` and `rationale_pooling` of a file of version 0.1.
    """

    pilot_name_or_path: str | None = None
    pilot_revision: str | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    copilot_weight_fit: dict[str, Any] | None = None
    adapters: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, Any] = field(default_factory=dict)
    transformers_copilot_version: str | None = None
    former_rationale: tuple[str, str] | None = None

    @classmethod
    def read(cls, file: str, source: str) -> Pairing:
        """Read it from its JSON file.

        Args:
            source (`str`): id or folder of the checkpoint, for messages.

        Raises:
            ValueError: the file is damaged, was changed after it was saved, or holds an option that there is not; the
                message names the field.
        """
        where = f"{PAIRING} of {source}"
        values = read_json(file, where)
        for name in _NEEDED:
            if values.get(name) is None:
                raise ValueError(f"{where} has no `{name}`; download or save the Copilot again.")
        for name, kind in _TYPES.items():
            value = values.get(name)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"`{name}` in {where} is {str(value)[:60]}; expected a {kind.__name__}.")
        checksums_in(values, where)
        values = check_unchanged(values, where, FIELDS_FINGERPRINT)
        former = _former_rationale(values["options"])
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        unknown += sorted(set(values["options"]) - set(PAIR_OPTIONS))
        _warn_of_unknown(PAIRING, source, unknown, values.get("transformers_copilot_version"))
        known = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        known["options"] = {name: value for name, value in values["options"].items() if name in PAIR_OPTIONS}
        known |= {name: known.get(name) or {} for name in ("adapters", "fingerprint", CHECKSUMS)}
        try:
            PilotCopilotConfig(**known["options"])
        except READING_ERRORS as error:
            raise ValueError(f"`options` in {where} can't be used: {error}") from error
        return cls(**{**known, "former_rationale": former})


def _former_rationale(options: dict[str, Any]) -> tuple[str, str] | None:
    """Take out what version 0.1 wrote in the place of `rationale`, and an option of a loss that is gone."""
    options.pop("mistake_tail", None)
    if "rationale_window" not in options and "rationale_pooling" not in options:
        return None
    return options.pop("rationale_window", "preceding"), options.pop("rationale_pooling", "mean")


@dataclass
class CopilotCheckpoint:
    """A Copilot's own checkpoint, found in a folder or on the Hub; its weights are read by [`load_into`].

    Args:
        source (`str`): folder of the checkpoint, or its id on the Hub.
        revision (`str`, *optional*): its branch, tag or commit.
        hub (`dict`): keywords that say how to reach the Hub.
        config ([`CopilotConfig`]): the Copilot's own configuration, read from the checkpoint.
        pairing ([`Pairing`]): which Pilot it was trained beside, the pair's options, and λ.
    """

    source: str
    revision: str | None
    hub: dict[str, Any]
    config: CopilotConfig
    pairing: Pairing

    @classmethod
    def find(cls, copilot: Any, revision: str | None, options: dict[str, Any]) -> CopilotCheckpoint | None:
        """The checkpoint that an id or folder holds, if it is a Copilot's own.

        Args:
            copilot: what `from_pilot` was given.
            revision (`str`, *optional*): branch, tag or commit.
            options (`dict`): keywords of `from_pretrained`, of which those that say how to reach the Hub are used.

        Returns:
            [`CopilotCheckpoint`], or `None` where `copilot` is something else, such as a model to copy layers from.

        Raises:
            ValueError: it holds a whole pair.
        """
        if isinstance(copilot, cls):
            return copilot
        if not isinstance(copilot, str):
            return None
        hub = {name: options[name] for name in _HUB_KEYWORDS if name in options}
        where = {name: hub[name] for name in ("token", "cache_dir", "local_files_only") if name in hub}
        revision = resolve_revision(copilot, revision, **where)  # one commit for every file
        try:
            found = check_unchanged(read_config(copilot, {"revision": revision, **hub}))
        except OSError as error:
            raise OSError(f"{copilot}, given for the Copilot, could not be read: {error}") from error
        model_type = found.get("model_type")
        if model_type in ("pilot_copilot", "pilot_copilot_seq2seq"):
            raise ValueError(
                f"{copilot} holds a whole pair ({model_type}), not a Copilot alone; load it with `from_pretrained`, "
                "and save its Copilot with `save_copilot` to join it to another Pilot."
            )
        if model_type != CopilotConfig.model_type:
            return None
        file = cached_file(copilot, PAIRING, revision=revision, **hub)
        pairing = Pairing.read(file, copilot)
        if pairing.former_rationale is not None and "rationale" not in found:
            window, pooling = pairing.former_rationale
            own_input = bool(found.pop("rationale_input", False))
            found["rationale"] = CopilotConfig.rationale_of_former(window, pooling, own_input)
        unknown = unknown_fields(found, CopilotConfig)
        _warn_of_unknown("config.json", copilot, unknown, pairing.transformers_copilot_version)
        config = CopilotConfig.from_dict({name: value for name, value in found.items() if name not in unknown})
        return cls(copilot, revision, hub, config, pairing)

    def check_head(self, head: str | None) -> None:
        """Refuse another head than the Copilot was trained with, before anything is built.

        Args:
            head (`str`, *optional*): what the caller asked for.

        Raises:
            ValueError: it is another; both values are named.
        """
        if head is not None and head != self.config.head:
            raise ValueError(
                f"`head` is {head!r}, but the Copilot in {self.source} was trained with {self.config.head!r}; leave "
                "`head` out."
            )

    def load_into(self, pair: PilotCopilotPreTrainedModel, fitted: bool) -> None:
        """Put the weights into a pair, with adapters where there are any, and say in what its Pilot is another.

        Args:
            pair: a pair whose Copilot has this checkpoint's configuration; changed in place.
            fitted (`bool`): whether λ is the checkpoint's own, so that it is known where it was fitted.

        Raises:
            ValueError: the Pilot's tokenizer is another, a weight is missing or one too many, or the file is broken.
            OSError: a file is missing.
        """
        recorded = self.pairing.fingerprint.get("tokenizer_hash")
        if recorded is not None:
            beside = tokenizer_hash_of(pair.pilot.name_or_path, pair.config.pilot_revision, **self.hub)
            refuse_other_tokenizer(recorded, beside)
        file = cached_file(self.source, COPILOT_WEIGHTS, revision=self.revision, **self.hub)
        sums = Sums(self.pairing.checksums, PAIRING)
        load_whole(pair.copilot, file, self.source, sums)
        for part, name in self.pairing.adapters.items():
            load_adapter(pair, part, name, self.source, sums, revision=self.revision, **self.hub)
        if fitted:
            pair.config.copilot_weight_fit = self.pairing.copilot_weight_fit
        self._warn_of_another_pilot(pair)

    def _warn_of_another_pilot(self, pair: PilotCopilotPreTrainedModel) -> None:
        recorded = {"id": self.pairing.pilot_name_or_path, "revision": self.pairing.pilot_revision}
        found = {"id": hub_id(pair.config.pilot_name_or_path), "revision": pair.config.pilot_revision}
        different = differences({**recorded, **self.pairing.fingerprint}, {**found, **pair_fingerprint(pair)})
        if not different:
            return
        fit = " λ was fitted there; `fit_copilot_weight` sets it here." if self.pairing.copilot_weight_fit else ""
        logger.warning(
            f"The Copilot in {self.source} was trained beside another Pilot: {'; '.join(different)}. It may gain less "
            f"here.{fit}"
        )


def _warn_of_unknown(file: str, source: str, unknown: list[str], version: str | None) -> None:
    if unknown:
        advice = upgrade_advice(version) if is_newer(version) else "Is it a Copilot's checkpoint as it was written?"
        logger.warning(f"{file} of {source} has what is not known here and not used: {', '.join(unknown)}. {advice}")


def load_whole(module: torch.nn.Module, file: str, source: str, sums: Sums) -> None:
    """Load a safetensors file into a module; every weight has to be there, and none more.

    Args:
        module (`torch.nn.Module`): what the weights are loaded into, in place.
        source (`str`): id or folder of the checkpoint, for messages.
        sums ([`Sums`]): the checkpoint's.

    Raises:
        ValueError: the file is broken, or its weights are not the module's or not those that were saved.
    """
    where = f"{Path(file).name} of {source}"
    with opened_weights(file, where) as stored:
        state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    own = module.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) + [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise ValueError(
            f"{where} does not hold the Copilot that its configuration describes: {len(wrong)} weights are missing, "
            f"unknown or of another shape, {wrong[0]} first."
        )
    check_kinds(where, state, own)
    check_finite(where, state)
    check_digest(sums.values, Path(file).name, digest_of(state.items()), where, sums.saved_in)
    module.load_state_dict(state)


def write_copilot(
    pair: PilotCopilotPreTrainedModel,
    folder: str | os.PathLike,
    tokenizer: PreTrainedTokenizerBase | None = None,
    pilot: str | None = None,
    pilot_revision: str | None = None,
    with_adapters: bool = False,
) -> None:
    """Write a pair's Copilot as a checkpoint of its own; arguments as of `save_copilot`.

    Args:
        folder (`str` or `Path`): made where it does not exist.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): the Pilot's, whose hash is recorded. Defaults to the one that
            lies beside the Pilot, if it was loaded from somewhere.
        pilot (`str`, *optional*): the Hub id to record.
        pilot_revision (`str`, *optional*): the commit of `pilot`; not used without it.
        with_adapters (`bool`, *optional*, defaults to `False`): write adapters of both parts too.

    Raises:
        ValueError: `pilot` is no Hub id.
    """
    if pilot is not None and hub_id(pilot) is None:
        raise ValueError(
            f"`pilot` is {pilot!r}, which is no id on the Hub, or a folder here: a folder of this machine says nothing "
            "on another. Push the Pilot and give its id, or leave `pilot` out; whoever loads the Copilot then gives "
            "his own."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = hub_id(pair.config.pilot_name_or_path) if pilot is None else pilot
    revision = pair.config.pilot_revision if pilot is None else pilot_revision
    spelling = (
        tokenizer_hash(tokenizer)
        if tokenizer is not None
        else tokenizer_hash_of(pair.pilot.name_or_path, pair.config.pilot_revision)
    )
    fit = pair.config.copilot_weight_fit
    pairing = Pairing(
        pilot_name_or_path=name,
        pilot_revision=revision,
        fingerprint={**pair_fingerprint(pair), "tokenizer_hash": spelling},
        options=pair.config.option_values(),
        copilot_weight_fit=publishable_fit(fit),
        adapters=adapter_names(pair) if with_adapters else {},
        transformers_copilot_version=__version__,
    )
    weights = {key: tensor.detach().contiguous() for key, tensor in plain_state(pair.copilot).items()}
    save_file(weights, folder / COPILOT_WEIGHTS, metadata={"format": "pt"})
    pair.copilot.config.save_pretrained(folder)
    for part in pairing.adapters:
        save_adapter(pair, part, folder / ADAPTER_FOLDER.format(part=part))
    pairing.checksums = {COPILOT_WEIGHTS: digest_of(weights.items()), **adapter_sums(folder, pairing.adapters)}
    written = {name: value for name, value in asdict(pairing).items() if name != "former_rationale"}
    written[FIELDS_FINGERPRINT] = fields_fingerprint(written)
    text = json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / PAIRING).write_text(text + "\n", encoding="utf-8")


__all__ = ["COPILOT_WEIGHTS", "PAIRING", "CopilotCheckpoint", "Pairing", "load_whole", "write_copilot"]
