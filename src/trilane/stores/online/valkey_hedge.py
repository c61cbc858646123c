"""Reads from Valkey or Redis that are asked a second time where the first answer is late.

Laws: the first whole answer wins, and is one snapshot of one server; the reply of the other is read away before its
connection is used again, or the connection is closed; where both fail, the read fails, by the time it was given.
Threads that read at the same time learn together, and may by then have asked once each too often.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from trilane.errors import UnavailableError
from trilane.stores.online.hedging import Hedging
from trilane.stores.online.valkey_wire import Command, Connection, Connections, Reply, ReplyError, readable, translate

__all__ = ["Hedge"]


class Hedge:
    """Asks the server, and when it is late its replica, or itself by a second connection."""

    def __init__(self, connections: Connections) -> None:
        self._connections, self._address = connections, connections.address
        self.hedging, self._learning = Hedging(self._address.hedge), threading.Lock()

    def exchange(self, groups: Sequence[tuple[int, Command]], *, within: float = math.inf) -> list[Reply]:
        """The answer of each command, as `Connections.exchange` gives it."""
        delay, start = self.hedging.delay, time.monotonic()
        if delay is None or delay >= min(within, self._address.timeout):
            replies = self._connections.exchange(groups, within=within)
        else:
            replies = self._raced([command for _, command in groups], delay, start, min(within, self._address.timeout))
        with self._learning:
            self.hedging.note(time.monotonic() - start)
        return replies

    def _raced(self, commands: list[Command], delay: float, start: float, within: float) -> list[Reply]:
        first = self._connections.to(self._address.hosts[0], writes=False)
        fault: UnavailableError | None = None
        try:
            first.send(commands, within)
            if readable([first.fileno()], delay):
                return self._checked(first.receive())
        except UnavailableError as error:  # it may have closed an idle connection, or be gone: the other may answer
            fault = error
        with self._learning:
            self.hedging.ask()
        other = self._address.replica or self._address.hosts[0]
        second = self._connections.to(other, writes=False, second=True)
        left = [] if fault else [first]
        try:
            second.send(commands, max(start + within - time.monotonic(), 1e-3))
            left.append(second)
        except UnavailableError as error:
            fault = error
        winner, replies = self._first_of(left, start + within, fault)
        with self._learning:
            self.hedging.decide(second=winner is second)
        return self._checked(replies)

    def _first_of(
        self, asked: list[Connection], until: float, fault: UnavailableError | None
    ) -> tuple[Connection, list[Reply]]:
        """The first whole answer; the others are left to be read away."""
        while asked:
            ready = readable([one.fileno() for one in asked], max(until - time.monotonic(), 0.0))
            one = next((one for one in asked if one.fileno() in ready), asked[0])
            asked.remove(one)
            try:
                replies = one.receive()
            except UnavailableError as error:
                fault = error
                continue
            for other in asked:
                other.leave()
            return one, replies
        raise fault or UnavailableError("nobody was asked", where=self._address.where)

    def _checked(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise translate(reply, self._address.where)
        return replies
