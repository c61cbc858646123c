"""What is loaded leaves the rounds of the collector, and what is loaded in a row does so together."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from trilane.apps.server.settling import Settling, settle


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was, for the other tests of this process."""
    thresholds = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_loaded_is_out_of_the_rounds_and_these_are_rare() -> None:
    kept = [[number] for number in range(1_000)]
    settle(first=True)
    assert gc.get_freeze_count() > len(kept)
    assert not any(one is kept for one in gc.get_objects())
    assert gc.get_threshold()[0] > 10_000


def test_what_is_loaded_in_a_row_settles_soon_after_it_and_nothing_once_it_is_closed() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        settling, closed = Settling(loop), Settling(loop)
        closed.soon()
        closed.close()
        for _ in range(3):
            settling.soon()
        assert not gc.get_freeze_count()
        end = time.monotonic() + 30
        while not gc.get_freeze_count() and time.monotonic() < end:
            await asyncio.sleep(0)
        assert gc.get_freeze_count()
        settling.close()

    asyncio.run(run())
