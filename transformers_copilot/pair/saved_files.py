"""Files that were saved and are read again: JSON that may be damaged, and sums that tell whether weights are those that
were saved.

A sum is no lock: whoever changes a file on purpose can change its sum too. It notices damage, and files that don't
belong together.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor


CHECKSUMS = "checksums"
# What Python and libraries raise of a value that they don't expect. None of them names the file that it came from.
READING_ERRORS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, StrictDataclassError),
)
_DIGITS = 16
# The widest integers that a row's bytes can be read as. Their sum is 8 times faster than that of single bytes.
_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


def read_json(file: str | os.PathLike[str], where: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        where (`str`): its name and its checkpoint's, for messages.

    Raises:
        ValueError: it is no JSON, or no object; the message begins with `where`.
        OSError: it can't be opened.
    """
    try:
        values = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where} is no whole JSON file ({error}); it was changed or damaged. Save or download it again."
        ) from error
    except OSError as error:
        raise OSError(f"{where} can't be read ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{where} holds {_shown(values)}; expected a JSON object. It was changed or damaged: save or download it "
            "again."
        )
    return values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@contextmanager
def opened_weights(file: str | os.PathLike[str], where: str) -> Iterator[Any]:
    """A safetensors file that may be damaged.

    Args:
        where (`str`): its name and its checkpoint's, for messages.

    Yields:
        What `safe_open` opens.

    Raises:
        ValueError: it is no whole safetensors file; the message begins with `where`.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{where} is no whole safetensors file ({error}); it was changed, cut off or damaged. Save it again, or "
            "download it again with `force_download=True`."
        ) from error


def sum_of_words(tensor: Tensor) -> int:
    """The sum of a tensor's bytes, read as whole numbers. Another one where one number is another.

    The sum of a tensor is that of its parts along the first dimension.

    Args:
        tensor (`torch.Tensor`): on the CPU.
    """
    if not tensor.numel():
        return 0
    width = math.prod(tensor.shape[1:]) * tensor.element_size()
    words = next(kind for size, kind in _WORDS if width % size == 0)
    return int(tensor.contiguous().reshape(-1).view(words).sum(dtype=torch.int64))


def sums_of_rows(tensor: Tensor, lengths: list[int]) -> Tensor:
    """[`sum_of_words`] of each of a tensor's parts.

    Args:
        tensor (`torch.Tensor` of shape `(rows, ...)`): on the CPU.
        lengths (list of `int`): rows of each part.

    Returns:
        `torch.LongTensor` of shape `(parts,)`.
    """
    return torch.tensor([sum_of_words(part) for part in tensor.split(lengths)], dtype=torch.int64)


def digest_of(weights: Iterable[tuple[str, Tensor]], about: Any = None) -> str:
    """A short text for some tensors, another one where a name, a shape or a number is another.

    Args:
        weights (iterable): names and tensors, in any order.
        about (*optional*): more that belongs to it, as JSON takes it.
    """
    lines = sorted(f"{name} {tensor.dtype} {list(tensor.shape)} {sum_of_words(tensor)}" for name, tensor in weights)
    text = "\n".join([*lines, json.dumps(about, sort_keys=True)])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def digest_of_file(file: str | os.PathLike[str], where: str, prefix: str = "") -> str:
    """[`digest_of`] of the tensors in a safetensors file.

    Args:
        where (`str`): its name and its checkpoint's, for messages.
        prefix (`str`, *optional*): of the names that count; by default all do.

    Raises:
        ValueError: it is no whole safetensors file.
    """
    with opened_weights(file, where) as stored:
        names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        return digest_of((name, stored.get_tensor(name)) for name in names)


def check_digest(sums: Mapping[str, Any], name: str, found: str, what: str, saved_in: str) -> None:
    """Refuse weights whose sum is not the one that was saved.

    Args:
        sums (mapping): the saved ones, by name.
        name (`str`): of the sum; without one nothing is compared.
        found (`str`): what it is now.
        what (`str`): what was summed, for the message.
        saved_in (`str`): the file with the sums.

    Raises:
        ValueError: they differ.
    """
    saved = sums.get(name)
    if saved is not None and saved != found:
        raise ValueError(
            f"{what} holds other numbers than those that were saved (`{CHECKSUMS}`, `{name}` in {saved_in}): it was "
            f"damaged, or changed without its configuration. Save or download it again. If you mean it, take "
            f"`{CHECKSUMS}` out of {saved_in}."
        )


def checksums_in(values: Mapping[str, Any], saved_in: str) -> dict[str, Any]:
    """The sums that a file holds.

    Args:
        values (mapping): of the file.
        saved_in (`str`): its name.

    Raises:
        ValueError: they are no object.
    """
    sums = values.get(CHECKSUMS)
    if sums is None:
        return {}
    if not isinstance(sums, dict):
        raise ValueError(
            f"`{CHECKSUMS}` in {saved_in} is {_shown(sums)}; expected an object with a sum for each part. Save or "
            "download the checkpoint again."
        )
    return sums


__all__ = [
    "CHECKSUMS",
    "READING_ERRORS",
    "check_digest",
    "checksums_in",
    "digest_of",
    "digest_of_file",
    "opened_weights",
    "read_json",
    "sum_of_words",
    "sums_of_rows",
]
