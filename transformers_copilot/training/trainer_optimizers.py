"""One optimiser and one schedule for both parts of a pair in training, each part clipped by its own norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer, get_scheduler
from transformers.trainer_optimizer import is_optimizer_factory

from .arguments import METRIC_SCHEDULES
from .optimization import (
    GROUP_ARGUMENTS,
    check_given_optimizer,
    has_own_schedule,
    joint_scheduler,
    rates_by_group,
    split_parameter_groups,
)


# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object


class CopilotOptimizersMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that makes optimiser and schedule, and clips."""

    lr_scheduler: Any

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimiser with groups of the Pilot's and the Copilot's own.

        Args:
            model (`nn.Module`, *optional*): the model to optimise, if it is not the trainer's.

        Returns:
            `torch.optim.Optimizer`
        """
        fresh = self.optimizer is None
        optimizer: Any = super().create_optimizer(model)
        if not isinstance(optimizer, torch.optim.Optimizer) and (given := self.args.given_for_copilot(GROUP_ARGUMENTS)):
            raise ValueError(
                f"{', '.join(f'`{name}`' for name in given)} can't be honoured: the optimizer is a "
                f"{type(optimizer).__name__}, made elsewhere. Leave them out, or let the trainer make the optimizer."
            )
        made_by = None if self.optimizer_cls_and_kwargs is None else self.optimizer_cls_and_kwargs[0]
        if made_by is not None and is_optimizer_factory(made_by):
            check_given_optimizer(optimizer, None, self.pair.copilot, self.args)
        elif fresh and isinstance(optimizer, torch.optim.Optimizer):
            names = set(self.get_decay_parameter_names(self.model))
            decay = {id(parameter) for name, parameter in self.model.named_parameters() if name in names}
            split_parameter_groups(optimizer, self.pair.copilot, decay, self.args)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The Pilot's schedule for its groups, the Copilot's for its own.

        Args:
            num_training_steps (`int`): steps of the Pilot.
            optimizer (`torch.optim.Optimizer`, *optional*): defaults to the trainer's.

        Returns:
            A learning rate scheduler.
        """
        optimizer = optimizer or self.optimizer
        if self.lr_scheduler is None and has_own_schedule(self.args):
            self.lr_scheduler = joint_scheduler(optimizer, self.pair.copilot, self.args, num_training_steps)
            self._created_lr_scheduler = True
        elif self.lr_scheduler is None and self.args.schedule_name("lr_scheduler_type") in METRIC_SCHEDULES:
            kwargs = rates_by_group(optimizer, self.args.lr_scheduler_kwargs)
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type, optimizer=optimizer, scheduler_specific_kwargs=kwargs
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """A schedule that follows the loss follows the Pilot's own, as it would alone; another metric is the pair's."""
        by_loss = self.args.schedule_name("lr_scheduler_type") in METRIC_SCHEDULES and (
            self.args.metric_for_best_model in ("loss", "eval_loss") and not isinstance(self.eval_dataset, dict)
        )
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler or by_loss)
        if by_loss and not skip_scheduler:
            pilot = self.pilot_loss_as_alone()
            self.lr_scheduler.step(metrics["eval_loss"] if pilot is None else pilot)
        return metrics

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip each part by its own norm; the Pilot's is returned, or the Copilot's beside a frozen Pilot."""
        pair, norm = self.pair, None
        if pair.pilot_is_frozen:
            self.accelerator.unscale_gradients()
        elif self.args.max_grad_norm > 0:
            norm = super()._clip_grad_norm(pair.pilot)
        else:
            norm = super()._get_grad_norm(pair.pilot)
        own = self._clip_copilot()
        self._add("copilot_grad_norm", own)
        return own if norm is None else norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # With `max_grad_norm=0` Trainer only asks for the norm; the Copilot may have a bound of its own all the same.
        return super()._get_grad_norm(model, self._clip_grad_norm(model) if grad_norm is None else grad_norm)

    def _clip_copilot(self) -> Tensor:
        limit = self.args.of_copilot("max_grad_norm")
        return nn.utils.clip_grad_norm_(self.pair.copilot.parameters(), limit if limit > 0 else float("inf"))


__all__ = ["CopilotOptimizersMixin"]
