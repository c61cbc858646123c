"""Files that a disk cut or changed: what can be known to be wrong is told, and is never served as if it were right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.scrape import scrape
from tests.shop import MINUTE, T0, append, event
from trilane.apps.batch_job import archive_sources
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.contract import Contract
from trilane.errors import SetupError, TrilaneError
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import FeatureReader

NOW = T0 + 60 * MINUTE
CLOCK = SimulatedClock(NOW)


def _events(first: int, number: int) -> list[bytes]:
    return [event(first + n, shop="ab"[n % 2], at=NOW - MINUTE) for n in range(number)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that took and applied three chunks of events, of which two are archived; nobody has it open."""
    folder = tmp_path_factory.mktemp("sound") / "shop"
    script = """
import os, sys
from pathlib import Path
from tests.faults.test_torn_files import CLOCK, NOW, _events
from tests.shop import append, make_project
from trilane.apps.batch_job import archive_sources
from trilane.apps.worker import Worker
with make_project(Path(sys.argv[1]), clock=CLOCK) as project:
    for first in (0, 100, 200):
        append(project, _events(first, 100), arrived_at=NOW)
        worker = Worker(project)
        while worker.step():
            pass
        worker.close()
        if first < 200:
            archive_sources(project, list(project.live_views().values()))
    os._exit(0)  # as when it is killed: what SQLite and LMDB would tidy up stays as it is
"""
    subprocess.run([sys.executable, "-c", script, folder], check=True, cwd=Path(__file__).parents[2])
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    return Path(shutil.copytree(sound, tmp_path / "shop"))


def _open(folder: Path) -> Project:
    return Project(load_config(folder, environment={}), clock=CLOCK)


def _step(project: Project) -> str:
    """Lets a worker do what it can; what hinders it then."""
    worker = Worker(project)
    while worker.step():
        pass
    [holding] = worker._holdings.values()
    worker.close()
    return holding.fault


def _told(project: Project) -> None:
    metric = scrape(project)
    assert metric("trilane_partition_failing", source="orders", partition="0") == 1
    assert metric("trilane_partition_faults", source="orders", partition="0") >= 1


def test_a_log_that_lost_its_last_events_is_told_before_others_take_their_places(folder: Path) -> None:
    wal = folder / ".trilane/log/orders.sqlite-wal"
    os.truncate(wal, wal.stat().st_size - 100)  # the frames of the last commit are torn, so SQLite drops it
    with _open(folder) as project:
        assert project.log.end("orders", 0) == 200
        assert "the log ends at 200, and 300 events of it were taken: it lost events" in _step(project)
        _told(project)


def test_a_log_in_which_others_took_the_places_of_lost_events_is_known(folder: Path) -> None:
    wal = folder / ".trilane/log/orders.sqlite-wal"
    os.truncate(wal, wal.stat().st_size - 100)
    with _open(folder) as project:
        append(project, _events(900, 150), arrived_at=NOW)
        assert "the log has another event at 299 than the one that was applied" in _step(project)
        _told(project)


def test_an_archive_that_is_ahead_of_its_log_is_told(folder: Path) -> None:
    with _open(folder) as project:
        views = list(project.live_views().values())
        archive_sources(project, views)
        wal = folder / ".trilane/log/orders.sqlite-wal"
    (folder / ".trilane/log/orders.sqlite").unlink()
    wal.unlink(missing_ok=True)
    with _open(folder) as project:
        append(project, _events(900, 10), arrived_at=NOW)
        with pytest.raises(SetupError, match="the log ends at 10, and 300 events of it are archived") as told:
            archive_sources(project, views)
        assert "Restore the log" in told.value.remedy


def _spoil(path: Path, needle: bytes) -> None:
    """Overwrites what is after the last `needle` in a file with zeros."""
    content = bytearray(path.read_bytes())
    place = content.rindex(needle)
    content[place + 40 : place + 60] = bytes(20)
    path.write_bytes(content)


def test_events_that_a_disk_changed_are_told_and_never_read_as_events(folder: Path) -> None:
    import sqlite3

    path = folder / ".trilane/log/orders.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    _spoil(path, b'"o250"')
    with _open(folder) as project:
        with pytest.raises(SetupError, match="the events from offset 200 on are damaged: their checksum is another"):
            project.log.read("orders", 0, 200, 100)
        assert project.log.read("orders", 0, 0, 200).num_rows == 200  # the chunks before it are as they were
        with pytest.raises(SetupError, match="damaged"):
            archive_sources(project, list(project.live_views().values()))
    shutil.rmtree(folder / ".trilane/online/nearline")
    with _open(folder) as project:
        assert "the events from offset 200 on are damaged" in _step(project)
        _told(project)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8_192)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4_096 * 4_096)


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [_cut, _halve, _zeros])
def test_a_store_that_was_cut_is_told_by_every_reader_and_filled_again_once_it_is_moved_away(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    with _open(folder) as project:
        before = dict(project.online.scan(project.definitions.views["shop_now"].space))
    region = folder / ".trilane/online/nearline"
    harm(region / "data.mdb")
    with _open(folder) as project:
        plan = project.definitions.models["big"].plan
        reading = FeatureReader(plan, project.online).read(_asked(project), NOW)
        assert reading.faults[0].reason.startswith("online store: the region is not a sound LMDB environment")
        with pytest.raises(TrilaneError) as told:
            project.online.writer("nearline", "orders/0")
        assert "Move the folder away" in told.value.remedy
    shutil.rmtree(region)
    with _open(folder) as project:
        assert _step(project) == ""
        assert dict(project.online.scan(project.definitions.views["shop_now"].space)) == before


def _asked(project: Project) -> list[msgspec.Struct]:
    plan = project.definitions.models["big"].plan
    return RowFormat(Contract("asked", plan.inputs)).decode(b'{"shop": "a", "basket": 1.0}')


def test_a_file_of_the_archive_that_was_cut_is_named_and_given_again_by_the_log(folder: Path) -> None:
    files = sorted((folder / ".trilane/warehouse/events/orders").glob("*.parquet"))
    assert len(files) == 2
    os.truncate(files[1], files[1].stat().st_size // 2)
    with _open(folder) as project:
        views = list(project.live_views().values())
        with pytest.raises(SetupError, match="a file of the archive is damaged") as told:
            archive_sources(project, views)
        assert told.value.where == str(files[1])
        assert "the log gives them again" in told.value.remedy
    files[1].unlink()
    with _open(folder) as project:
        assert archive_sources(project, views) == 200
        assert sorted(files[0].parent.glob("*.parquet"))[0] == files[0]
