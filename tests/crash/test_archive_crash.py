"""An archiver is killed at random points: the archive ends up with each event once, as if nobody had died."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

import trilane as tl
from trilane.clock import SECOND, format_instant
from trilane.lanes.batch.archive import archive
from trilane.sources.event import EventSource
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbWarehouse

ROUNDS, EVENTS, LIMIT = 8, 3_000, 40
SOURCE = EventSource("s", schema={"id": tl.Int64, "at": tl.Timestamp}, event_time="at", event_id="id", disorder="5m")

ARCHIVER = """
import sys
from pathlib import Path
import trilane as tl
from trilane.lanes.batch.archive import archive
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbWarehouse
source = tl.EventSource("s", schema={"id": tl.Int64, "at": tl.Timestamp}, event_time="at", event_id="id", disorder="5m")

class Telling(DuckdbWarehouse):
    def append_events(self, *args, **options):
        print(options["last"], flush=True)
        super().append_events(*args, **options)

archive(SqliteLog(Path(sys.argv[1])), Telling(Path(sys.argv[2])), source, limit=40)
"""


def test_a_killed_archiver_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    log = SqliteLog(tmp_path / "log", full_sync=False)
    values = [event(i) for i in range(EVENTS)]
    # Each event comes twice, near the first time or far from it.
    for again in range(0, EVENTS, 3):
        values.insert(chance.randrange(len(values)), values[again])
    log.append("s", 0, values, EVENTS * SECOND)
    for _ in range(ROUNDS):
        run_and_kill(tmp_path, files=chance.randint(1, 6))
    cut, whole = DuckdbWarehouse(tmp_path / "cut"), DuckdbWarehouse(tmp_path / "whole")
    archive(log, cut, SOURCE, limit=LIMIT * 20)
    archive(log, whole, SOURCE)
    assert rows(cut) == rows(whole)
    assert sorted({row[0] for row in rows(whole)}) == list(range(EVENTS))  # type: ignore[type-var]
    assert len(rows(whole)) == EVENTS
    assert cut.newest(SOURCE, 0) == whole.newest(SOURCE, 0)


def event(number: int) -> bytes:
    return msgspec.json.encode({"id": number, "at": format_instant(number * SECOND)})


def run_and_kill(folder: Path, *, files: int) -> None:
    """Kills an archiver while it writes its file number `files`."""
    command = [sys.executable, "-c", ARCHIVER, str(folder / "log"), str(folder / "cut")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as archiver:
        assert archiver.stdout is not None
        for _ in range(files):
            assert archiver.stdout.readline()
        with contextlib.suppress(ProcessLookupError):
            archiver.send_signal(signal.SIGKILL)
    assert archiver.returncode == -signal.SIGKILL


def rows(warehouse: DuckdbWarehouse) -> list[tuple[object, ...]]:
    with warehouse.connect(threads=1) as connection:
        columns = 'id, epoch_us("at"), _arrived_at, _offset, _late'
        sql = f"SELECT {columns} FROM {warehouse.events_sql(SOURCE)} ORDER BY _offset"
        return connection.query(sql).fetchall()
