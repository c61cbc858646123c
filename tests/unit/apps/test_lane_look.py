"""Who asks how far the lanes are waits beside the loop, however slow the log is."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tests.shop import MINUTE, T0, event, make_project
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.lane_look import LaneLook
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.features.view import View
from trilane.sources.log.sqlite import SqliteLog


class _Stuck(SqliteLog):
    """A log that tells nothing of its end until it may."""

    may = threading.Event()
    asked = 0

    def end(self, source: str, partition: int) -> int:
        self.asked += 1
        self.may.wait(60)
        return super().end(source, partition)


@dataclass
class _Views:
    """What is deployed, as far as a look needs to know."""

    views: list[View] = field(default_factory=list)


def test_a_log_that_hangs_holds_up_no_loop_and_no_more_than_one_look(tmp_path: Path) -> None:
    async def ask(look: LaneLook, log: _Stuck) -> None:
        waiting = asyncio.gather(look.behind(T0, 0.01), look.behind(T0 + MINUTE, 0.01))
        while log.asked == 0:  # the loop turns meanwhile
            await asyncio.sleep(0)
        assert list(await waiting) == [["the event log or the online store did not answer in time"]] * 2
        assert log.asked == 1
        log.may.set()
        [lagging] = await look.behind(T0, 0.01)
        assert lagging == "nearline orders/0: 1 events"

    with make_project(tmp_path, clock=SimulatedClock(T0)) as project:
        log = _Stuck(tmp_path / "stuck")
        log.append("orders", 0, [event(1, at=T0 - MINUTE)], T0)
        project.log = log
        views = [project.definitions.views["shop_now"]]
        asyncio.run(ask(LaneLook(project, cast(Deployments, _Views(views))), log))


def test_it_is_over_as_soon_as_the_lanes_have_done_what_they_should(tmp_path: Path) -> None:
    async def ask(look: LaneLook, worker: Worker) -> None:
        waiting = asyncio.ensure_future(look.behind(T0, 3_600.0))
        await asyncio.sleep(0)
        while await asyncio.to_thread(worker.step):
            pass
        assert await waiting == []

    with make_project(tmp_path, clock=SimulatedClock(T0)) as project:
        project.log.append("orders", 0, [event(1, at=T0 - MINUTE)], T0)
        views, worker = [project.definitions.views["shop_now"]], Worker(project)
        asyncio.run(ask(LaneLook(project, cast(Deployments, _Views(views))), worker))
        worker.close()
