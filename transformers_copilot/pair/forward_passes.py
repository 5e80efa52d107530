"""What a pair does with a pass of its Pilot: the losses while it trains, the rectified logits otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

from .cache_pilot_copilot import PilotCopilotCache
from .compat import CACHE_NAME, cache_of, cache_parameter
from .correction import (
    PilotPass,
    check_vocabulary,
    reads_mistakes,
    run_copilot,
)
from .fused_head import GeneratedStep, correct_before_head, share_head
from .fusion import rectify, rectify_shift
from .generation_pilot_copilot import RectifyState
from .head_map import HeadMap, find_head_map
from .lessons import round_loss
from .mistake_batch import MistakeBatch, lesson_positions
from .modeling_outputs import PilotCopilotOutput
from .objectives import copilot_objective, pilot_loss_of
from .rationale import Capture
from .validation import chosen


# The mixin is put into a model's class; type checkers are told so.
_ModelBase: Any = PreTrainedModel if TYPE_CHECKING else object

# Arguments of `forward` that are the Copilot's alone; the Pilot never sees them.
_COPILOTS_OWN = frozenset({"copilot_items", "copilot_scale", "keep_layers", "recorded_layers", "return_correction"})
# Arguments that a pair's `forward` names for every family; a Pilot that takes none of a name is not given it.
_OFFERED = frozenset(
    {
        *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "labels", "logits_to_keep"),
        *("decoder_input_ids", "decoder_attention_mask", "encoder_outputs", "decoder_inputs_embeds"),
    }
)


class PairPassesMixin(_ModelBase):
    """The part of [`PilotCopilotPreTrainedModel`] that `forward` is made of."""

    _head_map: Any = "unknown"

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
        cache: Cache | None,
        use_cache: bool | None,
        step: GeneratedStep,
        weight: float,
        state: RectifyState | None,
    ) -> tuple[ModelOutput, Capture]:
        """The Pilot's pass, with what its layers held. A frozen Pilot is only read. Outside training the Copilot may
        run before the Pilot's head does."""
        inner = cache.pilot if isinstance(cache, PilotCopilotCache) else cache
        given = self._pilot_arguments(arguments, inner, use_cache)
        frozen = torch.no_grad() if self.training and self.pilot_is_frozen else contextlib.nullcontext()
        wanted = arguments.get("recorded_layers", self.copilot.layers_read(self.recorder.num_layers))
        direct = state is not None and self._corrects_before_head(step, weight, state)
        one_product = direct or (self._has_pilot_head and (self.head_map or HeadMap(softcap=1.0)).is_linear)
        own = cache if isinstance(cache, PilotCopilotCache) else None
        with self.recorder.capture(arguments.get("keep_layers", 0), wanted) as captured, frozen:
            if direct:
                correct_before_head(self, step, own, weight, captured)
            elif one_product and not self.training:
                share_head(self, step, own, captured)
            outputs = self.pilot(return_dict=True, **given)
        return outputs, captured

    @property
    def _has_pilot_head(self) -> bool:
        return chosen("head", self.copilot.config.head) == "pilot"

    @property
    def head_map(self) -> HeadMap | None:
        """What the Pilot's family does to the output of its head, found out when it is first asked for; `None` where
        its logits can't be made of the state that the head reads."""
        if self._head_map == "unknown":
            self._head_map = find_head_map(self.pilot, self.recorder)
        return self._head_map

    def adopt_head_map(self, found: HeadMap | None) -> None:
        """Take what was found out earlier of the Pilot's family, so that the Pilot is not run for it.

        Args:
            found ([`HeadMap`], *optional*): what a record says.
        """
        if self._head_map == "unknown":
            self._head_map = found

    def _corrects_before_head(self, step: GeneratedStep, weight: float, state: RectifyState) -> bool:
        """Whether the Pilot's head can read what the Copilot has corrected, so that its logits are p̃'s alone."""
        if not state.direct or not self._has_pilot_head or reads_mistakes(self):
            return False
        if chosen("fusion", self.config.fusion) != "logits" or self.head_map is None:
            return False
        known = step.question_is_known or chosen("form", self.copilot.config.form) == "linear"
        return known and (self.head_map.is_linear or weight == 1.0)

    def _mask_of_tokens(self, attention_mask: Tensor | None) -> Tensor | None:
        """Which tokens are padding. `generate` with a static cache makes whole attention masks instead, and only a
        Copilot that looks at no other position can do without."""
        whole = attention_mask is not None and attention_mask.dim() == 4
        return None if whole and self.copilot.new_cache() is None else attention_mask

    def _keeps_logits(self, labels: Tensor | None, training: bool) -> bool:
        """Whether the Pilot need not make logits of other positions than are asked for."""
        takes = "logits_to_keep" in self._pilot_parameters
        return takes and labels is None and not training and not reads_mistakes(self)

    def _pilot_alone(
        self, arguments: dict[str, Any], cache: Cache | None, use_cache: bool | None
    ) -> PilotCopilotOutput:
        """λ = 0: exactly the Pilot, at the Pilot's cost."""
        inner = cache.pilot if isinstance(cache, PilotCopilotCache) else cache
        given = self._pilot_arguments(arguments, inner, use_cache)
        return self.alone_output(self.pilot(return_dict=True, **given))

    def own_cache(self, cache: Cache | None) -> Cache | None:
        """The pair's cache for what a call was given.

        Args:
            cache (`Cache`, *optional*): the pair's own, or an empty one of the Pilot's.

        Returns:
            [`PilotCopilotCache`], or the same where the Copilot remembers nothing, or `None`.

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
        """The Copilot's objective on one round (Eq. 7), over the whole vocabulary. No gradient reaches the Pilot.

        Args:
            batch ([`MistakeBatch`]): the round.
            num_items (`float` or tensor, *optional*): see [`copilot_objective`].

        Returns:
            `torch.FloatTensor`, a scalar; 0 where the round has no supervised position.
        """
        return round_loss(self, batch, num_items)

    def head_logits(self, head_states: Tensor | None) -> Tensor:
        """The logits that the Pilot's head, as it is now, makes of a state; read only.

        Args:
            head_states (`torch.Tensor` of shape `(..., hidden)`, *optional*): what the head reads.

        Returns:
            `torch.FloatTensor` of shape `(..., vocab)`.

        Raises:
            ValueError: there is no state, or the family's logits can't be made of it.
        """
        if self.head_map is None or head_states is None:
            raise ValueError(
                f"a round holds the states before the Pilot's head, but {type(self.pilot).__name__} makes its logits "
                "of them in a way that is not known. Record it again with this Pilot."
            )
        return self.head_map.logits(self._read_pilot_head(head_states, with_bias=True))

    def copilot_only(self, mistake_round: MistakeBatch, num_items: Tensor | float | None = None) -> PilotCopilotOutput:
        """The Copilot's loss on a logged or recorded round, without a pass of the Pilot.

        Args:
            num_items (`float` or tensor, *optional*): see [`copilot_objective`].

        Returns:
            [`PilotCopilotOutput`] with `loss` and `copilot_loss`.
        """
        loss = self.copilot_loss(mistake_round, num_items)
        return PilotCopilotOutput(loss=loss, copilot_loss=loss.detach())

    def read_only(
        self, outputs: ModelOutput, seen: PilotPass, targets: Tensor, columns: Tensor | None = None
    ) -> PilotCopilotOutput:
        """The round of a pass outside training whose mistakes are asked for: the Copilot does not run.

        Args:
            outputs (`ModelOutput`): the Pilot's.
            seen ([`PilotPass`]): what it did.
            targets (`torch.LongTensor` of shape `(batch, length)`): the token that each position predicts, or -100.
            columns (`torch.LongTensor`, *optional*): the positions whose logits the Pilot made; all by default.

        Returns:
            [`PilotCopilotOutput`] with the Pilot's `logits` and `mistakes`.
        """
        mistakes = self._round_under_way(seen, targets, columns)
        return PilotCopilotOutput(logits=seen.logits, pilot_logits=seen.logits, mistakes=mistakes)

    def _lesson_columns(self, targets: Tensor, attention_mask: Tensor | None, segments: Tensor | None) -> Tensor | None:
        """The positions at which any row has a lesson, where the Pilot need not make the logits of others."""
        if not self._keeps_logits(None, False):
            return None
        real = torch.ones_like(targets, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lessons = lesson_positions(targets, real, segments, self.config.mistakes_from)
        columns = lessons.any(dim=0).nonzero().flatten()
        return columns if len(columns) else None

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
            current = self._round_under_way(seen, targets)
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

    def _shared_correction(self, captured: Capture) -> Tensor | None:
        """f, where the Copilot's row went through the Pilot's head together with the Pilot's own."""
        if captured.head_rows is None or captured.head_output is None:
            return None
        return (self.head_map or HeadMap()).logits(captured.head_output)

    def cache_beside(self, cache: Cache) -> Cache:
        """The pair's cache beside one of the Pilot's.

        Args:
            cache (`Cache`): the Pilot's.

        Returns:
            [`PilotCopilotCache`], or the Pilot's own where the Copilot remembers nothing.
        """
        own = self.copilot.new_cache()
        return cache if own is None else PilotCopilotCache(cache, own)

    def _round_under_way(self, seen: PilotPass, targets: Tensor, columns: Tensor | None = None) -> MistakeBatch:
        """What the Pilot's pass leaves for the log."""
        states = seen.head_states
        known = states is not None and states.shape[:2] == seen.logits.shape[:2] and self.head_map is not None
        return MistakeBatch.from_pilot(
            seen.logits,
            seen.token_ids,
            targets,
            seen.attention_mask,
            self.config,
            head_states=states if known else None,
            keep_belief=reads_mistakes(self),
            columns=columns,
            segments=seen.segments,
            question=seen.question,
            question_mask=seen.question_mask,
            rationale=seen.rationale,
            layers=seen.layers,
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
        if seen.rectified:
            check_vocabulary(self, seen.logits)
            kept = seen.logits if seen.logits_are_kept else seen.logits[:, keep]
            outputs_of_pilot = PilotCopilotOutput.passed_on(outputs)
            return PilotCopilotOutput(logits=kept, **{CACHE_NAME: cache}, **outputs_of_pilot)
        own = cache if isinstance(cache, PilotCopilotCache) else None
        correction = run_copilot(self, seen, own, keep, None if state is None else state.prompt_length)
        kept = seen.logits if seen.logits_are_kept else seen.logits[:, keep]
        if state is not None:  # a logits processor rectifies
            state.shift = rectify_shift(kept, correction, weight, self.config.fusion, state.of_probabilities)
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
            options, true = (self.config.objective, self.config.fusion), targets[supervised]
            losses["copilot_loss"] = copilot_objective(correction[supervised], pilot_logits[supervised], true, *options)
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
