"""Making a model on the meta device, where weights have shapes and no numbers, as `from_pretrained` does.

torch draws first numbers there too, for nothing: a tenth of the time in which a small pair is loaded. transformers'
`no_init_weights` would leave that out on every device and in all threads, as it puts others in the place of torch's
functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class NoDrawsOnMeta(TorchFunctionMode):
    """A context in which `torch.nn.init` leaves tensors on the meta device as they are, in this thread alone. Tensors
    on other devices get their numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:  # methods of C have none
            tensor = args[0] if args else named.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **named)


__all__ = ["NoDrawsOnMeta"]
