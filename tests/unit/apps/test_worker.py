"""A worker keeps its share, tells what hinders a partition, and lets the others go on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.shop import MINUTE, T0, event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.processes import member_names
from trilane.apps.project import Project
from trilane.apps.server.status import lanes, shares
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import SetupError, UnavailableError
from trilane.sources.log.assignment import Assignment
from trilane.sources.log.protocol import EventLog

NOW = T0 + 60 * MINUTE


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Four partitions, an event in each."""
    make_project(tmp_path, apply=False).close()
    definitions = tmp_path / "definitions.py"
    definitions.write_text(definitions.read_text().replace('event_id="order_id"', 'event_id="order_id", partitions=4'))
    with Project(load_config(tmp_path, environment={}), clock=SimulatedClock(NOW)) as project:
        deploy.apply(project)
        for partition in range(4):
            project.log.append("orders", partition, [event(partition, at=T0)], NOW)
        yield project


class Sick:
    """A log of which one partition cannot be read, until it is well."""

    def __init__(self, log: EventLog, partition: int, error: Exception) -> None:
        self._log, self._partition, self._error = log, partition, error
        self.well = False

    def append(self, source: str, partition: int, values: Sequence[bytes], arrived_at: int | Sequence[int]) -> int:
        return self._log.append(source, partition, values, arrived_at)

    def read(self, source: str, partition: int, offset: int, limit: int) -> pa.RecordBatch:
        if partition == self._partition and not self.well:
            raise self._error
        return self._log.read(source, partition, offset, limit)

    def end(self, source: str, partition: int) -> int:
        return self._log.end(source, partition)

    def sources(self) -> tuple[str, ...]:
        return self._log.sources()

    def assignment(self, member: str, *, static: bool) -> Assignment | None:
        return self._log.assignment(member, static=static)

    def close(self) -> None:
        self._log.close()


def _told(project: Project) -> dict[int, dict[str, object]]:
    views = list(project.live_views().values())
    return {one["partition"]: one for one in shares(project, lanes(project, views), NOW)}


@pytest.mark.parametrize("error", [UnavailableError("its disk is gone"), ZeroDivisionError("a defect")])
def test_a_partition_that_fails_is_told_while_the_others_go_on(
    project: Project, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(project)
    worker._tools = replace(worker._tools, log=Sick(project.log, 2, error))
    while worker.step():
        pass
    told = _told(project)
    assert [told[p]["lag"] for p in range(4)] == [0, 0, 1, 0]
    assert "partition orders/2 stands" in caplog.text
    holding = worker._holdings["orders", 2]
    assert str(error) in holding.fault
    sick = _told(project)[2]
    assert str(error) in str(sick["fault"])
    assert sick["owner"] == worker.member
    assert _told(project)[1]["fault"] is None
    log = worker._tools.log
    assert isinstance(log, Sick)
    log.well = True
    holding.step(holding._retry_at)
    well = _told(project)[2]
    assert (well["fault"], well["lag"]) == (None, 0)
    worker.close()
    assert {one["owner"] for one in _told(project).values()} == {None}


def test_two_workers_share_and_what_one_gives_back_falls_to_the_other(project: Project) -> None:
    first, second = Worker(project, member="ann"), Worker(project, member="bob")
    for _ in range(3):
        for worker in (first, second):
            worker._assignment.__dict__["_every"] = 0
            worker.step()
    assert sorted(len(worker.offsets) for worker in (first, second)) == [2, 2]
    first.close()
    second.step()
    second._tried = 0
    second.step()
    assert len(second.offsets) == 4
    assert [one["owner"] for one in _told(project).values()] == ["bob"] * 4
    second.close()


def test_a_name_in_use_is_refused_and_so_is_one_that_is_none(project: Project) -> None:
    worker = Worker(project, member="ann")
    with pytest.raises(SetupError, match=r"name 'ann': process \d+.*--member NAME"):
        Worker(project, member="ann")
    worker.close()
    Worker(project, member="ann").close()
    with pytest.raises(SetupError, match="is no name for a worker"):
        Worker(project, member="a b")


def test_the_workers_of_a_machine_have_lasting_names() -> None:
    assert member_names("shop", 1) == ["shop"]
    assert member_names("shop", 2) == ["shop-1", "shop-2"]
    [name] = member_names("", 1)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
