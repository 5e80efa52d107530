"""What a run has left in its folder: the log, the pair, the tokenizer, the Trainer's figures and test results."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..mistake_log.export import ROWS_FOLDER, MistakeSource
from ..mistake_log.log import MistakeLog
from ..training.checkpoints import last_whole_checkpoint


EVALUATION_NAME = "evaluation.json"
RESULTS_NAMES = (EVALUATION_NAME, "results.json")


@dataclass
class RunFolder:
    """A run's folder, or one of its checkpoints.

    Attributes:
        path (`Path`): the folder that was asked for.
        source: the log's rows, as [`analyse_mistakes`] takes them.
        kept_rounds (`str`): which rounds those are, in words.
        model (`Path`, *optional*): the folder of the pair's weights.
        tokenizer (`Path`, *optional*): the folder of the tokenizer.
        state (`dict`): what the Trainer wrote: `global_step`, `log_history` and more; empty if there is none.
        results (`dict`): test results; empty if there are none.
        config (`dict`): the pair's configuration; empty if there is none.
    """

    path: Path
    source: MistakeSource
    kept_rounds: str
    model: Path | None = None
    tokenizer: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Look for what a run left.

        Args:
            path: the run's folder (the Trainer's `output_dir`), or one of its checkpoints.

        Raises:
            FileNotFoundError: there is no such folder, or no Mistake Log in it.
            ValueError: a file is torn.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}; give the `output_dir` of a run.")
        found = last_whole_checkpoint(str(folder))
        places = [folder, *([] if found is None else [Path(found)])]
        source, kept = _rows(folder, places)
        model = _first_with(places, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
        state, config = _first_with(places, TRAINER_STATE_NAME), _first_with(places, CONFIG_NAME)
        results = next((folder / name for name in RESULTS_NAMES if (folder / name).is_file()), None)
        return cls(
            path=folder,
            source=source,
            kept_rounds=kept,
            model=model,
            tokenizer=_first_with(places, "tokenizer_config.json"),
            state={} if state is None else _json(state / TRAINER_STATE_NAME),
            results={} if results is None else _json(results),
            config={} if config is None else _json(config / CONFIG_NAME),
        )


def _first_with(places: list[Path], *names: str) -> Path | None:
    return next((place for place in places for name in names if (place / name).is_file()), None)


def _rows(folder: Path, places: list[Path]) -> tuple[MistakeSource, str]:
    if any((folder / ROWS_FOLDER).rglob("*.parquet")):
        return folder / ROWS_FOLDER, "all rounds of the run (its exported rows)"
    for place in places:
        files = sorted(place.glob("mistake_log*.safetensors"))
        if files:
            # The rows alone are kept: hidden states of a whole log may take as much memory as the pair.
            sources = [MistakeLog.load(file, max_bytes=2**62, max_rounds=2**62).to_dataset() for file in files]
            return sources, f"the rounds that the log in {place.name} keeps"
    raise FileNotFoundError(
        f"there is no Mistake Log in {folder}: neither {ROWS_FOLDER}/*.parquet nor mistake_log.safetensors there or in "
        f"its last {PREFIX_CHECKPOINT_DIR} folder. Train with `use_mistake_log=True`, and save a checkpoint or set "
        "`mistake_log_export_rows`."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); it may be cut off.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


__all__ = ["EVALUATION_NAME", "RunFolder"]
