"""Several worker processes share partitions while they are killed, stopped, joined and left, and while servers fail.

Whatever happens, the rows in the end are those that one undisturbed worker leaves, bit for bit.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.test_nearline_crash import _history
from tests.remote import Server, kafka_mock_server, make_mock_topic, talk, valkey_server
from tests.servers import until
from tests.shop import MINUTE, T0, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import UnavailableError
from trilane.lanes import ownership
from trilane.lanes.progress import LANES, decode, lane_key

NOW = T0 + 60 * MINUTE
PARTITIONS = 4
EVENTS = _history()
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")

WORKER = """
import logging, os, signal, sys, threading
from dataclasses import replace
from pathlib import Path
from trilane.apps.config import load_config
from trilane.apps.processes import stop_flag
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock

logging.basicConfig(level=logging.INFO, stream=sys.stderr)

class Halting:
    # An engine that stops its process once, in the middle of a transaction.

    def __init__(self, engine, runs):
        self.engine, self.runs = engine, runs

    def run(self, sql, table):
        self.runs -= 1
        if self.runs == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.engine.run(sql, table)

project = Project(load_config(Path(sys.argv[1]), environment={}), clock=SimulatedClock(int(sys.argv[2])))
with stop_flag() as stop, project:
    worker = Worker(project, member=sys.argv[3])
    kit = worker._tools
    # Many small batches, so that kills fall between and inside.
    worker._tools = replace(kit, limit=7, engine=Halting(kit.engine, int(sys.argv[4])))
    print("ready", flush=True)
    worker.work(stop)
"""


class Fleet:
    """Worker processes of one project, by name."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.running: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, *, halt_in: int = 0) -> None:
        """Starts a worker; `halt_in`: the transaction in the middle of which it stops itself (0: none)."""
        folder = self.project.config.root
        with (folder / f"{name}.log").open("a") as log:
            command = [sys.executable, "-c", WORKER, str(folder), str(NOW), name, str(halt_in)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.running[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", self.said(name)

    def said(self, name: str) -> str:
        return (self.project.config.root / f"{name}.log").read_text()

    def end(self, name: str, how: int = signal.SIGKILL) -> int:
        process = self.running.pop(name)
        process.send_signal(how)
        assert process.stdout is not None
        process.stdout.close()
        return process.wait(60)

    def owners(self) -> dict[int, str]:
        """Who has which partition now."""
        holders = self.project.online.holders("nearline")
        return {int(part.rpartition("/")[2]): holder.name for part, holder in holders.items()}

    def share(self) -> bool:
        """Whether all who run have something, and all is somebody's."""
        owners = self.owners()
        return len(owners) == PARTITIONS and set(owners.values()) == set(self.running)

    def applied(self) -> list[int]:
        return _applied(self.project)

    def beyond(self, least: int) -> Callable[[], bool]:
        """Whether so many events are applied, or all."""
        return lambda: sum(self.applied()) >= least or self.drained()

    def drained(self) -> bool:
        for name, process in self.running.items():
            assert process.poll() is None, self.said(name)
        return self.applied() == [len(part) for part in _parts()]


def _parts() -> list[list[bytes]]:
    """The events by partition; one that is repeated goes where it went before, as a key would have it."""
    parts: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for text in EVENTS:
        parts[sum(text[:24]) % PARTITIONS].append(text)
    return parts


def _applied(project: Project) -> list[int]:
    """What is applied by partition; nothing that is known while the store does not answer."""
    try:
        [rows] = project.online.read([(LANES, [lane_key("orders", p) for p in range(PARTITIONS)])])
    except UnavailableError:
        return []
    return [decode(row).offset for row in rows]


def _project(folder: Path, *, online: str = "", log: str = "") -> Project:
    """A project whose source has partitions."""
    urls = {name: url for name, url in (("online", online), ("log", log)) if url}
    make_project(folder, apply=False).close()
    (folder / "trilane.toml").write_text("".join(f'{name} = "{url}"\n' for name, url in urls.items()))
    definitions = folder / "definitions.py"
    extra = f'event_id="order_id", partitions={PARTITIONS}'
    definitions.write_text(definitions.read_text().replace('event_id="order_id"', extra))
    project = Project(load_config(folder, environment={}), clock=SimulatedClock(NOW))
    deploy.apply(project)
    return project


def _fill(project: Project) -> None:
    for partition, events in enumerate(_parts()):
        project.log.append("orders", partition, events, NOW)


def _state(project: Project) -> tuple[dict[bytes, bytes], dict[tuple[str, str], int]]:
    rows = dict(project.online.scan(project.definitions.views["shop_now"].space))
    return rows, project.dead_letters.count()


@contextlib.contextmanager
def _fleet(project: Project, *names: str) -> Iterator[Fleet]:
    fleet = Fleet(project)
    try:
        for name in names:
            fleet.start(name)
        yield fleet
    finally:
        for name in list(fleet.running):
            fleet.end(name)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[bytes, bytes], dict[tuple[str, str], int]]:
    """What one undisturbed worker leaves."""
    with _project(tmp_path_factory.mktemp("calm")) as calm:
        _fill(calm)
        worker = Worker(calm)
        while worker.step():
            pass
        worker.close()
        assert _applied(calm) == [len(part) for part in _parts()]
        return _state(calm)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("hiredis", reason="the package hiredis is not installed")
    with valkey_server(tmp_path / "valkey", *DURABLE) as server:
        yield server


def _valkey_url(server: Server, lease: str = "2s") -> str:
    return f"valkey://127.0.0.1:{server.port}?timeout=5s&lease={lease}"


@pytest.fixture(params=["lmdb", "valkey", "kafka and lmdb", "kafka and valkey"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project with four partitions, its log still empty."""
    with contextlib.ExitStack() as stack:
        online = _valkey_url(request.getfixturevalue("valkey")) if "valkey" in request.param else ""
        log = stack.enter_context(_mock_log()) if "kafka" in request.param else ""
        yield stack.enter_context(_project(tmp_path / "project", online=online, log=log))


@contextlib.contextmanager
def _mock_log() -> Iterator[str]:
    with kafka_mock_server() as address:
        yield _log_url(address)


def _log_url(address: str) -> str:
    make_mock_topic(address, "trilane.orders")
    return f"kafka://{address}?partitions={PARTITIONS}&session.timeout.ms=5000&heartbeat.interval.ms=200&timeout=5"


def test_workers_killed_at_random_are_taken_over_and_nothing_is_lost_or_counted_twice(
    project: Project, expected: object
) -> None:
    chance = random.Random(3)
    with _fleet(project, "ann", "bob") as fleet:
        until(fleet.share, "two workers to share")
        _fill(project)
        for victim in ("ann", "bob", "ann"):
            least = sum(fleet.applied()) + chance.randint(1, len(EVENTS) // 8)
            until(fleet.beyond(least), "some events")
            fleet.end(victim)
            fleet.start(victim)
        fleet.end("bob")  # and this one never comes back
        until(fleet.drained, "the other to apply all")
        until(lambda: set(fleet.owners().values()) == {"ann"}, "the other to own all")
    assert _state(project) == expected


@pytest.mark.parametrize("project", ["lmdb", "kafka and valkey"], indirect=True)
def test_workers_join_and_leave_in_the_middle(project: Project, expected: object) -> None:
    with _fleet(project, "ann") as fleet:
        until(fleet.share, "one worker to have all")
        _fill(project)
        for name in ("bob", "cleo"):
            fleet.start(name)
            until(fleet.share, "all to share")
        assert fleet.end("ann", signal.SIGTERM) == 0
        until(lambda: fleet.share() or fleet.drained(), "the others to share")
        until(fleet.drained, "all to be applied")
    assert _state(project) == expected
    [rows] = project.online.read([(ownership.OWNERS, [lane_key("orders", p) for p in range(PARTITIONS)])])
    assert sum(ownership.decode(row).moves for row in rows) >= 3


def test_a_worker_that_stood_still_beyond_its_lease_writes_nothing_over_its_successor(
    valkey: Server, expected: object, tmp_path: Path
) -> None:
    with _project(tmp_path / "project", online=_valkey_url(valkey, "500ms")) as project:
        with _fleet(project, "bob") as fleet:
            fleet.start("ann", halt_in=5)
            until(fleet.share, "two workers to share")
            _fill(project)
            until(lambda: _is_stopped(fleet.running["ann"].pid), "it to stop itself in mid-transaction")
            until(lambda: set(fleet.owners().values()) == {"bob"}, "the other to take over")
            until(fleet.drained, "the other to apply all")
            done, told = _state(project), len(fleet.said("ann"))
            fleet.running["ann"].send_signal(signal.SIGCONT)
            # What it was about to commit is refused, and it says so: nothing of it may be there.
            refused = re.compile(r"partition orders/\d stands.*(is already writing|has taken over)")
            until(lambda: refused.search(fleet.said("ann")[told:]), "the sleeper's commit to be refused")
            until(fleet.share, "the sleeper to share again")
            assert fleet.drained()
        assert _state(project) == done == expected


def _is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_worker_that_stands_still_on_one_machine_keeps_what_it_has(tmp_path: Path, expected: object) -> None:
    with _project(tmp_path / "project") as project:
        with _fleet(project, "ann", "bob") as fleet:
            until(fleet.share, "two workers to share")
            before = fleet.owners()
            fleet.running["ann"].send_signal(signal.SIGSTOP)
            _fill(project)
            fleet.running["ann"].send_signal(signal.SIGCONT)
            until(fleet.drained, "all to be applied")
            assert fleet.owners() == before
        assert _state(project) == expected


BROKER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.remote import kafka_mock_server
with kafka_mock_server() as address:
    print(address, flush=True)
    sys.stdin.read()
"""


def test_a_broker_that_is_gone_and_comes_back_costs_time_and_nothing_else(
    expected: object, tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-c", BROKER, str(repository)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        try:
            url = _log_url(broker.stdout.readline().strip()).replace("timeout=5", "timeout=2")
            with _project(tmp_path / "project", log=url) as project, _fleet(project, "ann", "bob") as fleet:
                until(fleet.share, "two workers to share")
                _fill(project)
                until(fleet.beyond(200), "some events")
                broker.send_signal(signal.SIGSTOP)
                until(lambda: all("does not answer" in fleet.said(name) for name in fleet.running), "it to be told")
                broker.send_signal(signal.SIGCONT)
                until(fleet.drained, "all to be applied")
                until(fleet.share, "both to share again")
                assert _state(project) == expected
        finally:
            broker.kill()


def test_a_memory_lost_under_two_workers_is_filled_again(valkey: Server, expected: object, tmp_path: Path) -> None:
    with _project(tmp_path / "project", online=_valkey_url(valkey)) as project:
        with _fleet(project, "ann", "bob") as fleet:
            until(fleet.share, "two workers to share")
            _fill(project)
            for least in (200, 400):
                until(fleet.beyond(least), "some events")
                talk(valkey)("FLUSHALL")
            until(fleet.drained, "all to be applied")
            until(fleet.share, "both to share again")
            until(fleet.drained, "all to be applied")
            assert any("lost its memory" in fleet.said(name) for name in ("ann", "bob"))
        assert _state(project) == expected


def test_a_valkey_killed_under_two_workers_goes_on_where_it_was(
    valkey: Server, expected: object, tmp_path: Path
) -> None:
    with _project(tmp_path / "project", online=_valkey_url(valkey)) as project:
        with _fleet(project, "ann", "bob") as fleet:
            until(fleet.share, "two workers to share")
            _fill(project)
            for least in (200, 400):
                until(fleet.beyond(least), "some events")
                valkey.kill()
                valkey.start()
            until(fleet.drained, "all to be applied")
        assert _state(project) == expected
