"""The Copilot of the form "branch": the Pilot's own last layers once more."""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    PreTrainedModel,
    StaticCache,
)

from .compat import cache_parameter
from .configuration_copilot import CopilotConfig
from .copilot_base import CopilotPreTrainedModel, no_static_cache
from .pilot import parameters_of
from .rationale import decoder_layers, decoder_of


class _Read(threading.local):
    """What the first layer is to read: two threads may run one Copilot."""

    def __init__(self) -> None:  # of each thread
        self.states: Tensor | None = None


_READ = _Read()


class _Nothing(nn.Module):
    """Stands where a decoder has an embedding: what a branch reads holds positions and tokens already."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Zero, to be added.

        Args:
            *args: what the embedding would be given.
            **kwargs: the same.

        Returns:
            `torch.FloatTensor` without dimensions.
        """
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return torch.zeros((), device=given.device)


class BranchCopilot(CopilotPreTrainedModel):
    """u = s · norm(g) − h: g is what the branch's layers make of the states that the Pilot's last layers read, norm the
    Pilot's last, and s a scale that some families have before their head. At λ = 1 the Pilot's head then reads
    s · norm(g) alone, so the pair is the Pilot with other last layers.

    The layers are built by the family's own model class, with its masks, positions and norms. A hook puts the states
    before the first layer, so that nothing which a family does to embeddings is done twice.

    Args:
        config ([`CopilotConfig`]): with the `branch_config` of the Pilot's family.

    Raises:
        ValueError: the family's class can't be built from its configuration.
    """

    draws_in_training = True  # where the family has dropout

    def __init__(self, config: CopilotConfig) -> None:
        super().__init__(config)
        whole = _family_model(config)
        self.decoder = decoder_of(whole)
        layers = decoder_layers(whole)
        inside = {id(module) for layer in layers for module in layer.modules()}
        for name, module in list(self.decoder.named_modules()):
            if isinstance(module, nn.Embedding) and id(module) not in inside:
                parent, _, child = name.rpartition(".")
                setattr(self.decoder.get_submodule(parent), child, _Nothing())
        self._no_split_modules = whole._no_split_modules
        self._first = next(name for name, module in self.decoder.named_modules() if module is layers[0])
        layers[0].register_forward_pre_hook(_read_states, with_kwargs=True)
        self._taken = parameters_of(self.decoder)
        self.share(config.branch_shared or [])
        self.post_init()

    @property
    def shared_names(self) -> list[str]:
        """Parameters of its decoder that stay the Pilot's: what the family's first layer has for all (T5's relative
        positions), which a merged model could have once only."""
        return self.config.branch_shared or []

    def share(self, names: list[str]) -> None:
        """Leave some parameters as the Pilot has them; they don't learn.

        Args:
            names (list of `str`): their names in the decoder.
        """
        self.config.branch_shared = names
        for name in names:
            self.decoder.get_parameter(name).requires_grad_(False)

    def layers_read(self, num_layers: int) -> tuple[int, ...]:
        """The output of the layer before the copied ones.

        Args:
            num_layers (`int`): how many decoder layers the Pilot has.

        Returns:
            `tuple`: its number.
        """
        return (num_layers - self.config.num_hidden_layers - 1,)

    def new_cache(self, length: int | None = None) -> Cache:
        """An empty cache of its layers.

        Args:
            length (`int`, *optional*): positions that a static one has room for; without, it grows.

        Returns:
            `Cache`

        Raises:
            ValueError: a static one is asked for beside an encoder-decoder.
        """
        if self.config.is_encoder_decoder:
            if length is not None:
                raise ValueError(no_static_cache("a branch of an encoder-decoder keeps an encoder's keys, which grow"))
            return EncoderDecoderCache(DynamicCache(), DynamicCache())
        if length is not None:
            return StaticCache(config=self.decoder.config, max_cache_len=length)
        return DynamicCache(config=self.decoder.config)

    def forward(
        self,
        states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        encoded: Tensor | None = None,
        encoded_mask: Tensor | None = None,
    ) -> Tensor:
        """The branch's layers, and the norm after them.

        Args:
            states (`torch.Tensor` of shape `(batch, length, hidden)`): what the Pilot's last layers read.
            attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): as the Pilot had it;
                whole, of shape `(batch, 1, length, places)`, where the cache is static.
            position_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): the same.
            cache (`Cache`, *optional*): earlier positions, updated here.
            encoded (`torch.Tensor` of shape `(batch, questions, question_size)`, *optional*): encoder-decoder: X̃.
            encoded_mask (`torch.Tensor` of shape `(batch, questions)`, *optional*): 0 at the encoder's padding.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden)`.
        """
        states = states.to(self.dtype)
        given: dict[str, Any] = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "encoder_hidden_states": None if encoded is None else encoded.to(self.dtype),
            "encoder_attention_mask": encoded_mask,
            str(cache_parameter(self._taken)): cache,
        }
        given = {name: value for name, value in given.items() if name in self._taken}
        # Run again in the backward pass, a checkpointed first layer would not find the states.
        self.decoder.get_submodule(self._first).gradient_checkpointing = False
        before = _READ.states
        _READ.states = states
        try:
            with self._random_stream(torch.tensor(states.shape, device=states.device)):
                outputs = self.decoder(inputs_embeds=states, use_cache=cache is not None, return_dict=True, **given)
        finally:
            _READ.states = before
        return outputs[0]

    def head_shift(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """u = s · norm(g) − h.

        Args:
            states (`torch.Tensor` of shape `(..., hidden)`): norm(g).
            head_states (`torch.Tensor` of the same shape): h.

        Returns:
            `torch.FloatTensor` of the same shape.
        """
        scaled = cast(Tensor, states)
        if self.config.branch_scale != 1.0:
            scaled = scaled * self.config.branch_scale
        return scaled.float() - cast(Tensor, head_states).float()


def _read_states(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Put the branch's input in the place of what the decoder made of it."""
    states = _READ.states
    if states is None:
        return None
    if args:
        return (states, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": states}


def _family_model(config: CopilotConfig) -> PreTrainedModel:
    """A model of the Pilot's class with the branch's layers and hardly a vocabulary."""
    values = dict(cast(dict, config.branch_config))
    kind = values.pop("model_type", None)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        family = AutoConfig.for_model(kind, **values)
        return auto.from_config(family, attn_implementation=config._attn_implementation)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"a branch can't be built of the Pilot's family {kind!r} from its configuration ({error}); use the form "
            "'linear' or 'decoder'."
        ) from error


__all__ = ["BranchCopilot"]
