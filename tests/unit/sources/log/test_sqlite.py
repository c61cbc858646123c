"""What the SQLite log adds to the laws: its files, its options, and disks that fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trilane.errors import DefinitionError, SetupError
from trilane.sources.log import sqlite
from trilane.sources.log.sqlite import SqliteLog, open_log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with contextlib.closing(open_log(f"sqlite://{tmp_path}/log")) as opened:
        yield opened


def test_each_source_has_a_file_of_its_own_and_no_draft_stays(log: SqliteLog, tmp_path: Path) -> None:
    log.append("a/b", 0, [b"x"], 1)
    log.append("c", 0, [b"x"], 1)
    log.end("never written", 0)
    log.close()
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["a%2Fb.sqlite", "c.sqlite"]


def test_huge_values_are_cut_into_reads_of_bounded_size(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_BYTES", 1_000)
    monkeypatch.setattr(sqlite, "_READ_BYTES", 3_000)
    values = [bytes([n]) * 700 for n in range(20)]
    log.append("s", 0, values, 1)
    found: list[bytes] = []
    while rows := log.read("s", 0, len(found), 100).column("value").to_pylist():
        assert len(rows) <= 5
        found += rows
    assert found == values


def test_the_durability_can_be_chosen(tmp_path: Path) -> None:
    for sync, expected in (("full", (2,)), ("normal", (1,))):
        with contextlib.closing(open_log(f"sqlite://{tmp_path}?sync={sync}")) as log:
            log.append("s", 0, [b"x"], 1)
            assert log._file("s").row("PRAGMA synchronous") == expected
    with pytest.raises(SetupError, match="unknown sync 'never'"):
        open_log(f"sqlite://{tmp_path}?sync=never")


@pytest.mark.parametrize("partition", [-1, 1 << 14])
def test_a_partition_out_of_range_is_refused(log: SqliteLog, partition: int) -> None:
    with pytest.raises(DefinitionError, match=f"no partition {partition}"):
        log.append("s", partition, [b"x"], 1)


def test_arrivals_must_be_as_many_as_values(log: SqliteLog) -> None:
    with pytest.raises(DefinitionError, match="2 values came with 1 arrivals"):
        log.append("s", 0, [b"x", b"y"], [1])


def test_a_folder_that_cannot_be_made_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=f"{tmp_path}/file/log"):
        open_log(f"sqlite://{tmp_path}/file/log")


def test_a_damaged_file_is_refused_with_its_path(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "log" / "s.sqlite").write_bytes(b"noise" * 5_000)
    with pytest.raises(SetupError, match="not a sound SQLite database") as caught:
        log.read("s", 0, 0, 10)
    assert caught.value.where == str(tmp_path / "log" / "s.sqlite")
    with pytest.raises(SetupError, match="not a sound SQLite database"):
        log.append("s", 0, [b"x"], 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused_with_its_path(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "log").chmod(0o500)
    with pytest.raises(SetupError, match="may read and write"):
        log.append("s", 0, [b"x"], 1)
    (tmp_path / "log").chmod(0o700)


def test_a_folder_that_vanished_refuses_the_append(log: SqliteLog, tmp_path: Path) -> None:
    (tmp_path / "log").rmdir()
    with pytest.raises(SetupError, match="cannot be used"):
        log.append("s", 0, [b"x"], 1)


# A limit on the size of files refuses writes as a full disk does, and needs no disk of its own.
FILLER = """
import resource, signal, sys
from trilane.errors import UnavailableError
from trilane.sources.log.sqlite import open_log

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
log = open_log(f"sqlite://{sys.argv[1]}")
try:
    while True:
        print(log.append("s", 0, [b"x" * 10_000] * 7, 1) + 7)
except UnavailableError as error:
    print(error.where, error.remedy)
"""


def test_a_full_disk_refuses_the_append_and_loses_nothing_before_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILLER, tmp_path], capture_output=True, text=True, check=True)
    *ends, refusal = done.stdout.splitlines()
    assert refusal == f"{tmp_path}/s.sqlite Free space on the disk that holds {tmp_path}, then try again"
    with contextlib.closing(open_log(f"sqlite://{tmp_path}")) as log:
        assert log.end("s", 0) == int(ends[-1])
        assert log.append("s", 0, [b"more"], 2) == int(ends[-1])
        values = log.read("s", 0, 0, 1_000).column("value").to_pylist()
    assert values == [b"x" * 10_000] * int(ends[-1]) + [b"more"]
