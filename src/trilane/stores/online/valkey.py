"""An online store in Valkey or Redis, alone or as a cluster: a multi-get for a read, a script for a commit.

Laws: a commit checks the fence and moves it on in the script that writes, so a writer that was replaced, and one whose
rows the server has lost or taken back, changes nothing and is told. One server applies a transaction whole (`atomic`);
a cluster does so for each bucket of keys, in no order, and the lanes make a replay harmless.

A region is held by a lease that its writer renews. A region of which the server lost a part is emptied when it gets its
next writer, so that the lanes fill it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError, TrilaneError, UnavailableError
from trilane.stores.online.valkey_rows import BUCKETS, COMMIT, SWAP, WIPE, ValkeyRows, region_of
from trilane.stores.online.valkey_wire import Connections, parse_address

__all__ = ["ValkeyStore", "open_store"]

_log = logging.getLogger(__name__)

_MAX_KEY = 4_096
_given_up: set[bytes] = set()  # holders of this process that could not give their lease back
_REOPEN = "Open the writer anew, and read again what was believed of the region"


def open_store(url: str) -> ValkeyStore:
    """The store at `valkey://[user:password@]host[:port][/database]`, over TLS with `valkeys://`.

    `?timeout=250ms` of a read, `write_timeout=10s` of a commit, `lease=10s` after which the region of a dead writer is
    free, `cluster=true` (hosts separated by commas), `prefix=trilane`, `ca=`, `cert=`, `key=`, `verify=false`.
    """
    return ValkeyStore(Connections(parse_address(url)))


class ValkeyStore:
    """Keeps the promise of OnlineStore. Nothing is sent before the first use."""

    max_key_bytes = _MAX_KEY

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._rows = ValkeyRows(connections)

    @property
    def atomic(self) -> bool:
        return self._rows.atomic

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[bytes | None]]:
        return self._rows.read(requests)

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        yield from self._rows.scan(space)

    def writer(self, region: str) -> ValkeyWriter:
        return ValkeyWriter(region, self._rows, self._connections)

    def close(self) -> None:
        self._connections.close()


class ValkeyWriter:
    """Keeps the promise of Writer, by a lease that a thread renews and a fence that each commit moves on."""

    def __init__(self, region: str, rows: ValkeyRows, connections: Connections) -> None:
        self.region, self._rows, self._connections = region, rows, connections
        self._keys = rows.keys
        self._where = f"{connections.address.where} region {region!r}"
        self._token = secrets.token_hex(8)
        self._holder = f"{_this_process()} {self._token}".encode()
        self._counts = dict.fromkeys(self._keys.fenced, 0)
        self._fault: TrilaneError | None = None
        self._ended = threading.Event()
        self._take_lease()
        try:
            self._take_fences()
        except BaseException:
            self._give_lease()
            raise
        self._renewing = threading.Thread(target=self._renew, name=f"lease of {region}", daemon=True)
        self._renewing.start()

    @property
    def atomic(self) -> bool:
        return self._rows.atomic

    @contextlib.contextmanager
    def transaction(self) -> Iterator[ValkeyTransaction]:
        if self._fault is not None:
            raise self._fault
        if self._ended.is_set():
            raise SetupError("the writer is closed", where=self._where, remedy="Open it again")
        changes = ValkeyTransaction(self.region, self._rows)
        yield changes
        try:
            self._commit(changes)
        except TrilaneError as error:
            # Some of it may be written. Nothing more is, until the region is read again by a new writer.
            self._fault = error
            raise

    def close(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._renewing.join()
            try:
                self._give_lease()
            except TrilaneError:  # it expires by itself, or falls to the next writer of this process
                _given_up.add(self._holder)

    # -- commits ------------------------------------------------------------------------------------------------

    def _commit(self, changes: ValkeyTransaction) -> None:
        groups = changes.groups()
        calls = []
        for bucket, (steps, keys, arguments) in groups.items():
            fences = [self._fence(self._counts[bucket]), self._fence(self._counts[bucket] + 1)]
            calls.append(
                (bucket, [self._keys.fence(bucket, self.region), *keys], [*fences, steps.encode(), *arguments])
            )
        if not calls:
            return
        for (bucket, *_), reply in zip(calls, self._rows.run(COMMIT, calls), strict=True):
            if reply != 1:
                raise self._refused(bucket, reply)
            self._counts[bucket] += 1

    def _fence(self, count: int) -> bytes:
        return f"{self._token}:{count}".encode()

    def _refused(self, bucket: int, found: object) -> TrilaneError:
        if isinstance(found, bytes) and not found.startswith(self._token.encode()):
            what = "another writer has taken over the region; nothing was written"
            return ConflictError(what, where=self._where, remedy="Stop this process, or the other one")
        if not self.atomic and found is not None:
            # A part went back to an older state. Without its fence the next writer empties the region.
            self._rows.run(WIPE, [self._wipe(bucket, self.region, b"")])
            fence = self._keys.fence(bucket, self.region)
            self._connections.exchange([(self._keys.slots[bucket], ("DEL", fence))], writes=True)
        state = "is as of earlier" if found else "is gone"
        what = f"the server lost its memory: what it held of the region {state}; nothing was written"
        return ConflictError(what, where=self._where, remedy="The lanes fill the region again from the log")

    # -- the lease ----------------------------------------------------------------------------------------------

    def _take_lease(self) -> None:
        slot, lease = self._keys.lease_slot, self._keys.lease(self.region)
        milliseconds = int(self._connections.address.lease * 1e3)
        put = ("SET", lease, self._holder, "NX", "PX", milliseconds)
        for _ in range(3):
            [done, holder, left] = self._connections.exchange(
                [(slot, put), (slot, ("GET", lease)), (slot, ("PTTL", lease))], writes=True
            )
            if done is not None or holder == self._holder:
                return
            if isinstance(holder, bytes):
                if holder not in _given_up and not _is_dead(holder.decode()):
                    raise self._held(holder.decode(), left)
                self._swap_lease(holder, self._holder)
        raise self._held("another process", 0)

    def _held(self, holder: str, left: object) -> SetupError:
        name = holder.rpartition(" ")[0]
        what = f"{name or holder} is already writing region {self.region!r}"
        seconds = max(int(left), 0) / 1e3 if isinstance(left, int) else 0.0
        remedy = f"Let it, or stop it: {seconds:.1f} s after its death the region is free; a region has one writer"
        return SetupError(what, where=self._where, remedy=remedy)

    def _swap_lease(self, holder: bytes, following: bytes) -> bool:
        milliseconds = b"%d" % int(self._connections.address.lease * 1e3)
        lease = self._keys.lease(self.region)
        return self._rows.run(SWAP, [(0, [lease], [holder, following, milliseconds])]) == [1]

    def _give_lease(self) -> None:
        self._swap_lease(self._holder, b"")

    def _renew(self) -> None:
        """Renews the lease until the end, and looks whether the fences are still there."""
        while not self._ended.wait(self._connections.address.lease / 3):
            with contextlib.suppress(UnavailableError):  # the next turn tries again; the fence guards meanwhile
                try:
                    if not self._swap_lease(self._holder, self._holder):
                        self._take_lease()
                    lost = [bucket for bucket, fence in self._fences().items() if fence is None]
                    if lost and self._fault is None:
                        self._fault = self._refused(lost[0], None)
                except SetupError as error:
                    self._fault = ConflictError(error.what, where=self._where, remedy=_REOPEN)
        self._connections.close_own()

    # -- the fences ---------------------------------------------------------------------------------------------

    def _fences(self) -> dict[int, object]:
        slots = self._keys.slots
        asked = [(slots[bucket], ("GET", self._keys.fence(bucket, self.region))) for bucket in self._keys.fenced]
        return dict(zip(self._keys.fenced, self._connections.exchange(asked, writes=True), strict=True))

    def _take_fences(self) -> None:
        """Puts our fences in the place of those of the last writer; if any is gone, so are rows, and all must go."""
        fences = self._fences()
        if None in fences.values():
            if any(fences.values()):
                _log.error(
                    "%s: the server lost a part of its memory; the region is emptied and filled anew", self._where
                )
            gone = [(self._keys.slots[b], ("DEL", self._keys.fence(b, self.region))) for b in self._keys.fenced]
            self._connections.exchange(gone, writes=True)
            first = self._fence(0)
            wipes = [self._wipe(b, self.region, first if b in self._keys.fenced else b"") for b in range(BUCKETS)]
            # A fence is set last, so that an interrupted clearing is begun anew.
            self._rows.run(WIPE, wipes[::-1])
            return
        own = [
            (self._keys.slots[b], ("SET", self._keys.fence(b, self.region), self._fence(0))) for b in self._keys.fenced
        ]
        self._connections.exchange(own, writes=True)

    def _wipe(self, bucket: int, region: str, fence: bytes) -> tuple[int, list[bytes], list[bytes]]:
        keys = [self._keys.spaces(bucket, region), self._keys.fence(bucket, region)]
        return bucket, keys, [self._keys.tag(bucket) + b"r", self._keys.tag(bucket) + b"i", fence]


class ValkeyTransaction:
    """Keeps the promise of Transaction: changes are kept here until the commit, and overlie what is read."""

    def __init__(self, region: str, rows: ValkeyRows) -> None:
        self._region, self._rows = region, rows
        self._changed: dict[str, dict[bytes, bytes | None]] = {}
        self._there: dict[str, set[bytes]] = {}
        self._dropped: set[str] = set()

    def get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        changed = self._of(space)
        asked = [] if space in self._dropped else [key for key in keys if key not in changed]
        found: dict[bytes, bytes | None] = {}
        if asked:
            [values] = self._rows.read([(space, asked)])
            found = dict(zip(asked, values, strict=True))
            there = self._there.setdefault(space, set())
            there.update(key for key, value in found.items() if value is not None)
        return [changed[key] if key in changed else found.get(key) for key in keys]

    def put(self, space: str, items: Iterable[tuple[bytes, bytes]]) -> None:
        changed = self._of(space)
        for key, value in items:
            if len(key) > _MAX_KEY:
                what = f"a key of {len(key)} bytes is too long"
                remedy = f"Keys may have up to {_MAX_KEY} bytes: shorten it, or use a hash of it as the key"
                raise ContractError(what, where=space, remedy=remedy)
            changed[key] = value

    def delete(self, space: str, keys: Iterable[bytes]) -> None:
        self._of(space).update(dict.fromkeys(keys))

    def scan(self, space: str, first: bytes = b"", last: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        changed = self._of(space)
        stored = () if space in self._dropped else self._rows.scan(space)
        together: dict[bytes, bytes | None] = {**dict(stored), **changed}
        for key in sorted(together):
            value = together[key]
            if value is not None and first <= key and (last is None or key < last):
                yield key, value

    def drop(self, space: str) -> None:
        self._of(space).clear()
        self._there.pop(space, None)
        self._dropped.add(space)

    def _of(self, space: str) -> dict[bytes, bytes | None]:
        changed = self._changed.get(space)
        if changed is None:
            if region_of(space) != self._region:
                what = f"space {space!r} is not in region {self._region!r}"
                raise DefinitionError(what, where=space, remedy=f"Use the writer of region {region_of(space)!r}")
            changed = self._changed[space] = {}
        return changed

    def groups(self) -> dict[int, tuple[str, list[bytes], list[bytes]]]:
        """The steps of the commit, their keys and arguments: of each fence, all that it guards."""
        groups: dict[int, tuple[list[str], list[bytes], list[bytes]]] = {}
        keys = self._rows.keys
        for space, changed in self._changed.items():
            buckets: dict[int, list[bytes]] = {bucket: [] for bucket in range(BUCKETS if space in self._dropped else 0)}
            for key in changed:
                buckets.setdefault(crc32(key) & 255, []).append(key)
            for bucket, chosen in buckets.items():
                steps, named, arguments = groups.setdefault(bucket if bucket in keys.fenced else 0, ([], [], []))
                self._add(space, bucket, chosen, steps, named, arguments)
        return {bucket: ("".join(steps), named, arguments) for bucket, (steps, named, arguments) in groups.items()}

    def _add(
        self, space: str, bucket: int, chosen: list[bytes], steps: list[str], named: list[bytes], arguments: list[bytes]
    ) -> None:
        keys, changed, there = self._rows.keys, self._changed[space], self._there.get(space, ())
        head = keys.heads(space)[bucket]
        steps.append("I")
        named.append(keys.index(bucket, space))
        arguments.append(b"%d" % len(head))
        if space in self._dropped:
            steps.append("X")
            arguments.append(head)
        if any(changed[key] is not None and key not in there for key in chosen):
            steps.append("R")
            named.append(keys.spaces(bucket, self._region))
            arguments.append(head[-8:])
        for key in chosen:
            value = changed[key]
            named.append(head + key)
            if value is None:
                steps.append("D")
            else:
                steps.append("S" if key in there else "N")
                arguments.append(value)


def _this_process() -> str:
    """Names this process so that another can see whether it is still alive, if both run on one machine."""
    return f"process {os.getpid()} on {socket.gethostname()} ({_machine()})"


def _machine() -> str:
    """The boot of this machine, and which process ids are ours; nothing where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:13]
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_dead(holder: str) -> bool:
    words = holder.split()
    if not _machine() or f"({_machine()})" not in holder or len(words) < 2 or not words[1].isdigit():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
