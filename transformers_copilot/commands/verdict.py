"""What a training says at its end: whether the Copilot is worth keeping, by the dev texts."""

from __future__ import annotations

from typing import Any

from transformers import DataCollatorForSeq2Seq

from ..metrics.intervals import side_of_zero
from ..metrics.likelihoods import FEW_TEXTS, FEWEST_TEXTS, LossGain, item_losses, loss_gain
from ..pair.options import MAX_COPILOT_WEIGHT


# Where both parts learnt at the same time.
TOGETHER = (
    "the Copilot learnt beside its Pilot. In our measurements it gained more when it learnt after it, from the Pilot's "
    "own texts: try `--copilot_data same`"
)


def verdict(pair: Any, items: Any, tokenizer: Any, batch_size: int, advice: str | None = None) -> list[str]:
    """Compare the pair, at the λ that was chosen, with its Pilot on the dev texts.

    Args:
        pair (`PilotCopilotPreTrainedModel`): with a fitted λ.
        items (sequence of `dict`): the dev texts, tokenized.
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        batch_size (`int`): texts at a time.
        advice (`str`, *optional*): what to try where there is no gain.

    Returns:
        list of `str`: the verdict, the advice where it is wanted, and warnings.
    """
    fit = pair.config.copilot_weight_fit
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    gain = loss_gain(*item_losses(pair, list(items), collator, fit["weight"], batch_size))
    gained = fit["weight"] > 0 and side_of_zero(gain.low, gain.high) > 0
    said = [in_words(gain, fit["weight"])]
    if advice is not None and not gained and gain.total >= FEWEST_TEXTS:
        said.append(advice)
    return [*said, *_warnings(gain, fit)]


def in_words(gain: LossGain, weight: float) -> str:
    """The verdict.

    Args:
        gain ([`LossGain`]): of the dev texts, in nats a token.
        weight (`float`): how much of the correction was used.

    Returns:
        `str`
    """
    if weight == 0:
        return f"dev loss: Pilot {gain.before:.4f}; the Copilot made it better at no λ, so λ = 0: leave it out"
    losses = f"Pilot {gain.before:.4f}, with its Copilot {gain.after:.4f}"
    if gain.total < FEWEST_TEXTS:
        return f"dev loss: {losses} (gain {gain.difference:+.4f}): {_too_few(gain)}, λ = {weight:g}"
    found = f"dev loss: {losses} {_interval(gain)}"
    told = {
        1: f"{found}: keep it, λ = {weight:g}",
        -1: f"{found}: it makes things worse, leave it out",
        0: f"no gain that {gain.total:,} texts could show: {found}, λ = {weight:g}",
    }
    return told[side_of_zero(gain.low, gain.high)]


def rival_in_words(gain: LossGain, what: str, folder: str) -> str:
    """Which of pair and rival the dev texts prefer.

    Args:
        gain ([`LossGain`]): from the pair to the rival, of the same dev texts.
        what (`str`): what the rival is.
        folder (`str`): where it is.

    Returns:
        `str`
    """
    losses = f"dev loss: the pair {gain.before:.4f}, {what} {gain.after:.4f}"
    if gain.total < FEWEST_TEXTS:
        return f"{losses}: {_too_few(gain)}; both are kept, the other in {folder}"
    found = f"{losses} {_interval(gain)}"
    told = {
        1: f"{found}: take that, it is in {folder}",
        -1: f"{found}: the pair is better, keep it",
        0: f"no difference that {gain.total:,} texts could show: {found}. The model without a Copilot is in {folder}, "
        "and costs less to use",
    }
    return told[side_of_zero(gain.low, gain.high)]


def _interval(gain: LossGain) -> str:
    return f"(gain {gain.difference:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])"


def _too_few(gain: LossGain) -> str:
    return f"{gain.total} {'texts are' if gain.total > 1 else 'text is'} too few to tell"


def _warnings(gain: LossGain, fit: dict[str, Any]) -> list[str]:
    found = []
    largest = max(map(float, fit["scores"])) if fit["method"] == "grid" else MAX_COPILOT_WEIGHT
    if fit["weight"] >= largest > 0:
        found.append(
            f"warning: λ = {fit['weight']:g} is the largest that was tried, so the best may lie beyond. The Copilot "
            "has learnt little: train it longer, or with a larger `--copilot_learning_rate`"
        )
    if gain.total < FEW_TEXTS:
        found.append(
            f"warning: λ was chosen on {gain.total:,} dev texts, which are few. Give more with `--dev_dataset` or "
            "`--dev_size`"
        )
    return found


__all__ = ["TOGETHER", "in_words", "rival_in_words", "verdict"]
