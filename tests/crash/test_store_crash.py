"""Processes that write the stores are killed at random points: what they wrote is whole, and what they
acknowledged is there.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

from trilane.sources.log.sqlite import open_log
from trilane.stores.online.lmdb import open_store
from trilane.stores.online.versions import versions

ROUNDS = 10
CHUNK = 37

LOG_WRITER = """
import sys
from trilane.sources.log.sqlite import open_log
log = open_log(f"sqlite://{sys.argv[1]}")
while True:
    number = log.end("s", 0) // 37
    log.append("s", 0, [b"%d" % number * 50] * 37, list(range(37)))
    print(number + 1, flush=True)
"""

STORE_WRITER = """
import sys
from trilane.stores.online.lmdb import open_store
store = open_store(f"lmdb://{sys.argv[1]}")
writer = store.writer("nearline")
[[found]] = store.read([("nearline/last", [b"n"])])
number = int(found or 0)
while True:
    number += 1
    with writer.transaction() as changes:
        changes.put("nearline/last", [(b"n", b"%d" % number)])
        changes.put("nearline/rows", [(b"%d" % row, b"%d" % number * 100) for row in range(300)])
    print(number, flush=True)
"""

LANDER = """
import sys
from trilane.stores.online.lmdb import open_store
from trilane.stores.online.versions import land, versions
store = open_store(f"lmdb://{sys.argv[1]}")
writer = store.writer("batch")
number = max((version.boundary for version in versions(store, "daily")), default=0)
while True:
    number += 1
    rows = ((b"%d" % row, b"%d" % number) for row in range(25_000))
    land(writer, "daily", boundary=number, visible_from=number, rows=rows)
    print(number, flush=True)
"""


def _write_and_die(program: str, folder: Path, acknowledged: int) -> int:
    """Runs `program`, kills it after it acknowledged so often, and returns the last number it told."""
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(acknowledged):
            assert process.stdout.readline(), "the writer died by itself"
        process.send_signal(signal.SIGKILL)
        told = process.stdout.read().split()
        assert process.wait() == -signal.SIGKILL
    return int(told[-1]) if told else 0


def test_a_killed_writer_of_the_log_leaves_whole_chunks(tmp_path: Path) -> None:
    rng = random.Random(1)
    for round_ in range(ROUNDS):
        told = _write_and_die(LOG_WRITER, tmp_path, rng.randrange(0 if round_ else 1, 60))
        with contextlib.closing(open_log(f"sqlite://{tmp_path}")) as log:
            batch = log.read("s", 0, 0, 1_000_000)
            assert log.end("s", 0) == batch.num_rows
        assert batch.num_rows % CHUNK == 0
        assert batch.num_rows >= told * CHUNK
        assert batch.column("offset").to_pylist() == list(range(batch.num_rows))
        assert batch.column("arrived_at").to_pylist() == list(range(CHUNK)) * (batch.num_rows // CHUNK)
        expected = [b"%d" % (row // CHUNK) * 50 for row in range(batch.num_rows)]
        assert batch.column("value").to_pylist() == expected


def test_a_killed_writer_of_the_store_leaves_whole_transactions(tmp_path: Path) -> None:
    rng = random.Random(2)
    for round_ in range(ROUNDS):
        told = _write_and_die(STORE_WRITER, tmp_path, rng.randrange(0 if round_ else 1, 60))
        with contextlib.closing(open_store(f"lmdb://{tmp_path}")) as store:
            keys = [b"%d" % row for row in range(300)]
            [[last], rows] = store.read([("nearline/last", [b"n"]), ("nearline/rows", keys)])
        assert last is not None
        assert int(last) >= told
        assert rows == [last * 100] * 300


def test_a_killed_landing_leaves_whole_versions_and_its_rows_are_dropped_later(tmp_path: Path) -> None:
    rng = random.Random(3)
    for round_ in range(ROUNDS // 2):
        told = _write_and_die(LANDER, tmp_path, rng.randrange(0 if round_ else 1, 5))
        with contextlib.closing(open_store(f"lmdb://{tmp_path}")) as store:
            landed = versions(store, "daily")
            assert max(version.boundary for version in landed) >= told
            for version in landed:
                rows = list(store.scan(version.space))
                assert len(rows) == version.rows == 25_000
                assert {value for _, value in rows} == {b"%d" % version.boundary}
            spaces = {version.space for version in landed}
            numbered = [space.rpartition(".") for space in spaces]
            begun, [memory] = max(int(number) for *_, number in numbered) + 2, {before for before, *_ in numbered}
            # Of all landings ever begun, at most two may hold rows unlisted: one replaced, one under way.
            unlisted = {f"{memory}.{number}" for number in range(begun)} - spaces
            assert sum(1 for space in unlisted if any(True for _ in store.scan(space))) <= 2
