"""What a checkpoint can't ask for by itself: compiled code (kernels) that transformers would fetch and run.

Python code beside a checkpoint runs with `trust_remote_code=True` only, which transformers sees to. Kernels are named
elsewhere in a configuration, and transformers fetches those of some owners from the Hub without asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


# Ways to attend and to mix experts that are parts of torch and transformers. For any other a kernel may be fetched.
_OWN_WAYS = frozenset({"eager", "sdpa", "flex_attention", "paged|eager", "batched_mm", "grouped_mm"})
_FIELDS = ("attn_implementation", "experts_implementation", "implementation_internal")
# Ways to store weights whose arithmetic transformers fetches.
KERNEL_METHODS = frozenset({"eetq", "fbgemm_fp8", "fp8", "gguf", "metal", "mxfp4", "mxfp8", "nvfp4"})


def refuse_kernels(values: Mapping[str, Any], source: str = "this checkpoint") -> None:
    """Refuse a configuration's file that asks for an attention or for experts whose code may have to be fetched.

    transformers writes no such field, so one that is there was put there. What a caller asks for is his own choice.

    Args:
        values (mapping): of a configuration's file, configurations inside it too.
        source (`str`, *optional*, defaults to `"this checkpoint"`): id or folder, for the message.

    Raises:
        ValueError: the field and its value are named.
    """
    for name, value in _ways(values):
        if value is not None and value not in _OWN_WAYS:
            raise ValueError(
                f"`{name}` in config.json of {source} is {value!r}. Code for it may be fetched from the Hub and run, "
                "which a checkpoint can't ask for; nothing was fetched. Don't use the checkpoint unless you know who "
                "wrote it. If you mean it, take the field out of the file and give `attn_implementation` or "
                "`experts_implementation` in the call."
            )


def refuse_kernel_method(values: Mapping[str, Any], source: str = "this checkpoint") -> None:
    """Refuse a checkpoint whose weights are stored in a way for which transformers fetches a kernel.

    Args:
        values (mapping): of a configuration's file.
        source (`str`, *optional*, defaults to `"this checkpoint"`): id or folder, for the message.

    Raises:
        ValueError: the method is named.
    """
    quantization = values.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if isinstance(method, str) and method.lower() in KERNEL_METHODS:
        raise ValueError(
            f"the weights of {source} are quantized by {method!r}, for which transformers fetches compiled code from "
            "the Hub and runs it; nothing was fetched. If you want that, pass `trust_remote_code=True`."
        )


def _ways(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if str(name).endswith(_FIELDS):
            inner = value.items() if isinstance(value, Mapping) else [("", value)]
            for part, way in inner:  # one way for each part of a model
                known = way is None or isinstance(way, str)
                yield f"{prefix}{name}{part and '.'}{part}", way if known else repr(way)
        elif isinstance(value, Mapping):
            yield from _ways(value, f"{prefix}{name}.")


__all__ = ["KERNEL_METHODS", "refuse_kernel_method", "refuse_kernels"]
