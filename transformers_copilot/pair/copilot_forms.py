"""Every form of a Copilot, by its name."""

from __future__ import annotations

from .configuration_copilot import CopilotConfig
from .copilot_base import CopilotPreTrainedModel
from .modeling_copilot import CopilotModel
from .modeling_copilot_branch import BranchCopilot
from .modeling_copilot_linear import LinearCopilot
from .options import chosen


_CLASSES: dict[str, type[CopilotPreTrainedModel]] = {
    "decoder": CopilotModel,
    "branch": BranchCopilot,
    "linear": LinearCopilot,
}


def new_copilot(config: CopilotConfig) -> CopilotPreTrainedModel:
    """A Copilot with fresh weights; a decoder and a linear one correct nothing yet.

    Args:
        config ([`CopilotConfig`]): its form and shape.

    Returns:
        A model of the form's class.

    Raises:
        ValueError: there is no such form, or a branch's family can't be built.
    """
    return _CLASSES[chosen("form", config.form)](config)


__all__ = ["new_copilot"]
