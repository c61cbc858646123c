"""The SQLite metadata store among processes and threads, and on a bad disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trilane.errors import SetupError, UnavailableError
from trilane.lifecycle.metadata.protocol import DeploymentRecord, EdgeRecord
from trilane.lifecycle.metadata.sql import SqlMetadata, open_metadata

WRITER = """
import sys
from trilane.lifecycle.metadata.protocol import DeploymentRecord, EdgeRecord
from trilane.lifecycle.metadata.sql import open_metadata

store = open_metadata(sys.argv[1])
for at in range(int(sys.argv[3])):
    store.add_deployment(DeploymentRecord(endpoint=sys.argv[2], bundle="b", facts={}, at=at))
    edge = dict(source="s", target="t", relation="reads", run=sys.argv[2])
    store.see_edges([EdgeRecord(**edge, first_seen=at, last_seen=at)])
    print(at, flush=True)
"""


def _writer(url: str, name: str, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, url, name, str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def _bundles(store: SqlMetadata, endpoint: str) -> list[int]:
    return [record.at for record in store.deployments(endpoint=endpoint)]


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/metadata.db"
    writers = [_writer(url, name, 40) for name in ("a", "b")]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    store = open_metadata(url)
    assert _bundles(store, "a") == _bundles(store, "b") == list(range(40))[::-1]
    (edge,) = store.edges()
    assert (edge.first_seen, edge.last_seen) == (0, 39)


def test_threads_may_share_a_store(tmp_path: Path) -> None:
    store = open_metadata(f"sqlite://{tmp_path}/metadata.db")

    def write(at: int) -> None:
        store.see_edges([EdgeRecord(source=str(at), target="t", relation="r", first_seen=at, last_seen=at)])

    threads = [threading.Thread(target=write, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.edges()) == 8


def test_a_file_that_is_no_database_is_named_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "metadata.db"
    path.write_text("not a database, but long enough to be looked at " * 100)
    with pytest.raises(SetupError, match=r"metadata\.db.*cannot be used.*Check that") as caught:
        open_metadata(f"sqlite://{path}")
    assert "not a database" in caught.value.what
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_made_is_the_operators_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be made"):
        open_metadata(f"sqlite://{tmp_path}/file/metadata.db")


def test_a_database_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SetupError, match="cannot be opened"):
        open_metadata("nosuchdb://host/name")


def test_a_store_of_a_newer_trilane_is_refused(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/metadata.db"
    open_metadata(url).close()
    with sqlite3.connect(tmp_path / "metadata.db") as connection:
        connection.execute("INSERT INTO trilane_schema VALUES (99)")
    connection.close()
    with pytest.raises(SetupError, match="newer Trilane"):
        open_metadata(url)


def test_readers_go_on_while_somebody_writes_and_a_second_writer_is_told_to_try_again(tmp_path: Path) -> None:
    store = open_metadata(f"sqlite://{tmp_path}/metadata.db?busy_timeout=20ms")
    other = sqlite3.connect(tmp_path / "metadata.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert store.deployments() == []
    with pytest.raises(UnavailableError, match="busy") as caught:
        store.add_deployment(DeploymentRecord(endpoint="e", bundle="b", facts={}, at=0))
    assert caught.value.retryable
    other.close()
