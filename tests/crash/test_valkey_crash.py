"""Worker and Valkey are really killed, and Valkey loses its memory: no value changes, none is lost or doubled."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.test_nearline_crash import _history, _kill_at_random
from tests.remote import Server, cluster_url, talk, valkey_cluster_servers, valkey_server
from tests.shop import MINUTE, T0, append, make_project
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.lanes.rows import unstamp

pytest.importorskip("hiredis", reason="the package hiredis is not installed")

_State = tuple[dict[bytes, bytes | None], dict[tuple[str, str], int]]
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")  # a killed process loses nothing, a machine a second
EVENTS = _history()
NOW = T0 + 60 * MINUTE


def _state(project: Project) -> _State:
    rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
    values = list(rows.values()) if project.online.atomic else unstamp(list(rows.values()))
    return dict(zip(rows, values, strict=True)), project.dead_letters.count()


def _drain(worker: Worker) -> None:
    while worker.step():
        pass


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> _State:
    with make_project(tmp_path_factory.mktemp("calm"), clock=SimulatedClock(NOW)) as calm:
        append(calm, EVENTS, arrived_at=NOW)
        _drain(Worker(calm))
        return _state(calm)


@pytest.fixture(params=["alone", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Server]]:
    if request.param == "alone":
        with valkey_server(tmp_path / "valkey", *DURABLE) as server:
            yield [server]
    else:
        with valkey_cluster_servers(tmp_path / "valkey", *DURABLE) as both:
            yield both


def _url(servers: Sequence[Server]) -> str:
    """The servers' URL. A server that is being started keeps a reader waiting, which is not what is tried here."""
    return (
        f"valkey://127.0.0.1:{servers[0].port}?timeout=5s"
        if len(servers) == 1
        else f"{cluster_url(servers)}&timeout=5s"
    )


def _project(folder: Path, servers: Sequence[Server], *, apply: bool = True) -> Project:
    return make_project(folder, clock=SimulatedClock(NOW), apply=apply, online=_url(servers))


@contextlib.contextmanager
def _working(project: Project) -> Iterator[Callable[[int], None]]:
    """A worker at work; gives what waits until so many events are applied, and lets it end when all are."""
    worker = Worker(project)
    worker._tools = replace(worker._tools, limit=17)
    stop = threading.Event()
    thread = threading.Thread(target=worker.work, args=(stop,))
    thread.start()

    def applied() -> int:
        return min(worker.offsets.values(), default=0)

    def wait_for(events: int) -> None:
        while thread.is_alive() and applied() < events:
            thread.join(0.005)

    try:
        yield wait_for
        wait_for(len(EVENTS))
    finally:
        stop.set()
        thread.join()


def test_a_worker_killed_at_any_point_leaves_the_state_that_an_undisturbed_one_leaves(
    servers: list[Server], expected: _State, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    with _project(folder, servers) as project:
        append(project, EVENTS, arrived_at=NOW)
    chance = random.Random(11)
    for _ in range(8):
        if _kill_at_random(folder, chance):
            break
    with _project(folder, servers, apply=False) as project:
        _drain(Worker(project))
        assert _state(project) == expected


def test_a_server_killed_at_any_point_and_started_again_leaves_the_same_state(
    servers: list[Server], expected: _State, tmp_path: Path
) -> None:
    chance = random.Random(5)
    with _project(tmp_path / "project", servers) as project:
        append(project, EVENTS, arrived_at=NOW)
        with _working(project) as wait_for:
            for turn in range(1, 4):
                wait_for(turn * len(EVENTS) // 4)
                victim = chance.choice(servers)
                victim.kill()
                victim.start()
        assert _state(project) == expected


def test_a_server_that_loses_its_memory_is_filled_again_from_the_log(
    servers: list[Server], expected: _State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _project(tmp_path / "project", servers) as project:
        append(project, EVENTS, arrived_at=NOW)
        with _working(project) as wait_for:
            wait_for(len(EVENTS) // 2)
            talk(servers[-1])("FLUSHALL")
        assert _state(project) == expected
    assert "lost its memory" in caplog.text


def test_a_memory_lost_between_two_workers_is_filled_again(
    servers: list[Server], expected: _State, tmp_path: Path
) -> None:
    with _project(tmp_path / "project", servers) as project:
        append(project, EVENTS, arrived_at=NOW)
        first = Worker(project)
        _drain(first)
        first.close()
        talk(servers[-1])("FLUSHALL")
        _drain(Worker(project))
        assert _state(project) == expected
