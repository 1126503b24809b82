"""How hypothesis draws: slow machines are no failure, and the same examples are drawn in continuous integration.

Without a GPU Triton's kernels are interpreted; it looks when it is imported, and others may import it first.
"""

import os

import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile(
    "subquad", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("subquad")
