"""The machine that a run was made on, and the memory that was used."""

import os
import platform
import sys
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Return the system, the processor and the number of cores of this machine."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return {"system": platform.platform(terse=True), "processor": processor, "cores": os.cpu_count()}


def peak_memory() -> int | None:
    """Return the peak memory of this process and of those that it started, in MiB; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    divisor = 2**20 if sys.platform == "darwin" else 2**10
    peaks = [resource.getrusage(who).ru_maxrss / divisor for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    status = Path("/proc/self/status")
    if status.is_file():
        # on Linux getrusage includes the peak of the parent process at the start of this one
        lines = status.read_text().splitlines()
        peaks[0] = next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
    return round(max(peaks))
