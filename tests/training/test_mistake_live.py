"""Mistakes while a model trains: what trackers are told."""

import json
import sqlite3

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.training_helpers import logged, make_trainer
from transformers_copilot.training.live_metrics import PICTURE_NAME


def events(folder):
    """What TensorBoard's files in a folder hold."""
    made = EventAccumulator(str(next(folder.rglob("events.out.tfevents.*")).parent), {"images": 0, "scalars": 0})
    made.Reload()
    return made


def test_tensorboard_gets_the_statistics_and_the_heat_map(tmp_path, tokenizer, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    trainer = make_trainer(
        tmp_path,
        max_steps=6,
        logging_steps=2,
        report_to=["tensorboard"],
        mistake_picture_steps=3,
        trainer_kwargs={"processing_class": tokenizer},
    )
    trainer.train()
    found = events(tmp_path)
    rows = trainer.mistake_log.to_dataset().to_pandas()
    rows = rows[rows["supervised"]]
    for step in (2, 4, 6):
        latest = rows[rows["round"].isin((step - 2, step - 1))]
        wrong = (latest["true_token_id"] != latest["predicted_token_id"]).mean()
        ends = latest[latest["true_token_id"] == tokenizer.eos_token_id]["mistake_size"].mean()
        for name, value in (
            ("mistake_size", latest["mistake_size"].mean()),
            ("mistake_wrong_share", wrong),
            ("mistake_size_end", ends),
        ):
            seen = {event.step: event.value for event in found.Scalars(f"train/{name}")}
            assert seen[step] == pytest.approx(value, abs=1e-4), name
    pictures = found.Images(PICTURE_NAME)
    assert [picture.step for picture in pictures] == [3, 6]
    assert all(picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > 400 for picture in pictures)


def test_without_a_tracker_or_a_tokenizer_the_figures_are_logged_all_the_same(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3, mistake_picture_steps=1)
    trainer.train()
    assert len(logged(trainer, "mistake_size")) == 3 and not logged(trainer, "mistake_size_digit")
    assert all(np.isfinite(logged(trainer, "mistake_wrong_share")))


def test_pictures_do_not_change_the_training(tmp_path):
    results = []
    for every in (0, 2):
        trainer = make_trainer(tmp_path / str(every), max_steps=4, mistake_picture_steps=every)
        trainer.train()
        results.append(torch.cat([parameter.flatten() for parameter in trainer.pair.parameters()]))
    assert torch.equal(*results)


def test_an_impossible_number_of_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mistake_picture_steps"):
        make_trainer(tmp_path, mistake_picture_steps=-2)


# ---- trackers that the `dev` extra does not bring ----


def run_with(tracker, folder):
    trainer = make_trainer(folder, max_steps=6, logging_steps=2, report_to=[tracker], mistake_picture_steps=3)
    trainer.train()
    return {step: size for step, size in zip((2, 4, 6), logged(trainer, "mistake_size"), strict=True)}


def check_png(path):
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore")  # theirs
def test_trackio_gets_the_statistics_and_the_heat_map(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    sizes = run_with("trackio", tmp_path)
    with sqlite3.connect(next(tmp_path.rglob("*.db"))) as database:
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by id")]
    assert {row["train/global_step"]: row["train/mistake_size"] for row in rows if "train/mistake_size" in row} == sizes
    pictures = {row["train/global_step"]: row[PICTURE_NAME]["file_path"] for row in rows if PICTURE_NAME in row}
    assert list(pictures) == [3, 6]
    for path in pictures.values():
        check_png(tmp_path / "trackio" / "media" / path)


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_gets_the_statistics_and_the_heat_map(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb = pytest.importorskip("wandb")
    sizes = run_with("wandb", tmp_path)
    wandb.finish()
    recorded = next(tmp_path.rglob("*.wandb")).read_bytes()
    assert all(f"{size}".encode() in recorded for size in sizes.values()) and b"mistake_size" in recorded
    pictures = list(tmp_path.rglob(f"media/images/{PICTURE_NAME}_*.png"))
    assert len(pictures) == 2
    for path in pictures:
        check_png(path)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_the_statistics_and_the_heat_map(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # where its pictures go
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    sizes = run_with("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    run = client.search_runs(["0"])[0].info.run_id
    assert {point.step: point.value for point in client.get_metric_history(run, "mistake_size")} == sizes
    pictures = [path for path in (tmp_path / "mlruns").rglob("*.png") if "mistakes~replies" in path.name]
    assert sorted(path.name.split("+")[2] for path in pictures) == ["3", "6"]
    for path in pictures:
        check_png(path)
