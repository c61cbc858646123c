"""An online store in a folder: one LMDB environment per region, which all processes map and read.

The parts of a region lie in its one environment, so that a read of all takes one snapshot; their writers, a process
each, wait for each other for the length of a transaction, which LMDB's own lock sees to through any death.

In LMDB a key is preceded by 8 bytes that stand for its space. A commit syncs the rows but not the page that
points to them: after a power cut the last commit may be missing, never torn, and the log tells the lanes what
to write again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import lmdb

from trilane.errors import ContractError, DefinitionError, SetupError, TrilaneError, UnavailableError
from trilane.plugins import local_path, make_folder, options
from trilane.stores.online.file_lease import FileLease, holders
from trilane.stores.online.protocol import Holder

__all__ = ["LmdbStore", "open_store"]

_PREFIX = 8
_MAX_KEY = 511 - _PREFIX  # LMDB is compiled with MDB_MAXKEYSIZE = 511
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
# A process that was killed keeps its slot, and the pages it was reading, until somebody looks.
_COMMITS_PER_READER_CHECK = 256


def open_store(url: str) -> LmdbStore:
    """The store in the folder of `url`; `?map_size=64GiB` raises what each region may hold (16 GiB)."""
    text = options(url, known=("map_size",)).get("map_size", "16GiB")
    found = re.fullmatch(r"(\d+)\s*([KMGT]iB|)", text)
    if not found:
        raise SetupError(f"{text!r} is not a size", where=url, remedy="Write it as `map_size=16GiB`")
    return LmdbStore(local_path(url), map_size=int(found[1]) * _UNITS[found[2]])


class LmdbStore:
    """Keeps the promise of OnlineStore in `folder`; `map_size` bounds each region, in bytes."""

    max_key_bytes = _MAX_KEY
    atomic = True

    def __init__(self, folder: Path, *, map_size: int = 16 << 30) -> None:
        self._folder = make_folder(folder)
        self._map_size = map_size
        self._environments: dict[str, lmdb.Environment] = {}
        self._places: dict[str, tuple[str, bytes]] = {}
        self._opening = threading.Lock()
        self._closed = False

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        snapshots: dict[str, lmdb.Transaction[bytes] | None] = {}
        places = self._places
        answers: list[list[bytes | None]] = []
        try:
            for space, keys in requests:
                region, prefix = places.get(space) or self._place(space)
                if region in snapshots:
                    snapshot = snapshots[region]
                else:
                    snapshot = snapshots[region] = self._snapshot(region)
                if snapshot is None:
                    answers.append([None] * len(keys))
                else:
                    get = snapshot.get
                    answers.append([get(prefix + key) for key in keys])
        finally:
            for snapshot in snapshots.values():
                if snapshot is not None:
                    snapshot.abort()
        return answers

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        region, prefix = self._place(space)
        snapshot = self._snapshot(region)
        if snapshot is not None:
            with snapshot:
                yield from _scan(snapshot, prefix, b"", None)

    def writer(self, region: str, part: str = "", *, holder: str = "") -> LmdbWriter:
        lease = self._lease(region, part, holder, passing=False)
        try:
            environment = self._environment(region)
            environment.reader_check()
            return LmdbWriter(region, environment, lease)
        except BaseException:
            lease.close()
            raise

    def lease(self, group: str, name: str, *, holder: str = "") -> FileLease:
        return self._lease(group, name, holder, passing=True)

    def holders(self, group: str) -> dict[str, Holder]:
        try:
            return holders(self._region_folder(group))
        except OSError as error:
            raise _translate(error, str(self._folder)) from error

    def _lease(self, group: str, name: str, holder: str, *, passing: bool) -> FileLease:
        folder = make_folder(self._region_folder(group))
        try:
            return FileLease(folder, group, name, holder=holder, passing=passing)
        except OSError as error:
            raise _translate(error, str(folder)) from error

    def close(self) -> None:
        self._closed = True
        for region in list(self._environments):
            del self._environments[region]
            _release(self._region_folder(region))

    def _place(self, space: str) -> tuple[str, bytes]:
        """The region and the key prefix of `space`."""
        place = self._places[space] = _region(space), _prefix(space)
        return place

    def _snapshot(self, region: str) -> lmdb.Transaction[bytes] | None:
        environment = self._environments.get(region)
        if environment is None:
            if not (self._region_folder(region) / "data.mdb").exists():
                return None
            environment = self._environment(region)
        try:
            try:
                return environment.begin()
            except lmdb.ReadersFullError:
                environment.reader_check()
            except lmdb.MapResizedError:
                environment.set_mapsize(0)  # another process opened the region with a larger map: take that
            return environment.begin()
        except lmdb.Error as error:
            raise _translate(error, environment.path()) from error

    def _environment(self, region: str) -> lmdb.Environment:
        if self._closed:
            raise SetupError("the online store is closed", where=str(self._folder), remedy="Open it again")
        with self._opening:
            environment = self._environments.get(region)
            if environment is None:
                environment = _acquire(self._region_folder(region), self._map_size)
                self._environments[region] = environment
        return environment

    def _region_folder(self, region: str) -> Path:
        return self._folder / quote(region, safe="")


class LmdbWriter:
    """Keeps the promise of Writer while it holds its lease."""

    atomic = True

    def __init__(self, region: str, environment: lmdb.Environment, lease: FileLease) -> None:
        self.region = region
        self._environment = environment
        self._lease = lease
        self._commits = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[LmdbTransaction]:
        if self._lease.closed:
            what = f"the writer of region {self.region!r} is closed"
            raise SetupError(what, where=self.region, remedy="Ask the store for a new one")
        try:
            with self._environment.begin(write=True) as changes:
                yield LmdbTransaction(self.region, changes)
        except lmdb.Error as error:
            raise _translate(error, self._environment.path()) from error
        self._commits += 1
        if self._commits % _COMMITS_PER_READER_CHECK == 0:
            self._environment.reader_check()

    def close(self) -> None:
        self._lease.close()


class LmdbTransaction:
    """Keeps the promise of Transaction."""

    def __init__(self, region: str, changes: lmdb.Transaction[bytes]) -> None:
        self._region = region
        self._changes = changes

    def get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        prefix = self._prefix(space)
        get = self._changes.get
        return [get(prefix + key) for key in keys]

    def put(self, space: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        prefix = self._prefix(space)
        rows = [(prefix + key, value) for key, value in items]
        rows.sort(key=itemgetter(0))  # stable: of a repeated key the last value is written last
        with self._changes.cursor() as cursor:
            try:
                cursor.putmulti(rows)
            except lmdb.BadValsizeError:
                longest = max(len(key) for key, _ in rows) - _PREFIX
                what = f"a key of {longest} bytes is too long"
                remedy = f"Keys may have up to {_MAX_KEY} bytes: shorten it, or use a hash of it as the key"
                raise ContractError(what, where=space, remedy=remedy) from None

    def delete(self, space: str, keys: Iterable[bytes]) -> None:
        prefix = self._prefix(space)
        for key in keys:
            self._changes.delete(prefix + key)

    def scan(self, space: str, first: bytes = b"", last: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        return _scan(self._changes, self._prefix(space), first, last)

    def drop(self, space: str) -> None:
        prefix = self._prefix(space)
        with self._changes.cursor() as cursor:
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                found = cursor.delete()

    def _prefix(self, space: str) -> bytes:
        if _region(space) != self._region:
            what = f"space {space!r} is not in region {self._region!r}"
            raise DefinitionError(what, where=space, remedy=f"Use the writer of region {_region(space)!r}")
        return _prefix(space)


def _scan(
    snapshot: lmdb.Transaction[bytes], prefix: bytes, first: bytes, last: bytes | None
) -> Iterator[tuple[bytes, bytes]]:
    stop = None if last is None else prefix + last
    with snapshot.cursor() as cursor:
        if not cursor.set_range(prefix + first):
            return
        for key, value in cursor.iternext():
            if not key.startswith(prefix) or (stop is not None and key >= stop):
                return
            yield key[_PREFIX:], value


def _region(space: str) -> str:
    region, slash, rest = space.partition("/")
    if not (region and slash and rest):
        raise DefinitionError(f"{space!r} is not a space", where=space, remedy="Write `region/rest`")
    return region


@functools.lru_cache(maxsize=4096)
def _prefix(space: str) -> bytes:
    return blake2b(space.encode(), digest_size=_PREFIX).digest()


# LMDB forbids opening an environment twice in one process, so all stores of a process share it. Forks open
# anew.
_shared: dict[tuple[int, Path], tuple[lmdb.Environment, int]] = {}
_sharing = threading.Lock()


def _acquire(folder: Path, map_size: int) -> lmdb.Environment:
    with _sharing:
        key = (os.getpid(), folder.resolve())
        environment, users = _shared.get(key) or (_open(folder, map_size), 0)
        _shared[key] = environment, users + 1
    return environment


def _release(folder: Path) -> None:
    with _sharing:
        key = (os.getpid(), folder.resolve())
        if key not in _shared:
            return
        environment, users = _shared.pop(key)
        if users > 1:
            _shared[key] = environment, users - 1
        else:
            environment.close()


def _open(folder: Path, map_size: int) -> lmdb.Environment:
    try:
        environment = lmdb.open(
            str(folder),
            map_size=map_size,
            metasync=False,
            readahead=False,  # reads are by key, not in order
            max_readers=512,
            max_spare_txns=8,  # a renewed read transaction costs 0.1 us
        )
        try:
            _check_whole(environment, folder / "data.mdb")
        except BaseException:
            environment.close()
            raise
        return environment
    except (lmdb.Error, OSError) as error:
        raise _translate(error, str(folder)) from error


_SCAN = """
import lmdb, sys
with lmdb.open(sys.argv[1], readonly=True, lock=False, map_size=int(sys.argv[2])).begin() as snapshot:
    for key, value in snapshot.cursor():
        len(value)
"""
_cut_short: set[tuple[Path, int, int]] = set()  # files, their sizes and what these should be: looked at once


def _check_whole(environment: lmdb.Environment, path: Path) -> None:
    """Raises SetupError if the file ends before pages that are used: to read them would end this process.

    A file may end before pages that were given back unused; so another process reads all that is used. What is missing
    then is written as zeros, which LMDB takes for a fault and not for an end.
    """
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = path.stat().st_size
    if size >= needed:
        return
    if (path, size, needed) not in _cut_short:
        command = [sys.executable, "-c", _SCAN, str(path.parent), str(max(environment.info()["map_size"], needed))]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            os.truncate(path, needed)
            return
        _cut_short.add((path, size, needed))
    remedy = "Move the folder away; the lanes fill it again from the log and the warehouse"
    what = f"the region is not a sound LMDB environment: its file has {size} of {needed} bytes"
    raise SetupError(what, where=str(path.parent), remedy=remedy)


def _translate(error: lmdb.Error | OSError, path: str) -> TrilaneError:
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
    if isinstance(error, lmdb.MapFullError):
        remedy = "Open the store with a larger map, such as `?map_size=64GiB`, everywhere; nothing was lost"
        return UnavailableError("the region is full", where=path, remedy=remedy)
    if code in _FULL:
        remedy = "Free space on the disk that holds it, then try again; nothing was lost"
        return UnavailableError(f"the disk does not take the write: {error}", where=path, remedy=remedy)
    if isinstance(error, lmdb.MemoryError):
        remedy = "Open the store with a smaller `?map_size=`, or raise the limit on address space"
        return SetupError(f"the region cannot be mapped: {error}", where=path, remedy=remedy)
    if isinstance(error, lmdb.InvalidError | lmdb.CorruptedError | lmdb.VersionMismatchError | lmdb.PanicError):
        remedy = "Move the folder away; the lanes fill it again from the log and the warehouse"
        return SetupError(f"the region is not a sound LMDB environment: {error}", where=path, remedy=remedy)
    remedy = "Make sure that the folder exists and this user may read and write it"
    return SetupError(f"the region cannot be used: {error}", where=path, remedy=remedy)
