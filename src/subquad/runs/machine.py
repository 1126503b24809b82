"""The machine that a run was made on: its description, and the memory that was used."""

import os
import platform
import sys
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "peak_memory"]


def describe_machine() -> dict[str, Any]:
    """Return the system, the processor, the number of cores and the memory in GiB of this machine."""
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": memory,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Return the peak memory of this process and of those that it started, in MiB; None if it is unknown."""
    try:
        import resource
    except ModuleNotFoundError:
        # not on Windows
        return None
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    own, children = (
        resource.getrusage(who).ru_maxrss / divisor for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.is_file():
        # on Linux getrusage includes the peak of the parent process at the start of this one
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        own = int(lines["VmHWM"].split()[0]) / 2**10 if "VmHWM" in lines else own
    return round(max(own, children))
