"""What both kinds of pair share: building from a Pilot, loading, the vocabulary, freezing, and the steps of `forward`.

Writing is in `generation_pilot_copilot.py`, saving and sharing in `saving_pilot_copilot.py`.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.compiler import assume_constant_result, is_compiling
from transformers import Cache, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME, cache_of, cache_parameter
from .compatibility import (
    check_head,
    check_holds_pair,
    check_pairing,
    check_pilot,
    check_whole,
    keep_attention_plain,
    question_size,
    refuse_spread_weights,
)
from .configuration_copilot import CopilotConfig
from .configuration_pilot_copilot import PilotCopilotConfig
from .copilot_base import CopilotPreTrainedModel
from .copilot_forms import new_copilot
from .correction import (
    PilotPass,
    check_vocabulary,
    reads_mistakes,
    run_copilot,
)
from .foreign_code import refuse_kernel_method
from .fused_head import GeneratedStep, correct_before_head, share_head
from .fusion import make_room_for_weight, rectify, rectify_shift, weight_of_pass
from .generation_pilot_copilot import PilotCopilotGenerationMixin, RectifyState
from .installed_package import needs_package, package_only
from .loading import (
    check_finite,
    check_generation_config,
    check_weight_files,
    check_weights_read,
    damage_named,
    file_of,
    load_errors_explained,
    refuse_adapter_beside,
)
from .masks import is_token_mask
from .meta_device import NoDrawsOnMeta
from .mistake_batch import MistakeBatch, lesson_positions
from .modeling_outputs import PairCall, PilotCopilotOutput
from .objectives import check_copilot_loss, copilot_objective, pilot_loss_of, round_loss
from .options import check_token_ids, chosen
from .pilot import auto_class_for, forward_with_inputs, has_adapter, parameters_of
from .pilot_head import (
    HeadMap,
    find_head_map,
    finite_product,
    gather,
    is_plain_linear,
    narrowed,
    product_with_rows,
)
from .quantization import adopt_quantization
from .rationale import Capture, RationaleRecorder
from .saved_files import checksums_in
from .saving_pilot_copilot import PairSavingMixin
from .trl_trainers import check_trl_trainer


# Arguments of `forward` that are the Copilot's alone; the Pilot never sees them.
_COPILOTS_OWN = frozenset({"copilot_items", "copilot_scale", "keep_layers", "recorded_layers", "return_correction"})
# Arguments that a pair's `forward` names for every family; a Pilot that takes none of a name is not given it.
_OFFERED = frozenset(
    {
        *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels", "logits_to_keep"),
        *("decoder_input_ids", "decoder_attention_mask", "encoder_outputs", "decoder_inputs_embeds"),
    }
)


class PilotCopilotPreTrainedModel(PairSavingMixin, PilotCopilotGenerationMixin, PreTrainedModel):
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
    _head_map: Any = "unknown"

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
            with NoDrawsOnMeta():
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
        with NoDrawsOnMeta():
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
            ValueError: it is no pair, or not whole, or names files outside itself, or asks for code that has to be
                fetched.
            OSError: a file of it is missing or can't be reached.
        """
        refuse_spread_weights()
        source = pretrained_model_name_or_path
        hub: dict[str, Any] = {
            name: kwargs[name]
            for name in ("revision", "token", "cache_dir", "subfolder", "local_files_only")
            if name in kwargs
        }
        with load_errors_explained(source):
            config = kwargs.get("config")
            values = check_weight_files(source, config, kwargs)
            if source is not None:
                refuse_adapter_beside(source, kwargs.get("adapter_kwargs"), hub)
                if config is None:
                    check_holds_pair(cls, source, values)
                if not kwargs.get("trust_remote_code") and kwargs.get("quantization_config") is None:
                    refuse_kernel_method(values if config is None else vars(config), source)
            sums = checksums_in(values, "config.json")
            kwargs["use_safetensors"] = True
            try:
                with damage_named(source, kwargs):
                    model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
            finally:  # of an error, too, it may be the cause
                check_generation_config(source, kwargs)
            check_whole(cls, source, info, lambda weight: file_of(source, kwargs, weight))
            own = {f"copilot.{name}": weight for name, weight in model.copilot.state_dict().items()}
            check_finite(source, own)
            if getattr(model, "hf_quantizer", None) is None:  # a quantizer's weights are stored in ways of its own
                weights = model.pilot.named_parameters(remove_duplicate=False)
                own |= {f"pilot.{name}": weight for name, weight in weights}
            if source is not None:
                check_weights_read(source, own, kwargs, sums)
            model._load_adapters(source, hub, sums)
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

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Tags for the Hub. TRL's trainers give theirs when they are made, and those that can't train a pair end here.

        Args:
            tags (`str` or `list` of `str`): as any model's.

        Raises:
            ValueError: they are those of a trainer of TRL's that can't train a pair.
        """
        check_trl_trainer(tags)
        super().add_model_tags(tags)

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
        embedding = self.pilot.get_input_embeddings()
        gather(embedding)
        return embedding.weight.detach()

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
        gather(head)
        bias = cast(Tensor | None, getattr(head, "bias", None))
        if is_plain_linear(head):
            weight = cast(Tensor, head.weight).detach()
            output = finite_product(product_with_rows(narrowed(states, weight.dtype), weight))
            return output if bias is None or not with_bias else output + bias.detach()
        detached = {name: parameter.detach() for name, parameter in head.named_parameters()}
        output = finite_product(torch.func.functional_call(head, detached, (states,)))
        return output if bias is None or with_bias else output - bias.detach()

    @abstractmethod
    def aligned_labels(self, labels: Tensor) -> Tensor:
        """Labels put where they are predicted.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`: the token that position j predicts, or -100.
        """

    def get_input_embeddings(self) -> nn.Module:
        """The Pilot's embedding layer.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the Pilot's embedding layer.

        Args:
            value (`nn.Module`): what the Pilot embeds tokens with from now on.
        """
        self.pilot.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The Pilot's language model head.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the Pilot's language model head.

        Args:
            new_embeddings (`nn.Module`): the Pilot's head from now on.
        """
        self.pilot.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The Pilot's decoder.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_decoder()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie what the Pilot ties. With an adapter in the Pilot it is tied already, below the adapter; above it, PEFT
        decides what is a copy of its own.

        Args:
            *args: as of any model's.
            **kwargs: as of any model's.
        """
        if not has_adapter(self.pilot):
            super().tie_weights(*args, **kwargs)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Change the vocabulary of both parts; new tokens start uncorrected (f = 0).

        Args:
            new_num_tokens (`int`, *optional*): the new size; `None` changes nothing.
            *args: handed on to the Pilot.
            **kwargs: handed on to the Pilot.

        Returns:
            `nn.Module`: the Pilot's embedding layer.
        """
        embeddings = self.pilot.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.copilot.resize_vocabulary(self.pilot.config.get_text_config(decoder=True).vocab_size)
        self.recorder.remove()
        self.recorder = RationaleRecorder(self.pilot)  # the embedding layer is a new one
        return embeddings

    @property
    def _pilot_cache_name(self) -> str | None:
        """What the Pilot calls its cache; `None` for one that takes none (GPT-1)."""
        return cache_parameter(self._pilot_parameters)

    def _pilot_arguments(
        self, arguments: dict[str, Any], cache: Cache | None, use_cache: bool | None
    ) -> dict[str, Any]:
        """What the Pilot is called with: all that it would be called with alone, and nothing of the Copilot's.

        Raises:
            TypeError: the Pilot takes no such argument.
        """
        given = {}
        for name, value in arguments.items():
            if value is None or name in _COPILOTS_OWN:
                continue
            if name in self._pilot_parameters:
                given[name] = value
            elif name in _OFFERED:  # `generate` gives what the pair's signature names, whatever the family takes
                continue
            elif self._pilot_takes_all:
                given[name] = value
            else:
                raise TypeError(
                    f"{type(self.pilot).__name__}, the Pilot, takes no argument `{name}`, and neither does the Copilot."
                )
        if use_cache is not None and (self._pilot_takes_all or "use_cache" in self._pilot_parameters):
            given["use_cache"] = use_cache
        if cache is not None and self._pilot_cache_name is not None:
            given[self._pilot_cache_name] = cache
        return given

    def _asked(
        self,
        labels: Tensor | None,
        mistake_targets: Tensor | None,
        held_out: Tensor | None,
        cache: Cache | None,
        use_cache: bool | None,
        logits_to_keep: int | Tensor,
        copilot_weight: float | None,
        mistake_round: MistakeBatch | None,
        return_mistakes: bool,
        state: RectifyState | None,
        options: dict[str, Any],
    ) -> PairCall:
        """What a call asks for, by the arguments that both kinds of pair have."""
        lessons = labels if mistake_targets is None else mistake_targets
        training = self.training and lessons is not None
        reading = return_mistakes and lessons is not None and not training
        learnt_from = lessons if training or reading else None
        return PairCall(
            weight=self.active_copilot_weight(copilot_weight),
            training=training,
            reading=reading,
            keep=kept_positions(logits_to_keep),
            keeps_logits=self._keeps_logits(lessons, training),
            cache=cache,
            use_cache=False if reading else use_cache,
            pilot_labels=None if reading else self._labels_of_pilot(labels, held_out),
            targets=None if learnt_from is None else self.targets_of(learnt_from, options),
            mistake_round=mistake_round,
            return_mistakes=return_mistakes,
            state=state,
            options=options,
        )

    def check_tokens(self, **ids: Tensor | None) -> None:
        """Refuse ids without an embedding, before the embedding does it with an error of its own, or on an accelerator
        with one that ends the process. A Pilot that also reads images marks their places with ids of its choice.

        Args:
            **ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): token ids, by the name of their argument.

        Raises:
            ValueError: one is outside the vocabulary.
        """
        size = getattr(self.get_input_embeddings(), "num_embeddings", None)  # an adapter's layer may not say it
        if size is None or type(self.pilot.config).sub_configs:
            return
        for name, given in ids.items():
            check_token_ids(name, given, cast(int, size))

    def _begin(self, call: PairCall) -> int:
        """Make the call's cache the pair's own; how many positions it holds."""
        if not call.training:
            self._refuse_rectified_training()
        call.cache = self.own_cache(call.cache)
        return 0 if call.cache is None else call.cache.get_seq_length()

    def _answered(
        self, call: PairCall, outputs: ModelOutput, seen: PilotPass, columns: Tensor | None = None
    ) -> PilotCopilotOutput:
        """What is done with the Pilot's pass: learn from it, read it, or rectify it."""
        if call.targets is None:
            return self._rectified(call, outputs, seen)
        if call.training:
            return self._train_on(call, outputs, seen, call.targets)
        return self.read_only(outputs, seen, call.targets, columns)

    def _pilot_pass(
        self, arguments: dict[str, Any], call: PairCall, step: GeneratedStep
    ) -> tuple[ModelOutput, Capture]:
        """The Pilot's pass, with what its layers held. A frozen Pilot is only read. Outside training the Copilot may
        run before the Pilot's head does."""
        cache, weight, state = call.cache, call.weight, call.state
        inner = cache.pilot if isinstance(cache, PilotCopilotCache) else cache
        given = self._pilot_arguments(arguments, inner, call.use_cache)
        frozen = torch.no_grad() if self.training and self.pilot_is_frozen else contextlib.nullcontext()
        wanted = arguments.get("recorded_layers", self.copilot.layers_read(self.recorder.num_layers))
        direct = state is not None and self._corrects_before_head(step, weight, state)
        one_product = direct or (self._has_pilot_head and (self.head_map or HeadMap(softcap=1.0)).is_linear)
        own = cache if isinstance(cache, PilotCopilotCache) else None
        with self.recorder.capture(arguments.get("keep_layers", 0), wanted) as captured, frozen:
            if direct:
                correct_before_head(self, step, own, weight, captured)
            elif one_product and not self.training:
                share_head(self, step, own, captured)
            outputs = self.pilot(return_dict=True, **given)
        return outputs, captured

    @property
    def _has_pilot_head(self) -> bool:
        return chosen("head", self.copilot.config.head) == "pilot"

    @property
    def head_map(self) -> HeadMap | None:
        """What the Pilot's family does to the output of its head, found out when it is first asked for; `None` where
        its logits can't be made of the state that the head reads."""
        if self._head_map == "unknown":
            found = _head_map_values(self)
            self._head_map = None if found is None else HeadMap(*found)
        return self._head_map

    def adopt_head_map(self, found: HeadMap | None) -> None:
        """Take what was found out earlier of the Pilot's family, so that the Pilot is not run for it.

        Args:
            found ([`HeadMap`], *optional*): what a record says.
        """
        if self._head_map == "unknown":
            self._head_map = found

    def _corrects_before_head(self, step: GeneratedStep, weight: float, state: RectifyState) -> bool:
        """Whether the Pilot's head can read what the Copilot has corrected, so that its logits are p̃'s alone."""
        if not state.direct or not self._has_pilot_head or reads_mistakes(self):
            return False
        if chosen("fusion", self.config.fusion) != "logits" or self.head_map is None:
            return False
        known = step.question_is_known or chosen("form", self.copilot.config.form) == "linear"
        return known and (self.head_map.is_linear or weight == 1.0)

    def _mask_of_tokens(self, attention_mask: Tensor | None) -> Tensor | None:
        """Which tokens are padding. `generate` with a static cache makes whole attention masks instead: a branch reads
        them as its Pilot does, and a Copilot that looks at no other position does without."""
        whole = attention_mask is not None and not is_token_mask(attention_mask)
        return None if whole and self.copilot.new_cache() is None else attention_mask

    def _keeps_logits(self, labels: Tensor | None, training: bool) -> bool:
        """Whether the Pilot need not make logits of other positions than are asked for."""
        takes = "logits_to_keep" in self._pilot_parameters
        return takes and labels is None and not training and not reads_mistakes(self)

    def _pilot_alone(self, arguments: dict[str, Any], call: PairCall) -> PilotCopilotOutput:
        """λ = 0: exactly the Pilot, at the Pilot's cost."""
        inner = call.cache.pilot if isinstance(call.cache, PilotCopilotCache) else call.cache
        given = self._pilot_arguments(arguments, inner, call.use_cache)
        return self.alone_output(self.pilot(return_dict=True, **given))

    def own_cache(self, cache: Cache | None) -> Cache | None:
        """The pair's cache for what a call was given.

        Args:
            cache (`Cache`, *optional*): the pair's own, or an empty one of the Pilot's.

        Returns:
            [`PilotCopilotCache`], or the same where the Copilot remembers nothing, or `None`.

        Raises:
            ValueError: it is static, or holds positions that the Copilot has not seen.
        """
        if cache is None:
            return None
        if isinstance(cache, PilotCopilotCache):
            cache.check_in_step()
            return cache
        return self.wrap_cache(cache)

    @staticmethod
    def alone_output(outputs: ModelOutput) -> PilotCopilotOutput:
        """The output of a call at λ = 0.

        Args:
            outputs (`ModelOutput`): the Pilot's.

        Returns:
            [`PilotCopilotOutput`]
        """
        loss = outputs.get("loss")
        return PilotCopilotOutput(
            loss=loss,
            logits=outputs.logits,
            pilot_logits=outputs.logits,
            pilot_loss=loss,
            **{CACHE_NAME: cache_of(outputs)},
            **PilotCopilotOutput.passed_on(outputs),
        )

    def copilot_loss(self, batch: MistakeBatch, num_items: Tensor | float | None = None) -> Tensor:
        """The Copilot's objective on one round (Eq. 7), over the whole vocabulary. No gradient reaches the Pilot.

        Args:
            batch ([`MistakeBatch`]): the round that the Copilot learns from: this one, a logged or a recorded one.
            num_items (`float` or tensor, *optional*): see [`copilot_objective`].

        Returns:
            `torch.FloatTensor`, a scalar; 0 where the round has no supervised position.

        Raises:
            ValueError: the loss is NaN or infinite.
        """
        loss = round_loss(self, batch, num_items)
        if not is_compiling():
            check_copilot_loss(loss)
        return loss

    def head_logits(self, head_states: Tensor | None) -> Tensor:
        """The logits that the Pilot's head, as it is now, makes of a state; read only.

        Args:
            head_states (`torch.Tensor` of shape `(..., hidden)`, *optional*): what the head reads.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.

        Raises:
            ValueError: there is no state, or the family's logits can't be made of it.
        """
        if self.head_map is None or head_states is None:
            raise ValueError(
                f"a round holds the states before the Pilot's head, but {type(self.pilot).__name__} makes its logits "
                "of them in a way that is not known. Record it again with this Pilot."
            )
        return self.head_map.logits(self._read_pilot_head(head_states, with_bias=True))

    def copilot_only(self, mistake_round: MistakeBatch, num_items: Tensor | float | None = None) -> PilotCopilotOutput:
        """The Copilot's loss on a logged or recorded round, without a pass of the Pilot.

        Args:
            num_items (`float` or tensor, *optional*): see [`copilot_objective`].

        Returns:
            [`PilotCopilotOutput`] with `loss` and `copilot_loss`.
        """
        loss = self.copilot_loss(mistake_round, num_items)
        return PilotCopilotOutput(loss=loss, copilot_loss=loss.detach())

    def read_only(
        self, outputs: ModelOutput, seen: PilotPass, targets: Tensor, columns: Tensor | None = None
    ) -> PilotCopilotOutput:
        """The round of a pass outside training whose mistakes are asked for: the Copilot does not run.

        Args:
            outputs (`ModelOutput`): the Pilot's.
            seen ([`PilotPass`]): what its pass left: logits, states, rationales.
            targets (`torch.LongTensor` of shape `(batch, length)`): the token that each position predicts, or -100.
            columns (`torch.LongTensor`, *optional*): the positions whose logits the Pilot made; all by default.

        Returns:
            [`PilotCopilotOutput`] with the Pilot's `logits` and `mistakes`.
        """
        mistakes = self._round_under_way(seen, targets, columns)
        return PilotCopilotOutput(logits=seen.logits, pilot_logits=seen.logits, mistakes=mistakes)

    def _lesson_columns(self, targets: Tensor, attention_mask: Tensor | None, segments: Tensor | None) -> Tensor | None:
        """The positions at which any row has a lesson, where the Pilot need not make the logits of others."""
        if is_compiling() or not self._keeps_logits(None, False):
            return None
        real = torch.ones_like(targets, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lessons = lesson_positions(targets, real, segments, self.config.mistakes_from)
        columns = lessons.any(dim=0).nonzero().flatten()
        return columns if len(columns) else None

    def _labels_of_pilot(self, labels: Tensor | None, held_out: Tensor | None) -> Tensor | None:
        """The labels that the Pilot learns from: not those of rows that it only reads."""
        if labels is None or held_out is None:
            return labels
        return labels.masked_fill(held_out.bool().unsqueeze(-1), -100)

    def _refuse_rectified_training(self) -> None:
        """While a pair learns, its rectified logits would carry a loss's gradient into both parts."""
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.copilot.parameters()):
            raise ValueError(
                "a pair in training mode was called without `labels`: the Copilot learns from the true tokens, and a "
                "loss on rectified logits would teach the Pilot what it would not learn alone. Trainer takes the "
                "labels out of a batch for `label_smoothing_factor` and `compute_loss_func`; CopilotTrainer honours "
                "both. To read only, call `pair.eval()` or use `torch.no_grad()`; to train the Pilot alone, give "
                "`copilot_weight=0.0`."
            )

    def _train_on(self, call: PairCall, outputs: ModelOutput, seen: PilotPass, targets: Tensor) -> PilotCopilotOutput:
        """Training: the Pilot's own loss on the batch, the Copilot's on a logged round, or on this one."""
        lessons, labels = call.mistake_round, call.pilot_labels
        current: MistakeBatch | None = None
        if lessons is None or call.return_mistakes:
            current = self._round_under_way(seen, targets)
            lessons = current if lessons is None else lessons
        scale, num_items = call.options.get("copilot_scale"), call.options.get("num_items_in_batch")
        if scale is None:
            # Another Trainer than ours, accumulating gradients: the Copilot's loss counts by the batch's share too.
            scale = 1.0 if num_items is None or call.mistake_round is not None else (targets >= 0).sum() / num_items
        copilot_loss = self.copilot_loss(lessons, call.options.get("copilot_items")) * scale
        pilot_loss = None if labels is None else self._pilot_loss(outputs, labels, num_items)
        loss = copilot_loss if self.pilot_is_frozen or pilot_loss is None else pilot_loss + copilot_loss
        return PilotCopilotOutput(
            loss=loss,
            logits=seen.logits,
            pilot_loss=pilot_loss,
            copilot_loss=copilot_loss,
            mistakes=current if call.return_mistakes else None,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _shared_correction(self, captured: Capture) -> Tensor | None:
        """f, where the Copilot's row went through the Pilot's head together with the Pilot's own."""
        if captured.head_rows is None or captured.head_output is None:
            return None
        return (self.head_map or HeadMap()).logits(finite_product(captured.head_output))

    def cache_beside(self, cache: Cache) -> Cache:
        """The pair's cache beside one of the Pilot's.

        Args:
            cache (`Cache`): the Pilot's.

        Returns:
            [`PilotCopilotCache`], or the Pilot's own where the Copilot remembers nothing.

        Raises:
            ValueError: it is static, and the Copilot's can't be.
        """
        own = self.copilot.new_cache(_static_length(cache))
        return cache if own is None else PilotCopilotCache(cache, own)

    def _round_under_way(self, seen: PilotPass, targets: Tensor, columns: Tensor | None = None) -> MistakeBatch:
        """What the Pilot's pass leaves for the log."""
        states = seen.head_states
        known = states is not None and states.shape[:2] == seen.logits.shape[:2] and self.head_map is not None
        return MistakeBatch.from_pilot(
            seen.logits,
            seen.token_ids,
            targets,
            seen.attention_mask,
            self.config,
            head_states=states if known else None,
            keep_belief=reads_mistakes(self),
            columns=columns,
            segments=seen.segments,
            question=seen.question,
            question_mask=seen.question_mask,
            rationale=seen.rationale,
            layers=seen.layers,
        )

    def _pilot_loss(self, outputs: ModelOutput, labels: Tensor, num_items: Tensor | float | None = None) -> Tensor:
        """The loss that the Pilot returned for its labels; 0 where the batch has none, of which it makes NaN."""
        loss = outputs.get("loss")
        if loss is None:  # a family without a loss of its own
            return pilot_loss_of(outputs.logits, self.aligned_labels(labels), num_items)
        if not is_compiling() and not (labels >= 0).any() and not loss.isfinite():
            return outputs.logits[..., :1].float().sum() * 0.0
        return loss

    def _seen(self, outputs: ModelOutput, captured: Capture, **of_kind: Any) -> PilotPass:
        """What a pass of the Pilot gives the Copilot: what both kinds of pair take alike, and what they don't."""
        return PilotPass(
            logits=outputs.logits,
            rationale=captured.rationale(),
            layers=captured.stacked_layers(),
            correction=self._shared_correction(captured),
            head_states=captured.head_input,
            rectified=captured.corrected is not None,
            **of_kind,
        )

    def _rectified(self, call: PairCall, outputs: ModelOutput, seen: PilotPass) -> PilotCopilotOutput:
        """Scoring and generating: f, then p̃, through the one fusion function."""
        cache, keep, state, options, labels = call.cache, call.keep, call.state, call.options, call.pilot_labels
        pilot_cache = cache_of(outputs)
        if cache is None and call.use_cache is not False and pilot_cache is not None:
            cache = self.cache_beside(pilot_cache)
        if seen.rectified:
            check_vocabulary(self, seen.logits)
            kept = finite_product(seen.logits if seen.logits_are_kept else seen.logits[:, keep])
            outputs_of_pilot = PilotCopilotOutput.passed_on(outputs)
            return PilotCopilotOutput(logits=kept, **{CACHE_NAME: cache}, **outputs_of_pilot)
        own = cache if isinstance(cache, PilotCopilotCache) else None
        correction = run_copilot(self, seen, own, keep, call.prompt_length)
        kept = seen.logits if seen.logits_are_kept else seen.logits[:, keep]
        if state is not None:  # a logits processor rectifies
            state.shift = rectify_shift(kept, correction, call.weight, self.config.fusion, state.of_probabilities)
        logits = kept if state is not None else rectify(kept, correction, call.weight, self.config.fusion)
        losses: dict[str, Any] = {}
        if labels is not None and state is None:
            targets, num_items = self.targets_of(labels, options)[:, keep], options.get("num_items_in_batch")
            pilot_loss = self._pilot_loss(outputs, labels, num_items)
            losses = self._evaluation_losses(logits, kept, correction, targets, pilot_loss, num_items)
        return PilotCopilotOutput(
            logits=logits,
            pilot_logits=kept,
            correction=correction if options.get("return_correction") else None,
            **{CACHE_NAME: cache},
            **losses,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _evaluation_losses(
        self,
        logits: Tensor,
        pilot_logits: Tensor,
        correction: Tensor,
        targets: Tensor,
        pilot_loss: Tensor,
        num_items: Tensor | float | None,
    ) -> dict[str, Tensor]:
        """Evaluation: the pair's loss, and each part's own. The pair's is the Pilot's with p̃ in the place of p̂: a
        router's loss, and what else a family adds to its cross-entropy, stays."""
        cross_entropy = pilot_loss_of(pilot_logits, targets, num_items)
        losses = {
            "loss": pilot_loss_of(logits, targets, num_items) + (pilot_loss - cross_entropy),
            "pilot_loss": pilot_loss,
        }
        supervised, options = targets >= 0, (self.config.objective, self.config.fusion)
        if is_compiling():
            rows = (correction.flatten(0, 1), pilot_logits.flatten(0, 1), targets.flatten())
            losses["copilot_loss"] = copilot_objective(*rows, *options)
        elif supervised.any():
            rows = (correction[supervised], pilot_logits[supervised], targets[supervised])
            losses["copilot_loss"] = copilot_objective(*rows, *options)
        return losses

    def targets_of(self, labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The token that each position is to predict, by the labels of a batch.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.
            batch (`dict`): may hold `shift_labels`, labels that stand where they are predicted already.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, -100 where nothing is supervised.
        """
        aligned = batch.get("shift_labels")
        return self.aligned_labels(labels) if aligned is None else aligned


def _static_length(cache: Cache) -> int | None:
    """For how many positions a static cache has room; `None` of one that grows."""
    return cache.get_max_length() if cache.is_compileable else None


@assume_constant_result  # it looks at numbers: a pass that is being compiled runs it once, and takes plain values only
def _head_map_values(pair: PilotCopilotPreTrainedModel) -> tuple[float, float | None] | None:
    found = find_head_map(pair.pilot, pair.recorder.capture)
    return None if found is None else (found.scale, found.softcap)


def kept_positions(logits_to_keep: int | Tensor) -> slice | Tensor:
    """Which positions' logits a call is to return.

    Args:
        logits_to_keep (`int` or tensor): the last so many; 0: all; a tensor: these.

    Returns:
        `slice` or the tensor.
    """
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


__all__ = ["PilotCopilotPreTrainedModel", "kept_positions"]
