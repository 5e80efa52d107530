"""Questions and rationales: what the Pilot's layers held, taken by forward hooks while it runs.

The rationale h̄ of a position is made of the decoder layers' raw outputs (before the final norm) as the layers run:
their mean, or some of them, instead of one tensor a layer (`output_hidden_states`). What goes into the head is kept
too: with the head's weights it is the whole distribution.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .pilot_head import product_with_rows


@dataclass
class Capture:
    """What one forward pass of the Pilot left behind.

    Attributes:
        owner ([`RationaleRecorder`]): who fills it, so that a Pilot inside a Pilot's call is not mixed up.
        wanted (`str` or `tuple`, *optional*, defaults to `"mean"`): what a rationale is: the `"mean"` over the layers,
            the outputs of some, by their numbers, or `None`. In a tuple the mean may be one of several.
        keep_layers (`int`): for how many rows to keep every layer's output beside it.
        keep_head_output (`bool`): whether to keep what the head gives.
        question (`torch.Tensor` of shape `(batch, length, question_size)`, *optional*): the embedding layer's output.
        total (`torch.FloatTensor` of shape `(batch, length, hidden)`, *optional*): sum over the layers so far.
        count (`int`): how many layers have run.
        states (`dict`): the outputs of the layers that are wanted.
        layers (`list` of tensors): the outputs, with `keep_layers`.
        head_rows (callable, *optional*): gives rows `(batch, 1, hidden)` that go through the Pilot's head together with
            its own, called when all layers have run. One reading of the head's weights then serves both parts.
        corrected (callable, *optional*): from what the head is about to read, `(batch, kept, hidden)`, to what it reads
            instead.
        head_input (`torch.Tensor` of shape `(batch, kept, hidden)`, *optional*): what the Pilot gave its head.
        head_output (`torch.Tensor` of shape `(batch, 1, vocab)`, *optional*): what became of the rows; with
            `keep_head_output` all that the head gave.
    """

    owner: RationaleRecorder
    wanted: str | tuple[int | str, ...] | None = "mean"
    keep_layers: int = 0
    keep_head_output: bool = False
    question: Tensor | None = None
    total: Tensor | None = None
    count: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)
    layers: list[Tensor] = field(default_factory=list)
    head_rows: Callable[[], Tensor] | None = None
    corrected: Callable[[Tensor], Tensor] | None = None
    head_input: Tensor | None = None
    head_output: Tensor | None = None

    def stacked_layers(self) -> Tensor | None:
        """Every layer's output for the first rows, where they were kept.

        Returns:
            `torch.Tensor` of shape `(decoder layers, rows, length, hidden)`, or `None`.
        """
        return torch.stack(self.layers) if self.layers else None

    def embeddings(self) -> Tensor:
        """X̃ of a decoder-only Pilot: what its embedding layer gave.

        Returns:
            `torch.Tensor` of shape `(batch, length, question_size)`, detached.

        Raises:
            ValueError: the embedding layer did not run.
        """
        if self.question is None:
            raise ValueError(
                "the Pilot's embedding layer did not run, so there is no question; was it replaced after the pair was "
                "made? Change it with `pair.resize_token_embeddings`, or make the pair anew with `from_pilot`."
            )
        return self.question

    def rationale(self) -> Tensor | None:
        """h̄: the mean over the decoder layers, or the outputs of those that are wanted.

        Returns:
            `torch.Tensor` of shape `(batch, length, hidden)`, with several layers of shape
            `(batch, length, layers, hidden)`, detached; `None` where nothing is wanted.

        Raises:
            ValueError: no decoder layer reported an output.
        """
        if self.wanted is None:
            return None
        if not self.count:
            raise ValueError(
                "no decoder layer of the Pilot reported its output, so there is no rationale; was the Pilot replaced, "
                "or its layers wrapped, after the pair was made? Make the pair anew with `from_pilot`."
            )
        states = [self._state(part) for part in ((self.wanted,) if isinstance(self.wanted, str) else self.wanted)]
        if len(states) == 1:
            return states[0]
        widest = max((state.dtype for state in states), key=lambda dtype: dtype.itemsize)
        return torch.stack([one.to(states[0].device, widest) for one in states], dim=-2)

    def wants_mean(self) -> bool:
        """Whether a rationale has the mean over the layers.

        Returns:
            `bool`
        """
        return self.wanted is not None and "mean" in ((self.wanted,) if isinstance(self.wanted, str) else self.wanted)

    def _state(self, part: int | str) -> Tensor:
        return cast(Tensor, self.total) / self.count if isinstance(part, str) else self.states[part]


class _Active(threading.local):
    """The capture under way in this thread: two threads may run one Pilot, each with its own. `torch.compile` follows
    what belongs to a thread; it does not follow a `ContextVar`."""

    def __init__(self) -> None:  # of each thread
        self.capture: Capture | None = None


_ACTIVE = _Active()


class RationaleRecorder:
    """Hooks on a Pilot's embedding and decoder layers; idle, and free, outside [`RationaleRecorder.capture`].

    Raises:
        ValueError: its decoder layers cannot be found.
    """

    def __init__(self, pilot: PreTrainedModel) -> None:
        layers = decoder_layers(pilot)
        self._handles = [layer.register_forward_hook(self._on_layer) for layer in layers]
        self._handles.append(pilot.get_input_embeddings().register_forward_hook(self._on_embedding))
        head = pilot.get_output_embeddings()
        if head is not None:
            self._handles.append(head.register_forward_pre_hook(self._before_head))
            self._handles.append(head.register_forward_hook(self._after_head))
        self.num_layers = len(layers)

    def remove(self) -> None:
        """Take the hooks off the Pilot."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def capture(
        self,
        keep_layers: int = 0,
        wanted: str | tuple[int | str, ...] | None = None,
        keep_head_output: bool = False,
    ) -> Iterator[Capture]:
        """Collect what the Pilot does inside the `with` block.

        Args:
            keep_layers (`int`, *optional*, defaults to 0): for so many rows keep every layer's output too.
            wanted (`str` or `tuple`, *optional*): what a rationale is: the `"mean"` over the layers, or the outputs of
                some, by their numbers from 0, or in a tuple both. By default there is none.
            keep_head_output (`bool`, *optional*, defaults to `False`): keep what the head gives.

        Yields:
            [`Capture`], filled when the Pilot has run.
        """
        captured = Capture(self, wanted, keep_layers, keep_head_output)
        before = _ACTIVE.capture
        _ACTIVE.capture = captured
        try:
            yield captured
        finally:
            _ACTIVE.capture = before

    def _own_capture(self) -> Capture | None:
        """The capture under way, where it is of this recorder."""
        captured = _ACTIVE.capture
        return captured if captured is not None and captured.owner is self else None

    def _on_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        captured = self._own_capture()
        if captured is None:
            return
        hidden = (output[0] if isinstance(output, (tuple, list)) else output).detach()
        if captured.keep_layers:
            captured.layers.append(hidden[: captured.keep_layers])
        number = captured.count
        captured.count = number + 1
        if captured.wants_mean():
            total = captured.total
            captured.total = hidden.float() if total is None else total + hidden.to(total.device)
        if isinstance(captured.wanted, tuple) and number in captured.wanted:
            captured.states[number] = hidden

    def _on_embedding(self, module: nn.Module, args: Any, output: Any) -> None:
        captured = self._own_capture()
        # The first call: a family that embeds twice (shared encoder and decoder) embeds its input first.
        if captured is not None and captured.question is None:
            captured.question = output.detach()

    def _before_head(self, module: nn.Module, args: Any) -> Any:
        captured = self._own_capture()
        if captured is None or not args:
            return None
        captured.head_input = args[0].detach()
        if captured.corrected is not None:
            return (captured.corrected(args[0]), *args[1:])
        if captured.head_rows is None:
            return None
        return (args[0][:, :0], *args[1:])  # nothing to do for the head itself: `_after_head` does both parts' rows

    def _after_head(self, module: nn.Module, args: Any, output: Any) -> Any:
        captured = self._own_capture()
        if captured is None or captured.head_input is None:
            return None
        if captured.keep_head_output:
            captured.head_output = output.detach()
        if captured.head_rows is None:
            return None
        own = captured.head_input
        both = torch.cat([own, captured.head_rows().to(own.dtype)], dim=1)
        product = product_with_rows(both, cast(Tensor, module.weight))
        captured.head_output = product[:, -1:]
        return product[:, :-1]

    def __deepcopy__(self, memo: dict[int, Any]) -> RationaleRecorder:
        # `copy.deepcopy(pair)` copies the hooks through `memo`, so they find this new recorder.
        new = RationaleRecorder.__new__(RationaleRecorder)
        memo[id(self)] = new
        new.num_layers = self.num_layers
        new._handles = []  # a handle knows the old modules only
        return new


def decoder_layers(pilot: PreTrainedModel) -> list[nn.Module]:
    """The Pilot's decoder layers, in order.

    Args:
        pilot (`PreTrainedModel`): a causal or encoder-decoder language model.

    Returns:
        `list[nn.Module]`

    Raises:
        ValueError: no list of `num_hidden_layers` equal blocks was found.
    """
    return _find_layers(pilot)[1]


def decoder_of(pilot: PreTrainedModel) -> PreTrainedModel:
    """The Pilot's decoder, which its layers are in.

    Args:
        pilot (`PreTrainedModel`): a causal or encoder-decoder language model.

    Returns:
        `PreTrainedModel`: without the head.

    Raises:
        ValueError: no list of `num_hidden_layers` equal blocks was found.
    """
    return _find_layers(pilot)[0]


def _find_layers(pilot: PreTrainedModel) -> tuple[Any, list[nn.Module]]:
    config = pilot.config.get_text_config(decoder=True)
    wanted = {config.num_hidden_layers, getattr(config, "num_decoder_layers", None)}
    # Where a family calls its head "decoder" (ModernBERT), `get_decoder` finds that; the base model is right then.
    whole = [] if pilot.config.is_encoder_decoder else [pilot.base_model]
    for part in [pilot.get_decoder(), *whole]:
        for module in part.modules():
            if isinstance(module, nn.ModuleList) and len(module) in wanted and len({type(m) for m in module}) == 1:
                return part, list(module)
    raise ValueError(
        f"the decoder layers of {type(pilot).__name__} were not found: expected one `ModuleList` of "
        f"{config.num_hidden_layers} blocks of the same class inside its decoder. A Pilot needs ordinary decoder "
        "layers."
    )


__all__ = ["Capture", "RationaleRecorder", "decoder_layers", "decoder_of"]
