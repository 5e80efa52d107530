"""The Copilot of the form "linear": one map of the state that the Pilot's head reads."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_copilot import CopilotConfig
from .copilot_base import CopilotPreTrainedModel


class LinearCopilot(CopilotPreTrainedModel):
    """u = A h, so that z + λf = W(h + λAh) = W(I + λA)h. It has no layers and no cache, costs width² a token, and can
    be multiplied into the Pilot's head at any λ.

    Args:
        config ([`CopilotConfig`]): of the form "linear"; `pilot_hidden_size` is A's width.
    """

    def __init__(self, config: CopilotConfig) -> None:
        super().__init__(config)
        width = cast(int, config.pilot_hidden_size)
        self.map = nn.Linear(width, width, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.map:  # transformers does not ask about a module without weights of its own
            init.zeros_(self.map.weight)  # an untrained pair is exactly its Pilot

    def layers_read(self, num_layers: int) -> None:
        """Nothing.

        Args:
            num_layers (`int`): not used.
        """
        return

    def new_cache(self, length: int | None = None) -> None:
        """None: it remembers nothing.

        Args:
            length (`int`, *optional*): not used.
        """
        return

    def head_shift(self, states: Tensor | None, head_states: Tensor | None) -> Tensor:
        """u = A h.

        Args:
            states: not read.
            head_states (`torch.Tensor` of shape `(..., pilot_hidden_size)`): h.

        Returns:
            `torch.FloatTensor` of the same shape.
        """
        read = cast(Tensor, head_states)
        with self._random_stream(torch.tensor(read.shape, device=read.device)):  # an adapter's dropout
            return self.map(read.to(self.dtype)).float()


__all__ = ["LinearCopilot"]
