"""How hypothesis draws examples, and where helper programs are found."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# processes that tests start find `support` as the tests themselves do
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

# a slow machine is not a failure; the examples are the same in every run, except with SUBQUAD_HYPOTHESIS=random
settings.register_profile(
    "full", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fast", settings.get_profile("full"), max_examples=10)
settings.register_profile("random", settings.get_profile("full"), derandomize=False)
settings.load_profile(os.environ.get("SUBQUAD_HYPOTHESIS", "full"))

LONG = (
    # of the tests marked as long
    "test_llm_docs.py", "test_bio_docs.py", "test_bench.py", "test_hep_docs.py", "test_sharding.py", "test_chat.py",
    # of the others
    "test_blockwise.py", "test_serving.py", "test_server_clients.py", "test_estimators.py",
)  # fmt: skip
"""Files that take longest, though they do not have most tests."""
SLOW = 5
"""How much longer a slow test takes than another one."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start with the longest files of those that were selected, so that both processes end at about the same time."""
    weights = Counter()
    for item in items:
        weights[item.path] += SLOW if item.get_closest_marker("slow") or item.get_closest_marker("long") else 1
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(item.path.name, len(LONG)), -weights[item.path]))
