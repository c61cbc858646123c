"""The demo's HTTP client keeps its connections, tells errors, and counts only what was answered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from examples.flights.client import Connection, closed_loop, request
from examples.flights.running import free_port
from trilane import ContractError, UnavailableError


class _Answers(BaseHTTPRequestHandler):
    """Answers with the path's status and tells on which port the caller sits, in portions that arrive apart."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = int(self.path.strip("/"))
        answer = b'{"caller":%d,"error":{"what":"as asked","where":"here"},"body":%b}' % (self.client_address[1], body)
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[:10])
        self.wfile.flush()
        self.wfile.write(answer[10:])

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextmanager
def _serving() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_one_connection_serves_many_requests() -> None:
    with _serving() as port:
        connection = Connection(port)
        answers = [connection.ask("POST", "/200", b"%d" % number) for number in range(5)]
        connection.close()
    assert [answer["body"] for answer in answers] == [0, 1, 2, 3, 4]
    assert len({answer["caller"] for answer in answers}) == 1


@pytest.mark.parametrize(("status", "kind"), [(422, ContractError), (429, UnavailableError), (503, UnavailableError)])
def test_an_error_says_what_the_server_said(status: int, kind: type[Exception]) -> None:
    with _serving() as port:
        connection = Connection(port)
        with pytest.raises(kind, match=f"HTTP {status}: as asked"):
            connection.ask("POST", f"/{status}", b"1")
        connection.close()


def test_without_a_server_the_error_says_where_it_was_looked_for() -> None:
    port = free_port()
    with pytest.raises(UnavailableError, match=str(port)):
        Connection(port)


def test_a_closed_loop_counts_answers_and_errors_apart() -> None:
    with _serving() as port:
        requests = [request("POST", "/200", b"1"), request("POST", "/503", b"1")]
        load = closed_loop(port, requests, connections=2, seconds=0.3)
    assert load.answers > 0
    assert abs(load.answers - load.errors) <= 2
    assert len(load.latencies) == load.answers + load.errors
    assert load.latencies.min() > 0
