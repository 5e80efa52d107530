"""For the processes of the Hub's tests: tiny pairs, and what they answer. Imports neither the package nor conftest, so
that a process without the package can compare too."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def outputs(pair: Any) -> dict[str, torch.Tensor]:
    """Logits on some fixed text, and what greedy search and beams make of it."""
    ids = torch.randint(3, 63, (2, 6), generator=torch.Generator().manual_seed(3))
    given = {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if pair.config.is_encoder_decoder else {})}
    plain = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        logits = pair(**given).logits
    found = {"logits": logits, "greedy": pair.generate(ids, **plain), "beams": pair.generate(ids, num_beams=3, **plain)}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def keep(pair: Any, file: Path | str) -> None:
    """Write a pair's answers to a file."""
    save_file(outputs(pair), file)


def difference(pair: Any, file: Path | str) -> str | None:
    """How a pair's answers differ from those in a file; `None` if they do not (logits to rounding)."""
    expected, found = load_file(file), outputs(pair)
    gap = (expected["logits"].softmax(-1) - found["logits"].softmax(-1)).abs().max().item()
    if gap > 1e-6:
        return f"probabilities differ by {gap}"
    different = [name for name in ("greedy", "beams") if not torch.equal(expected[name], found[name])]
    return f"{different} differ" if different else None
