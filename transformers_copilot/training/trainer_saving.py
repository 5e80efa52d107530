"""What a training writes, to disk and to the Hub: checkpoints with the Mistake Log in them, the card, pushes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import PushInProgress, logging

from ..hub.model_card import is_ours, make_card, users_readme
from ..hub.push import files_of, hub_api, push_errors_explained, push_files
from ..mistake_log.export import ROWS_FOLDER
from ..pair.pilot_head import is_sharded
from .card import facts_of_training
from .checkpoints import FILES_NAME, is_torn, write_files_list


logger = logging.get_logger(__name__)

# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object

# What a checkpoint holds beside the pair: needed to go on with the training, and for nothing else.
_OF_TRAINING = (
    *("*.pt", "*.pth", "*.bin", TRAINER_STATE_NAME, FILES_NAME, "mistake_log*", "mistake_rows*"),
    *("global_step*", "latest", "zero_to*.py"),  # DeepSpeed's
)
# What a run's folder holds beside the pair, for this machine only: rows are training texts, and trackers write down the
# arguments, folders and host of a run.
_OF_RUN = (
    *(*_OF_TRAINING, f"{PREFIX_CHECKPOINT_DIR}-*", "run-[0-9]*", ROWS_FOLDER, "_*", ".*"),
    *("runs", "wandb", "mlruns", "mlflow*", "trackio", "aim", "dvclive", "swanlog", "comet*", "neptune", "codecarbon*"),
    "emissions.csv",
)
STAGING = "_push-"  # Trainer's own pushes leave out what begins with "_"


class CopilotSavingMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that writes: checkpoints, the card, pushes to the Hub.

    A checkpoint holds the Mistake Log of each process beside the weights, so that a resumed run draws the rounds that
    an uninterrupted one would.

    It pushes as any Trainer does, as `push_to_hub`, `hub_model_id` and `hub_strategy` say, with these differences: a
    push during the training is one commit, with the code that loads the pair; if it fails, a warning says so and the
    training goes on; the end of the training is pushed too, whatever the strategy. `training_args.bin` is not written
    where a training pushes: it is a pickle with the token and this machine's folders in it.
    """

    push_in_progress: Any  # the base Trainer's
    _resumed_beside: tuple[Path, ...] = ()  # where the checkpoint lies that a run was resumed from

    # ---- checkpoints ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Trainer writes the state last. Where a checkpoint is written over, the old state would call a torn one whole.
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            if is_torn(folder):
                shutil.rmtree(folder)
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        self.mistake_callback.flush_rows()
        self.accelerator.wait_for_everyone()  # the folder is cleared, and every process's rows are on disk
        super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.keeps_log:
            self.mistake_callback.save(output_dir, self.args.process_index, self.state.global_step)
        super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        # The last that each process writes; then the first one writes the state, and the checkpoint counts as whole.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            write_files_list(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.keeps_log:
            self.mistake_callback.load(checkpoint, self.args.process_index, self.args.world_size)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights as `from_pretrained` does: families whose saved names differ from their modules' (mixtures of
        experts) would lose weights in Trainer's own way."""
        if self.is_fsdp_enabled or (model is not None and model is not self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        pair = self.pair
        loaded = type(pair).from_pretrained(resume_from_checkpoint, dtype="auto").state_dict()
        if loaded.keys() == pair.state_dict().keys():
            pair.load_state_dict(loaded)
        else:
            odd = sorted(loaded.keys() ^ pair.state_dict().keys())
            raise ValueError(
                f"{resume_from_checkpoint} holds another pair than the one that trains: {len(odd)} weights are in "
                f"one of them only, {odd[0]} first. If one of them has adapters that the other lacks, put the "
                "same ones in (`add_adapters`) before resuming."
            )

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        # A state that was resumed from may name any folder.
        places = [Path(self.args.output_dir), *self._resumed_beside]
        if any(Path(best).resolve().is_relative_to(place.resolve()) for place in places):
            self._load_from_checkpoint(best)
        else:
            logger.warning(
                f"The state that was resumed from names {best} as the best checkpoint, which lies neither in "
                f"{self.args.output_dir} nor beside the resumed one. It is not followed: the last weights stay."
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole pair; see `Trainer.save_model`, which writes nothing where FSDP2 keeps shards in checkpoints.
        All processes have to call it.

        Args:
            output_dir (`str`, *optional*): the folder. Defaults to the arguments' `output_dir`.
            _internal_call (`bool`, *optional*, defaults to `False`): whether Trainer itself calls, which pushes then.
        """
        of_checkpoint = _internal_call and output_dir is not None
        if of_checkpoint or not (self.is_fsdp_enabled and is_sharded(self.model)):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.hub_model_id is not None:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    # ---- the card ----

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
            language (`str`, *optional*): of the data, as the Hub writes it, such as `"en"`.
            license (`str`, *optional*): of the pair, as the Hub writes it, such as `"apache-2.0"`.
            tags (`str` or `list[str]`, *optional*): put beside those that every pair's card has.
            model_name (`str`, *optional*): the card's title.
            finetuned_from (`str`, *optional*): the Pilot's id, where it was not loaded by one.
            tasks (`str` or `list[str]`, *optional*): put among the tags.
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
        facts = facts_of_training(self, _as_list(dataset), _as_list(dataset_args))
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

    # ---- pushes ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before anything is trained.

        Args:
            token (`str`, *optional*): of the Hub, with the right to write. Defaults to the arguments' `hub_token`.
            private (`bool`, *optional*): whether only you see it. Defaults to the arguments' `hub_private_repo`.
        """
        with push_errors_explained(self.args.hub_model_id or Path(self.args.output_dir).name):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload the pair as it is now, and what else lies in `output_dir`, in one commit.

        Left out are checkpoints, what resuming needs, exported rows, which are your training texts, and the folders of
        trackers (`runs`, `wandb`, …), which hold this machine's name and folders.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): the commit's first line.
            blocking (`bool`, *optional*, defaults to `True`): wait until it is there.
            token (`str`, *optional*): of the Hub. Defaults to the arguments' `hub_token`.
            revision (`str`, *optional*): a branch. Defaults to the arguments' `hub_revision`.
            private (`bool`, *optional*): whether only you see a new repository. Defaults to `hub_private_repo`.
            **kwargs: as of [`create_model_card`].

        Returns:
            `CommitInfo`, or a `Future` of it where `blocking` is `False`; `None` in all processes but the first.
        """
        args, tags = self.args, kwargs.pop("tags", None)
        token = args.hub_token if token is None else token
        with push_errors_explained(self.hub_model_id or args.hub_model_id or Path(args.output_dir).name):
            self.callback_handler.on_push_begin(args, self.state, self.control)
            if self.hub_model_id is None:
                self.init_hf_repo(token=token, private=private)
            self.save_model(_internal_call=True)
            if not self.is_world_process_zero():
                return None
            kwargs.setdefault("model_name", (args.hub_model_id or Path(args.output_dir).name).split("/")[-1])
            self.create_model_card(tags=[*_as_list(tags), *_as_list(self.pair.model_tags)], **kwargs)
            self._finish_current_push()
            push = hub_api().run_as_future(
                push_files,
                _files_of_run(args.output_dir),
                self.hub_model_id,
                commit_message=commit_message,
                token=token,
                revision=args.hub_revision if revision is None else revision,
            )
            return push.result() if blocking else push

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Write the card, and push a checkpoint in the background: from a folder of links, as Trainer may delete the
        checkpoint by then."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.hub_model_id is not None:
            try:
                self.create_model_card()
            except Exception as error:  # noqa: BLE001 (a card is not worth a training)
                logger.warning(f"The card could not be written ({type(error).__name__}: {error}); training goes on.")
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staging = tempfile.mkdtemp(prefix=STAGING, dir=self.args.output_dir)
        _stage(Path(checkpoint_folder), Path(staging), self.args.hub_strategy, Path(self.args.output_dir) / "README.md")
        job = hub_api().run_as_future(
            _push_staged,
            staging,
            self.hub_model_id,
            commit_message=f"Training in progress, step {self.state.global_step}",
            token=self.args.hub_token,
            revision=self.args.hub_revision,
        )
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _push_result(self) -> None:
        """Push what a training came to. A failure does not undo the training: the user may push again."""
        try:
            self.push_to_hub()
        except Exception as error:  # noqa: BLE001 (whatever it is, the training is done and its result is wanted)
            logger.error(
                f"The training is done and lies in {Path(self.args.output_dir).name}, but pushing it to "
                f"{self.hub_model_id} failed ({type(error).__name__}: {error}). Try again: trainer.push_to_hub()."
            )


def _as_list(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _files_of_run(folder: str) -> dict[str, Path]:
    """What a run's folder holds for others, by its name in the repository."""
    files = files_of(folder)
    return {name: file for name, file in files.items() if not any(fnmatch(name.split("/")[0], one) for one in _OF_RUN)}


def _stage(checkpoint: Path, staging: Path, strategy: HubStrategy, card: Path) -> None:
    """Links to what is to be pushed of a checkpoint, laid out as the repository is to be."""
    whole = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}.get(strategy)
    for name, file in files_of(checkpoint).items():
        if not any(fnmatch(name.split("/")[0], pattern) for pattern in _OF_TRAINING):
            _link(file, staging / name)
        if whole is not None and name != TRAINING_ARGS_NAME:
            _link(file, staging / whole / name)
    if whole is not None:
        _forget_folders(staging / whole / TRAINER_STATE_NAME)
    if card.is_file():
        _link(card, staging / "README.md")


def _link(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, place)


def _forget_folders(state_file: Path) -> None:
    """Trainer's state names the best checkpoint by its path; elsewhere only the checkpoint's name means anything."""
    values = json.loads(state_file.read_text(encoding="utf-8"))
    if values.get("best_model_checkpoint"):
        values["best_model_checkpoint"] = Path(values["best_model_checkpoint"]).name
    state_file.unlink()  # a link: the checkpoint's own file stays as it is
    state_file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _push_staged(staging: str, repo_id: str, **options: Any) -> CommitInfo | None:
    try:
        return push_files(files_of(staging), repo_id, **options)
    except Exception as error:  # noqa: BLE001 (whatever it is, the training is worth more than this push)
        logger.warning(
            f"{options['commit_message']}: the push to {repo_id} failed ({type(error).__name__}: {error}). The Hub "
            "keeps what it had; the training goes on, and the next push has all that this one had."
        )
        return None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


__all__ = ["STAGING", "CopilotSavingMixin"]
