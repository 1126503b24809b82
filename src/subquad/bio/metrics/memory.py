"""The most memory that a process has held: what a fit costs beside its seconds. Costs nothing to ask."""

import sys
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory() -> int | None:
    """Return the most memory that this process or one that it started has held, in MiB; None where it is not known."""
    try:
        import resource
    except ModuleNotFoundError:
        # there is none such on Windows
        return None
    divisor = 2**20 if sys.platform == "darwin" else 2**10
    own, children = (
        resource.getrusage(who).ru_maxrss / divisor for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    status = Path("/proc/self/status")
    if status.is_file():
        # on Linux getrusage starts with the peak of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        own = int(lines["VmHWM"].split()[0]) / 2**10 if "VmHWM" in lines else own
    return round(max(own, children))
