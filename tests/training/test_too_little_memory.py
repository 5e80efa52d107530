"""A device with too little memory: what is needed, what there is, and which option to lower."""

import re
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows
from transformers_copilot import record_mistakes
from transformers_copilot.mistake_log import device_memory
from transformers_copilot.mistake_log.device_memory import free_bytes, memory_explained, total_bytes, weight_bytes
from transformers_copilot.training import training_memory
from transformers_copilot.training.training_memory import check_training_fits, needed_by_weights


GRADIENTS, MOMENTS = "their gradients", "AdamW's two moments"


def fill(*_):
    """More than any machine has: torch's own error of the CPU."""
    torch.empty(2**60, dtype=torch.uint8)


def full_on_a_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 16 GiB")


def note_of(error):
    (note,) = error.value.__notes__
    assert re.search(r"cpu has [\d,.]+ GB in all", note)
    return note


@pytest.mark.parametrize("full", [fill, full_on_a_gpu])
def test_a_training_that_fills_it_says_what_to_lower(tmp_path, full):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.pair.pilot.register_forward_hook(full)
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    note = note_of(error)
    assert "Training this pair takes about" in note and "`per_device_train_batch_size`" in note
    assert f"the Pilot's logits of 4 x {trainer._batch_shape[1]} tokens" in note and MOMENTS in note


def test_a_recording_that_fills_it_says_what_to_lower(tmp_path):
    pair = make_pair()

    def fill_by_four(module, args, given):
        if given["input_ids"].shape[0] == 4:
            fill()

    pair.pilot.register_forward_pre_hook(fill_by_four, with_kwargs=True)
    with pytest.raises(RuntimeError) as error:
        record_mistakes(pair, reversal_rows(8), tmp_path / "record", batch_size=4, progress=False)
    note = note_of(error)
    assert "Recording takes about" in note and "Lower `batch_size`" in note and "logits of 4 x" in note
    record_mistakes(pair, reversal_rows(8), tmp_path / "record", batch_size=2, progress=False)


def test_other_errors_pass_as_they_are():
    with (
        pytest.raises(RuntimeError, match="no such thing") as error,
        memory_explained(torch.device("cpu"), "", dict, ""),
    ):
        raise RuntimeError("no such thing")
    assert not getattr(error.value, "__notes__", None)


@pytest.mark.parametrize(
    ("arguments", "frozen"), [({}, False), ({"freeze_pilot": True}, True), ({"optim": "adafactor"}, False)]
)
def test_what_is_counted_is_what_a_training_keeps(tmp_path, arguments, frozen):
    trainer = make_trainer(tmp_path, max_steps=2, **arguments)
    counted = needed_by_weights(trainer.pair, trainer.args, None)
    kept = {}

    def look(optimizer, *_):
        kept[GRADIENTS] = sum(weight.grad.nbytes for group in optimizer.param_groups for weight in group["params"])

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(look)
    assert needed_by_weights(trainer.pair, trainer.args, trainer.optimizer) == counted
    trainer.train()
    assert counted["weights"] == weight_bytes(trainer.pair.state_dict().values())
    learnt = trainer.pair.copilot if frozen else trainer.pair
    assert counted[GRADIENTS] == kept[GRADIENTS] == weight_bytes(learnt.parameters())
    state = trainer.optimizer.state.values()
    if "optim" not in arguments:
        assert counted[MOMENTS] == sum(each[name].nbytes for each in state for name in ("exp_avg", "exp_avg_sq"))
    else:
        assert MOMENTS not in counted


def test_a_training_that_cannot_fit_is_refused_before_it_begins(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=2)
    needed = needed_by_weights(trainer.pair, trainer.args, None)
    more = needed[GRADIENTS] + needed[MOMENTS]
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: int(0.85 * more))
    with pytest.raises(ValueError, match="freeze_pilot=True.*optim='adafactor'") as error:
        trainer.train()
    assert GRADIENTS in str(error.value) and " free. Train" in str(error.value)
    assert trainer.state.global_step == 0 and not any(tmp_path.iterdir())
    make_trainer(tmp_path, max_steps=1, freeze_pilot=True).train()  # the Copilot alone needs less
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: more)
    trainer.train()


def test_weights_on_another_device_are_not_counted(tmp_path):
    trainer = make_trainer(tmp_path)
    own = weight_bytes(trainer.pair.copilot.parameters())
    assert needed_by_weights(trainer.pair, trainer.args, None)["weights"] > own
    trainer.pair.pilot.to("meta")
    assert needed_by_weights(trainer.pair, trainer.args, None)["weights"] == own


def test_gradients_that_are_there_are_not_asked_for_again(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    monkeypatch.setattr(training_memory, "free_bytes", lambda device: 0)
    trainer.train()


def test_a_device_that_tells_nothing_refuses_nothing():
    check_training_fits({GRADIENTS: 10**18}, torch.device("meta"))
    assert free_bytes(torch.device("meta")) is None is total_bytes(torch.device("meta"))


def test_a_gpus_own_memory_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (3, 7))
    device = torch.device("cuda", 1)
    assert (free_bytes(device), total_bytes(device)) == (3, 7) and asked == [device, device]


def test_a_cpus_is_the_machines_with_its_swap_space(monkeypatch):
    memory = SimpleNamespace(available=5, total=8)
    monkeypatch.setattr(device_memory.psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(device_memory.psutil, "swap_memory", lambda: SimpleNamespace(free=1, total=2))
    assert (free_bytes(torch.device("cpu")), total_bytes(torch.device("cpu"))) == (6, 10)
