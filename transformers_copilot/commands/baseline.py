"""`train --baseline`: what the pair's time would have bought without a Copilot."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PrinterCallback, Trainer

from ..adapters.adapter_layers import peft_library
from ..adapters.adapters import paper_lora
from ..metrics.likelihoods import item_losses, loss_gain, model_losses
from .progress import StepClock, duration, speak
from .terminal import say
from .train_options import BASELINES
from .verdict import rival_in_words


# LoRA learns best at about ten times the rate of all weights.
LORA_RATE_FACTOR = 10
# How long its pace is measured at the most.
TIMED_STEPS, TIMED_SECONDS = 12, 10.0


def baseline_folder(output_dir: str, kind: str) -> Path:
    """Where a rival is kept.

    Args:
        output_dir (`str`): of the pair's run.
        kind (`str`): `"longer"` or `"lora"`.
    """
    return Path(output_dir) / f"baseline-{kind}"


class Baseline:
    """A rival of a pair: its Pilot, trained without a Copilot for as long as the pair took.

    Args:
        kind (`str`): `"longer"`, all weights; or `"lora"`, an adapter that is merged at the end.
        load_pilot (callable): gives the Pilot as it was before the time that is compared.
        items (sequence of `dict`): what the rival learns from, tokenized.
        training ([`CopilotTrainingArguments`]): of the pair; the rival's are the same but for steps and rate.
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        rate (`float`, *optional*): its learning rate; by default the Pilot's, for LoRA ten times that.
    """

    def __init__(
        self,
        kind: str,
        load_pilot: Callable[[], PreTrainedModel],
        items: Any,
        training: Any,
        tokenizer: Any,
        rate: float | None = None,
    ) -> None:
        self.kind, self.load_pilot, self.items = kind, load_pilot, items
        self.training, self.tokenizer = training, tokenizer
        self.rate = rate or training.learning_rate * (LORA_RATE_FACTOR if kind == "lora" else 1)
        self.tuned = "" if rate else ", not tuned (--baseline_learning_rate)"

    def compare(self, pair: Any, dev_items: Any, seconds: float) -> list[str]:
        """Train the rival, keep it beside the pair, and say which of the two dev prefers.

        Args:
            pair (`PilotCopilotPreTrainedModel`): with its λ.
            dev_items (sequence of `dict`): the dev texts, tokenized.
            seconds (`float`): how long the pair took, by [`seconds_now`].

        Returns:
            list of `str`: the verdict.
        """
        what = BASELINES[self.kind]
        if not seconds:
            return [f"{what}: not trained, as the pair was there already and its time isn't known"]
        steps = max(1, int(seconds / self._step_seconds()))
        say(
            f"{what} ({duration(seconds)}): {steps:,} steps on {len(self.items):,} texts, at learning rate "
            f"{self.rate:g}{self.tuned}"
        )
        trainer = self._trainer(steps)
        speak(trainer, "baseline")
        trainer.train()
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        if self.kind == "lora":
            model = model.merge_and_unload()
        folder = baseline_folder(self.training.output_dir, self.kind)
        if trainer.is_world_process_zero():
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        size, collator = trainer.args.per_device_eval_batch_size, trainer.data_collator
        dev = list(dev_items)
        with trainer.compute_loss_context_manager():
            _, own, tokens = item_losses(pair, dev, collator, pair.config.copilot_weight, size)
            gain = loss_gain(own, model_losses(model, dev, collator, size), tokens)
        return [rival_in_words(gain, what, str(folder))]

    def _step_seconds(self) -> float:
        """The pace of a rival that is thrown away."""
        clock = StepClock(TIMED_SECONDS)
        trainer = self._trainer(TIMED_STEPS, clock, logging_strategy="no", disable_tqdm=True)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.step_seconds

    def _trainer(self, steps: int, *callbacks: Any, **changes: Any) -> Trainer:
        model = self.load_pilot().requires_grad_(True)
        if self.kind == "lora":
            with warnings.catch_warnings():
                # PEFT 0.21 asks transformers by the old name of `is_activation_checkpointing`.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                model = peft_library().get_peft_model(model, paper_lora("pilot"))
        args = copy.deepcopy(self.training)
        own = {"output_dir": str(baseline_folder(args.output_dir, self.kind)), "max_steps": steps}
        own |= {"learning_rate": self.rate, "save_strategy": "no", "eval_strategy": "no", "push_to_hub": False}
        own |= {"load_best_model_at_end": False, "resume_from_checkpoint": None}
        own |= {"report_to": []}  # a tracker would take its losses for the pair's
        for name, value in {**own, **changes}.items():
            setattr(args, name, value)
        return Trainer(
            model=model,
            args=args,
            train_dataset=self.items,
            data_collator=DataCollatorForSeq2Seq(self.tokenizer, padding=True),
            processing_class=self.tokenizer,
            callbacks=list(callbacks),
        )


__all__ = ["Baseline", "baseline_folder"]
