"""What was counted is told by and by, and all of it before a scrape."""

from __future__ import annotations

import asyncio
import time

from trilane.apps.server.telling import Telling
from trilane.serving.admission import Admission
from trilane.serving.entries import Slot
from trilane.serving.metrics import Metrics
from trilane.serving.tally import Tally


def _loaded(metrics: Metrics, slots: list[Slot]) -> int:
    told = metrics.text().decode()
    return sum(f'trilane_model_loads_total{{model="{slot.name}",result="loaded"}} 1.0' in told for slot in slots)


def test_what_hundreds_of_models_did_is_told_by_and_by_or_at_once() -> None:
    slots = [Slot(f"m{number}", "1", Tally(f"m{number}", "1", now=lambda: 0), loads=1) for number in range(200)]

    async def run() -> None:
        metrics = Metrics(shared=False)
        telling = Telling(metrics, Admission(), lambda: slots, loop=asyncio.get_running_loop())
        assert _loaded(metrics, slots) < 50
        end = time.monotonic() + 30
        while _loaded(metrics, slots) < 200 and time.monotonic() < end:
            await asyncio.sleep(0)
        assert _loaded(metrics, slots) == 200
        slots.append(Slot("late", "1", Tally("late", "1", now=lambda: 0), loads=1))
        telling.now()
        assert _loaded(metrics, slots) == 201
        telling.close()

    asyncio.run(run())
