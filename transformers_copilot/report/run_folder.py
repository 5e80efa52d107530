"""What a run has left in its folder: the log, the pair, the tokenizer, the Trainer's figures and test results."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..mistake_log.export import ROWS_FOLDER, MistakeSource
from ..mistake_log.log import MistakeLog
from ..training.checkpoints import last_whole_checkpoint, what_is_broken


EVALUATION_NAME = "evaluation.json"
RESULTS_NAMES = (EVALUATION_NAME, "results.json")
# What the page takes from test results.
LOSS_FIGURES, GAIN_FIGURES = ("before", "after", "low", "high", "total"), ("difference", "low", "high")
MODEL_FIGURES = ("correct", "total", "share", "low", "high")
ROW_NAMES = {"question", "expected", "pilot_reply", "pair_reply", "pilot_correct", "pair_correct"}
CHANGED_NAMES = {"question", "expected", "before", "after", "verdict"}
AGAIN = "Run `transformers-copilot evaluate` again, or move the file away."


@dataclass
class RunFolder:
    """A run's folder, or one of its checkpoints.

    Attributes:
        path (`Path`): the folder that was asked for.
        source: the log's rows, as [`analyse_mistakes`] takes them.
        kept_rounds (`str`): which rounds those are, in words.
        logs (list of `Path`): the files of the log itself; empty if only exported rows are there.
        model (`Path`, *optional*): the folder of the pair's weights.
        tokenizer (`Path`, *optional*): the folder of the tokenizer.
        state (`dict`): what the Trainer wrote: `global_step`, `log_history` and more; empty if there is none.
        results (`dict`): test results; empty if there are none.
        config (`dict`): the pair's configuration; empty if there is none.
    """

    path: Path
    source: MistakeSource
    kept_rounds: str
    logs: list[Path] = field(default_factory=list)
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
        while True:
            found = last_whole_checkpoint(str(folder))
            try:
                run = cls._read(folder, found)
            except FileNotFoundError:
                if found is None or what_is_broken(Path(found)) is None:
                    raise
                continue  # a training has removed the checkpoint meanwhile, for which there is a newer one
            if found is None or what_is_broken(Path(found)) is None:
                return run

    @classmethod
    def _read(cls, folder: Path, checkpoint: str | None) -> RunFolder:
        places = [folder, *([] if checkpoint is None else [Path(checkpoint)])]
        logs = next((files for place in places if (files := sorted(place.glob("mistake_log*.safetensors")))), [])
        source, kept = _rows(folder, logs)
        model = _first_with(places, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
        state, config = _first_with(places, TRAINER_STATE_NAME), _first_with(places, CONFIG_NAME)
        results = next((folder / name for name in RESULTS_NAMES if (folder / name).is_file()), None)
        return cls(
            path=folder,
            source=source,
            kept_rounds=kept,
            logs=logs,
            model=model,
            tokenizer=_first_with(places, "tokenizer_config.json"),
            state={} if state is None else _json(state / TRAINER_STATE_NAME),
            results={} if results is None else _results(results),
            config={} if config is None else _config(config / CONFIG_NAME),
        )


def _first_with(places: list[Path], *names: str) -> Path | None:
    return next((place for place in places for name in names if (place / name).is_file()), None)


def _rows(folder: Path, logs: list[Path]) -> tuple[MistakeSource, str]:
    if any((folder / ROWS_FOLDER).rglob("*.parquet")):
        return folder / ROWS_FOLDER, "all rounds of the run (its exported rows)"
    if logs:
        # The rows alone are kept: hidden states of a whole log may take as much memory as the pair.
        sources = [MistakeLog.load(file, max_bytes=2**62, max_rounds=2**62).to_dataset() for file in logs]
        return sources, f"the rounds that the log in {logs[0].resolve().parent.name} keeps"
    raise FileNotFoundError(
        f"there is no Mistake Log in {folder}: neither {ROWS_FOLDER}/*.parquet nor mistake_log.safetensors there or in "
        f"its last {PREFIX_CHECKPOINT_DIR} folder. Train with `use_mistake_log=True`, and save a checkpoint or set "
        "`mistake_log_export_rows`."
    )


def _config(path: Path) -> dict[str, Any]:
    """A pair's configuration, in which λ and its fit are what they should be."""
    config = _json(path)
    fit = config.get("copilot_weight_fit") or {}
    scores = fit.get("scores", {}) if isinstance(fit, dict) else None
    if not isinstance(scores, dict):
        raise ValueError(f"{path}: `copilot_weight_fit` is {fit!r}; expected an object with `scores`.")
    figures = {**scores, **{name: fit[name] for name in ("weight", "set_size") if name in fit}}
    if config.get("copilot_weight") is not None:
        figures["copilot_weight"] = config["copilot_weight"]
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path}: {name!r} of the pair's λ is {value!r}; expected a number.")
    return config


def _results(path: Path) -> dict[str, Any]:
    """Test results whose figures are figures: a page of half of them would say something wrong."""
    results = _json(path)
    sections = {name: results.get(name) or {} for name in ("loss", "gain", "models", "baseline")}
    rival = sections["baseline"]
    sections["baseline.loss"] = rival.get("loss") if isinstance(rival, dict) and rival else {}
    for name, section in [*sections.items(), *(("models", model) for model in _values(sections["models"]))]:
        if not isinstance(section, dict):
            raise ValueError(f"{path}: `{name}` holds {section!r}; expected an object. {AGAIN}")
    if rival and not isinstance(rival.get("name"), str):
        raise ValueError(f"{path}: `baseline.name` is {rival.get('name')!r}; expected a text. {AGAIN}")
    figures = [("copilot_weight", results.get("copilot_weight", 1.0))]
    for name, needed in (("loss", LOSS_FIGURES), ("gain", GAIN_FIGURES), ("baseline.loss", LOSS_FIGURES)):
        figures += [(f"{name}.{key}", sections[name].get(key)) for key in needed if sections[name]]
    for model in (*sections["models"].values(), rival):
        figures += [(f"models.{key}", model[key]) for key in MODEL_FIGURES if key in model]
    for key, value in figures:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{path}: `{key}` is {value!r}; expected a number. {AGAIN}")
    for name, wanted in (("rows", ROW_NAMES), ("changed", CHANGED_NAMES)):
        rows = results.get(name, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) and wanted <= row.keys() for row in rows):
            raise ValueError(f"{path}: `{name}` must be a list of objects with {', '.join(sorted(wanted))}. {AGAIN}")
    marks = [row[f"{model}_correct"] for row in results.get("rows", []) for model in ("pilot", "pair")]
    if not all(isinstance(mark, bool) for mark in marks):
        raise ValueError(f"{path}: `pilot_correct` and `pair_correct` of a row must be true or false. {AGAIN}")
    return results


def _values(section: Any) -> list[Any]:
    return list(section.values()) if isinstance(section, dict) else []


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); it may be cut off.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


__all__ = ["EVALUATION_NAME", "RunFolder"]
