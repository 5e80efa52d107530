"""The card that a training writes: what really ran, and what its last evaluation measured."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from ..hub.card_facts import CardFacts, CardResult
from ..hub.model_card import is_ours, make_card, users_readme


logger = logging.get_logger(__name__)

# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object

# What the Copilot has of its own, by the name of the training argument.
_OF_COPILOT = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
_OWN_SETTINGS = (
    "use_mistake_log",
    "mistake_log_rounds",
    "mistake_log_draw",
    "copilot_steps_per_round",
    "freeze_pilot",
    "held_out_mistakes",
)
# Evaluation results that are the Pilot's and the pair's of the same quantity.
_COMPARED = (
    ("loss", "eval_pilot_loss", "eval_rectified_loss"),
    ("mistake_size", "eval_pilot_mistake_size", "eval_mistake_size"),
)


def _as_list(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


class CopilotCardMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that writes `README.md`."""

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write the pair's card into `output_dir`; a README that a user wrote, there or on the Hub, stays as it is.

        Args:
            language (`str`, *optional*): e.g. `"en"`.
            license (`str`, *optional*): e.g. `"apache-2.0"`.
            tags (`str` or `list[str]`, *optional*): further tags.
            model_name (`str`, *optional*): the title.
            finetuned_from (`str`, *optional*): the Pilot's id, where it was not loaded by one.
            tasks (`str` or `list[str]`, *optional*): further tags.
            dataset_tags (`str` or `list[str]`, *optional*): ids of the training sets on the Hub.
            dataset (`str` or `list[str]`, *optional*): their names; one is the evaluation set's name in the results.
            dataset_args (`str` or `list[str]`, *optional*): the evaluation set's configuration, if one.
        """
        if not self.is_world_process_zero():
            return
        file = Path(self.args.output_dir) / "README.md"
        if file.is_file() and not is_ours(file.read_text(encoding="utf-8")):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        repo_id = self.hub_model_id  # set once there is a repository to push to
        if repo_id is not None:
            own = users_readme(repo_id, self.args.hub_token, self.args.hub_revision)
            if own is not None:
                file.write_text(own, encoding="utf-8")  # the folder is pushed as it is
                return
        facts = self._card_facts(_as_list(dataset), _as_list(dataset_args))
        self.pair.card_facts = replace(
            facts,
            language=language or facts.language,
            license=license or facts.license,
            model_name=model_name or facts.model_name,
            tags=[*facts.tags, *(tag for tag in _as_list(tags) + _as_list(tasks) if tag not in facts.tags)],
            datasets=[*facts.datasets, *(name for name in _as_list(dataset_tags) if name not in facts.datasets)],
        )
        has_tokenizer = self.processing_class is not None
        card = make_card(self.pair, repo_id, has_tokenizer=has_tokenizer, pilot=finetuned_from)
        file.unlink(missing_ok=True)  # a push under way may hold a link to it
        card.save(file)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.hub_model_id is not None and self.args.hub_strategy != HubStrategy.END:
            try:
                self.create_model_card()
            except Exception as error:  # noqa: BLE001 (a card is not worth a training)
                logger.warning(f"The card could not be written ({type(error).__name__}: {error}); training goes on.")
        super()._push_from_checkpoint(checkpoint_folder)

    def _card_facts(self, dataset: list[str], dataset_args: list[str]) -> CardFacts:
        """What was known of the pair before, with this training's settings and its last evaluation."""
        before = self.pair.card_facts or CardFacts()
        name = dataset[0] if len(dataset) == 1 else "the evaluation set"
        measured = self._measured(name, dataset_args[0] if len(dataset_args) == 1 else None)
        kept = [r for r in before.results if (r.test_set, r.metric) not in {(m.test_set, m.metric) for m in measured}]
        return replace(before, training=self._settings() or before.training, results=[*kept, *measured])

    def _settings(self) -> dict[str, Any]:
        """Settings as they ran; nothing where nothing ran."""
        if not self.state.global_step:
            return {}
        settings: dict[str, Any] = {"steps": f"{self.state.global_step:,}"}
        if self.state.epoch is not None:
            settings["epochs"] = f"{self.state.epoch:.4g}"
        if isinstance(self.train_dataset, Sized):
            settings["training examples"] = f"{len(self.train_dataset):,}"
        settings |= extract_hyperparameters_from_trainer(self)
        args = self.args
        if "adam" in args.optim:
            settings["optimizer"] = f"{OptimizerNames(args.optim).value}, betas {args.adam_beta1} and {args.adam_beta2}"
        for planned in ("num_epochs", "training_steps"):  # what ran stands above
            settings.pop(planned, None)
        if args.bf16:
            settings["mixed_precision_training"] = "bfloat16"
        for name in _OF_COPILOT:
            value = self.args.of_copilot(name)
            settings[f"copilot_{name}"] = getattr(value, "value", value)
        if self.learns_from_record:
            settings |= {"freeze_pilot": True, "taught_from_a_record": True}
        else:
            settings |= {name: getattr(self.args, name) for name in _OWN_SETTINGS}
        settings["mistakes_from"] = self.pair.config.mistakes_from
        for name in ("pilot_loss", "copilot_loss"):
            values = [entry[name] for entry in self.state.log_history if name in entry]
            if values:
                settings[f"last {name}"] = values[-1]
        return settings

    def _measured(self, name: str, config: str | None) -> list[CardResult]:
        """The last evaluation's comparisons of pair and Pilot."""
        entries = [entry for entry in self.state.log_history if _COMPARED[0][1] in entry]
        if not entries or not isinstance(self.eval_dataset, Sized):
            return []
        count, last = len(self.eval_dataset), entries[-1]
        return [
            CardResult(
                name,
                metric,
                count,
                last[pilot],
                last[pair],
                copilot_weight=last.get("eval_copilot_weight"),
                dataset_config=config,
            )
            for metric, pilot, pair in _COMPARED
            if pilot in last and pair in last
        ]


__all__ = ["CopilotCardMixin"]
