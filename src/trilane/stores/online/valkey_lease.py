"""Leases in Valkey or Redis: keys that expire unless their holder renews them.

Laws: a lease is taken only where there is none, or where its holder is known to be dead: a process of this machine that
is gone, or one that gave it up. It does not keep out a holder that stood still for longer than the lease and goes on:
that does the fence of whoever writes. One thread renews all leases of a store.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

from trilane.errors import ConflictError, SetupError, TrilaneError, UnavailableError
from trilane.stores.online.protocol import Holder
from trilane.stores.online.valkey_rows import LEASES, SWAP, ValkeyRows
from trilane.stores.online.valkey_wire import Connections

__all__ = ["Renewals", "ValkeyLease", "holders"]

_given_up: set[bytes] = set()  # holders of this process that could not give their lease back
_REOPEN = "Open it anew, and read again what was believed of it"


class Renewals:
    """A thread that takes the turns of all leases, three times in the length of one."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._turns: dict[object, Callable[[], None]] = {}
        self._changing = threading.Lock()
        self._running = False
        self._emptied = threading.Event()

    def add(self, owner: object, turn: Callable[[], None]) -> None:
        """From now on takes `turn`, which raises UnavailableError if the server is away."""
        with self._changing:
            self._turns[owner] = turn
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="leases", daemon=True).start()

    def remove(self, owner: object) -> None:
        with self._changing:
            self._turns.pop(owner, None)
            if not self._turns:
                self._emptied.set()

    def _run(self) -> None:
        while True:
            self._emptied.wait(self._connections.address.lease / 3)
            with self._changing:
                self._emptied.clear()
                turns = list(self._turns.values())
                if not turns:
                    self._running = False
                    break
            with contextlib.suppress(UnavailableError):  # the next round tries again; the fences guard meanwhile
                for turn in turns:
                    turn()
        self._connections.close_own()


class ValkeyLease:
    """Keeps the promise of Lease. `looked` is called after each renewal, and may find a fault of its own."""

    def __init__(
        self,
        group: str,
        name: str,
        rows: ValkeyRows,
        connections: Connections,
        renewals: Renewals,
        *,
        holder: str = "",
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._group, self._name = group, name
        self._what = f"part {name!r} of region {group!r}" if name else f"region {group!r}"
        self.where = f"{connections.address.where} {self._what}"
        self.token = secrets.token_hex(8)
        self.lost: TrilaneError | None = None
        self._rows, self._connections, self._renewals = rows, connections, renewals
        self._key = rows.keys.lease(group, name)
        self._holder = f"{_this_process()} {holder or '-'} {self.token}".encode()
        self._milliseconds = int(connections.address.lease * 1e3)
        self._looked = looked
        self._using = threading.Lock()
        self._closed = False
        self._take()

    @property
    def closed(self) -> bool:
        return self._closed

    def keep(self) -> None:
        """Renews it from now on."""
        self._renewals.add(self, self._turn)

    def close(self) -> None:
        self._renewals.remove(self)
        with self._using:
            if self._closed:
                return
            self._closed = True
            try:
                self._swap(self._holder, b"")
            except TrilaneError:  # it expires by itself, or falls to the next of this process
                _given_up.add(self._holder)

    def _turn(self) -> None:
        with self._using:
            if self._closed:
                return
            try:
                if not self._swap(self._holder, self._holder):
                    self._take()
            except SetupError as error:
                self.lost = self.lost or ConflictError(error.what, where=self.where, remedy=_REOPEN)
            else:
                self._looked()

    def _take(self) -> None:
        keys = self._rows.keys
        slot, known = keys.lease_slot, keys.leases(self._group)
        put = ("SET", self._key, self._holder, "NX", "PX", self._milliseconds)
        for _ in range(3):
            asked = [put, ("SADD", known, self._name), ("GET", self._key), ("PTTL", self._key)]
            # The name comes after the lease: a name without one is removed by whoever looks.
            done, _, holder, left = self._connections.exchange([(slot, command) for command in asked], writes=True)
            if done is not None or holder == self._holder:
                return
            if isinstance(holder, bytes):
                if holder not in _given_up and not _is_dead(holder.decode()):
                    raise self._held(holder.decode(), left)
                self._swap(holder, self._holder)
        raise self._held("another process", 0)

    def _held(self, text: str, left: object) -> SetupError:
        holder = _parsed(text)
        who = f"{holder.process}, worker {holder.name!r}," if holder.name else holder.process
        what = f"{who} is already writing {self._what}"
        seconds = max(int(left), 0) / 1e3 if isinstance(left, int) else 0.0
        remedy = f"Let it, or stop it: {seconds:.1f} s after its death it is free; a region, or a part, has one writer"
        return SetupError(what, where=self.where, remedy=remedy, held_by=who)

    def _swap(self, holder: bytes, following: bytes) -> bool:
        milliseconds = b"%d" % self._milliseconds
        return self._rows.run(SWAP, [(0, [self._key], [holder, following, milliseconds])]) == [1]


def holders(rows: ValkeyRows, group: str) -> dict[str, Holder]:
    """Who has the names of `group`. What is known to be dead has none."""
    keys = rows.keys
    [reply] = rows.run(LEASES, [(0, [keys.leases(group)], [keys.lease(group, "x")[:-1]])])
    flat = cast(list[bytes], reply)
    found = {}
    for name, holder in zip(flat[::2], flat[1::2], strict=True):
        if name and holder not in _given_up and not _is_dead(holder.decode()):
            found[name.decode()] = _parsed(holder.decode())
    return dict(sorted(found.items()))


def _parsed(holder: str) -> Holder:
    """`process 7 on host (boot pid:[1]) name token`, as who it is."""
    process, _, rest = holder.rpartition(" ")[0].rpartition(" ")
    return Holder("" if rest == "-" else rest, process) if process else Holder("", holder)


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
