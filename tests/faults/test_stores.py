"""A store that is slow, cut off, or loses its memory: what is answered meanwhile, what is told, what comes back."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy import proxy
from tests.remote import Server, talk, valkey_server
from tests.scrape import scrape
from tests.servers import until
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.control import Scheduler
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.contract import Contract
from trilane.features.fallback import STATUSES
from trilane.lanes.rows import unstamp
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import FeatureReader, Reading

pytest.importorskip("hiredis", reason="the package hiredis is not installed")

DAY = 24 * 60 * MINUTE
NOW = T0 + DAY + 12 * 60 * MINUTE
EVENTS = [
    *(event(n, shop="abc"[n % 3], at=T0 + n * MINUTE, amount=2.0) for n in range(60)),
    *(event(1_000 + n, shop="abc"[n % 3], at=NOW - 300 * 1_000_000 + n, amount=3.0) for n in range(240)),
]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    with valkey_server(tmp_path / "valkey", *DURABLE) as server:
        yield server


def _project(folder: Path, port: int | None = None, *, options: str = "timeout=5s", apply: bool = True) -> Project:
    online = f"valkey://127.0.0.1:{port}?{options}" if port else "lmdb://online"
    return make_project(folder, clock=SimulatedClock(NOW), apply=apply, online=online)


def _drain(project: Project) -> Worker:
    worker = Worker(project)
    while worker.step():
        pass
    return worker


def _rows(project: Project) -> dict[bytes, bytes | None]:
    rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
    values = list(rows.values()) if project.online.atomic else unstamp(list(rows.values()))
    return dict(zip(rows, values, strict=True))


@pytest.fixture
def expected(tmp_path: Path) -> dict[bytes, bytes | None]:
    with _project(tmp_path / "calm") as calm:
        append(calm, EVENTS, arrived_at=NOW)
        _drain(calm).close()
        return _rows(calm)


class Reads:
    """A reader of what the model asks, and what it counted."""

    def __init__(self, project: Project) -> None:
        plan = project.definitions.models["big"].plan
        self.names, self.unread = plan.names, 0
        self._reader = FeatureReader(plan, project.online, unread=self._count)
        self._rows = RowFormat(Contract("asked", plan.inputs)).decode(b'{"shop": "a", "basket": 1.0}')

    def _count(self) -> None:
        self.unread += 1

    def read(self) -> Reading:
        return self._reader.read(self._rows, NOW)

    def told(self, name: str) -> tuple[str, float]:
        """The status and the value of a feature."""
        reading, place = self.read(), self.names.index(name)
        return STATUSES[reading.statuses[0, place]], float(reading.values[0, place])


def test_a_store_that_loses_its_memory_is_answered_for_by_the_cascade_until_both_lanes_have_filled_it_again(
    valkey: Server, tmp_path: Path
) -> None:
    with _project(tmp_path / "shop", valkey.port, options="timeout=5s&lease=300ms") as project:
        append(project, EVENTS, arrived_at=NOW)
        worker, scheduler = _drain(project), Scheduler(project)
        scheduler.step(0.0)
        reads = Reads(project)
        assert reads.told("shop_now.mean_1h") == ("fresh", 3.0)
        assert reads.told("shop_daily.n_7d") == ("fresh", 20.0)
        talk(valkey)("FLUSHALL")
        # No value is a zero that looks fresh: an emptied store says nothing of its lanes.
        assert reads.told("shop_now.n_10m") == ("default", 0.0)
        assert reads.told("shop_now.mean_1h") == ("default", 0.0)
        assert reads.told("shop_now.max_10m")[0] == "missing"
        assert reads.told("shop_daily.n_7d")[0] == "missing"
        why = [fault.reason for fault in reads.read().faults]
        assert "shop_now: no values yet" in why
        scheduler.step(2.0)  # versions that are gone land anew, and stand in for the lane
        assert reads.told("shop_daily.n_7d") == ("fresh", 20.0)
        assert reads.told("shop_now.mean_1h") == ("batch", 2.0)

        def filled() -> bool:
            clock = project.clock
            assert isinstance(clock, SimulatedClock)
            clock.move_to(clock.now() + 1_000_000)  # an idle lane looks at its store once a second
            worker.step()
            return reads.told("shop_now.mean_1h") == ("fresh", 3.0)

        until(filled, "the lane to be filled again")
        assert scrape(project)("trilane_partition_lag_events", source="orders") == 0
        assert scrape(project)("trilane_partition_failing", source="orders") == 0
        worker.close()


def test_a_store_that_does_not_answer_in_time_costs_its_values_and_is_asked_again(
    valkey: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with proxy(valkey.port) as between, _project(tmp_path / "shop", between.port, options="timeout=100ms") as project:
        append(project, EVENTS, arrived_at=NOW)
        reads = Reads(project)
        with _at_work(project):
            until(lambda: reads.told("shop_now.mean_1h") == ("fresh", 3.0), "all to be applied")
            between.hold()
            before = reads.unread
            assert reads.told("shop_now.mean_1h") == ("default", 0.0)
            assert reads.read().faults[0].reason.startswith("online store: ")
            assert reads.unread == before + 2
            append(project, [event(5_000, at=NOW - 1, amount=30.0)], arrived_at=NOW)
            until(lambda: any("share" in one or "stands" in one for one in caplog.messages), "the worker to tell it")
            between.release()
            until(lambda: reads.told("shop_now.max_10m") == ("fresh", 30.0), "both to find it again")


def _until_drained(project: Project, member: str = "") -> Worker:
    """Answers may be slow on a busy machine, and then are asked for again."""
    worker = Worker(project, member=member)
    until(lambda: not worker.step() and project.log.end("orders", 0) in worker.offsets.values(), "all to be applied")
    return worker


def test_a_store_whose_answers_are_cut_in_their_middle_gets_every_event_once(
    valkey: Server, expected: object, tmp_path: Path
) -> None:
    with proxy(valkey.port) as between, _project(tmp_path / "shop", between.port) as project:
        for start in range(0, len(EVENTS), 10):
            append(project, EVENTS[start : start + 10], arrived_at=NOW)
        between.cut_every = 23
        with _at_work(project, batch=10) as worker:
            until(lambda: len(EVENTS) in worker.offsets.values(), "all to be applied")
        between.cut_every = 0
        assert between.cuts > 0
        assert _rows(project) == expected


@contextlib.contextmanager
def _at_work(project: Project, *, batch: int = 50_000) -> Iterator[Worker]:
    from dataclasses import replace

    worker = Worker(project)
    worker._tools = replace(worker._tools, limit=batch)
    stop = threading.Event()
    thread = threading.Thread(target=worker.work, args=(stop,))
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join()


def test_a_store_that_comes_back_as_of_earlier_is_led_on_from_there(
    valkey: Server, expected: object, tmp_path: Path
) -> None:
    with _project(tmp_path / "shop", valkey.port, options="timeout=5s&lease=500ms") as project:
        for start in range(0, len(EVENTS), 50):
            append(project, EVENTS[start : start + 50], arrived_at=NOW)
            _drain(project).close()
        valkey.kill()
        [snapshot] = (tmp_path / "valkey" / "appendonlydir").glob("*.incr.aof")
        os.truncate(snapshot, snapshot.stat().st_size * 2 // 3)  # the end of its file is torn off
        valkey.start()
        worker = _until_drained(project, "next")  # the store holds that the last worker is still there
        assert _rows(project) == expected
        worker.close()
