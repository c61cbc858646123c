"""What the Valkey store adds to the laws: its URL, its lease and fence, and servers that are away or slow."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.remote import Server, free_port, talk, valkey_server
from tests.servers import until
from trilane.errors import ConflictError, SetupError, UnavailableError

pytest.importorskip("hiredis", reason="the package hiredis is not installed")
import hiredis

from trilane.stores.online.valkey import ValkeyStore, open_store
from trilane.stores.online.valkey_address import parse_address
from trilane.stores.online.valkey_rows import ValkeyKeys
from trilane.stores.online.valkey_wire import slot_of

SPACE = "nearline/pressure@1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as started:
        yield started


@pytest.fixture
def store(server: Server) -> Iterator[ValkeyStore]:
    talk(server)("FLUSHALL")
    with contextlib.closing(open_store(f"valkey://127.0.0.1:{server.port}?timeout=5s")) as opened:
        yield opened


def test_the_url_says_where_and_never_tells_the_password() -> None:
    address = parse_address("valkeys://ada:p%40ss@cache:7000,other/3?timeout=80ms&prefix=shop&verify=false")
    assert (address.hosts, address.database) == ((("cache", 7000), ("other", 6379)), 3)
    assert (address.user, address.password, address.timeout) == ("ada", "p@ss", 0.08)
    assert address.tls is not None
    assert "p%40ss" not in f"{address} {address.where}"
    assert "p@ss" not in f"{address} {address.where}"


@pytest.mark.parametrize(
    "url",
    ["valkey://", "valkey://a:b", "valkey://a/x", "valkey://a?timeout=soon", "valkey://a?cluster=1", "valkey://a?x=1"],
)
def test_a_url_that_is_wrong_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(SetupError) as caught:
        open_store(url)
    assert caught.value.remedy


def test_slots_are_those_of_the_cluster_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"user1000") == 3443


def test_a_server_that_is_away_is_told_with_its_address_and_a_remedy() -> None:
    port = free_port()
    with contextlib.closing(open_store(f"valkey://127.0.0.1:{port}")) as store:
        with pytest.raises(UnavailableError, match=rf"127.0.0.1:{port} does not answer") as caught:
            store.read([(SPACE, [b"a"])])
        assert "timeout" in caught.value.remedy


def test_a_server_that_is_slow_costs_a_reader_its_timeout_and_no_more(server: Server) -> None:
    with contextlib.closing(open_store(f"valkey://127.0.0.1:{server.port}?timeout=50ms")) as store:

        def answered() -> bool:
            with contextlib.suppress(UnavailableError):  # on a busy machine the server itself may be as slow
                return store.read([(SPACE, [b"a"])]) == [[None]]
            return False

        until(answered, "an answer in time")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(UnavailableError, match=r"no answer within 0.05 s|timed out"):
                store.read([(SPACE, [b"a"])])
        finally:
            os.kill(server.pid, signal.SIGCONT)
    with contextlib.closing(open_store(f"valkey://127.0.0.1:{server.port}?timeout=5s")) as store:
        assert store.read([(SPACE, [b"a"])]) == [[None]]


def test_a_writer_that_was_replaced_writes_nothing_more(store: ValkeyStore, server: Server) -> None:
    first = store.writer("nearline")
    talk(server)("DEL", "trilane:{0}lnearline")  # as when its lease expired while it stood still
    with contextlib.closing(store.writer("nearline")) as second:
        with second.transaction() as changes:
            changes.put(SPACE, [(b"a", b"new")])
        with pytest.raises(ConflictError, match="another writer"), first.transaction() as changes:
            changes.put(SPACE, [(b"a", b"old")])
        with pytest.raises(ConflictError, match="another writer"), first.transaction():
            pass
        first.close()
        assert store.read([(SPACE, [b"a"])]) == [[b"new"]]
        with second.transaction() as changes:
            changes.put(SPACE, [(b"a", b"newer")])


def test_the_region_of_a_killed_process_of_this_machine_is_free_at_once(store: ValkeyStore, server: Server) -> None:
    script = (
        "import sys; from trilane.stores.online.valkey import open_store\n"
        f"writer = open_store('valkey://127.0.0.1:{server.port}').writer('nearline')\n"
        "print('writing', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(SetupError, match=f"process {other.pid} on .* is already writing"):
            store.writer("nearline")
        other.kill()
    store.writer("nearline").close()


def test_a_memory_that_is_lost_is_told_by_the_next_commit(store: ValkeyStore, server: Server) -> None:
    with contextlib.closing(store.writer("nearline")) as writer:
        talk(server)("FLUSHALL")
        with pytest.raises(ConflictError, match="lost its memory"), writer.transaction() as changes:
            changes.put(SPACE, [(b"a", b"1")])
    assert store.read([(SPACE, [b"a"])]) == [[None]]


def test_threads_read_side_by_side(store: ValkeyStore) -> None:
    with contextlib.closing(store.writer("nearline")) as writer, writer.transaction() as changes:
        changes.put(SPACE, [(b"%d" % n, b"%d" % n) for n in range(50)])
    wrong: list[object] = []

    def read(start: int) -> None:
        for n in range(200):
            key = b"%d" % ((start + n) % 50)
            if store.read([(SPACE, [key])]) != [[key]]:
                wrong.append(key)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cluster_that_is_none_is_refused(server: Server, tmp_path: Path) -> None:
    url = f"valkey://127.0.0.1:{server.port}?cluster=true&timeout=5s"
    with contextlib.closing(open_store(url)) as store, pytest.raises(SetupError, match="not part of a cluster"):
        store.read([(SPACE, [b"a"])])


_KEYS = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"$1\r\n", b"k" * 300]), max_size=8)


@given(st.lists(_KEYS, min_size=1, max_size=3), st.sampled_from(["shop", "a:b"]))
def test_what_is_asked_goes_over_the_wire_as_the_driver_would_write_it(lists: list[list[bytes]], prefix: str) -> None:
    keys = ValkeyKeys(prefix.encode(), cluster=False)
    requests = [(f"nearline/view@{number % 2}", one) for number, one in enumerate([*lists, *lists])]
    names = [keys.heads(space)[crc32(key) & 255] + key for space, own in requests for key in own]
    pack: Any = hiredis.pack_command  # the stub promises one element only
    if names:
        assert keys.mget(requests) == pack(("MGET", *names))
