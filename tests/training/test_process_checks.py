"""What several processes are refused, and how they share out what they have; all in one process."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows
from transformers_copilot import MistakeLog
from transformers_copilot.pair import compatibility
from transformers_copilot.training.callback import MistakeLogCallback, log_file
from transformers_copilot.training.checkpoints import check_kept_alike
from transformers_copilot.training.copilot_weight import _OwnBatches
from transformers_copilot.training.process_checks import check_launch, check_same_data
from transformers_copilot.training.trainer import CopilotTrainer


def arguments(**given: Any) -> Any:
    values = {"world_size": 2, "fsdp": None, "max_grad_norm": 0.0, "freeze_pilot": False, "copilot_steps_per_round": 1}
    values |= given
    of_copilot = given.get("copilot_max_grad_norm", values["max_grad_norm"])
    return SimpleNamespace(**values, of_copilot=lambda name: of_copilot)


def accelerator(divided: Any = None, **plugins: Any) -> Any:
    return SimpleNamespace(state=SimpleNamespace(**plugins), parallelism_config=divided)


def deepspeed(**config: Any) -> Any:
    return accelerator(deepspeed_plugin=SimpleNamespace(deepspeed_config=config))


FSDP1 = accelerator(fsdp_plugin=SimpleNamespace(fsdp_version=1))
FSDP2 = accelerator(fsdp_plugin=SimpleNamespace(fsdp_version=2))


@pytest.mark.parametrize(
    ("args", "of", "variables", "expected"),
    [
        (
            arguments(world_size=1),
            accelerator(),
            {"WORLD_SIZE": "2"},
            "2 processes were launched, and each would train al",
        ),
        (
            arguments(),
            accelerator(),
            {"ACCELERATE_USE_FSDP": "true"},
            "FSDP is asked for, and accelerate spreads nothing",
        ),
        (arguments(fsdp=True), accelerator(), {}, "FSDP is asked for"),
        (arguments(), accelerator(), {"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is asked for"),
        (arguments(), accelerator(), {"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is refused"),
        (arguments(), FSDP1, {}, "`fsdp_version: 1` is refused"),
        (arguments(), accelerator(SimpleNamespace(tp_size=2)), {}, "`tp_size=2` (tensor parallelism)"),
        (arguments(), accelerator(SimpleNamespace(cp_size=4)), {}, "`cp_size=4` (context parallelism)"),
        (
            arguments(max_grad_norm=1.0),
            deepspeed(),
            {},
            "`max_grad_norm=1.0`, `copilot_max_grad_norm=1.0` beside DeepSp",
        ),
        (arguments(copilot_max_grad_norm=0.5), deepspeed(), {}, "`copilot_max_grad_norm=0.5` beside DeepSpeed"),
        (arguments(), deepspeed(gradient_clipping=1.0), {}, "`gradient_clipping: auto`"),
        (arguments(copilot_steps_per_round=2), deepspeed(), {}, "`copilot_steps_per_round=2` beside DeepSpeed"),
    ],
)
def test_what_launched_processes_cannot_do_is_refused_by_name(monkeypatch, args, of, variables, expected):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_launch(args, of)


@pytest.mark.parametrize(
    ("args", "of"),
    [
        (arguments(), accelerator()),
        (arguments(max_grad_norm=1.0), FSDP2),
        (arguments(), deepspeed(gradient_clipping="auto")),
        (arguments(max_grad_norm=1.0, freeze_pilot=True), deepspeed(gradient_clipping=1.0)),
    ],
)
def test_what_they_can_do_is_not(monkeypatch, args, of):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch(args, of)


def test_a_pair_is_not_made_of_weights_of_no_size(monkeypatch):
    monkeypatch.setattr(compatibility, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="while DeepSpeed's ZeRO-3 spreads the weights of every new model"):
        make_pair()


# ---- the same data ----


def compare(own: Any, other: Any) -> None:
    """Check a set beside another process's."""

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return torch.cat(found) if len(found) == 2 else tensor

    found: list[torch.Tensor] = []
    both = SimpleNamespace(num_processes=2, device="cpu", gather=gathered)
    check_same_data(both, {"train_dataset": own})
    check_same_data(both, {"train_dataset": other})


def test_other_data_in_another_process_is_named():
    rows = reversal_rows(40)
    compare(rows, list(rows))
    with pytest.raises(ValueError, match="`train_dataset` has 39 rows in process 1 and 40 rows in process 0"):
        compare(rows, rows[1:])
    with pytest.raises(ValueError, match="`train_dataset` holds other rows in process 1 than in process 0"):
        compare(rows, rows[::-1])


def test_rows_that_are_drawn_anew_each_time_are_not_compared():
    class Noisy(list):
        def __getitem__(self, index):
            row = super().__getitem__(index)
            return {**row, "input_ids": torch.randint(0, 20, (len(row["input_ids"]),)).tolist()}

    compare(Noisy(reversal_rows(40)), Noisy(reversal_rows(40)))
    with pytest.raises(ValueError, match="has 39 rows in process 1"):
        compare(Noisy(reversal_rows(40)), Noisy(reversal_rows(39)))


# ---- what is shared out ----


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> MistakeLog:
    trainer = make_trainer(tmp_path_factory.mktemp("log"), max_steps=3, per_device_train_batch_size=5)
    trainer.train()
    return trainer.mistake_log


def parts_of(log: MistakeLog, count: int) -> list[MistakeLog]:
    return [MistakeLog.shared_out([log], rank, count, log.max_bytes) for rank in range(count)]


@pytest.mark.parametrize("counts", [(2, 3), (4, 1), (1, 5)])
def test_a_log_of_some_processes_is_shared_out_among_others(log: MistakeLog, tmp_path: Path, counts: tuple[int, int]):
    """All sequences are there once, in their order; also where each process loads them from a checkpoint."""
    saved, loading = counts
    for rank, part in enumerate(parts_of(log, saved)):
        part.save(log_file(tmp_path, rank))
    callbacks = [MistakeLogCallback(MistakeLog(fingerprint=log.fingerprint)) for _ in range(loading)]
    for rank, callback in enumerate(callbacks):
        callback.load(tmp_path, rank, loading)
    for number in log.round_numbers:
        found = [part for one in callbacks if (part := one.log.newest_of(number)) is not None]
        whole = log.newest_of(number)
        assert torch.equal(torch.cat([part.token_ids for part in found]), whole.token_ids)
        assert torch.equal(torch.cat([part.lengths for part in found]), whole.lengths)
    assert {one.log.total_rounds for one in callbacks} == {3}


def test_processes_draw_by_the_numbers_of_all_as_one_does_by_its_own(log: MistakeLog):
    """The union of what processes keep has the places that one process's log has."""
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    kept = list(log)
    alone = [log.sample_with_next(generators[0]) for _ in range(20)]
    places = [log.drawn_place(len(kept), generators[1], with_next=True) for _ in range(20)]
    assert set(places) == {0, 1, 2, 3}
    for record, place in zip(alone, places, strict=True):
        assert record is None if place == 3 else record is kept[place]
    assert log.newest_of(log.round_numbers[1]) is kept[1] and log.newest_of(7) is None


@pytest.mark.parametrize(("rows", "processes"), [(9, 2), (8, 2), (3, 4), (1, 3)])
def test_each_batch_counts_once_and_all_processes_make_as_many_passes(rows: int, processes: int):
    loader = DataLoader([torch.tensor(row) for row in range(rows)], 2)
    made = []
    for rank in range(processes):
        own = _OwnBatches(loader)
        own.rank, own.processes = rank, processes
        made.append(list(own))
        assert len(made[-1]) == len(own)
    counted = sorted(value for batches in made for batch, counts in batches if counts for value in batch.tolist())
    assert counted == list(range(rows))
    assert len({len(batches) for batches in made}) == 1


# ---- checkpoints, and a process that is gone ----


@pytest.mark.parametrize(
    ("files", "run", "expected"),
    [
        (
            ["pytorch_model_fsdp.bin"],
            {},
            "was written by FSDP2 with FULL_STATE_DICT, and this run is one process or DDP",
        ),
        (
            ["pytorch_model_fsdp_0/x"],
            {"of_deepspeed": 2},
            "by FSDP2 with SHARDED_STATE_DICT, and this run is DeepSpeed",
        ),
        (
            ["model.safetensors"],
            {"fsdp_plugin": SimpleNamespace(state_dict_type="SHARDED_STATE_DICT")},
            "by one process",
        ),
        (
            ["latest", "global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            {"of_deepspeed": 3},
            "by 1 processes of DeepSpeed, and this run has 3",
        ),
    ],
)
def test_a_checkpoint_that_lies_there_in_another_way_is_refused(tmp_path: Path, files, run, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=expected):
        check_kept_alike(tmp_path, **run)


def test_a_process_that_is_gone_is_named():
    args = SimpleNamespace(world_size=2, process_index=1)
    lost = CopilotTrainer._lost_process_named
    with pytest.raises(RuntimeError) as caught, lost(SimpleNamespace(args=args), "runs/more"):
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:25227")
    assert "Another process of this run has ended, so process 1 stops as well" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError) as other, lost(SimpleNamespace(args=args), "runs/more"):
        raise RuntimeError("out of memory")
    assert not hasattr(other.value, "__notes__")
