"""A round's way to the CPU's memory and back: pinned and beside the processor's work where the device can that."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from transformers_copilot.mistake_log import transfer
from transformers_copilot.mistake_log.transfer import copies_aside, to_device, to_host


class Asked(FakeTensorMode):
    """What torch is asked to do. The tensors are fake, so that a device may be one that this machine lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(function), kwargs or {}
        if name.startswith("aten.copy_."):
            way = "beside" if len(args) > 2 and args[2] else "and wait"
            self.steps.append(f"copy {args[1].device.type} to {args[0].device.type} {way}")
        if name.startswith("aten.empty.") and kwargs.get("pin_memory"):
            self.steps.append("pin")
        if name.startswith("aten._to_copy."):
            self.steps.append("plain copy")
        return super().__torch_dispatch__(function, types, args, kwargs)


@pytest.mark.parametrize(("device", "aside"), [("cpu", False), ("meta", False), ("cuda:1", True), ("xpu", True)])
def test_which_devices_copy_while_the_processor_goes_on(device: str, aside: bool):
    assert copies_aside(device) is aside


def test_copies_of_a_round_on_the_cpu_share_nothing_with_it():
    rows = torch.arange(12.0).view(3, 4)
    copies = to_host({"rows": rows.t(), "part": rows[1]})
    rows += 1
    assert torch.equal(copies["rows"], (rows - 1).t()) and copies["rows"].is_contiguous()
    assert torch.equal(copies["part"], rows[1] - 1)
    assert to_device(rows, "cpu") is rows


def test_a_round_leaves_an_accelerator_in_pinned_memory_with_one_wait(monkeypatch: pytest.MonkeyPatch):
    asked = Asked()
    monkeypatch.setattr(transfer, "_wait_for", lambda device: asked.steps.append(f"wait for {device}"))
    with asked:
        round_ = {"rationale": torch.empty(5, 4, device="cuda"), "token_ids": torch.empty(5, device="cuda")}
        copies = to_host(round_)
    assert all(copy.device.type == "cpu" and copy.shape == round_[name].shape for name, copy in copies.items())
    assert asked.steps == ["pin", "copy cuda to cpu beside"] * 2 + ["wait for cuda:0"]


class OnMeta(TorchFunctionMode):
    """Lets the device "meta" stand for the accelerator that this machine lacks, and tells how it was copied to."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            if kwargs.pop("pin_memory", False):
                self.steps.append("pin")
            kwargs["device"] = "meta" if kwargs.get("device") == "cuda" else "cpu"
        if function is torch.Tensor.copy_:
            way = "beside" if kwargs.get("non_blocking") else "and wait"
            self.steps.append(f"copy {args[1].device.type} to {args[0].device.type} {way}")
        return function(*args, **kwargs)


def test_a_round_goes_to_an_accelerator_from_pinned_memory(monkeypatch: pytest.MonkeyPatch):
    rows = torch.ones(5, 4)
    with OnMeta() as asked:
        there = to_device(rows, "cuda")
    assert there.is_meta and there.shape == rows.shape
    assert asked.steps == ["pin", "copy cpu to cpu and wait", "copy cpu to meta beside"]
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: True)  # as the log's are, where there is a device
    with OnMeta() as asked:
        to_device(rows, "cuda")
    assert asked.steps == ["copy cpu to meta beside"]
