"""How hypothesis draws: slow machines are no failure, and the same examples are drawn in continuous integration."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "subquad", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("subquad")
