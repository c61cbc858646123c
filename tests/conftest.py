"""What all tests share: kinds by folder, and how hard properties are tried.

A test's folder is its kind (see tests/README.md), so no test marks itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

# Threads of OpenMP wait for each other in a loop: where they are more than free cores, as here, where tests run side by
# side, a training takes ten times as long. It is read when a library that uses it is loaded, in processes of tests too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No property may fail because a machine was busy: only wrong answers decide, so there are no deadlines.
settings.register_profile("quick", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("trilane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("trilane")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        kind = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if kind == "crash":
            item.add_marker(pytest.mark.crash)
        elif kind == "journeys":
            item.add_marker(pytest.mark.journey)
            # One worker runs them all: side by side they would fight for the cores and measure each other.
            item.add_marker(pytest.mark.xdist_group("journeys"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return TESTS.parent
