"""What the LMDB store adds to the laws: its options, its locks, and disks that fail."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trilane.errors import DefinitionError, SetupError, UnavailableError
from trilane.stores.online.lmdb import LmdbStore, open_store

SPACE = "nearline/pressure@1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    with contextlib.closing(open_store(f"lmdb://{tmp_path}/online")) as opened:
        yield opened


def _put(store: LmdbStore, rows: int, size: int) -> None:
    with contextlib.closing(store.writer("nearline")) as writer, writer.transaction() as changes:
        changes.put(SPACE, [(b"%d" % n, b"x" * size) for n in range(rows)])


def test_a_full_region_refuses_the_transaction_and_says_what_to_set(tmp_path: Path) -> None:
    with contextlib.closing(open_store(f"lmdb://{tmp_path}?map_size=256KiB")) as small:
        _put(small, 1, 1)
        with pytest.raises(UnavailableError, match="map_size=64GiB") as caught:
            _put(small, 1_000, 1_000)
        assert caught.value.where == str(tmp_path / "nearline")
        assert list(small.scan(SPACE)) == [(b"0", b"x")]
    with contextlib.closing(open_store(f"lmdb://{tmp_path}?map_size=16MiB")) as large:
        assert list(large.scan(SPACE)) == [(b"0", b"x")]
        _put(large, 1_000, 1_000)
        assert len(list(large.scan(SPACE))) == 1_000


@pytest.mark.parametrize("size", ["much", "16GB", "-1"])
def test_a_map_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    with pytest.raises(SetupError, match="is not a size"):
        open_store(f"lmdb://{tmp_path}?map_size={size}")


def test_a_map_size_beyond_the_address_space_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(open_store(f"lmdb://{tmp_path}?map_size=1048576TiB")) as store:
        with pytest.raises(SetupError, match=r"smaller `\?map_size=`"):
            store.writer("nearline")
        with pytest.raises(SetupError, match=r"smaller `\?map_size=`"):
            store.writer("nearline")  # and the lock was given back


def test_a_damaged_region_is_refused_with_its_path(store: LmdbStore, tmp_path: Path) -> None:
    region = tmp_path / "online" / "nearline"
    region.mkdir()
    (region / "data.mdb").write_bytes(b"noise" * 5_000)
    with pytest.raises(SetupError, match="not a sound LMDB environment") as caught:
        store.read([(SPACE, [b"a"])])
    assert caught.value.where == str(region)


def test_a_folder_that_cannot_be_made_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=f"{tmp_path}/file/online"):
        open_store(f"lmdb://{tmp_path}/file/online")


@pytest.mark.parametrize("space", ["nearline", "/x", "nearline/", ""])
def test_a_space_without_a_region_or_a_name_is_refused(store: LmdbStore, space: str) -> None:
    with pytest.raises(DefinitionError, match="is not a space"):
        store.read([(space, [b"a"])])


def test_a_closed_store_and_a_closed_writer_say_so(store: LmdbStore) -> None:
    writer = store.writer("nearline")
    writer.close()
    with pytest.raises(SetupError, match="is closed"), writer.transaction():
        pass
    store.close()
    with pytest.raises(SetupError, match="is closed"):
        store.read([(SPACE, [b"a"])])
    store.close()


HOLDER = """
import sys
from trilane.stores.online.lmdb import open_store

writer = open_store(f"lmdb://{sys.argv[1]}").writer("nearline")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_holder_of_a_region_is_named_and_its_death_frees_the_region(store: LmdbStore, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "online"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SetupError, match=f"process {holder.pid} is already writing") as caught:
            store.writer("nearline")
        assert f"kill {holder.pid}" in caught.value.remedy
        holder.kill()
    store.writer("nearline").close()


def test_a_store_shares_its_files_with_other_stores_of_the_process(store: LmdbStore, tmp_path: Path) -> None:
    _put(store, 1, 1)
    other = open_store(f"lmdb://{tmp_path}/online")
    assert list(other.scan(SPACE)) == [(b"0", b"x")]
    other.close()
    assert list(store.scan(SPACE)) == [(b"0", b"x")]


READER = """
import sys
from trilane.stores.online.lmdb import open_store

store = open_store(f"lmdb://{sys.argv[1]}?map_size=256KiB")
for _ in sys.stdin:
    print(len(list(store.scan("nearline/pressure@1"))), flush=True)
"""


def test_a_reader_with_a_smaller_map_follows_a_region_that_outgrows_it(store: LmdbStore, tmp_path: Path) -> None:
    _put(store, 1, 1)
    with subprocess.Popen(
        [sys.executable, "-c", READER, tmp_path / "online"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for rows in (1, 1_000):
            _put(store, rows, 1_000)
            reader.stdin.write("read\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{rows}\n"


# A limit on the size of files refuses writes as a full disk does, and needs no disk of its own.
FILLER = """
import resource, signal, sys
from trilane.errors import UnavailableError
from trilane.stores.online.lmdb import open_store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = open_store(f"lmdb://{sys.argv[1]}")
writer = store.writer("nearline")
rows = 0
try:
    while True:
        with writer.transaction() as changes:
            changes.put("nearline/x", [(b"%06d" % n, b"x" * 1_000) for n in range(rows, rows + 50)])
        rows += 50
        print(rows)
except UnavailableError as error:
    print(error.where, error.remedy)
assert len(list(store.scan("nearline/x"))) == rows
"""


def test_a_full_disk_refuses_the_transaction_and_loses_nothing_before_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILLER, tmp_path], capture_output=True, text=True, check=True)
    *sizes, refusal = done.stdout.splitlines()
    assert refusal.startswith(f"{tmp_path}/nearline Free space on the disk that holds it")
    with contextlib.closing(open_store(f"lmdb://{tmp_path}")) as store:
        assert len(list(store.scan("nearline/x"))) == int(sizes[-1])
        with contextlib.closing(store.writer("nearline")) as writer, writer.transaction() as changes:
            changes.put("nearline/x", [(b"more", b"x")])
        assert len(list(store.scan("nearline/x"))) == int(sizes[-1]) + 1
