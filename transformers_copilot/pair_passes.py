"""What a pair does with a pass of its Pilot: the losses while it trains, the rectified logits otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME, cache_of, cache_parameter
from .fusion import rectify, rectify_shift
from .generation_pilot_copilot import RectifyState
from .mistake_batch import MistakeBatch
from .modeling_outputs import PilotCopilotOutput
from .objectives import copilot_objective, pilot_loss_of
from .rationale import Capture
from .rectifying import PilotPass, copilot_states, run_copilot


# The mixin is put into a model's class; type checkers are told so.
_ModelBase: Any = PreTrainedModel if TYPE_CHECKING else object


class PairPassesMixin(_ModelBase):
    """The part of [`PilotCopilotPreTrainedModel`] that `forward` is made of; it holds nothing itself."""

    @property
    def _pilot_cache_name(self) -> str | None:
        """What the Pilot calls its cache; `None` for one that takes none (GPT-1)."""
        return cache_parameter(self._pilot_parameters)

    def _pilot_arguments(
        self, arguments: dict[str, Any], cache: Cache | None, use_cache: bool | None
    ) -> dict[str, Any]:
        """Those arguments that are set and that the Pilot's `forward` takes, its cache among them."""
        takes_all = "kwargs" in self._pilot_parameters
        extra = {"output_attentions", "output_hidden_states"}
        arguments = {**arguments, "use_cache": use_cache, self._pilot_cache_name or CACHE_NAME: cache}
        return {
            name: value
            for name, value in arguments.items()
            if value is not None and (name in self._pilot_parameters or (takes_all and name in extra))
        }

    def _pilot_pass(
        self,
        arguments: dict[str, Any],
        cache: PilotCopilotCache | None,
        use_cache: bool | None,
        sharing: Callable[[Capture], None],
    ) -> tuple[ModelOutput, Capture]:
        """The Pilot's pass, with what its layers held. A frozen Pilot is only read; `sharing` may lend its head."""
        inner = None if cache is None else cache.pilot
        given = self._pilot_arguments(arguments, inner, use_cache)
        frozen = torch.no_grad() if self.training and self.pilot_is_frozen else contextlib.nullcontext()
        with self.recorder.capture(arguments.get("keep_layers", 0), self.config.rationale_pooling) as captured, frozen:
            sharing(captured)
            outputs = self.pilot(return_dict=True, **given)
        return outputs, captured

    def _pilot_alone(
        self, arguments: dict[str, Any], cache: Cache | None, use_cache: bool | None
    ) -> PilotCopilotOutput:
        """λ = 0: exactly the Pilot, at the Pilot's cost."""
        inner = cache.pilot if isinstance(cache, PilotCopilotCache) else cache
        given = self._pilot_arguments(arguments, inner, use_cache)
        return self.alone_output(self.pilot(return_dict=True, **given))

    def own_cache(self, cache: Cache | None) -> PilotCopilotCache | None:
        """The pair's cache for what a call was given.

        Args:
            cache (`Cache`, *optional*): the pair's own, or an empty one of the Pilot's.

        Returns:
            [`PilotCopilotCache`] or `None`.

        Raises:
            ValueError: it is static, or holds positions that the Copilot has not seen.
        """
        if cache is None:
            return None
        if isinstance(cache, PilotCopilotCache):
            cache.check_in_step()
            return cache
        return self.wrap_cache(cache)

    @staticmethod
    def alone_output(outputs: ModelOutput) -> PilotCopilotOutput:
        """The output of a call at λ = 0.

        Args:
            outputs (`ModelOutput`): the Pilot's.

        Returns:
            [`PilotCopilotOutput`]
        """
        loss = outputs.get("loss")
        return PilotCopilotOutput(
            loss=loss,
            logits=outputs.logits,
            pilot_logits=outputs.logits,
            pilot_loss=loss,
            **{CACHE_NAME: cache_of(outputs)},
            **PilotCopilotOutput.passed_on(outputs),
        )

    def copilot_loss(self, batch: MistakeBatch, num_items: Tensor | float | None = None) -> Tensor:
        """The Copilot's objective on one round (Eq. 7). No gradient reaches the Pilot.

        Args:
            batch ([`MistakeBatch`]): the round.
            num_items (`float` or tensor, *optional*): see [`copilot_objective`].

        Returns:
            `torch.FloatTensor`, a scalar; 0 where the round has no supervised position.
        """
        question = batch.question
        if question is None:
            with torch.no_grad():
                question = self.get_input_embeddings()(batch.token_ids)
        states = copilot_states(
            self, batch.feedback(), question, batch.rationale, batch.attention_mask, batch.question_mask, batch.segments
        )
        supervised, probabilities, token_ids = batch.lesson(self.config.mistakes_from, self.copilot.config.vocab_size)
        if not supervised.any():
            # Through the head too: distributed training waits for a gradient of every weight.
            return self.correction(states[:, :1]).sum() * 0.0
        correction, options = self.correction(states[supervised]), (self.config.objective, self.config.fusion)
        return copilot_objective(correction, probabilities, token_ids, *options, num_items)

    def copilot_only(self, mistake_round: MistakeBatch) -> PilotCopilotOutput:
        """The Copilot's loss on a logged round, without a pass of the Pilot.

        Args:
            mistake_round ([`MistakeBatch`]): the round.

        Returns:
            [`PilotCopilotOutput`] with `loss` and `copilot_loss`.
        """
        loss = self.copilot_loss(mistake_round)
        return PilotCopilotOutput(loss=loss, copilot_loss=loss.detach())

    def _train_on(
        self,
        outputs: ModelOutput,
        seen: PilotPass,
        targets: Tensor,
        mistake_round: MistakeBatch | None,
        held_out: Tensor | None,
        return_mistakes: bool,
        **losses: Any,
    ) -> PilotCopilotOutput:
        """Training: the Pilot's loss on the batch, the Copilot's on a logged round, or on this one."""
        pilot_loss = pilot_loss_of(seen.logits, targets, held_out, losses)
        lessons = mistake_round
        current: MistakeBatch | None = None
        if lessons is None or return_mistakes:
            current = MistakeBatch.from_pilot(
                seen.logits,
                seen.token_ids,
                targets,
                seen.attention_mask,
                seen.question,
                seen.rationale,
                self.config,
                seen.question_mask,
                seen.segments,
                seen.layers,
            )
            lessons = current if lessons is None else lessons
        scale, num_items = losses.get("copilot_scale"), losses.get("num_items_in_batch")
        if scale is None:
            # Another Trainer than ours, accumulating gradients: the Copilot's loss counts by the batch's share too.
            scale = 1.0 if num_items is None or mistake_round is not None else (targets >= 0).sum() / num_items
        copilot_loss = self.copilot_loss(lessons, losses.get("copilot_items")) * scale
        loss = copilot_loss if self.pilot_is_frozen else pilot_loss + copilot_loss
        return PilotCopilotOutput(
            loss=loss,
            logits=seen.logits,
            pilot_loss=pilot_loss.detach(),
            copilot_loss=copilot_loss.detach(),
            mistakes=current if return_mistakes else None,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _rectified(
        self,
        outputs: ModelOutput,
        seen: PilotPass,
        targets: Tensor | None,
        cache: Any,
        weight: float,
        keep: slice | Tensor,
        state: RectifyState | None,
        return_correction: bool = False,
    ) -> PilotCopilotOutput:
        """Scoring and generating: f, then p̃, through the one fusion function."""
        correction = run_copilot(self, seen, cache, keep, None if state is None else state.prompt_length)
        kept = seen.logits[:, keep]
        if state is not None:  # a logits processor rectifies
            state.shift = rectify_shift(kept, correction, weight, self.config.fusion)
        logits = kept if state is not None else rectify(kept, correction, weight, self.config.fusion)
        losses: dict[str, Any] = {}
        if targets is not None and state is None:
            losses = self._evaluation_losses(logits, kept, correction, targets[:, keep])
        return PilotCopilotOutput(
            logits=logits,
            pilot_logits=kept,
            correction=correction if return_correction else None,
            **{CACHE_NAME: cache},
            **losses,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _evaluation_losses(
        self, logits: Tensor, pilot_logits: Tensor, correction: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Evaluation: cross-entropy of the rectified logits, and each part's own loss."""
        losses = {
            "loss": pilot_loss_of(logits, targets, None, {}),
            "pilot_loss": pilot_loss_of(pilot_logits, targets, None, {}),
        }
        supervised = targets >= 0
        if supervised.any():
            probabilities = torch.softmax(pilot_logits[supervised].float(), dim=-1)
            losses["copilot_loss"] = copilot_objective(
                correction[supervised], probabilities, targets[supervised], self.config.objective, self.config.fusion
            )
        return losses


def kept_positions(logits_to_keep: int | Tensor) -> slice | Tensor:
    """Which positions' logits a call is to return.

    Args:
        logits_to_keep (`int` or tensor): the last so many; 0: all; a tensor: these.

    Returns:
        `slice` or the tensor.
    """
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


__all__ = ["PairPassesMixin", "kept_positions"]
