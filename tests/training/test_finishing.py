"""Finish the Pilot, record its mistakes on what it has not read, teach the Copilot: one call, stopped anywhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Trainer

from tests.conftest import TINY, build_pilot
from transformers_copilot import CopilotTrainer, CopilotTrainingArguments, MistakeLog, finish_then_record
from transformers_copilot.training import finishing as module
from transformers_copilot.training.finishing import split


pytestmark = pytest.mark.usefixtures("little_to_collect")
FORMS: list[dict[str, Any]] = [{"form": "linear"}, {"form": "branch", "num_hidden_layers": 1}, {"num_hidden_layers": 2}]


def rows(count: int = 20, seed: int = 0) -> list[dict[str, list[int]]]:
    """Texts of seven tokens, of which the last four are supervised."""
    ids = torch.randint(3, 60, (count, 7), generator=torch.Generator().manual_seed(seed)).tolist()
    return [{"input_ids": row, "labels": [-100] * 3 + row[3:]} for row in ids]


def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([one[name] for one in examples]) for name in ("input_ids", "labels")}


def arguments(folder: Path, **changes: Any) -> CopilotTrainingArguments:
    values = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "copilot_learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **changes,
    }
    return CopilotTrainingArguments(**values)


def pilot() -> PreTrainedModel:
    return build_pilot(*TINY["llama"])


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def finish(folder: Path, given: PreTrainedModel | None = None, **options: Any) -> Any:
    values = {"train_dataset": rows(), "data_collator": collate, "copilot": {"form": "linear"}, "copilot_epochs": 2}
    args = options.pop("args", None) or arguments(folder)
    return finish_then_record(given or pilot(), args, **{**values, **options})


@pytest.mark.parametrize("copilot", FORMS, ids=["linear", "branch", "decoder"])
def test_the_pilot_learns_what_it_learns_alone_and_the_copilot_from_what_is_new_to_it(tmp_path: Path, copilot: Any):
    pair = finish(tmp_path / "run", copilot=copilot, eval_dataset=rows(8, seed=9))
    own, others = split(rows(), 0.5, seed=42)
    alone = pilot()
    args = arguments(tmp_path / "alone")
    Trainer(model=alone, args=args, train_dataset=own, data_collator=collate).train()
    assert_equal(weights(pair.pilot), weights(alone))
    recorded = MistakeLog.open(tmp_path / "run" / "record")
    assert [record.token_ids.tolist() for record in recorded] == [row["input_ids"] for row in others]
    assert pair.config.copilot_weight_fit["set_size"] == 8 and pair.pilot_is_frozen
    untrained = type(pair).from_pilot(copy.deepcopy(alone), copilot)
    changed = [
        name
        for (name, new), old in zip(pair.copilot.named_parameters(), untrained.copilot.parameters(), strict=True)
        if not torch.equal(new, old)
    ]
    assert changed


class _Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("place", ["pilot step", "pilot saved", "record", "copilot step"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: Any, place: str):
    expected = finish(tmp_path / "whole")
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        if place == "pilot step":
            _stop_at_step(patched, Trainer, 2)
        elif place == "pilot saved":
            patched.setattr(module.os, "replace", _stop)
        elif place == "record":
            patched.setattr("transformers_copilot.mistake_log.recording.write_shard", _stop)
        else:
            _stop_at_step(patched, CopilotTrainer, 4)
        with pytest.raises(_Stopped):
            finish(folder)
    assert not (folder / "copilot" / "checkpoint-6").exists()
    pair = finish(folder)
    assert_equal(weights(pair), weights(expected))


def _stop(*args: Any, **kwargs: Any) -> None:
    raise _Stopped


def _stop_at_step(patched: Any, kind: type[Trainer], step: int) -> None:
    """Stop before the first optimiser step after some; a checkpoint lies behind it."""
    before = Trainer.training_step

    def training_step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if type(self) is kind and self.state.global_step == step:
            raise _Stopped
        return before(self, *args, **kwargs)

    patched.setattr(Trainer, "training_step", training_step)


def test_new_questions_for_a_pilot_that_is_in_use(tmp_path: Path):
    given = pilot()
    before = weights(given)
    new = Dataset.from_list(rows(12, seed=4))
    pair = finish(tmp_path, given, train_dataset=None, copilot_dataset=new)
    assert_equal(weights(pair.pilot), before)
    assert len(MistakeLog.open(tmp_path / "record")) == 12 and not (tmp_path / "pilot").exists()


def test_a_set_of_its_own_leaves_the_pilot_all_of_its_data(tmp_path: Path):
    finish(tmp_path, copilot_dataset=rows(6, seed=4))
    assert json.loads((tmp_path / "pilot" / "finished.json").read_text())["examples"] == 20
    assert len(MistakeLog.open(tmp_path / "record")) == 6


def test_the_parts_are_chosen_by_the_seed_and_have_nothing_in_common():
    whole = Dataset.from_list(rows(30))
    first, second = split(whole, 0.3, seed=1)
    assert (len(first), len(second)) == (21, 9)
    texts = [tuple(row["input_ids"]) for part in (first, second) for row in part]
    assert sorted(texts) == sorted(tuple(row["input_ids"]) for row in whole)
    again, _ = split(whole, 0.3, seed=1)
    other, _ = split(whole, 0.3, seed=2)
    assert again["input_ids"][:] == first["input_ids"][:] != other["input_ids"][:]
    assert [len(part) for part in split(rows(2), 0.01, seed=0)] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copilot_share": 0.0}, "`copilot_share` is 0.0.*above 0 and below 1"),
        ({"train_dataset": None}, "there is no data"),
        ({"train_dataset": rows(1)}, "has 1 examples"),
        ({"args": {"held_out_mistakes": 0.5}}, "`held_out_mistakes=0.5`.*CopilotTrainer"),
        ({"args": {"freeze_pilot": True}}, "`freeze_pilot=True`"),
        ({"args": {"copilot_steps_per_round": 2}}, "`copilot_steps_per_round=2`"),
        ({"args": {"mistake_log_draw": "uniform"}}, "`mistake_log_draw='uniform'`"),
        ({"args": {"mistake_picture_steps": 5}}, "`mistake_picture_steps=5`"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_learnt(tmp_path: Path, options: Any, message: str):
    changes = {**options}
    if "args" in changes:
        changes["args"] = arguments(tmp_path, **changes["args"])
    with pytest.raises(ValueError, match=message):
        finish(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_streams_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="streamed"):
        finish(tmp_path, train_dataset=Dataset.from_list(rows()).to_iterable_dataset())


def test_other_data_in_the_same_folder_is_refused(tmp_path: Path):
    finish(tmp_path)
    with pytest.raises(ValueError, match="finished on .*'examples': 10.*'examples': 5"):
        finish(tmp_path, train_dataset=rows(10))
    with pytest.raises(ValueError, match="finished on .*'data'"):
        finish(tmp_path, train_dataset=rows(seed=5))  # as many, and others


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_to_be_merged_first(tmp_path: Path):
    adapted = get_peft_model(pilot(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="has an adapter.*merge_and_unload"):
        finish(tmp_path, adapted.base_model.model)
