"""An online store in Valkey or Redis, alone or as a cluster: a multi-get for a read, a script for a commit.

Laws: a commit checks the fence and moves it on in the script that writes, so a writer that was replaced, and one whose
rows the server has lost or taken back, changes nothing and is told. One server applies a transaction whole (`atomic`);
a cluster does so for each bucket of keys, in no order, and the lanes make a replay harmless.

A region, or a part of one, is held by a lease that its writer renews. One of which the server lost some is emptied when
it gets its next writer, so that the lanes fill it again; the other parts of the region stay as they are.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from zlib import crc32

from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError, TrilaneError
from trilane.stores.online.hedging import Hedging
from trilane.stores.online.protocol import Holder
from trilane.stores.online.valkey_address import parse_address
from trilane.stores.online.valkey_lease import Renewals, ValkeyLease, holders
from trilane.stores.online.valkey_rows import BUCKETS, COMMIT, WIPE, ValkeyRows, region_of
from trilane.stores.online.valkey_wire import Connections

__all__ = ["ValkeyStore", "open_store"]

_log = logging.getLogger(__name__)

_MAX_KEY = 4_096


def open_store(url: str) -> ValkeyStore:
    """The store at `valkey://[user:password@]host[:port][/database]`, over TLS with `valkeys://`.

    `?timeout=250ms` of a read, `write_timeout=10s` of a commit, `hedge=0.05` the share of reads that may be asked
    twice, `replica=host:port` where, `lease=10s` after which the region of a dead writer is free, `cluster=true` (hosts
    separated by commas), `prefix=trilane`, `ca=`, `cert=`, `key=`, `verify=false`.
    """
    return ValkeyStore(Connections(parse_address(url)))


class ValkeyStore:
    """Keeps the promise of OnlineStore. Nothing is sent before the first use."""

    max_key_bytes = _MAX_KEY

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._rows = ValkeyRows(connections)
        self._renewals = Renewals(connections)

    @property
    def atomic(self) -> bool:
        return self._rows.atomic

    @property
    def hedging(self) -> Hedging | None:
        """What is known of second questions; None if none are asked."""
        return self._rows.hedge.hedging if self._rows.hedge else None

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        return self._rows.read(requests, within=within)

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        yield from self._rows.scan(space)

    def writer(self, region: str, part: str = "", *, holder: str = "") -> ValkeyWriter:
        return ValkeyWriter(region, part, self._rows, self._connections, self._renewals, holder=holder)

    def lease(self, group: str, name: str, *, holder: str = "") -> ValkeyLease:
        lease = ValkeyLease(group, name, self._rows, self._connections, self._renewals, holder=holder)
        lease.keep()
        return lease

    def holders(self, group: str) -> dict[str, Holder]:
        return holders(self._rows, group)

    def close(self) -> None:
        self._connections.close()


class ValkeyWriter:
    """Keeps the promise of Writer, by a lease and a fence that each commit moves on."""

    def __init__(
        self,
        region: str,
        part: str,
        rows: ValkeyRows,
        connections: Connections,
        renewals: Renewals,
        *,
        holder: str = "",
    ) -> None:
        self.region, self._part = region, part
        self._rows, self._connections = rows, connections
        self._keys = rows.keys
        self._counts = dict.fromkeys(self._keys.fenced, 0)
        self._fault: TrilaneError | None = None
        self._lease = ValkeyLease(region, part, rows, connections, renewals, holder=holder, looked=self._look)
        self._where = self._lease.where
        try:
            if part:
                name = ("SADD", self._keys.parts(region), part)
                self._connections.exchange([(self._keys.lease_slot, name)], writes=True)
            self._take_fences()
        except BaseException:
            self._lease.close()
            raise
        self._lease.keep()

    @property
    def atomic(self) -> bool:
        return self._rows.atomic

    @contextlib.contextmanager
    def transaction(self) -> Iterator[ValkeyTransaction]:
        fault = self._fault or self._lease.lost
        if fault is not None:
            raise fault
        if self._lease.closed:
            raise SetupError("the writer is closed", where=self._where, remedy="Open it again")
        changes = ValkeyTransaction(self.region, self._part, self._rows)
        yield changes
        try:
            self._commit(changes)
        except TrilaneError as error:
            # Some of it may be written. Nothing more is, until the region is read again by a new writer.
            self._fault = error
            raise

    def close(self) -> None:
        self._lease.close()

    # -- commits ------------------------------------------------------------------------------------------------

    def _commit(self, changes: ValkeyTransaction) -> None:
        groups = changes.groups()
        calls = []
        for bucket, (steps, keys, arguments) in groups.items():
            fences = [self._fence(self._counts[bucket]), self._fence(self._counts[bucket] + 1)]
            fence = self._keys.fence(bucket, self.region, self._part)
            calls.append((bucket, [fence, *keys], [*fences, steps.encode(), *arguments]))
        if not calls:
            return
        for (bucket, *_), reply in zip(calls, self._rows.run(COMMIT, calls), strict=True):
            if reply != 1:
                raise self._refused(bucket, reply)
            self._counts[bucket] += 1

    def _fence(self, count: int) -> bytes:
        return f"{self._lease.token}:{count}".encode()

    def _refused(self, bucket: int, found: object) -> TrilaneError:
        if isinstance(found, bytes) and not found.startswith(self._lease.token.encode()):
            what = "another writer has taken over the region; nothing was written"
            return ConflictError(what, where=self._where, remedy="Stop this process, or the other one")
        if not self.atomic and found is not None:
            # A part went back to an older state. Without its fence the next writer empties the region.
            self._rows.run(WIPE, [self._wipe(bucket, b"")])
            fence = self._keys.fence(bucket, self.region, self._part)
            self._connections.exchange([(self._keys.slots[bucket], ("DEL", fence))], writes=True)
        state = "is as of earlier" if found else "is gone"
        what = f"the server lost its memory: what it held of the region {state}; nothing was written"
        return ConflictError(what, where=self._where, remedy="The lanes fill it again from the log")

    # -- the fences ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Whether the fences are still there."""
        lost = [bucket for bucket, fence in self._fences().items() if fence is None]
        if lost and self._fault is None:
            self._fault = self._refused(lost[0], None)

    def _fences(self) -> dict[int, object]:
        slots, fence = self._keys.slots, self._keys.fence
        asked = [(slots[bucket], ("GET", fence(bucket, self.region, self._part))) for bucket in self._keys.fenced]
        return dict(zip(self._keys.fenced, self._connections.exchange(asked, writes=True), strict=True))

    def _take_fences(self) -> None:
        """Puts our fences in the place of those of the last writer; if any is gone, so are rows, and all must go."""
        fences = self._fences()
        slots, fence, first = self._keys.slots, self._keys.fence, self._fence(0)
        if None in fences.values():
            if any(fences.values()):
                _log.error("%s: the server lost a part of its memory; it is emptied and filled anew", self._where)
            gone = [(slots[b], ("DEL", fence(b, self.region, self._part))) for b in self._keys.fenced]
            self._connections.exchange(gone, writes=True)
            wipes = [self._wipe(b, first if b in self._keys.fenced else b"") for b in range(BUCKETS)]
            # A fence is set last, so that an interrupted clearing is begun anew.
            self._rows.run(WIPE, wipes[::-1])
            return
        own = [(slots[b], ("SET", fence(b, self.region, self._part), first)) for b in self._keys.fenced]
        self._connections.exchange(own, writes=True)

    def _wipe(self, bucket: int, fence: bytes) -> tuple[int, list[bytes], list[bytes]]:
        spaces = self._keys.spaces(bucket, self.region, self._part)
        indexes = self._keys.index_head(bucket, self._part)
        keys = [spaces, self._keys.fence(bucket, self.region, self._part)]
        return bucket, keys, [self._keys.tag(bucket) + b"r", indexes, fence]


class ValkeyTransaction:
    """Keeps the promise of Transaction: changes are kept here until the commit, and overlie what is read."""

    def __init__(self, region: str, part: str, rows: ValkeyRows) -> None:
        self._region, self._part, self._rows = region, part, rows
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
        named.append(keys.index(bucket, space, self._part))
        arguments.append(b"%d" % len(head))
        if space in self._dropped:
            steps.append("X")
            arguments.append(head)
        if any(changed[key] is not None and key not in there for key in chosen):
            steps.append("R")
            named.append(keys.spaces(bucket, self._region, self._part))
            arguments.append(head[-8:])
        for key in chosen:
            value = changed[key]
            named.append(head + key)
            if value is None:
                steps.append("D")
            else:
                steps.append("S" if key in there else "N")
                arguments.append(value)
