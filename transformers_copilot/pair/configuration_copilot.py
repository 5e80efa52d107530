"""Configuration of the Copilot: its form, what it reads of the Pilot, and its shape."""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .compat import CACHE_NAMES
from .options import COPILOT_OPTIONS, COPILOT_VALUES, chosen
from .provenance import Fingerprinted


# How families name the number of their decoder's layers.
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_DECODER_COUNTS = ("num_decoder_layers", "decoder_layers")
_ALL_COUNTS = (*_LAYER_COUNTS, *_DECODER_COUNTS, "encoder_layers")
# What is not the decoder's; labels of a classifier have numbers for keys, which no JSON file keeps.
_NOT_COPIED = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "quantization_config", "auto_map"),
    *("id2label", "label2id"),
)
# A branch reads states, not tokens: its embedding is made small, and taken out.
_SMALL_VOCABULARY = 8


def branch_config(pilot_config: PreTrainedConfig, layers: int) -> dict[str, Any]:
    """The configuration of the Pilot's class with its last decoder layers alone.

    Lists of one entry a layer (which layers slide, which have positions) keep their last entries.

    Args:
        layers (`int`): how many layers the branch has.

    Returns:
        `dict`: as `AutoConfig.for_model` takes it.

    Raises:
        ValueError: there are not so many layers in the Pilot, or all of them are asked for.
    """
    seq2seq = bool(pilot_config.is_encoder_decoder)
    source = pilot_config if seq2seq else pilot_config.get_text_config(decoder=True)
    values: dict[str, Any] = copy.deepcopy(source.to_dict())
    counts = [name for name in _DECODER_COUNTS if values.get(name) is not None] if seq2seq else []
    names = counts or [name for name in _LAYER_COUNTS if values.get(name) is not None]
    if not names:
        raise ValueError(
            f"the configuration {type(pilot_config).__name__} does not say how many layers its decoder has, so no "
            "branch can be made of it; use form='linear' or 'decoder'."
        )
    total = int(values[names[0]])
    if not 1 <= layers < total:
        raise ValueError(
            f"`num_hidden_layers` is {layers}; a Copilot of the form 'branch' has at least 1 and fewer layers than the "
            f"Pilot's decoder, which has {total}."
        )
    for name, value in values.items():
        if isinstance(value, list) and len(value) == total:
            values[name] = value[-layers:]
    values |= dict.fromkeys(names, layers)
    if counts:  # the branch has no encoder of its own
        values |= {name: 1 for name in ("encoder_layers", "num_layers") if values.get(name) is not None}
    values |= {"vocab_size": _SMALL_VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    for name in _NOT_COPIED:
        values.pop(name, None)
    return values


# How families name the same thing, the usual name first.
_INTERMEDIATE_NAMES = ("intermediate_size", "n_inner", "d_ff", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size")
_ACTIVATION_NAMES = ("hidden_act", "hidden_activation", "dense_act_fn", "activation_function", "afn")
_RMS_EPS_NAMES = ("rms_norm_eps",)
_LAYER_EPS_NAMES = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
# Families whose feed-forward part has no gate; T5 says so in its configuration.
_PLAIN_MLP = (
    *("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "codegen", "phi", "bart", "mbart", "pegasus"),
    *("falcon", "starcoder2", "gpt_bigcode"),
)
_ATTENTION_BIAS = ("gpt2", "gpt_neox", "opt", "bloom", "phi", "bart", "mbart", "pegasus", "qwen2", "starcoder2")
_T5_LIKE = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
# What `rationale` was called in three options up to version 0.1: window, pooling, the Copilot's own input.
_FORMER_RATIONALES = {
    ("preceding", "mean", False): "preceding",
    ("current", "mean", False): "current",
    ("current", "last", True): "last",
}


# The least and the most that a size may be. A file that was damaged must not ask for more memory than there is.
_WIDEST, _MOST_LAYERS, _MOST_TOKENS = 2**18, 1_000, 2**24
_BOUNDS: dict[str, tuple[float, float]] = {
    "vocab_size": (1, _MOST_TOKENS),
    "num_hidden_layers": (0, _MOST_LAYERS),
    **dict.fromkeys(("hidden_size", "pilot_hidden_size", "question_size"), (1, _WIDEST)),
    "intermediate_size": (1, 8 * _WIDEST),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), (1, _WIDEST)),
    "norm_eps": (0, 1),
    "dropout": (0, 1),
    "initializer_range": (0, 1_000),
}


def check_layer_counts(values: dict[str, Any], prefix: str = "") -> None:
    """Refuse numbers of layers that no model has, at any depth, before anything is made of them.

    Args:
        values (`dict`): of a configuration's file.
        prefix (`str`, *optional*): where they are in it, for the message.

    Raises:
        ValueError: the field is named.
    """
    for name, value in values.items():
        if isinstance(value, dict):
            check_layer_counts(value, f"{prefix}{name}.")
        elif name in _ALL_COUNTS and isinstance(value, int | float) and not value <= _MOST_LAYERS:
            raise ValueError(f"`{prefix}{name}` is {value}; a model has at most {_MOST_LAYERS:,} layers.")


@strict
class CopilotConfig(Fingerprinted, PreTrainedConfig):
    r"""
    Shape of a [`CopilotModel`]. Made by [`CopilotConfig.from_pilot`] in most cases, which takes every value that is
    not given from the Pilot's own configuration, so that the Copilot is "the Pilot's own kind of decoder layer"
    (App. A.1 of arXiv 2505.16270).

    Args:
        form (`str`, *optional*, defaults to `"decoder"`):
            What the Copilot is. `"decoder"`: layers of the Pilot's kind that read mistakes, questions and rationales
            (Eq. 6). `"branch"`: the Pilot's own last `num_hidden_layers` layers once more, reading what those read; at
            λ = 1 the pair is a plain model (`merge_copilot`). `"linear"`: one map A of the state h before the Pilot's
            head, z + λf = W(h + λAh); no layers, no cache, and it merges at any λ.
        rationale (`str`, *optional*, defaults to `"preceding"`):
            What a `"decoder"` sees of the Pilot's layers. `"preceding"`: their mean, at earlier positions only (the
            paper). `"current"`: the same, at the current position too. `"last"`: the last layer's states, the current
            one as a part of the input. `"depths"`: three states a position, after the first, the second and the last
            third of the layers, the current ones as a part of the input.
        vocab_size (`int`, *optional*, defaults to 32000):
            Number of tokens, the same as the Pilot's.
        hidden_size (`int`, *optional*, defaults to 512):
            Width d_C of the Copilot.
        intermediate_size (`int`, *optional*, defaults to 1376):
            Width of its feed-forward part.
        num_hidden_layers (`int`, *optional*, defaults to 6):
            Number of layers L_C; 0 for `"linear"`. A decoder-only `"decoder"` needs two at least: odd layers attend to
            mistakes, even ones to questions and rationales (App. A.2).
        num_attention_heads (`int`, *optional*, defaults to 8):
            Query heads.
        num_key_value_heads (`int`, *optional*):
            Key and value heads (grouped-query attention). Defaults to `num_attention_heads`.
        head_dim (`int`, *optional*):
            Width of a head. Defaults to `hidden_size // num_attention_heads`.
        hidden_act (`str`, *optional*, defaults to `"silu"`):
            Activation of the feed-forward part, by its name in transformers.
        gated_mlp (`bool`, *optional*, defaults to `True`):
            Whether the feed-forward part has a gate (Llama, T5 1.1) or not (GPT-2, T5).
        norm_type (`str`, *optional*, defaults to `"rms_norm"`):
            `"rms_norm"` or `"layer_norm"`.
        norm_eps (`float`, *optional*, defaults to 1e-6):
            Added to the variance in norms.
        attention_bias (`bool`, *optional*, defaults to `False`):
            Whether the query, key and value projections have biases.
        attention_output_bias (`bool`, *optional*, defaults to `False`):
            Whether the output projection of attention has a bias.
        attention_scaling (`float`, *optional*):
            Factor on query-key products. Defaults to `head_dim ** -0.5`; T5 uses 1.0.
        qk_norm (`bool`, *optional*, defaults to `False`):
            Whether queries and keys are normed per head (Qwen3).
        mlp_bias (`bool`, *optional*, defaults to `False`):
            Whether the feed-forward projections have biases.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout after each attention and feed-forward part, in training only.
        head (`str`, *optional*):
            `"own"`: matrices V × d_C in and out (the paper). `"pilot"`: the Pilot's embedding in and its language
            model head out, both read only, with a small map on either side; no vocabulary matrix is stored. Defaults
            to `"own"` for a `"decoder"`; the other forms have the Pilot's.
        pilot_hidden_size (`int`, *optional*):
            Width d_P of the Pilot's layers, hence of rationales. Defaults to `hidden_size`.
        question_size (`int`, *optional*):
            Width of questions X̃ (the Pilot's embedding layer or encoder). Defaults to `pilot_hidden_size`.
        is_encoder_decoder (`bool`, *optional*, defaults to `False`):
            The form: `True` gives every layer both attentions, `False` alternates them.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of fresh weights.
        branch_config (`dict`, *optional*):
            A `"branch"`: configuration of the Pilot's class with as many layers as the branch has. Made by
            [`CopilotConfig.from_pilot`].
        branch_scale (`float`, *optional*, defaults to 1.0):
            A `"branch"`: what the Pilot multiplies its decoder's output with before its head (T5). Measured when the
            pair is made.
        branch_shared (`list`, *optional*):
            A `"branch"`: names of its parameters that stay the Pilot's.

    Raises:
        ValueError: an option is unknown, a size is out of bounds, or sizes do not fit each other.
        StrictDataclassFieldValidationError: a field is of another type; transformers' own configurations raise it too.
    """

    model_type = "copilot"
    keys_to_ignore_at_inference = [*CACHE_NAMES]

    form: str = "decoder"  # of files that say none; `from_pilot` makes another one by default
    rationale: str = COPILOT_OPTIONS["rationale"].default
    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 1376
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    gated_mlp: bool = True
    norm_type: str = "rms_norm"
    norm_eps: float | int = 1e-6
    attention_bias: bool = False
    attention_output_bias: bool = False
    attention_scaling: float | int | None = None
    qk_norm: bool = False
    mlp_bias: bool = False
    dropout: float | int = 0.0
    head: str | None = None
    pilot_hidden_size: int | None = None
    question_size: int | None = None
    is_encoder_decoder: bool = False
    initializer_range: float | int = 0.02
    branch_config: dict | None = None
    branch_scale: float | int = 1.0
    branch_shared: list | None = None

    # Set by `registration`: called once, by the first configuration that is made. Every pair's holds one of these.
    register_models: ClassVar[Callable[[], None] | None] = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.pilot_hidden_size is None:
            self.pilot_hidden_size = self.hidden_size
        if self.question_size is None:
            self.question_size = self.pilot_hidden_size
        if self.head is None:
            self.head = "own" if chosen("form", self.form) == "decoder" else "pilot"
        kwargs.pop("rationale_input", None)  # of version 0.1; the pair's configuration has made `rationale` of it
        self._check()
        check_layer_counts(self.branch_config or {}, "branch_config.")
        super().__post_init__(**kwargs)
        register_models = CopilotConfig.register_models
        if register_models is not None:
            register_models()
            CopilotConfig.register_models = None

    def _check(self) -> None:
        for name in COPILOT_VALUES:
            chosen(name, getattr(self, name))
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise ValueError(f"`{name}` of the Copilot is {value}; it must be from {least:g} to {most:,}.")
        from transformers.activations import ACT2FN  # here: it brings accelerate along

        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"`hidden_act` of the Copilot is {self.hidden_act!r}, which transformers has no activation for. It has "
                f"{', '.join(sorted(ACT2FN))}."
            )
        self._check_form()
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"`num_attention_heads` ({self.num_attention_heads}) must be a multiple of `num_key_value_heads` "
                f"({self.num_key_value_heads}): each key head serves the same number of query heads."
            )

    def _check_form(self) -> None:
        form = chosen("form", self.form)
        if form == "linear":
            if self.num_hidden_layers:
                raise ValueError(
                    f"`num_hidden_layers` is {self.num_hidden_layers}, but a Copilot of the form 'linear' has no "
                    "layers: leave it out, or choose the form 'branch' or 'decoder'."
                )
        elif self.num_hidden_layers < 1:
            raise ValueError(f"`num_hidden_layers` is {self.num_hidden_layers}; it must be at least 1.")
        if form != "decoder" and self.head != "pilot":
            raise ValueError(
                f"`head` is {self.head!r}, but a Copilot of the form {form!r} works on what the Pilot's head reads: "
                "leave `head` out, or give 'pilot'."
            )
        if form != "decoder" and self.hidden_size != self.pilot_hidden_size:
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}, but a Copilot of the form {form!r} has the Pilot's width, "
                f"{self.pilot_hidden_size}: leave it out."
            )
        if form == "branch" and self.branch_config is None:
            raise ValueError(
                "a Copilot of the form 'branch' needs `branch_config`; make its configuration with "
                "`CopilotConfig.from_pilot(pilot.config, form='branch', num_hidden_layers=...)`."
            )
        if form == "decoder" and self.num_hidden_layers < 2 and not self.is_encoder_decoder:
            raise ValueError(
                "`num_hidden_layers` is 1, but a decoder-only Copilot needs at least 2: layer 1 attends to mistakes, "
                "layer 2 to questions and rationales."
            )

    @property
    def rationale_states(self) -> int:
        """How many of the Pilot's states a rationale is made of, at each position."""
        return 3 if chosen("rationale", self.rationale) == "depths" else 1

    @property
    def reads_own_rationale(self) -> bool:
        """Whether position j's own rationale is a part of a decoder's input there. Without positions in its attention
        it can't tell which of all rationales is its own."""
        return chosen("rationale", self.rationale) in ("last", "depths")

    @classmethod
    def from_pilot(cls, pilot_config: PreTrainedConfig, **overrides: Any) -> "CopilotConfig":
        """Configuration of a Copilot that is built of the Pilot's own kind of decoder layer.

        Args:
            pilot_config (`PreTrainedConfig`):
                The Pilot's configuration, or that of another checkpoint of its family whose layers are to be used.
            **overrides:
                Any field of [`CopilotConfig`], for example `num_hidden_layers=6` or `hidden_size=768`. With another
                `hidden_size` the number of heads and the feed-forward width follow in proportion.

        Returns:
            [`CopilotConfig`]

        Raises:
            TypeError: a name in `overrides` is not a field.
        """
        unknown = sorted(set(overrides) - set(cls.default_config_fields()) - set(cls.__dataclass_fields__))
        if unknown:
            raise TypeError(f"CopilotConfig has no field {', '.join(unknown)}; see its documentation for the fields.")
        values = _values_of_source(pilot_config.get_text_config(decoder=True))
        values["is_encoder_decoder"] = bool(pilot_config.is_encoder_decoder)
        form = chosen("form", overrides.get("form", "decoder"))
        if form == "linear":
            values["num_hidden_layers"] = 0
        elif form == "branch":
            values["branch_config"] = branch_config(pilot_config, overrides.get("num_hidden_layers", 0))
        _scale_to_width(values, overrides)
        return cls(**{**values, **overrides})

    @staticmethod
    def rationale_of_former(window: str, pooling: str, own_input: bool) -> str:
        """`rationale` for the three options that a checkpoint of version 0.1 has in its place.

        Args:
            window (`str`): its `rationale_window`.
            pooling (`str`): its `rationale_pooling`.
            own_input (`bool`): its Copilot's `rationale_input`.

        Returns:
            `str`

        Raises:
            ValueError: there is no such rationale any more; the message names the options.
        """
        found = _FORMER_RATIONALES.get((window, pooling, own_input))
        if found is None:
            raise ValueError(
                f"the checkpoint has rationale_window={window!r}, rationale_pooling={pooling!r} and "
                f"rationale_input={own_input}, of which only some combinations were kept: "
                f"{', '.join(repr(value) for value in COPILOT_VALUES['rationale'])}. Teach a Copilot anew with one of "
                "them, or load it with version 0.1 of this package."
            )
        return found


def _first(config: PreTrainedConfig, names: tuple[str, ...], default: Any) -> Any:
    """The first of these attributes that the configuration has and that is set."""
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    return default


def _values_of_source(source: PreTrainedConfig) -> dict[str, Any]:
    """The Copilot's fields as the source model's configuration has them."""
    if source.is_heterogeneous:
        source = source.per_layer_config[0]  # layers of different shapes (Gemma 4): the Copilot's are the first one's
    is_t5 = source.model_type in _T5_LIKE
    hidden_size = source.hidden_size
    heads = source.num_attention_heads
    rms_eps = _first(source, _RMS_EPS_NAMES, None)
    norm_type = "rms_norm" if rms_eps is not None or is_t5 else "layer_norm"
    eps = rms_eps if rms_eps is not None else _first(source, _LAYER_EPS_NAMES, 1e-5)
    layers = _first(source, ("num_decoder_layers", "decoder_layers"), None) if source.is_encoder_decoder else None
    has_bias = source.model_type in _ATTENTION_BIAS or bool(_first(source, ("attention_bias",), False))
    plain_bias = source.model_type in _PLAIN_MLP
    inner = _first(source, _INTERMEDIATE_NAMES, 4 * hidden_size)
    return {
        "vocab_size": source.vocab_size,
        "hidden_size": hidden_size,
        "pilot_hidden_size": hidden_size,
        "intermediate_size": inner[0] if isinstance(inner, (list, tuple)) else inner,  # Gemma 3n: one a layer
        "num_hidden_layers": layers if layers is not None else source.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _first(source, ("num_key_value_heads",), heads),
        "head_dim": _first(source, ("head_dim", "d_kv"), hidden_size // heads),
        "hidden_act": _first(source, _ACTIVATION_NAMES, "gelu"),
        "gated_mlp": bool(getattr(source, "is_gated_act", False)) if is_t5 else source.model_type not in _PLAIN_MLP,
        "norm_type": norm_type,
        "norm_eps": eps,
        "attention_bias": has_bias,
        "attention_output_bias": has_bias and source.model_type != "qwen2",
        "attention_scaling": 1.0 if is_t5 else None,
        "qk_norm": source.model_type in ("qwen3", "qwen3_moe"),
        "mlp_bias": plain_bias or bool(_first(source, ("mlp_bias",), False)),
    }


def _scale_to_width(values: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Keep heads of the same width and the same feed-forward ratio when another `hidden_size` is asked for."""
    width = overrides.get("hidden_size")
    if width is None or width == values["hidden_size"]:
        return
    ratio = width / values["hidden_size"]
    values["intermediate_size"] = max(1, round(values["intermediate_size"] * ratio))
    if "num_attention_heads" not in overrides:
        groups = values["num_attention_heads"] // values["num_key_value_heads"]
        kv_heads = max(1, round(values["num_key_value_heads"] * ratio))
        values["num_key_value_heads"], values["num_attention_heads"] = kv_heads, kv_heads * groups
    elif "num_key_value_heads" not in overrides:
        values["num_key_value_heads"] = None
    if "head_dim" not in overrides:
        heads = overrides.get("num_attention_heads", values["num_attention_heads"])
        values["head_dim"] = max(1, width // heads)


__all__ = ["branch_config", "CopilotConfig"]
