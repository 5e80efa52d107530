"""Which checkpoints are whole: a training that was killed while writing one goes on from the one before."""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.trainer import (
    FSDP_MODEL_NAME,
    OPTIMIZER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..mistake_log.export import ROWS_FOLDER, missing_rows


logger = logging.get_logger(__name__)

# What a checkpoint holds: its files with their sizes in bytes, and how many rows each process had exported. Its number
# counts the checkpoints that were written into the folder: a run that begins anew, or goes on from an early checkpoint,
# may leave ones of higher steps there that are not its own.
FILES_NAME = "checkpoint_files.json"
ROWS_NAME, _ROWS_FILES = "mistake_rows-{rank:05d}.json", "mistake_rows-*.json"
# Not needed to go on, or written later; the last is the Trainer's own, while it saves on SIGTERM.
_NOT_LISTED = (FILES_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME, "checkpoint-is-incomplete.txt")
# What writes a checkpoint, as messages name it.
_PLAIN, _DEEPSPEED = "one process or DDP", "DeepSpeed"
_FULL, _SHARDED = "FSDP2 with FULL_STATE_DICT", "FSDP2 with SHARDED_STATE_DICT"
_ZIPPED = (".pt", ".pth", ".bin")


def write_files_list(folder: str | Path) -> None:
    """Write down which files a checkpoint has, when all are there but the Trainer's state, which comes last.

    Args:
        folder (`str` or `Path`): the checkpoint's, with folders of adapters or shards in it.
    """
    folder = Path(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items() if name not in _NOT_LISTED}
    numbers = [_number(other) for other in [folder, *checkpoints_of(folder.parent)]]
    number = 1 + max((int(number) for number in numbers if number < math.inf), default=0)
    about = {"number": number, "files": sizes}
    (folder / FILES_NAME).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def write_rows_count(folder: str | Path, rows: dict[str, int], rank: int, step: int) -> None:
    """Write down how many exported rows a process has on disk.

    Args:
        folder (`str` or `Path`): the checkpoint's, made where it does not exist.
        rows (`dict`): as [`count_rows`] gives them.
        rank (`int`): the process's number, which stands in the file's name.
        step (`int`): rounds below this number are the checkpoint's.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / ROWS_NAME.format(rank=rank)
    path.write_text(json.dumps({"step": step, "rows": rows}) + "\n", encoding="utf-8")


def last_whole_checkpoint(output_dir: str, with_rows: bool = False) -> str | None:
    """The checkpoint that was written last, of those that were written to their end and of which nothing has gone.

    A warning names each newer one that is not whole, and what is wrong with it.

    Args:
        output_dir (`str`): the run's folder, in which checkpoints are folders `checkpoint-<step>`.
        with_rows (`bool`, *optional*, defaults to `False`): the run's exported rows are looked at too. Where they are
            missing for every checkpoint, they are gone for good: the newest that is whole otherwise is taken.

    Returns:
        `str`: the checkpoint's folder, or `None` if there is none.
    """
    without_rows = None
    for folder in reversed(checkpoints_of(output_dir)):
        problem = what_is_broken(folder)
        if problem is None and with_rows:
            problem = what_rows_are_missing(folder)
            without_rows = without_rows or folder
        if problem is None:
            return str(folder)
        logger.warning_once(f"{folder} is not whole ({problem}); looking for an earlier checkpoint.")
    if without_rows is None:
        return None
    logger.warning_once(f"No earlier checkpoint has all its rows: going on from {without_rows}, without those rows.")
    return str(without_rows)


def checkpoint_to_resume(output_dir: str, with_rows: bool = False) -> str:
    """The checkpoint that `resume_from_checkpoint=True` means: the newest whole one of a run's folder.

    Args:
        output_dir (`str`): the run's folder, as of [`last_whole_checkpoint`].
        with_rows (`bool`, *optional*, defaults to `False`): the run's exported rows have to be whole, too.

    Returns:
        `str`: the checkpoint's folder.

    Raises:
        ValueError: no checkpoint is whole.
    """
    folder = last_whole_checkpoint(output_dir, with_rows)
    if folder is None:
        raise ValueError(
            f"there is no whole checkpoint in {output_dir} to resume from. Leave `resume_from_checkpoint` out to start "
            "anew, or give a checkpoint's folder."
        )
    return folder


def check_whole(folder: str | Path, output_dir: str | Path | None = None) -> None:
    """Refuse a checkpoint that was named and is not whole.

    Args:
        folder (`str` or `Path`): the checkpoint's, wherever it lies.
        output_dir (`str` or `Path`, *optional*): the run's folder, if its rows are to be gone on with; rows of a
            checkpoint that was brought there from elsewhere are not asked for.

    Raises:
        ValueError: a file is missing or cut off, or rows are missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint {folder} to resume from.")
    advice = "Give another checkpoint's folder, or `resume_from_checkpoint=True` for the newest whole one"
    if (problem := what_is_broken(folder)) is not None:
        raise ValueError(f"{folder} is not whole ({problem}), so it can't be resumed from. {advice}.")
    if output_dir is None or folder.resolve().parent != Path(output_dir).resolve():
        return
    if (problem := what_rows_are_missing(folder)) is not None:
        raise ValueError(
            f"{folder} can't be resumed from with all its exported rows ({problem}). {advice}. To go on without these "
            f"rows, delete {_ROWS_FILES} there."
        )


def check_kept_alike(folder: str | Path, fsdp_plugin: Any = None, of_deepspeed: int | None = None) -> None:
    """Refuse a checkpoint whose weights and optimizer's state lie there in another way than this run reads them.

    Args:
        folder (`str` or `Path`): the checkpoint's.
        fsdp_plugin (*optional*): accelerate's, where this run uses FSDP2.
        of_deepspeed (`int`, *optional*): how many processes this run has, where it uses DeepSpeed.

    Raises:
        ValueError: it was written by a run that was launched in another way.
    """
    if fsdp_plugin is not None:
        own = _FULL if "FULL" in str(fsdp_plugin.state_dict_type) else _SHARDED
    else:
        own = _PLAIN if of_deepspeed is None else _DEEPSPEED
    if (found := _kept_by(Path(folder))) != own:
        raise ValueError(
            f"{folder} was written by {found}, and this run is {own}: the optimizer's state lies there in another way, "
            "so it can't be gone on with. Launch this run as that one was, or begin a new one from a saved pair."
        )
    if of_deepspeed is None:
        return
    saved = len({path.name for path in Path(folder).glob("*/*zero_pp_rank_*_optim_states.pt")})
    if saved not in (0, of_deepspeed):
        raise ValueError(
            f"{folder} was written by {saved} processes of DeepSpeed, and this run has {of_deepspeed}: DeepSpeed "
            f"doesn't share its optimizer's state out anew. Launch {saved} processes; DDP and FSDP2 take any number."
        )


def _kept_by(folder: Path) -> str:
    """What wrote a checkpoint, by the names of its files."""
    if (folder / f"{FSDP_MODEL_NAME}.bin").is_file():
        return _FULL
    if any(folder.glob(f"{FSDP_MODEL_NAME}_*")):
        return _SHARDED
    return _DEEPSPEED if (folder / "latest").is_file() else _PLAIN


def is_torn(folder: str | Path) -> bool:
    """Whether a process died before it had written a checkpoint to its end.

    Args:
        folder (`str` or `Path`): the checkpoint's, or one that is not there.
    """
    return Path(folder).is_dir() and _state_problem(Path(folder)) is not None


def checkpoints_of(output_dir: str | Path) -> list[Path]:
    """A run's checkpoints, whole or not, in the order in which they were written.

    Args:
        output_dir (`str` or `Path`): the run's folder, in which checkpoints are folders `checkpoint-<step>`.
    """
    found = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted(found, key=lambda folder: (_number(folder), _step(folder)))


def _number(folder: Path) -> float:
    """The how manyth of its folder a checkpoint is: 0 for one of a former version, which has no list of its files, and
    infinity for one that was not written to its end."""
    try:
        return float(json.loads((folder / FILES_NAME).read_text(encoding="utf-8"))["number"])
    except FileNotFoundError:
        return 0.0 if _state_problem(folder) is None else math.inf
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _step(folder: Path) -> int:
    match = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.name)
    return int(match.group(1)) if match else -1


def what_is_broken(folder: Path) -> str | None:
    """What a checkpoint lacks to go on from.

    Args:
        folder (`Path`): the checkpoint's, wherever it lies.

    Returns:
        `str`: file and problem; `None` for a whole one.
    """
    problem = _state_problem(folder)
    if problem is not None:
        return problem
    try:
        sizes = _listed_files(folder)
    except (OSError, ValueError) as error:
        return f"{FILES_NAME}: {error}"
    for name, size in sizes.items():
        problem = _file_problem(folder / name, size)
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _listed_files(folder: Path) -> dict[str, int]:
    """The files that a checkpoint should have, with their sizes."""
    try:
        about = json.loads((folder / FILES_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:  # of a former version, or of a plain Trainer
        return dict.fromkeys(_expected_files(folder), 0)
    files = about.get("files") if isinstance(about, dict) else None
    if not isinstance(files, dict) or not all(isinstance(size, int) for size in files.values()):
        raise ValueError("it is no list of files with their sizes")
    return files


def _state_problem(folder: Path) -> str | None:
    # Trainer writes its state last, so a checkpoint without a readable one was not written to its end.
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE_NAME}: {_in_words(error)}"
    return None


def _file_problem(path: Path, size: int) -> str | None:
    """Whether a file is there to its end, as far as that can be told without reading all of it."""
    try:
        if path.stat().st_size < size and path.suffix not in (".json", ".safetensors"):
            return f"it has {path.stat().st_size:,} of {size:,} bytes"
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        if path.suffix in _ZIPPED and not zipfile.is_zipfile(path):
            return "it is cut off"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        return _in_words(error)
    return None


def _expected_files(folder: Path) -> list[str]:
    """What a checkpoint without a list of its files should have; what others than the Trainer write is not known."""
    present = {path.name for path in folder.iterdir()}
    names = [CONFIG_NAME, *(name for name in present if name.endswith((".safetensors", ".pt", ".pth")))]
    if any(path.is_dir() and not path.name.endswith("_adapter") for path in folder.iterdir()):  # FSDP, DeepSpeed
        return names
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        try:
            names += set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            names.append(SAFE_WEIGHTS_INDEX_NAME)
    else:
        names.append(SAFE_WEIGHTS_NAME)
    of_training = [OPTIMIZER_NAME, SCHEDULER_NAME]
    logged = any(name.startswith("mistake_log") for name in present)
    random_states = [name for name in present if name.startswith("rng_state")]
    if logged or random_states or present.intersection(of_training):
        names += [*of_training, *(random_states or ["rng_state.pth"])]
    return sorted(set(names))


def what_rows_are_missing(folder: Path) -> str | None:
    """Whether the rows that a run had exported when it wrote a checkpoint still lie in its folder.

    Args:
        folder (`Path`): the checkpoint's, in the run's folder.

    Returns:
        `str`: how many are missing, and where; `None` for none.
    """
    for path in sorted(folder.glob(_ROWS_FILES)):
        rank = path.stem.rpartition("-")[2]
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            rows = missing_rows(folder.parent / ROWS_FOLDER / f"rank-{rank}", about["step"], about["rows"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return _in_words(error)
        if rows:
            count = sum(about["rows"].values())
            return f"{rows:,} of {count:,} rows are missing in {ROWS_FOLDER}/rank-{rank}"
    return None


def _in_words(error: Exception) -> str:
    return "it is missing" if isinstance(error, FileNotFoundError) else str(error)


__all__ = [
    "check_kept_alike",
    "check_whole",
    "checkpoint_to_resume",
    "checkpoints_of",
    "is_torn",
    "last_whole_checkpoint",
    "what_is_broken",
    "what_rows_are_missing",
    "write_files_list",
    "write_rows_count",
]
