"""Which checkpoints are whole: a training that was killed while writing one goes on from the one before."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging


logger = logging.get_logger(__name__)


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint that was written to its end.

    Trainer writes a checkpoint's state file last, so a checkpoint with a readable one, and readable weights, is whole.
    A warning names each newer one that is not.

    Args:
        output_dir (`str`): the run's folder, in which checkpoints are folders `checkpoint-<step>`.

    Returns:
        `str`: the checkpoint's folder, or `None` if there is none.
    """
    for folder in sorted(Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step, reverse=True):
        problem = _what_is_broken(folder)
        if problem is None:
            return str(folder)
        logger.warning(f"{folder} is not whole ({problem}); looking for an earlier checkpoint.")
    return None


def checkpoint_to_resume(output_dir: str) -> str:
    """The checkpoint that `resume_from_checkpoint=True` means: the newest whole one of a run's folder.

    Args:
        output_dir (`str`): the run's folder, as of [`last_whole_checkpoint`].

    Returns:
        `str`: the checkpoint's folder.

    Raises:
        ValueError: no checkpoint is whole.
    """
    folder = last_whole_checkpoint(output_dir)
    if folder is None:
        raise ValueError(
            f"there is no whole checkpoint in {output_dir} to resume from. Leave `resume_from_checkpoint` out to start "
            "anew, or give a checkpoint's folder."
        )
    return folder


def _step(folder: Path) -> int:
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
    return int(match.group(1)) if match else -1


def _what_is_broken(folder: Path) -> str | None:
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE_NAME}: {error}"
    for weights in folder.glob("*.safetensors"):
        try:
            with safe_open(weights, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{weights.name}: {error}"
    return None


__all__ = ["checkpoint_to_resume", "last_whole_checkpoint"]
