"""The mistakes while a model trains: figures for whatever `report_to` names, and the heat map as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.utils import logging

from ..mistake_log.log import MistakeLog
from ..mistake_log.table import mistake_table
from ..mistake_log.token_text import TokenTexts
from ..report.mistake_examples import sequences_of
from ..report.picture_style import check_matplotlib
from ..report.pictures import mistake_heat_map


logger = logging.get_logger(__name__)

PICTURE_NAME = "mistakes/replies"


def live_statistics(log: MistakeLog, since: int, tokens: TokenTexts | None) -> dict[str, float]:
    """The supervised tokens of the latest rounds in figures.

    Args:
        since (`int`): number of the first round that counts.
        tokens ([`TokenTexts`], *optional*): tells the kinds of tokens.

    Returns:
        `dict`: `mistake_size` (mean ‖p − p̂‖²) and `mistake_wrong_share`, and with `tokens` the mean size of each kind
        of token, such as `mistake_size_digit`; empty without a supervised token.
    """
    rounds = [(number, record) for number, record in zip(log.round_numbers, log, strict=True) if number >= since]
    rows = mistake_table(rounds).to_pandas()
    rows = rows[rows["supervised"]]
    if not len(rows):
        return {}
    wrong = rows["true_token_id"] != rows["predicted_token_id"]
    figures = {"mistake_size": rows["mistake_size"].mean(), "mistake_wrong_share": wrong.mean()}
    if tokens is not None:
        kinds = rows.groupby(tokens.classes(rows["true_token_id"]), observed=True)["mistake_size"].mean()
        figures |= {f"mistake_size_{kind}": size for kind, size in kinds.items()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def token_texts_of(processing_class: Any) -> TokenTexts | None:
    """Names and kinds of a trainer's tokens.

    Args:
        processing_class: a tokenizer, or anything else that a Trainer takes in its place.

    Returns:
        [`TokenTexts`], or `None` where it is no tokenizer.
    """
    return TokenTexts(processing_class) if isinstance(processing_class, PreTrainedTokenizerBase) else None


class MistakePicturesCallback(TrainerCallback):
    """Sends the heat map of the latest round's replies to the trackers that take pictures, every so many steps.

    Args:
        log (callable): gives the [`MistakeLog`], which may be another one in the next training.
        callbacks (callable): gives the trainer's callbacks, among which the trackers are found.
        every (`int`): steps between two pictures.
        processing_class (*optional*): the trainer's tokenizer; without one tokens are called by their ids.
        replies (`int`, *optional*, defaults to 8): replies that are shown.

    Raises:
        ImportError: matplotlib is not installed; found out before training.
    """

    def __init__(
        self,
        log: Callable[[], MistakeLog],
        callbacks: Callable[[], list[TrainerCallback]],
        every: int,
        processing_class: Any = None,
        replies: int = 8,
    ) -> None:
        check_matplotlib()
        self._log, self._callbacks, self.every, self.replies = log, callbacks, every, replies
        self._tokens = token_texts_of(processing_class) or TokenTexts()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Draw and send, where TensorBoard, trackio, wandb or MLflow is among the trackers.

        Args:
            args, control, **kwargs: the Trainer's; not used.
            state (`TrainerState`): a picture is sent where its `global_step` is a multiple of `every`.
        """
        log = self._log()
        if state.global_step % self.every or not state.is_world_process_zero or not len(log):
            return
        senders = [sender for callback in self._callbacks() if (sender := _sender_of(callback)) is not None]
        if not senders:
            return
        sequences = sequences_of(mistake_table([(log.round_numbers[-1], log[len(log) - 1])]), self.replies)
        if not sequences:
            return
        picture = _pixels(mistake_heat_map(sequences, self._tokens))
        for send in senders:
            send(picture, state.global_step)


def _sender_of(callback: TrainerCallback) -> Callable[[np.ndarray, int], Any] | None:
    """What sends a picture and its step to the run that a tracker's callback has begun, if it has begun one."""
    if isinstance(callback, TensorBoardCallback):
        writer = callback.tb_writer
        if writer is None:
            return None
        return lambda picture, step: writer.add_image(PICTURE_NAME, picture, step, dataformats="HWC")
    if isinstance(callback, MLflowCallback):
        mlflow = import_module("mlflow")
        if mlflow.active_run() is None:
            return None
        return lambda picture, step: mlflow.log_image(picture, key=PICTURE_NAME, step=step)
    if isinstance(callback, WandbCallback):
        wandb = import_module("wandb")
        # The callback's own axis: wandb counts a step at every call.
        return None if wandb.run is None else lambda picture, step: wandb.log(_beside_step(wandb, picture, step))
    if isinstance(callback, TrackioCallback):
        trackio = import_module("trackio")
        return lambda picture, step: trackio.log(_beside_step(trackio, picture, step))
    return None


def _beside_step(tracker: Any, picture: np.ndarray, step: int) -> dict[str, Any]:
    return {PICTURE_NAME: tracker.Image(picture), "train/global_step": step}


def _pixels(content: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(io.BytesIO(content), format="png")[..., :3] * 255).round().astype("uint8")


__all__ = ["PICTURE_NAME", "MistakePicturesCallback", "live_statistics", "token_texts_of"]
