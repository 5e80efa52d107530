"""The most memory that this process has held, forgettable on Linux."""

import contextlib
import gc
import resource
from pathlib import Path


def reset_peak() -> None:
    """Let the kernel forget this process's peak so far (Linux; elsewhere what was held before counts too)."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory that this process has held, since [`reset_peak`] where the kernel can forget."""
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` would hold the peak of the process that started this one, too
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes
