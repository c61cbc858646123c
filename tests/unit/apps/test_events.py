"""Events are let in by quota and tier, as long as there is room for them before the log."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trilane as tl
from tests.shop import MINUTE, T0, event, make_project
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.events import Events
from trilane.clock import SimulatedClock
from trilane.serving.admission import FULL, QUOTA, Admission
from trilane.serving.metrics import Metrics
from trilane.serving.policy import TIERS
from trilane.sources.log.sqlite import SqliteLog


class _Stuck(SqliteLog):
    """A log that takes nothing until it may."""

    may, asked = threading.Event(), threading.Event()

    def append(self, source: str, partition: int, values: Sequence[bytes], arrived_at: int | Sequence[int]) -> int:
        self.asked.set()
        self.may.wait(60)
        return super().append(source, partition, values, arrived_at)


@dataclass
class _Admitting:
    """What is deployed, as far as events need to know."""

    admission: Admission


def test_before_a_log_that_is_slow_higher_tiers_have_more_room_and_a_refusal_costs_no_quota(tmp_path: Path) -> None:
    admission = Admission(tl.Policy(callers=[tl.Caller("one", rate=1e-6, burst=4)]))

    async def ask(events: Events, log: _Stuck) -> None:
        appender, value = events._appender, event(1, at=T0 - MINUTE)
        appender.capacity = 8 * len(value)
        written = [appender.append("orders", 0, [value])]
        assert await asyncio.to_thread(log.asked.wait, 60)  # it is under way, and the others gather behind it
        let_in = list[list[str]]()
        for _ in range(7):
            refusals = [events._refusal("", tier, 2 * len(value), 0.0) for tier in range(len(TIERS))]
            let_in.append([name for name, one in zip(TIERS, refusals, strict=True) if one is None])
            assert {one.reason for one in refusals if one is not None} <= {FULL}
            written.append(appender.append("orders", 0, [value]))
        counts = [len(names) for names in let_in]
        assert counts == [4, 3, 3, 2, 2, 1, 1]
        assert let_in[-1] == ["critical"]
        refused = events._refusal("one", 3, 8 * len(value), 0.0)
        assert refused is not None
        assert refused.retry_after > 0
        assert [events._refusal("one", 0, 0, 0.0) for _ in range(4)] == [None] * 4
        over = events._refusal("one", 0, 0, 0.0)
        assert over is not None
        assert over.reason == QUOTA
        log.may.set()
        await asyncio.gather(*written)

    with make_project(tmp_path, clock=SimulatedClock(T0)) as project:
        log = _Stuck(tmp_path / "stuck")
        project.log = log

        async def run() -> None:
            deployments = cast(Deployments, _Admitting(admission))
            events = Events(project, deployments, Metrics(shared=False), asyncio.get_running_loop())
            await ask(events, log)
            await asyncio.to_thread(events.close)

        asyncio.run(run())
