"""Connections to Valkey or Redis: one exchange sends any number of commands and takes their answers, by a deadline.

A thin layer over the hiredis parser, because a general client spends more on each answer than the server does.
Laws: after a fault the connection is closed, so that no answer is ever taken for that of another command; a server that
could not be reached is not tried again before `_REST` seconds, so that a dead one costs a reader nothing.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import hiredis

from trilane.errors import SetupError, TrilaneError, UnavailableError
from trilane.stores.online.valkey_address import Address

__all__ = ["Command", "Connection", "Connections", "Reply", "ReplyError", "readable", "slot_of", "translate"]

Command: TypeAlias = tuple[bytes | str | int, ...] | bytes  # bytes: as it goes over the wire
Reply: TypeAlias = object

_REST = 0.2
_SLOTS = 16_384
_AT_ONCE = 1 << 16  # bytes; a larger buffer would be mapped and given back for every answer
_BROKEN = (
    "OOM",
    "LOADING",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "READONLY",
    "BUSY",
    "MISCONF",
    "MASTERDOWN",
    "NOREPLICAS",
    "ASK",
)
_REFUSED = ("NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT")

ReplyError = hiredis.ReplyError


class Connection:
    """One connection to one node, in one thread."""

    def __init__(self, address: Address, node: tuple[str, int], timeout: float) -> None:
        self._address, self._node, self._timeout = address, node, timeout
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._awaited = self._owed = 0
        self._limit = self._until = 0.0
        self._rest_until = 0.0

    def send(self, commands: Sequence[Command], within: float = math.inf) -> None:
        """Sends commands, to be answered `within` seconds; `receive` or `leave` follows. Raises UnavailableError."""
        self._limit = min(self._timeout, within)
        self._until = time.monotonic() + self._limit
        packed = _packed(commands)
        try:
            if self._owed:
                self._settle()
            if self._socket is None:
                self._connect()
            self._write(packed)
        except OSError as error:
            raise self._fault(error) from error
        self._awaited = len(commands)

    def receive(self) -> list[Reply]:
        """The answers of what was sent, an error in the place of an answer as a ReplyError."""
        replies: list[Reply] = []
        gets, feed = self._reader.gets, self._reader.feed
        try:
            while len(replies) < self._awaited:
                reply = gets()
                if reply is not False:
                    replies.append(reply)
                    continue
                feed(self._received())
        except (OSError, hiredis.ProtocolError) as error:
            raise self._fault(error) from error
        return replies

    def call(self, commands: Sequence[Command], within: float = math.inf) -> list[Reply]:
        """Sends commands and takes their answers."""
        self.send(commands, within)
        return self.receive()

    def fileno(self) -> int:
        """The socket while there is one, else -1."""
        return -1 if self._socket is None else self._socket.fileno()

    def leave(self) -> None:
        """Nobody needs the answers of what was sent: they are read away before the connection is used again."""
        self._owed = self._awaited

    def _settle(self) -> None:
        """Reads away what is owed, if all of it has come; else the connection is closed."""
        while self._owed and self._socket is not None:
            if self._reader.gets() is not False:
                self._owed -= 1
            elif readable([self._socket.fileno()], 0.0):
                self._reader.feed(self._received())
            else:
                self.close()

    def close(self) -> None:
        """Closes; the next command connects anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._owed = 0
        self._reader = hiredis.Reader(replyError=ReplyError)

    def _received(self) -> bytes:
        if self._socket is None:
            raise ConnectionResetError("the connection is closed")
        self._socket.settimeout(self._left())
        received = self._socket.recv(_AT_ONCE)
        if not received:
            raise ConnectionResetError("the server closed the connection")
        return received

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {self._limit:.3g} s")
        return left

    def _write(self, packed: bytes) -> None:
        if self._socket is not None:
            self._socket.settimeout(self._left())
            self._socket.sendall(packed)

    def _connect(self) -> None:
        if time.monotonic() < self._rest_until:
            raise ConnectionRefusedError("it could not be reached a moment ago")
        try:
            opened = socket.create_connection(self._node, timeout=self._left())
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._address.tls is not None:
                opened = self._address.tls.wrap_socket(opened, server_hostname=self._node[0])
            self._socket = opened
            self._greet()
        except OSError:
            self._rest_until = time.monotonic() + _REST
            raise

    def _greet(self) -> None:
        login: list[Command] = []
        if self._address.password:
            login.append(("AUTH", *([self._address.user] if self._address.user else []), self._address.password))
        if self._address.database:
            login.append(("SELECT", self._address.database))
        if not login:
            return
        self._write(_packed(login))
        self._awaited = len(login)
        for reply in self.receive():
            if isinstance(reply, ReplyError):
                self.close()
                raise translate(reply, self._address.where)

    def _fault(self, error: Exception) -> UnavailableError:
        self.close()
        host, port = self._node
        what = f"{host}:{port} does not answer: {error}"
        remedy = "Start it, or give the server longer with `?timeout=1s`; the lanes catch up by themselves"
        return UnavailableError(what, where=self._address.where, remedy=remedy)


def translate(error: Exception, where: str) -> TrilaneError:
    """Our error for what the server answered instead of an answer."""
    text = str(error)
    code = text.partition(" ")[0]
    if code == "CROSSSLOT":
        return SetupError("this server is part of a cluster", where=where, remedy="Add `?cluster=true` to the URL")
    if code == "OOM":
        return UnavailableError("the server's memory is full", where=where, remedy="Raise its `maxmemory`")
    if code in _BROKEN:
        return UnavailableError(f"the server refuses for now: {text}", where=where, remedy="Try again")
    if code in _REFUSED:
        return SetupError(f"the server refuses: {text}", where=where, remedy="Correct the login in the URL")
    return SetupError(f"the server refuses: {text}", where=where, remedy="Use Valkey 7.2 or Redis 6.2 or later")


class Connections:
    """Connections of each thread to each node; knows which node has which slot."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._own = threading.local()
        self._all: list[Connection] = []
        self._nodes: list[tuple[str, int]] = []
        self._closed = False

    def exchange(
        self,
        groups: Sequence[tuple[int, Command]],
        *,
        writes: bool = False,
        again: bool = True,
        within: float = math.inf,
    ) -> list[Reply]:
        """One round trip to all nodes concerned: for each (slot, command) its answer. Raises our errors.

        `writes` chooses the longer timeout, `within` a shorter one; with `again` a server that closed an idle
        connection is asked once more.
        """
        if self._closed:
            raise SetupError("the online store is closed", where=self.address.where, remedy="Open it again")
        replies: list[Reply] = []
        for attempt in range(3):
            replies = self._once(groups, writes=writes, again=again and attempt == 0, within=within)
            moved = [i for i, reply in enumerate(replies) if _is_moved(reply)]
            if not moved:
                break
            # The slots have moved to other nodes. What was refused was not done, so it is sent once more.
            self._nodes = []
            if len(moved) < len(replies):
                later = self.exchange([groups[i] for i in moved], writes=writes, again=again, within=within)
                for i, reply in zip(moved, later, strict=True):
                    replies[i] = reply
                break
        for reply in replies:
            if isinstance(reply, ReplyError) and not str(reply).startswith("NOSCRIPT"):
                raise translate(reply, self.address.where)
        return replies

    def _once(self, groups: Sequence[tuple[int, Command]], *, writes: bool, again: bool, within: float) -> list[Reply]:
        try:
            return self._round(groups, writes=writes, within=within)
        except UnavailableError as error:
            self._nodes = []
            # A connection that lay idle may have been closed by the server; a commit must not be sent twice.
            if not again or isinstance(error.__cause__, TimeoutError):
                raise
            return self._round(groups, writes=writes, within=within)

    def _round(self, groups: Sequence[tuple[int, Command]], *, writes: bool, within: float) -> list[Reply]:
        if not self.address.cluster:
            return self.to(self.address.hosts[0], writes=writes).call([command for _, command in groups], within)
        nodes = self._nodes or self._discover()
        places: dict[tuple[str, int], list[int]] = {}
        for position, (slot, _) in enumerate(groups):
            places.setdefault(nodes[slot], []).append(position)
        replies: list[Reply] = [None] * len(groups)
        asked = []
        try:
            for node, positions in places.items():
                connection = self.to(node, writes=writes)
                connection.send([groups[position][1] for position in positions], within)
                asked.append((connection, positions))
            while asked:
                connection, positions = asked[0]
                for position, reply in zip(positions, connection.receive(), strict=True):
                    replies[position] = reply
                del asked[0]
        finally:
            for connection, _ in asked:
                connection.close()
        return replies

    def _discover(self) -> list[tuple[str, int]]:
        fault: TrilaneError | None = None
        for host in self.address.hosts:
            try:
                [reply] = self.to(host, writes=False).call([("CLUSTER", "SLOTS")])
            except UnavailableError as error:
                fault = error
                continue
            if isinstance(reply, ReplyError) or not isinstance(reply, list):
                what = f"{host[0]}:{host[1]} is not part of a cluster"
                raise SetupError(what, where=self.address.where, remedy="Leave out `cluster=true`")
            nodes = [host] * _SLOTS
            for first, last, (name, port, *_), *_ in reply:
                node = (name.decode() if name else host[0], int(port))
                nodes[int(first) : int(last) + 1] = [node] * (int(last) - int(first) + 1)
            self._nodes = nodes
            return nodes
        raise fault or SetupError("no host", where=self.address.where)

    def to(self, node: tuple[str, int], *, writes: bool, second: bool = False) -> Connection:
        """The connection of this thread to a node; or its `second` one."""
        own: dict[object, Connection] = self._own.__dict__.setdefault("connections", {})
        key = (os.getpid(), node, writes, second)
        connection = own.get(key)
        if connection is None:
            timeout = self.address.write_timeout if writes else self.address.timeout
            connection = own[key] = Connection(self.address, node, timeout)
            self._all.append(connection)
        return connection

    def close_own(self) -> None:
        """Closes the connections of this thread."""
        for connection in self._own.__dict__.pop("connections", {}).values():
            connection.close()
            self._all.remove(connection)

    def close(self) -> None:
        """Closes the connections of all threads."""
        self._closed = True
        for connection in self._all:
            connection.close()


def _packed(commands: Sequence[Command]) -> bytes:
    pack = cast(Callable[[Command], bytes], hiredis.pack_command)  # the stub promises one element only
    return b"".join([command if isinstance(command, bytes) else pack(command) for command in commands])


def readable(sockets: Sequence[int], seconds: float) -> list[int]:
    """Those of `sockets` of which something can be read within `seconds`."""
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN)
    return [found for found, _ in poll.poll(math.ceil(seconds * 1e3))]


def _is_moved(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("MOVED")


def slot_of(tag: bytes) -> int:
    """The slot of keys with the hash tag `tag`, as the cluster specification defines it (CRC-16/XMODEM)."""
    crc = 0
    for byte in tag:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % _SLOTS
