"""HTTP as a busy caller speaks it: kept-alive connections, one request in flight on each, and a closed loop of many.

General clients spend more on a request than the server does; these few lines do not, so what they measure is the
server. They speak to a Trilane server on this machine and to nothing else.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trilane import ContractError, UnavailableError

__all__ = ["Connection", "Load", "closed_loop"]

HOST = "127.0.0.1"
_SEVERAL = 262_144


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a closed loop saw: good answers, others, how long it ran (s), and the latency of each answer (s)."""

    answers: int
    errors: int
    seconds: float
    latencies: npt.NDArray[np.float64]


class Connection:
    """One kept-alive connection. A request may be sent before others on other connections have been answered."""

    def __init__(self, port: int, *, timeout: float = 60.0) -> None:
        try:
            self.socket = socket.create_connection((HOST, port), timeout=timeout)
        except OSError as error:
            raise UnavailableError(f"no server answers: {error}", where=f"{HOST}:{port}") from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        """Sends a request; `receive` gives its answer."""
        self.socket.sendall(request(method, path, body))

    def receive(self) -> Any:
        """The decoded answer of what was sent last. Raises ContractError or UnavailableError where it is an error."""
        try:
            while (found := _split(self._received)) is None:
                self._more()
        except TimeoutError:
            raise UnavailableError("the server has not answered in time", where=HOST) from None
        status, body = found
        del self._received[:]
        answer = msgspec.json.decode(body)
        if status >= 400:
            told = answer.get("error", {})
            kind = UnavailableError if status in (429, 503) else ContractError
            raise kind(f"HTTP {status}: {told.get('what', answer)}", where=told.get("where", ""))
        return answer

    def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        """Sends a request and waits for its answer."""
        self.send(method, path, body)
        return self.receive()

    def close(self) -> None:
        self.socket.close()

    def _more(self) -> None:
        portion = self.socket.recv(_SEVERAL)
        if not portion:
            raise UnavailableError("the server has closed the connection", where=HOST)
        self._received += portion


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def _split(received: bytearray) -> tuple[int, bytes] | None:
    """Status and body of a complete answer; None while some of it is missing."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    at = head.find(b"content-length:")
    length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    body = bytes(received[end + 4 :])
    return (int(head.split(b" ", 2)[1]), body) if len(body) >= length else None


@dataclass
class _Caller:
    connection: Connection
    received: bytearray = field(default_factory=bytearray)
    sent_at: float = 0.0


def closed_loop(port: int, requests: Sequence[bytes], *, connections: int = 8, seconds: float = 5.0) -> Load:
    """Sends `requests` round and round for `seconds`; each connection asks again as soon as it is answered.

    The first tenth of the time warms up and does not count.
    """
    callers = [_Caller(Connection(port)) for _ in range(connections)]
    latencies: list[float] = []
    errors = sent = 0
    began = time.perf_counter()
    counts_from, end = began + seconds / 10, began + seconds
    with selectors.DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller.connection.socket, selectors.EVENT_READ, caller)
            sent = _send_next(caller, requests, sent)
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(timeout=1.0):
                caller = key.data
                caller.received += caller.connection.socket.recv(_SEVERAL)
                answer = _split(caller.received)
                if answer is None:
                    continue
                now = time.perf_counter()
                if caller.sent_at >= counts_from:
                    latencies.append(now - caller.sent_at)
                    errors += answer[0] != 200
                caller.received.clear()
                sent = _send_next(caller, requests, sent)
    for caller in callers:
        caller.connection.close()
    measured = now - counts_from
    return Load(answers=len(latencies) - errors, errors=errors, seconds=measured, latencies=np.array(latencies))


def _send_next(caller: _Caller, requests: Sequence[bytes], sent: int) -> int:
    caller.sent_at = time.perf_counter()
    caller.connection.socket.sendall(requests[sent % len(requests)])
    return sent + 1
