"""The C code of decoding (`linattn_step.c`), compiled where it runs: for float32 on a CPU, without gradients.

It is compiled once per process and in less than a second, if a C compiler is found; otherwise, and with the environment
variable SUBQUAD_NATIVE=0, torch computes the same. `subquad.ops.linattn_native` calls it.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["library_for", "step_library"]

SOURCE = Path(__file__).with_name("linattn_step.c")


def library_for(x: Tensor) -> ctypes.CDLL | None:
    """Return the compiled code if it may compute with a tensor like this one."""
    if x.dtype is not torch.float32 or x.device.type != "cpu" or torch.is_grad_enabled():
        return None
    return step_library()


@cache
def step_library() -> ctypes.CDLL | None:
    """Return the compiled code; None if it cannot be compiled here, or is switched off."""
    compiler = shutil.which("cc")
    # a model's folder with its own code has no C code
    if compiler is None or not SOURCE.is_file() or os.environ.get("SUBQUAD_NATIVE") == "0":
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            part, target = Path(folder) / "step.o", Path(folder) / "step.so"
            # linked without -ffast-math, with which loading the library would change the arithmetic of the process
            for command in (
                [compiler, "-O3", "-march=native", "-ffast-math", "-fPIC", "-c", str(SOURCE), "-o", str(part)],
                [compiler, "-shared", str(part), "-o", str(target), "-lm"],
            ):
                subprocess.run(command, check=True, capture_output=True, timeout=60)
            # it stays in memory when the file is deleted
            library = ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    library.subquad_hybrid_step.argtypes = [size] * 11 + [ctypes.c_float] + [pointer] * 16
    library.subquad_hedgehog.argtypes = [size] * 5 + [pointer] * 3
    for function in (library.subquad_hybrid_step, library.subquad_hedgehog):
        function.restype = ctypes.c_int
    return library
