"""accelerate shards weights (FSDP2, DeepSpeed) on accelerators only; on a CPU it trains with DDP without saying so.
Torch and DeepSpeed themselves do shard on the CPU, so the tests tell accelerate that its CPU is an accelerator."""

from __future__ import annotations

import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import CPUOffloadPolicy


def take_cpu_for_accelerator() -> None:
    """Let this process's accelerate treat launched processes on the CPU as it does those on GPUs."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"

    def prepared(*args: Any, **kwargs: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    PartialState._prepare_backend = prepared
    CPUOffloadPolicy.__init__.__defaults__ = (False,)  # `pin_memory`, which only an accelerator's driver can do
