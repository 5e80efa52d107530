"""What Copilots of every form share.

A random stream of their own is a part of it: their dropout takes nothing from the Pilot's stream, so the Pilot's masks
are those that it would have alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from transformers import PreTrainedModel

from .configuration_copilot import CopilotConfig


@contextmanager
def own_random_stream(model: nn.Module, content: Tensor) -> Iterator[None]:
    """Draw from a stream that torch's own does not notice.

    The seed is made of torch's seed, of what is read and of the model's weights, which change with every step. So
    nothing has to be saved for a resumed training to draw as an uninterrupted one. Checkpointed layers, which run again
    in the backward pass, draw the same masks: torch puts the state back that they had.

    Args:
        model (`nn.Module`): the Copilot, whose learning weights are a part of the seed.
        content (`torch.Tensor`): what it reads, integers.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    device = content.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        smallest = min((weight.numel() for weight in learning), default=0)
        state = sum(float(weight.detach().double().sum()) for weight in learning if weight.numel() == smallest)
        torch.manual_seed(hash((torch.initial_seed(), int(content.sum()), state)) % 2**63)
        yield


class CopilotPreTrainedModel(PreTrainedModel):
    """Base of [`CopilotModel`] (Eq. 6), [`BranchCopilot`] and [`LinearCopilot`].

    A Copilot with the Pilot's head corrects the state h that the head reads: its correction is f = W(h + u) − Wh, and
    [`CopilotPreTrainedModel.head_shift`] gives u.
    """

    config: CopilotConfig
    config_class = CopilotConfig
    base_model_prefix = "copilot"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    # Whether it draws random numbers in training, besides an adapter's dropout.
    draws_in_training = False

    @abstractmethod
    def layers_read(self, num_layers: int) -> str | tuple[int, ...] | None:
        """What it reads of the Pilot's decoder layers.

        Args:
            num_layers (`int`): how many decoder layers the Pilot has.

        Returns:
            `"mean"`: the mean of all layers' outputs; a tuple: the outputs of these layers, from 0; `None`: nothing.
        """

    @abstractmethod
    def new_cache(self, length: int | None = None) -> Any:
        """An empty cache of its own for one text that is being written.

        Args:
            length (`int`, *optional*): positions that a static one has room for; without, it grows.

        Returns:
            The cache, or `None` where it remembers nothing.

        Raises:
            ValueError: a static one is asked for, and the form has none.
        """

    @abstractmethod
    def head_shift(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """u: what is added, times λ, to the state that the Pilot's head reads.

        Args:
            states (`torch.Tensor` of shape `(..., width)`, *optional*): the Copilot's own; `None` of the form
                `"linear"`, which has none.
            head_states (`torch.Tensor` of shape `(..., pilot_hidden_size)`, *optional*): h. A `"decoder"` does without.

        Returns:
            `torch.FloatTensor` of shape `(..., pilot_hidden_size)`.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CopilotPreTrainedModel:
        """What `to`, `half`, `bfloat16`, `cuda` and the like do to every weight. A Copilot is small and learns from
        small differences: where the pair is narrowed, it moves along but stays float32.

        Args:
            fn (callable): changes one tensor.
            recurse (`bool`, *optional*, defaults to `True`): its layers' too.

        Returns:
            The Copilot.
        """

        def changed(tensor: Tensor) -> Tensor:
            """The tensor moved, but in no narrower type than it had."""
            new = fn(tensor)
            if not (new.is_floating_point() and new.itemsize < torch.float32.itemsize <= tensor.itemsize):
                return new
            return tensor.to(new.device, torch.float32)  # of the old values: the narrow ones have lost digits

        return super()._apply(changed, recurse)

    def _random_stream(self, content: Tensor) -> AbstractContextManager[None]:
        """The Copilot's own, where it draws anything."""
        draws = self.training and (self.draws_in_training or self._hf_peft_config_loaded)
        if draws and is_compiling() and not self._has_dropout():
            return nullcontext()  # the seed is made of the weights' numbers, which would cut the compiled graph in two
        return own_random_stream(self, content) if draws else nullcontext()

    def _has_dropout(self) -> bool:
        """Whether any of its modules drops something, or draws otherwise, in training."""
        settings = [module.config for module in self.modules() if isinstance(module, PreTrainedModel)]
        drawn = [
            value
            for one in settings
            for name, value in vars(one).items()
            if ("drop" in name or "jitter" in name) and isinstance(value, (int, float))
        ]
        drawn += [module.p for module in self.modules() if isinstance(module, nn.Dropout)]
        return any(share > 0 for share in drawn)

    def resize_vocabulary(self, vocab_size: int) -> None:
        """Follow the Pilot's change of vocabulary.

        Args:
            vocab_size (`int`): the new number of tokens.
        """
        self.config.vocab_size = vocab_size


def no_static_cache(why: str) -> str:
    """The message of a form that has no static cache.

    Args:
        why (`str`): its reason.

    Returns:
        `str`
    """
    return (
        f'a static cache was asked for, but {why}. Leave `cache_implementation` unset or use "dynamic"; a linear '
        "Copilot and a branch of a decoder-only Pilot take a static one, and λ = 0 (the Pilot alone) takes any cache."
    )


__all__ = ["no_static_cache", "own_random_stream", "CopilotPreTrainedModel"]
