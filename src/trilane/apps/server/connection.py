"""One HTTP/1.1 connection: bytes into requests, answers into bytes. Parsed by llhttp (httptools), carried by uvloop.

Laws: answers go out in the order of the requests; a request with a small body is given to whoever answers it when the
body is there, so that a slow sender keeps nothing but its connection waiting; no more is read than is worked on, and
nothing new is begun for a client who does not take its answers; what cannot be read is answered once (400, 431), and
ends the connection; what comes after a body changes nothing of its request; an offer to speak another protocol is read
as if it were not there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import httptools

from trilane.apps.server.heads import HEADS, NAMES, head_of, name_of
from trilane.apps.server.limits import BODIES, HEAD, LARGEST_BODY, PIPELINED, SMALL_BODY
from trilane.apps.server.request import Pairs, Request, early, no_room, too_large
from trilane.errors import ContractError, TrilaneError

__all__ = ["Connection", "Worker"]

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_HTTP = "this is no HTTP request: %s"
_LARGE_HEAD = f"the head of the request has {HEAD} bytes or more"
_methods = {b"GET": "GET", b"POST": "POST"}


class Worker(Protocol):
    """What the connections of a process have in common."""

    held: int
    """Bytes of large bodies that are on their way, or being answered."""

    @property
    def tick(self) -> int:
        """Seconds since it began; it moves once a second."""
        ...

    @property
    def date(self) -> bytes:
        """The line of the header `date`."""
        ...

    @property
    def parting(self) -> bool:
        """Whether clients shall come back on other connections."""
        ...

    def refused(self, error: TrilaneError) -> tuple[int, Pairs, bytes]:
        """The answer to what is no request."""
        ...

    def made(self, connection: Connection) -> None:
        """A connection is there."""
        ...

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        ...


class Connection(asyncio.Protocol):
    """A client's connection, whose requests `answer` answers."""

    def __init__(
        self,
        worker: Worker,
        answer: Callable[[Request], Coroutine[Any, Any, None]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._worker, self._answer, self._loop = worker, answer, loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._target, self._headers = b"", dict[str, str]()
        self._reading: Request | None = None  # whose head is read, and whose body is not
        self._in_head, self._head_size, self._came = False, 0, 0
        self._trails = False  # whether what comes is no chunk's body, and so trailers perhaps
        self._plainly = b""  # a head again, without an offer that it made
        self._current: Request | None = None  # which is being answered
        self._task: asyncio.Task[None] | None = None
        self._next: deque[Request] = deque()
        self._refusal: ContractError | None = None  # what follows all requests is none
        self._deaf = False  # nothing that comes is looked at any more
        self._ended = False  # the client sends no more
        self._paused = self._full = False
        self._held = 0  # bytes of a large body for which room is taken
        self.since = worker.tick  # since when it is as it is

    # -- the transport's calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._worker.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        for request in (self._current, self._reading, *self._next):
            if request is not None:
                request.end(early("the client closed the connection"))
        self._next.clear()
        self._transport = None
        self._let_go()
        self._worker.lost(self)

    def eof_received(self) -> bool:
        """The client sends no more, and may wait for answers still."""
        if self._reading is not None:
            self._reading.end(early("the client sent no more"))
            self._reading.keep_alive = False
        self._deaf = self._ended = True
        return self._current is not None

    def pause_writing(self) -> None:
        self._full, self.since = True, self._worker.tick

    def resume_writing(self) -> None:
        self._full, self.since = False, self._worker.tick
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._reading is None and not self._in_head:
            self.since = self._worker.tick
        self._came = len(data)
        if self._in_head or self._trails:
            self._head_size += self._came
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(_NO_HTTP % error, 400)
        if self._in_head:
            if self._head_size > HEAD:
                self._refuse(_LARGE_HEAD, 431)
        elif self._reading is not None and not self._deaf:
            if self._trails and self._head_size > HEAD:
                self._refuse(f"{HEAD} bytes or more of trailers follow", 431)
            elif not self._reading.begun and self._reading.is_large:
                self._begin(self._reading)

    # -- the parser's calls -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._in_head, self._head_size = True, 0
        self._target, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = NAMES.get(name) or name_of(name)
        text, headers = value.decode("latin-1").rstrip(), self._headers
        headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        parser, self._in_head = self._parser, False
        if self._deaf:
            return
        # It is measured only if what came is large enough for it.
        if self._head_size + self._came > HEAD and len(self._target) + sum(map(len, self._headers.values())) > HEAD:
            self._refuse(_LARGE_HEAD, 431)
            return
        host = self._headers.get("host")
        if (host is None or ", " in host) and parser.get_http_version() == "1.1":
            self._refuse("no host is named" if host is None else f"{host!r} is not one host", 400)
            return
        method, keep_alive, old = parser.get_method(), parser.should_keep_alive(), False
        if "connection" in self._headers:
            version = parser.get_http_version()
            if parser.should_upgrade() and method != b"CONNECT":
                self._plainly = self._without_offer(method, version)
                return
            old = version == "1.0"
        self._reading = Request(
            self, _methods.get(method) or method.decode("ascii"), self._target, self._headers, keep_alive, old
        )

    def on_body(self, body: bytes) -> None:
        request = self._reading
        if request is None or self._deaf:
            return
        self._trails = False
        request.take(body)
        if request.size > LARGEST_BODY:
            request.end(too_large(request.size))
            if request.size > 2 * LARGEST_BODY:  # it was told, and goes on
                self.abort()
        elif request.size > SMALL_BODY and not (request.is_read or request.answered):
            self._pause()

    def on_chunk_header(self) -> None:
        # A trailer is none of the headers, which whoever let the request through has looked at, and nobody heeds it.
        self._trails, self._head_size, self._headers = True, 0, {}

    def on_chunk_complete(self) -> None:
        self._trails = False

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if request is None or self._deaf:
            return
        request.end()
        if not request.begun:
            self._begin(request)

    # -- requests and answers -----------------------------------------------------------------------------------

    def wants_body(self, request: Request) -> None:
        size = request.length if request.length >= 0 else LARGEST_BODY
        if self._worker.held + size > BODIES:
            request.end(no_room())
            return
        self._held = size
        self._worker.held += size
        self._resume()
        if request.expects and not request.size and self._transport is not None:
            self._transport.write(_CONTINUE)

    def answer(self, request: Request, status: int, headers: Pairs, body: bytes) -> None:
        if self._held:
            self._let_go()
        transport = self._transport
        if transport is None or request is not self._current:
            return  # the client has gone
        keep = request.keep_alive and not self._worker.parting
        if not request.complete and not self._can_skip(request):
            keep = False
        head = HEADS.get((status, headers)) or head_of(status, headers)
        more = b"" if keep and not request.old else b"connection: keep-alive\r\n" if keep else b"connection: close\r\n"
        line = b"%b%b%bcontent-length: %d\r\n\r\n" % (head, self._worker.date, more, len(body))
        if request.method == "HEAD":
            transport.write(line)
        elif len(body) > SMALL_BODY:
            transport.writelines((line, body))
        else:
            transport.write(line + body)
        self._current, self.since = None, self._worker.tick
        if not keep:
            self._part(request)
        elif self._next or self._refusal or self._deaf:
            self._go_on()
        elif self._paused:
            self._resume()

    def _let_go(self) -> None:
        self._worker.held, self._held = self._worker.held - self._held, 0

    def _can_skip(self, request: Request) -> bool:
        """Whether the rest of a body that nobody reads is so little that the connection can be kept."""
        return not self._deaf and not request.expects and 0 < request.length - request.size <= SMALL_BODY

    def _without_offer(self, method: bytes, version: str) -> bytes:
        """The head that was read, as one who offers no other protocol sends it."""
        lines = [f"{name}: {text}\r\n" for name, text in self._headers.items() if name != "upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._target, version.encode(), "".join(lines).encode("latin-1"))

    def _decline(self, rest: bytes) -> None:
        """Reads on behind a head that offers another protocol: the parser lets no body follow it, but one may."""
        while self._plainly and not self._deaf:
            again, self._plainly = self._plainly + rest, b""
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(again)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = again[offer.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(_NO_HTTP % error, 400)
        self._deaf = True  # it is refused, or a tunnel was asked for: what follows is nothing for us

    def _begin(self, request: Request) -> None:
        request.begun = True
        if self._current is not None or self._full:
            self._next.append(request)
            if len(self._next) >= PIPELINED:
                # One who sends more than anybody asks at once is answered what was taken, and has to come back.
                request.keep_alive = False
                self._deaf = True
            return
        self._current = request
        self._task = self._loop.create_task(self._answer(request))

    def _go_on(self) -> None:
        """Begins what is next, if anything may be begun."""
        if self._current is not None or self._full or self._transport is None:
            return
        if self._next:
            self._begin(self._next.popleft())
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self._say(refusal)
        elif self._deaf:
            self._transport.close()
        else:
            self._resume()

    def _refuse(self, what: str, status: int) -> None:
        """What follows is no request: that is said once all before it are answered."""
        self._deaf, self._in_head = True, False
        if self._reading is not None:  # its body is at fault, and whoever reads it says so
            self._reading.keep_alive = False
            self._reading.end(early(what, status))
            if self._current is self._reading or self._reading in self._next:
                return
        remedy = "Send HTTP/1.1 as RFC 9112 describes it"
        self._refusal = ContractError(what, where="request", remedy=remedy, status=status)
        self._go_on()

    def _say(self, refusal: ContractError) -> None:
        status, headers, body = self._worker.refused(refusal)
        self._current = request = Request(self, "GET", b"/", {}, keep_alive=False, old=False)
        request.answer(status, headers, body)

    def _part(self, request: Request) -> None:
        """Ends the connection after an answer; what the client still sends must not cost it that answer."""
        self._deaf = True
        self._next.clear()
        if self._transport is None:
            return
        if request.complete or self._ended:
            self._transport.close()
        else:
            self._resume()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._transport.resume_reading()
            self._paused = False

    # -- time ---------------------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._current is None and self._reading is None and not self._in_head and not self._full

    def close(self) -> None:
        """Ends it, once it is idle."""
        if self._transport is not None and self.is_idle:
            self._transport.close()

    def abort(self) -> None:
        """Ends it at once."""
        if self._transport is not None:
            self._transport.abort()

    def look(self, *, head: int, body: int, idle: int, taking: int) -> None:
        """Ends it if it is as it is for too many seconds.

        `head`, `body`: in which either has to come; `idle`: without a request; `taking`: with an answer that is not
        taken, or a connection that is not ended by the client.
        """
        waited = self._worker.tick - self.since
        if self._full or (self._deaf and self._current is None):
            if waited > taking:
                self.abort()
        elif self._reading is not None:
            if waited > body and not self._paused:
                self._refuse("the body did not come in time", 408)
        elif self._in_head:
            if waited > head:
                self._refuse("the head did not come in time", 408)
        elif self._current is None and waited > idle and self._transport is not None:
            self._transport.close()
