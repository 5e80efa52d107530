"""Configuration of a pair: the Pilot's, the Copilot's, and the choices of how they work together."""

from typing import Any, ClassVar, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import logging

from .compat import CACHE_NAMES
from .configuration_copilot import CopilotConfig, check_layer_counts
from .options import COPILOT_OPTIONS, OPTION_VALUES, PAIR_OPTIONS, Option, check_copilot_weight, check_option
from .provenance import Fingerprinted, hub_id, is_newer, unknown_fields, upgrade_advice, without_paths
from .published_text import publishable_fit
from .version import __version__


logger = logging.get_logger(__name__)

# Fields of the Pilot's output that a pair hands on. An evaluation leaves them out of what it gathers.
PILOT_OUTPUTS = (
    *("hidden_states", "attentions", "cross_attentions", "encoder_last_hidden_state"),
    *("encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "decoder_attentions"),
    *("aux_loss", "router_logits", "encoder_aux_loss", "decoder_aux_loss", "encoder_z_loss", "decoder_z_loss"),
    *("encoder_router_logits", "decoder_router_logits"),
    *("image_hidden_states", "video_hidden_states", "audio_hidden_states"),
    *("image_outputs", "video_outputs", "audio_outputs"),
)


def _of_paper(options: dict[str, Option]) -> dict[str, Any]:
    """The paper's value of each option."""
    return {name: option.paper for name, option in options.items()}


def _of_pilot(name: str) -> property:
    """A field of the Pilot's text configuration, which trainers and scripts read and set on the pair's."""

    def read(config: "PilotCopilotConfig") -> Any:
        """The Pilot's value, `None` where it has no such field."""
        return getattr(config.get_text_config(decoder=True), name, None)

    def write(config: "PilotCopilotConfig", value: Any) -> None:
        """Set the Pilot's value."""
        setattr(config.get_text_config(decoder=True), name, value)

    return property(read, write)


@strict
class PilotCopilotConfig(Fingerprinted, PreTrainedConfig):
    r"""
    Configuration of a [`PilotCopilotForCausalLM`].

    Args:
        pilot (`PreTrainedConfig` or `dict`, *optional*):
            The Pilot's configuration. Defaults to a GPT-2.
        copilot (`CopilotConfig` or `dict`, *optional*):
            The Copilot's configuration.
        error_feedback (`str`, *optional*, defaults to `"token"`):
            What a Copilot of the form `"decoder"` is told of earlier tokens. `"token"`: the token alone, so that p̂ is
            needed nowhere but where it is corrected. `"observed"`: the mistake ℓ = onehot(token taken) − p̂ (Eq. 4), in
            training and while generating. `"predicted"`: the same in training, and its own earlier outputs f while
            generating (Algorithm 2). The other forms read none of it.
        fusion (`str`, *optional*, defaults to `"logits"`):
            `"logits"`: p̃ = softmax(z + λf). `"probability"`: p̃ ∝ max(p̂ + λf, tiny) (Eq. 8).
        objective (`str`, *optional*, defaults to `"cross_entropy"`):
            The Copilot's loss. `"cross_entropy"`: −log p̃ of the true token at λ = 1. `"kl"`: KL divergence of
            softmax(f) from softmax(ℓ). `"mse"`, `"rmse"`: squared distance of f from ℓ, its root taken over the
            mini-batch (Eq. 7).
        mistakes_from (`str`, *optional*, defaults to `"labels"`):
            Positions that the Copilot's loss covers: `"labels"`, the supervised ones, or `"all"`, the prompt's too.
        mistake_top_k (`int`, *optional*, defaults to 64):
            How many of the Pilot's most probable tokens a mistake that is *read* keeps beside the true one. `None`
            keeps all. The loss sees the whole vocabulary in any case.
        copilot_weight (`float`, *optional*, defaults to 1.0):
            λ of Eq. 8, from 0 (the Pilot alone) to 20; [`fit_copilot_weight`] sets it. Probability fusion and
            cross-entropy want one of about 1, `"kl"` and `"mse"` under logits fusion one of 3 to 8.
        copilot_weight_fit (`dict`, *optional*):
            Where λ comes from, written by [`fit_copilot_weight`]: method, set, size, value.
        pilot_name_or_path (`str`, *optional*):
            The Hub id that the Pilot was loaded from; `None` for a folder, which says nothing on another machine.
        pilot_revision (`str`, *optional*):
            The commit of it that was loaded, where it was loaded by its id.
        adapters (`dict`, *optional*):
            Which parts have an adapter in a folder of its own beside the weights, and its name: written when a pair is
            saved.
        transformers_copilot_version (`str`, *optional*):
            The version of this package that wrote the file.

    Raises:
        ValueError: an option has a value that is not among its allowed ones.
        StrictDataclassFieldValidationError: a field is of another type; transformers' own configurations raise it too.
    """

    model_type = "pilot_copilot"
    _auto_class = "AutoConfig"  # transformers writes the code of such a class beside the file
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "pilot": SubConfigSpec(AutoConfig, model_type="gpt2"),
        "copilot": SubConfigSpec(CopilotConfig),
    }
    keys_to_ignore_at_inference = [
        *(*CACHE_NAMES, "pilot_logits", "pilot_loss", "copilot_loss", "correction", "mistakes"),
        *PILOT_OUTPUTS,
    ]

    pilot: PreTrainedConfig | dict | None = None
    copilot: PreTrainedConfig | dict | None = None
    error_feedback: str = PAIR_OPTIONS["error_feedback"].default
    fusion: str = PAIR_OPTIONS["fusion"].default
    objective: str = PAIR_OPTIONS["objective"].default
    mistakes_from: str = PAIR_OPTIONS["mistakes_from"].default
    mistake_top_k: int | None = PAIR_OPTIONS["mistake_top_k"].default
    copilot_weight: Any = PAIR_OPTIONS["copilot_weight"].default  # any real number; `check_copilot_weight` says which
    copilot_weight_fit: dict | None = None
    pilot_name_or_path: str | None = None
    pilot_revision: str | None = None
    adapters: dict | None = None
    transformers_copilot_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._read_former(kwargs)
        newer = is_newer(self.transformers_copilot_version)
        if newer:
            kwargs = self._without_unknown(kwargs)
        try:
            self.check_options()
        except ValueError as error:
            if not newer:
                raise
            raise ValueError(f"{error} {upgrade_advice(self.transformers_copilot_version)}") from error
        if isinstance(self.pilot, PreTrainedConfig):
            # Left unsaid, a composite configuration would unset them on a Pilot that exists already.
            kwargs.setdefault("attn_implementation", {"": self.pilot._attn_implementation, "pilot": {}})
            kwargs.setdefault("experts_implementation", {"pilot": {}})
        check_layer_counts({name: value for name, value in vars(self).items() if isinstance(value, dict)})
        super().__post_init__(**kwargs)

    def _read_former(self, given: dict[str, Any]) -> None:
        """Make `rationale` of the options that a file of version 0.1 has in its place; `mistake_tail` is of a loss
        that is gone."""
        given.pop("mistake_tail", None)
        former = {name: given.pop(name) for name in ("rationale_window", "rationale_pooling") if name in given}
        if not former or (isinstance(self.copilot, dict) and "rationale" in self.copilot):
            return
        if isinstance(self.copilot, PreTrainedConfig):
            raise ValueError(
                f"`{'`, `'.join(former)}` of version 0.1 can't be read beside a configuration of today's; leave "
                f"{'it' if len(former) == 1 else 'them'} out, and set the Copilot's `rationale`."
            )
        copilot = dict(self.copilot or {})
        window, pooling = former.get("rationale_window", "preceding"), former.get("rationale_pooling", "mean")
        own_input = bool(copilot.pop("rationale_input", False))
        self.copilot = {**copilot, "rationale": CopilotConfig.rationale_of_former(window, pooling, own_input)}

    def _without_unknown(self, given: dict[str, Any]) -> dict[str, Any]:
        """Leave out, with a warning, what a later version of the package has put into the file."""
        unknown = unknown_fields(given, type(self))
        of_copilot: list[str] = []
        if isinstance(self.copilot, dict):
            of_copilot = unknown_fields(self.copilot, CopilotConfig)
            self.copilot = {name: value for name, value in self.copilot.items() if name not in of_copilot}
        names = [*unknown, *(f"copilot.{name}" for name in of_copilot)]
        if names:
            logger.warning_once(
                f"The configuration has fields that are not known here and not used: {', '.join(names)}. "
                f"{upgrade_advice(self.transformers_copilot_version)}"
            )
        return {name: value for name, value in given.items() if name not in unknown}

    def to_dict(self) -> dict[str, Any]:
        """The configuration as it is written: with this package's version, and without folders of this machine.

        Returns:
            `dict`
        """
        values = super().to_dict()
        values["transformers_copilot_version"] = __version__
        values["pilot_name_or_path"] = hub_id(self.pilot_name_or_path)
        values["copilot_weight_fit"] = publishable_fit(self.copilot_weight_fit)
        for part in ("pilot", "copilot"):
            if isinstance(values.get(part), dict):
                values[part] = without_paths(values[part])
        return values

    def check_options(self) -> None:
        """Refuse unknown values; models ask again, since `from_pretrained(..., fusion=...)` sets options afterwards.

        Raises:
            ValueError: an option has a value that is not among its allowed ones; the message names them.
            TypeError: λ is not a number.
        """
        for name, allowed in OPTION_VALUES.items():
            check_option(name, getattr(self, name), allowed)
        self.copilot_weight = check_copilot_weight(self.copilot_weight)
        if self.mistake_top_k is not None and self.mistake_top_k < 1:
            raise ValueError(f"`mistake_top_k` is {self.mistake_top_k}; give at least 1, or None to keep every token.")

    @classmethod
    def paper(cls, **kwargs: Any) -> "PilotCopilotConfig":
        """The paper's settings: a decoder with vocabulary matrices of its own, predicted feedback, probability fusion,
        RMSE, preceding rationales, dense mistakes.

        Args:
            **kwargs: any field; what is given here wins over the paper's value.

        Returns:
            [`PilotCopilotConfig`]: pass it as `from_pilot(..., config=...)`, or read its fields.
        """
        return cls(**{"copilot": _of_paper(COPILOT_OPTIONS), **_of_paper(PAIR_OPTIONS), **kwargs})

    def option_values(self) -> dict[str, Any]:
        """The choices of how the two work together, without the two configurations.

        Returns:
            `dict`: option name to value, as [`PilotCopilotForCausalLM.from_pilot`] takes them.
        """
        return {name: getattr(self, name) for name in PAIR_OPTIONS}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The Pilot's text configuration: caches, masks and vocabulary are the Pilot's.

        Args:
            decoder (`bool`, *optional*): ask for the decoder's.
            encoder (`bool`, *optional*): ask for the encoder's.

        Returns:
            `PreTrainedConfig`
        """
        pilot = cast(PreTrainedConfig, self.pilot)  # no dict any more, nor None, once `__post_init__` has run
        return pilot.get_text_config(decoder=decoder, encoder=encoder)

    @property
    def use_cache(self) -> bool | None:
        """Whether the Pilot makes a cache where a call does not say; trainers set it. `None`: its family has no such
        field."""
        return getattr(self.pilot, "use_cache", None)

    @use_cache.setter
    def use_cache(self, value: bool) -> None:
        """Set it on the Pilot, as a trainer would of the Pilot alone."""
        cast(PreTrainedConfig, self.pilot).use_cache = value

    pad_token_id = _of_pilot("pad_token_id")
    bos_token_id = _of_pilot("bos_token_id")
    eos_token_id = _of_pilot("eos_token_id")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, the Pilot's."""
        return self.get_text_config(decoder=True).vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the Pilot's layers."""
        return self.get_text_config(decoder=True).hidden_size

    @property
    def max_position_embeddings(self) -> int | None:
        """The Pilot's longest context, `None` where its family sets none."""
        return getattr(self.get_text_config(decoder=True), "max_position_embeddings", None)


@strict
class PilotCopilotSeq2SeqConfig(PilotCopilotConfig):
    r"""
    Configuration of a [`PilotCopilotForSeq2SeqLM`]: as [`PilotCopilotConfig`], for an encoder-decoder Pilot.
    """

    model_type = "pilot_copilot_seq2seq"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "pilot": SubConfigSpec(AutoConfig, model_type="t5"),
        "copilot": SubConfigSpec(CopilotConfig, init_kwargs={"is_encoder_decoder": True}),
    }
    is_encoder_decoder: bool = True


__all__ = ["PilotCopilotConfig", "PilotCopilotSeq2SeqConfig"]
