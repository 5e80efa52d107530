"""What both kinds of pair share: building from a Pilot, loading, the vocabulary, and freezing."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .adapted import has_adapter
from .call_weight import make_room_for_weight, weight_of_pass
from .compatibility import (
    check_head,
    check_holds_pair,
    check_pairing,
    check_pilot,
    check_whole,
    keep_attention_plain,
    question_size,
)
from .configuration_copilot import CopilotConfig
from .configuration_pilot_copilot import PilotCopilotConfig
from .copilot_base import CopilotPreTrainedModel
from .copilot_forms import new_copilot
from .forward_passes import PairPassesMixin
from .generation_pilot_copilot import PilotCopilotGenerationMixin
from .head_map import HeadMap
from .head_product import product_with_rows
from .installed_package import needs_package, package_only
from .load_errors import load_errors_explained
from .pair_saving import PairSavingMixin
from .pair_vocabulary import PairVocabularyMixin
from .pilot_classes import auto_class_for
from .pilot_inputs import forward_with_inputs, parameters_of
from .quantization import adopt_quantization
from .rationale import RationaleRecorder
from .validation import chosen
from .weight_files import check_weight_files


class PilotCopilotPreTrainedModel(
    PairSavingMixin, PairVocabularyMixin, PairPassesMixin, PilotCopilotGenerationMixin, PreTrainedModel
):
    """Base of [`PilotCopilotForCausalLM`] and [`PilotCopilotForSeq2SeqLM`]: holds `pilot` and `copilot`.

    Args:
        config ([`PilotCopilotConfig`]): both configurations and the choices of how they work together.
        pilot (`PreTrainedModel`, *optional*): a Pilot that exists already; made from the configuration without.
        copilot ([`CopilotModel`], [`BranchCopilot`] or [`LinearCopilot`], *optional*): a Copilot that exists already;
            made from the configuration without.

    Raises:
        ValueError: Pilot and Copilot do not fit each other.
    """

    config: PilotCopilotConfig
    config_class = PilotCopilotConfig
    # The Pilot is the base model: `get_decoder` and friends find it, and PEFT's and TRL's helpers too.
    base_model_prefix = "pilot"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # A Copilot is small and learns from small differences; in a bfloat16 pair it stays float32.
    _keep_in_fp32_modules_strict = {"copilot"}
    _keep_in_fp32_modules = ["copilot"]  # what quantizers leave alone
    _auto_pilot_class: Any
    _pilot_learnt: frozenset[str] = frozenset()  # before it was frozen

    def __init__(
        self,
        config: PilotCopilotConfig,
        pilot: PreTrainedModel | None = None,
        copilot: CopilotPreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        config.check_options()
        if pilot is None:
            pilot_config = cast(PreTrainedConfig, config.pilot)
            self.pilot = auto_class_for(pilot_config, self._auto_pilot_class).from_config(pilot_config)
        else:
            self.pilot = pilot
            # Two classes may share a kind of configuration: the one that is saved says which of them it is of.
            self.pilot.config.architectures = self.pilot.config.architectures or [type(pilot).__name__]
        check_pilot(self.pilot, bool(config.is_encoder_decoder))
        copilot_config = cast(CopilotConfig, config.copilot)  # no dict any more, nor None
        check_pairing(self.pilot.config, copilot_config, question_size(self.pilot))
        check_head(self.pilot, copilot_config)
        keep_attention_plain(copilot_config, self.pilot.config)
        self.copilot = new_copilot(copilot_config) if copilot is None else copilot
        self.config.pilot, self.config.copilot = self.pilot.config, self.copilot.config
        self.recorder = RationaleRecorder(self.pilot)
        self._read_pilot_inputs()
        # A Trainer finds out by it whether labels are shifted, and counts the supervised tokens accordingly.
        self.loss_type = self.pilot.loss_type
        if pilot is not None:
            # Or `post_init` would draw anew what was put into it later, such as an adapter's weights.
            for module in pilot.modules():
                module._is_hf_initialized = True
        self.post_init()
        make_room_for_weight(self.generation_config)

    @classmethod
    @package_only
    def from_pilot(
        cls,
        pilot: PreTrainedModel | str,
        copilot: CopilotConfig | dict[str, Any] | str | None = None,
        *,
        config: PilotCopilotConfig | None = None,
        head: str | None = None,
        **options: Any,
    ) -> PilotCopilotPreTrainedModel:
        """Put a new Copilot beside a Pilot. Until it has learnt, the pair is exactly its Pilot.

        Args:
            pilot (`PreTrainedModel`, `PeftModel` or `str`): a model, with adapters or without, or the id or path of
                one. Quantized, it is only read: the Copilot learns, in full precision.
            copilot ([`CopilotConfig`], `dict` or `str`, *optional*):
                A configuration; fields of one (`{"form": "branch", "num_hidden_layers": 6}`), the rest taken from the
                Pilot; the id or path of another checkpoint of the Pilot's family, whose decoder becomes the Copilot; or
                the id or path of a Copilot's own checkpoint (`save_copilot`), which is joined to this Pilot with its
                options and λ. Defaults to a linear one; to a decoder where `error_feedback`, `head="own"`, `config` or
                fields without `form` are given. A new Copilot's layers, two by default, are copied from the Pilot's
                decoder, or from that checkpoint of its family.
            config ([`PilotCopilotConfig`], *optional*): options as a whole, e.g. `PilotCopilotConfig.paper()`.
            head (`str`, *optional*): the Copilot's `"own"` vocabulary matrices or the `"pilot"`'s.
            **options: any option of [`PilotCopilotConfig`] (`error_feedback`, `fusion`, `objective`,
                `mistakes_from`, `mistake_top_k`, `copilot_weight`); with an id, also keywords of the Pilot's
                `from_pretrained`; `copilot_revision`,
                branch, tag or commit of a Copilot's own checkpoint.

        Returns:
            The pair.

        Raises:
            ValueError: an option's value is unknown, the model cannot be a Pilot, or the two do not fit.
            TypeError: a keyword is neither an option nor one of the Pilot's.
        """
        try:
            from transformers_copilot.building.pair_building import build_pair
        except ImportError as error:
            raise ImportError(needs_package()) from error
        return build_pair(cls, pilot, copilot, config, head, options)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a pair; arguments as of any model's `from_pretrained`. Weights are read from safetensors files only.

        Args:
            pretrained_model_name_or_path: id or folder of a pair.
            *args: handed on.
            output_loading_info (`bool`, *optional*, defaults to `False`): also return what was missing or unexpected.
            **kwargs: handed on, e.g. `dtype`, `device_map`, `attn_implementation`, `copilot_weight`.

        Returns:
            The pair, or the pair and the loading information.

        Raises:
            ValueError: it is no pair, or not whole, or names files outside itself.
            OSError: a file of it is missing or can't be reached.
        """
        source = pretrained_model_name_or_path
        hub: dict[str, Any] = {
            name: kwargs[name]
            for name in ("revision", "token", "cache_dir", "subfolder", "local_files_only")
            if name in kwargs
        }
        with load_errors_explained(source):
            check_weight_files(source, kwargs.get("config"), kwargs)
            if kwargs.get("config") is None and source is not None:
                check_holds_pair(cls, source, hub)
            kwargs["use_safetensors"] = True
            model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
            check_whole(cls, source, info)
            model._load_adapters(source, hub)
        adopt_quantization(model)
        return (model, info) if output_loading_info else model

    def _read_pilot_inputs(self) -> None:
        """What the Pilot's `forward` takes, and this pair's `forward` with it; see [`PilotInputs`]."""
        self._pilot_parameters = parameters_of(self.pilot)
        self._pilot_takes_all = len(inspect.signature(self.pilot.forward).parameters) > len(self._pilot_parameters)
        self._forward = forward_with_inputs(type(self).forward, self._pilot_parameters)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_forward"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._read_pilot_inputs()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the Pilot's loss takes `num_items_in_batch`, as a Trainer would judge it of the Pilot alone."""
        return getattr(self.pilot, "accepts_loss_kwargs", self._pilot_takes_all)

    def _get_name(self) -> str:
        """The Pilot's class: by this name a Trainer knows whether label smoothing has to shift the labels."""
        pilot = self._modules.get("pilot")
        return super()._get_name() if pilot is None else pilot._get_name()

    def __repr__(self) -> str:
        return super().__repr__().replace(self._get_name(), type(self).__name__, 1)

    def freeze_pilot(self, frozen: bool = True) -> None:
        """Only read the Pilot: no gradient, no optimiser state, no dropout.

        Args:
            frozen (`bool`, *optional*, defaults to `True`): `False` lets it learn again; with an adapter in it, what
                learnt before.
        """
        if not self.pilot_is_frozen:
            self._pilot_learnt = frozenset(
                name for name, weight in self.pilot.named_parameters() if weight.requires_grad
            )
        for name, parameter in self.pilot.named_parameters():
            learns = name in self._pilot_learnt if has_adapter(self.pilot) else parameter.is_floating_point()
            parameter.requires_grad_(frozen is False and learns)
        self.train(self.training)

    @property
    def pilot_is_frozen(self) -> bool:
        """Whether no weight of the Pilot learns."""
        return not any(parameter.requires_grad for parameter in self.pilot.parameters())

    def train(self, mode: bool = True) -> PilotCopilotPreTrainedModel:
        """Training mode; a frozen Pilot stays in evaluation mode, so that what it says does not depend on dropout.

        Args:
            mode (`bool`, *optional*, defaults to `True`): training or evaluation.

        Returns:
            The pair.
        """
        super().train(mode)
        if mode and self.pilot_is_frozen:
            self.pilot.eval()
        return self

    def active_copilot_weight(self, copilot_weight: float | None) -> float:
        """λ of a pass.

        Args:
            copilot_weight (`float`, *optional*): what the pass was given; `None`: that of the call of `generate` which
                it is part of, and the configuration's elsewhere.

        Returns:
            `float`
        """
        return weight_of_pass(self, copilot_weight)

    def pilot_embedding(self) -> Tensor | None:
        """The Pilot's embedding matrix, read only, where the Copilot reads mistakes with it.

        Returns:
            `torch.Tensor` of shape `(vocab, question_size)`, or `None` with `head="own"`.
        """
        if chosen("head", self.copilot.config.head) == "own":
            return None
        return self.pilot.get_input_embeddings().weight.detach()

    def correction(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """f from the Copilot's states; with `head="pilot"` through the Pilot's head, read only.

        Args:
            states (`torch.Tensor` of shape `(..., hidden_size)`, *optional*): the Copilot's; `None` of a form without.
            head_states (`torch.Tensor` of shape `(..., pilot_hidden_size)`, *optional*): h, what the Pilot's head
                reads.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.
        """
        if not self._has_pilot_head:
            return self.copilot.correction(states)
        shift = self.copilot.head_shift(states, head_states)
        return (self.head_map or HeadMap()).difference(self._read_pilot_head, shift, head_states)

    def _read_pilot_head(self, states: Tensor, with_bias: bool = False) -> Tensor:
        head = self.pilot.get_output_embeddings()
        bias = cast(Tensor | None, getattr(head, "bias", None))
        if type(head) is nn.Linear:
            output = product_with_rows(states.to(head.weight.dtype), head.weight.detach())
            return output if bias is None or not with_bias else output + bias.detach()
        detached = {name: parameter.detach() for name, parameter in head.named_parameters()}
        output = torch.func.functional_call(head, detached, (states,))
        return output if bias is None or with_bias else output - bias.detach()

    @abstractmethod
    def aligned_labels(self, labels: Tensor) -> Tensor:
        """Labels put where they are predicted.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`: the token that position j predicts, or -100.
        """


__all__ = ["PilotCopilotPreTrainedModel"]
