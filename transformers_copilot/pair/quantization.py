"""A Pilot with quantized weights: the pair saves it through its own quantizer, and only reads it in training.

The Copilot is never quantized along: see `_keep_in_fp32_modules` of the pair, which quantizers leave alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .options import chosen


if TYPE_CHECKING:
    from .modeling_pair_base import PilotCopilotPreTrainedModel


def is_quantized(module: nn.Module) -> bool:
    """Whether a module holds quantized weights, however they were made so.

    Args:
        module (`nn.Module`): a Pilot, or a layer of one.

    Returns:
        `bool`
    """
    if getattr(module, "is_quantized", False):  # set by transformers' quantizers, and only by them
        return True
    # torchao's `quantize_` leaves no mark on the model: its weights are tensors of torchao's own classes.
    return any(type(weight).__module__.startswith("torchao.") for weight in module.parameters())


def adopt_quantization(pair: PilotCopilotPreTrainedModel) -> None:
    """Let a pair with a quantized Pilot be saved and trained; a pair with a plain one stays as it is.

    Quantized weights cannot learn, so the Pilot is frozen, unless it has an adapter, which learns in their place.

    Args:
        pair: the pair, with a quantized Pilot or loaded from a quantized checkpoint; changed in place.

    Raises:
        ValueError: `head="pilot"`, but the Pilot's vocabulary matrices are quantized; or the Pilot's quantizer changes
            weights that are only read.
    """
    quantizer = getattr(pair, "hf_quantizer", None) or getattr(pair.pilot, "hf_quantizer", None)
    if quantizer is None and not is_quantized(pair.pilot):
        return
    if quantizer is not None:
        _check_stays_as_it_is(quantizer.quantization_config, pair.pilot)
        pair.hf_quantizer = pair.pilot.hf_quantizer = quantizer
    # Trainer refuses a quantized model without adapters; in a pair the Copilot is what learns.
    pair.is_quantized, pair.pilot.is_quantized = False, True
    if chosen("head", pair.copilot.config.head) == "pilot":
        read = [pair.pilot.get_output_embeddings()]
        if chosen("form", pair.copilot.config.form) == "decoder":
            read.append(pair.pilot.get_input_embeddings())
        for layer in read:
            if any(type(weight) is not nn.Parameter or not weight.is_floating_point() for weight in layer.parameters()):
                raise ValueError(
                    f"head='pilot' reads the Pilot's vocabulary matrices, but a {type(layer).__name__} of them is "
                    "quantized. Leave embedding and head out of the quantization (most methods do so by default), or "
                    "use head='own'."
                )
    if not pair.pilot._hf_peft_config_loaded:  # no adapter
        pair.freeze_pilot()


def _check_stays_as_it_is(config: Any, pilot: nn.Module) -> None:
    """A Linear4bit of bitsandbytes packs its weights for a CPU when it is first used, and `state_dict` unpacks them
    wrongly: what it computes from then on is something else (0.50.2)."""
    in_four_bits = config.quant_method == "bitsandbytes" and config.load_in_4bit
    if in_four_bits and any(weight.device.type == "cpu" for weight in pilot.parameters()):
        raise ValueError(
            "the Pilot is in 4 bits of bitsandbytes on a CPU. There, to read its weights (for a record, to save them) "
            "changes what it computes. Take 8 bits (`BitsAndBytesConfig(load_in_8bit=True)`), another quantizer "
            "(torchao, quanto), or a GPU."
        )


def check_saveable(pair: PilotCopilotPreTrainedModel) -> None:
    """Refuse to save weights that only their maker can write.

    Raises:
        ValueError: the Pilot was quantized in place, without transformers' knowledge.
    """
    if getattr(pair, "hf_quantizer", None) is None and is_quantized(pair.pilot):
        raise ValueError(
            "the Pilot was quantized in place (torchao's `quantize_`), which cannot be saved as a whole. Load it with "
            "`from_pilot(id, quantization_config=TorchAoConfig(...))` instead, or save the Copilot alone with "
            "`save_copilot`."
        )


__all__ = ["adopt_quantization", "check_saveable", "is_quantized"]
