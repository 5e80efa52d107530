"""What a pair does with a pass of its Pilot: the losses while it trains, the rectified logits otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
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

# Arguments of `forward` that are the Copilot's alone; the Pilot never sees them.
_COPILOTS_OWN = frozenset({"copilot_items", "copilot_scale", "keep_layers", "return_correction"})
# Arguments that a pair's `forward` names for every family; a Pilot that takes none of a name is not given it.
_OFFERED = frozenset(
    {
        *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels", "logits_to_keep"),
        *("decoder_input_ids", "decoder_attention_mask", "encoder_outputs", "decoder_inputs_embeds"),
    }
)


class PairPassesMixin(_ModelBase):
    """The part of [`PilotCopilotPreTrainedModel`] that `forward` is made of; it holds nothing itself."""

    @property
    def _pilot_cache_name(self) -> str | None:
        """What the Pilot calls its cache; `None` for one that takes none (GPT-1)."""
        return cache_parameter(self._pilot_parameters)

    def _pilot_arguments(
        self, arguments: dict[str, Any], cache: Cache | None, use_cache: bool | None
    ) -> dict[str, Any]:
        """What the Pilot is called with: all that it would be called with alone, and nothing of the Copilot's.

        Raises:
            TypeError: the Pilot takes no such argument.
        """
        given = {}
        for name, value in arguments.items():
            if value is None or name in _COPILOTS_OWN:
                continue
            if name in self._pilot_parameters:
                given[name] = value
            elif name in _OFFERED:  # `generate` gives what the pair's signature names, whatever the family takes
                continue
            elif self._pilot_takes_all:
                given[name] = value
            else:
                raise TypeError(
                    f"{type(self.pilot).__name__}, the Pilot, takes no argument `{name}`, and neither does the Copilot."
                )
        if use_cache is not None and (self._pilot_takes_all or "use_cache" in self._pilot_parameters):
            given["use_cache"] = use_cache
        if cache is not None and self._pilot_cache_name is not None:
            given[self._pilot_cache_name] = cache
        return given

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
                # Without hooks: a Trainer's NEFTune hook would add noise, and draw it from the Pilot's random stream.
                question = self.get_input_embeddings().forward(batch.token_ids)
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

    def _labels_of_pilot(self, labels: Tensor | None, held_out: Tensor | None) -> Tensor | None:
        """The labels that the Pilot learns from: not those of rows that it only reads."""
        if labels is None or held_out is None:
            return labels
        return labels.masked_fill(held_out.bool().unsqueeze(-1), -100)

    def _refuse_rectified_training(self) -> None:
        """While a pair learns, its rectified logits would carry a loss's gradient into both parts."""
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.copilot.parameters()):
            raise ValueError(
                "a pair in training mode was called without `labels`: the Copilot learns from the true tokens, and a "
                "loss on rectified logits would teach the Pilot what it would not learn alone. Trainer takes the "
                "labels out of a batch for `label_smoothing_factor` and `compute_loss_func`; CopilotTrainer honours "
                "both. To read only, call `pair.eval()` or use `torch.no_grad()`; to train the Pilot alone, give "
                "`copilot_weight=0.0`."
            )

    def _train_on(
        self,
        outputs: ModelOutput,
        seen: PilotPass,
        targets: Tensor,
        mistake_round: MistakeBatch | None,
        return_mistakes: bool,
        pilot_labels: Tensor | None,
        **losses: Any,
    ) -> PilotCopilotOutput:
        """Training: the Pilot's own loss on the batch, the Copilot's on a logged round, or on this one."""
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
        pilot_loss = None if pilot_labels is None else self._pilot_loss(outputs, pilot_labels, num_items)
        loss = copilot_loss if self.pilot_is_frozen or pilot_loss is None else pilot_loss + copilot_loss
        return PilotCopilotOutput(
            loss=loss,
            logits=seen.logits,
            pilot_loss=pilot_loss,
            copilot_loss=copilot_loss,
            mistakes=current if return_mistakes else None,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _pilot_loss(self, outputs: ModelOutput, labels: Tensor, num_items: Tensor | float | None = None) -> Tensor:
        """The loss that the Pilot returned for its labels; 0 where the batch has none, of which it makes NaN."""
        loss = outputs.get("loss")
        if loss is None:  # a family without a loss of its own
            return pilot_loss_of(outputs.logits, self.aligned_labels(labels), num_items)
        if not (labels >= 0).any() and not loss.isfinite():
            return outputs.logits[..., :1].float().sum() * 0.0
        return loss

    def _rectified(
        self,
        outputs: ModelOutput,
        seen: PilotPass,
        labels: Tensor | None,
        cache: Any,
        weight: float,
        keep: slice | Tensor,
        state: RectifyState | None,
        **options: Any,
    ) -> PilotCopilotOutput:
        """Scoring and generating: f, then p̃, through the one fusion function."""
        correction = run_copilot(self, seen, cache, keep, None if state is None else state.prompt_length)
        kept = seen.logits[:, keep]
        if state is not None:  # a logits processor rectifies
            state.shift = rectify_shift(kept, correction, weight, self.config.fusion)
        logits = kept if state is not None else rectify(kept, correction, weight, self.config.fusion)
        losses: dict[str, Any] = {}
        if labels is not None and state is None:
            targets, num_items = self.targets_of(labels, options)[:, keep], options.get("num_items_in_batch")
            pilot_loss = self._pilot_loss(outputs, labels, num_items)
            losses = self._evaluation_losses(logits, kept, correction, targets, pilot_loss, num_items)
        return PilotCopilotOutput(
            logits=logits,
            pilot_logits=kept,
            correction=correction if options.get("return_correction") else None,
            **{CACHE_NAME: cache},
            **losses,
            **PilotCopilotOutput.passed_on(outputs),
        )

    def _evaluation_losses(
        self,
        logits: Tensor,
        pilot_logits: Tensor,
        correction: Tensor,
        targets: Tensor,
        pilot_loss: Tensor,
        num_items: Tensor | float | None,
    ) -> dict[str, Tensor]:
        """Evaluation: the pair's loss, and each part's own. The pair's is the Pilot's with p̃ in the place of p̂: a
        router's loss, and what else a family adds to its cross-entropy, stays."""
        cross_entropy = pilot_loss_of(pilot_logits, targets, num_items)
        losses = {
            "loss": pilot_loss_of(logits, targets, num_items) + (pilot_loss - cross_entropy),
            "pilot_loss": pilot_loss,
        }
        supervised = targets >= 0
        if supervised.any():
            probabilities = torch.softmax(pilot_logits[supervised].float(), dim=-1)
            losses["copilot_loss"] = copilot_objective(
                correction[supervised], probabilities, targets[supervised], self.config.objective, self.config.fusion
            )
        return losses

    def targets_of(self, labels: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The token that each position is to predict, by the labels of a batch.

        Args:
            labels (`torch.LongTensor` of shape `(batch, length)`): as `forward` takes them.
            batch (`dict`): may hold `shift_labels`, labels that stand where they are predicted already.

        Returns:
            `torch.LongTensor` of shape `(batch, length)`, -100 where nothing is supervised.
        """
        aligned = batch.get("shift_labels")
        return self.aligned_labels(labels) if aligned is None else aligned


def kept_positions(logits_to_keep: int | Tensor) -> slice | Tensor:
    """Which positions' logits a call is to return.

    Args:
        logits_to_keep (`int` or tensor): the last so many; 0: all; a tensor: these.

    Returns:
        `slice` or the tensor.
    """
    return slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep


__all__ = ["PairPassesMixin", "kept_positions"]
