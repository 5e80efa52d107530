"""What a training pushes to the Hub: pairs that load there, in whole commits, without pickles of the training."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..hub.push import files_of, hub_api, push_errors_explained, push_files


logger = logging.get_logger(__name__)

# The mixin is put before a Trainer class; type checkers are told so.
_TrainerBase: Any = Trainer if TYPE_CHECKING else object

# What a checkpoint holds beside the pair: needed to go on with the training, and for nothing else.
_OF_TRAINING = ("*.pt", "*.pth", "*.bin", TRAINER_STATE_NAME, "mistake_log*", "global_step*", "latest", "zero_to*.py")
_STAGING = "_push-"  # Trainer's own pushes leave out what begins with "_"


class CopilotHubMixin(_TrainerBase):
    """The part of [`CopilotTrainerMixin`] that pushes, as `push_to_hub`, `hub_model_id` and `hub_strategy` say.

    As any Trainer does, with these differences: a push during the training is one commit, with the code that loads the
    pair; if it fails, a warning says so and the training goes on; the end of the training is pushed too, whatever the
    strategy. `training_args.bin` is not written where a training pushes: it is a pickle with the token and this
    machine's folders in it.
    """

    push_in_progress: Any  # the base Trainer's

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> Any:
        """Train, and push what came of it; see `Trainer.train`, which leaves the last push to the user.

        A push that fails then is logged and does not undo the training: the pair lies in `output_dir`, and
        `push_to_hub()` tries again.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint's folder, or `True` for the last one.
            trial (*optional*): a trial of a hyperparameter search, which is not pushed.
            **kwargs: the base Trainer's.

        Returns:
            `TrainOutput`
        """
        output = super().train(resume_from_checkpoint, trial, **kwargs)
        if self.args.push_to_hub and trial is None:
            try:
                self.push_to_hub()
            except Exception as error:  # noqa: BLE001 (whatever it is, the training is done and its result is wanted)
                logger.error(
                    f"The training is done and lies in {Path(self.args.output_dir).name}, but pushing it to "
                    f"{self.hub_model_id} failed ({type(error).__name__}: {error}). Try again: trainer.push_to_hub()."
                )
        return output

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before anything is trained.

        Args:
            token (`str`, *optional*): defaults to `hub_token`.
            private (`bool`, *optional*): defaults to `hub_private_repo`.
        """
        with push_errors_explained(self.args.hub_model_id or Path(self.args.output_dir).name):
            super().init_hf_repo(token, private)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> CommitInfo:
        """Upload the pair as it is now; arguments as of `Trainer.push_to_hub`.

        Args:
            *args: the base Trainer's.
            **kwargs: the base Trainer's.

        Returns:
            `CommitInfo`
        """
        with push_errors_explained(self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).name):
            return super().push_to_hub(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.hub_model_id is not None:
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background: from a folder of links, as Trainer may delete the checkpoint by then."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staging = tempfile.mkdtemp(prefix=_STAGING, dir=self.args.output_dir)
        self._stage(Path(checkpoint_folder), Path(staging))
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

    def _stage(self, checkpoint: Path, staging: Path) -> None:
        strategy = self.args.hub_strategy
        whole = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}.get(strategy)
        for name, file in files_of(checkpoint).items():
            if not any(fnmatch(name.split("/")[0], pattern) for pattern in _OF_TRAINING):
                _link(file, staging / name)
            if whole is not None and name != TRAINING_ARGS_NAME:
                _link(file, staging / whole / name)
        if whole is not None:
            _forget_folders(staging / whole / TRAINER_STATE_NAME)
        card = Path(self.args.output_dir) / "README.md"
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


__all__ = ["CopilotHubMixin"]
