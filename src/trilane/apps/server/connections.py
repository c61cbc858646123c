"""The connections of one server process: accepted, watched, and ended when the process is to end.

Laws: workers that share a socket share what comes in, as each takes one connection at a time, and none if another has
fewer; a process that can open no more files goes on with those it has; a connection on which nothing comes forward is
ended; at the end everybody who asked is answered, those too who came until the port was closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any

from trilane.apps.server.balance import Balance
from trilane.apps.server.connection import Connection
from trilane.apps.server.http import error_body, retry_after, status_of
from trilane.apps.server.request import Pairs, Request
from trilane.errors import TrilaneError

__all__ = ["Connections"]

_log = logging.getLogger(__name__)
_HEAD, _BODY, _IDLE, _TAKING = 10, 60, 620, 30  # seconds; load balancers keep idle connections for up to 600
_BACKLOG = 2048  # connections that wait to be taken
_LOOK = 0.02  # seconds between two looks at who is left
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BATCH = 64  # connections that one who shares with nobody takes at a time
_BACK = 0.001  # seconds in which another worker may take what waits


class Connections:
    """Takes connections from `listener`, a bound socket, and gives their requests to `answer`.

    `balance`: with the other processes that take connections from it, if there are any.
    """

    def __init__(
        self,
        answer: Callable[[Request], Coroutine[Any, Any, None]],
        listener: socket.socket,
        *,
        loop: asyncio.AbstractEventLoop,
        balance: Balance | None = None,
    ) -> None:
        self._answer, self._listener, self._loop, self._balance = answer, listener, loop, balance
        self._open: set[Connection] = set()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._listens = False
        self.parting = False
        self.tick, self.date, self.held = 0, b"", 0
        self._timer: asyncio.TimerHandle | None = None
        listener.setblocking(False)

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> None:
        """Takes connections from now on."""
        self._listener.listen(_BACKLOG)
        self._second()
        if self._balance is not None:
            self._balance.open()
        self._listen()

    async def close(self, *, longest: float, linger: float = 0.0, replaced: bool = True) -> None:
        """Takes no more connections, and ends each once its request is answered; after `longest` seconds, at once.

        Those without a request have `linger` seconds to send one, as a client may be about to. Where nobody `replaced`
        this one, connections are taken for as long before that, or until the port is closed: nobody else would.
        """
        self.parting = True
        if replaced:
            self._deafen()
        began = last = self._loop.time()
        while (self._open or self._beginning or self._listens) and self._loop.time() < began + longest:
            if self._loop.time() < last + linger:
                await asyncio.sleep(_LOOK)
            elif self._listens:
                self._take_rest()
                last = self._loop.time()  # since when nobody came
            else:
                for connection in [*self._open]:
                    connection.close()
                await asyncio.sleep(_LOOK)
        for connection in [*self._open]:
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    # -- for its connections ------------------------------------------------------------------------------------

    def refused(self, error: TrilaneError) -> tuple[int, Pairs, bytes]:
        """The answer to what is no request."""
        return status_of(error), retry_after(error), error_body(error)

    def made(self, connection: Connection) -> None:
        """A connection is there."""
        self._open.add(connection)
        if self._balance is not None:
            self._balance.has(len(self._open))

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if self._balance is not None:
            self._balance.has(len(self._open))

    # -- the listening socket -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        if not self._listens and not self.parting:
            self._listens = True
            self._loop.add_reader(self._listener, self._accept)

    def _deafen(self) -> None:
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._listener)
            if self._balance is not None and self.parting:
                self._balance.close()

    def _take_rest(self) -> None:
        """Takes what waits, and then no more."""
        if self._listens:
            self._accept(_BACKLOG)
            self._deafen()

    def _accept(self, most: int = 0) -> None:
        balance = None if self.parting else self._balance
        if balance is not None and balance.stands_back():
            self._deafen()
            self._loop.call_later(_BACK, self._listen)
            return
        for _ in range(most or (_BATCH if self._balance is None else 1)):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # whoever started us has closed the door
                    self._deafen()
                    return
                if error.errno not in _NO_FILES:
                    raise
                _log.error("no connection can be taken, with %d open: %s", len(self._open), error)
                self._deafen()
                self._loop.call_later(0.5, self._listen)
                return
            if balance is not None:
                balance.took()
            accepted.setblocking(False)
            if accepted.family in (socket.AF_INET, socket.AF_INET6):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._begin(accepted))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: Connection(self, self._answer, self._loop), accepted)
        except OSError as error:  # it went away before it was here
            _log.debug("a connection was lost as it began: %s", error)
            accepted.close()

    # -- time ---------------------------------------------------------------------------------------------------

    def _second(self) -> None:
        self._timer = self._loop.call_later(1.0, self._second)
        self.tick += 1
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode("ascii")
        for connection in [*self._open]:
            connection.look(head=_HEAD, body=_BODY, idle=_IDLE, taking=_TAKING)
