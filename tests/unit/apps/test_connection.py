"""Connections of the server, spoken to byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trilane.apps.server import request as request_module
from trilane.apps.server.connection import Connection
from trilane.apps.server.connections import Connections
from trilane.apps.server.http import error_body, read_body, send, status_of
from trilane.apps.server.limits import BODIES, HEAD, LARGEST_BODY, PIPELINED, SMALL_BODY
from trilane.apps.server.request import Pairs, Request
from trilane.errors import TrilaneError

Talk: TypeAlias = Callable[["Client"], Awaitable[None]]
GET = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
DATE = b"date: now\r\n"


class Worker:
    """What connections have in common, with a clock that tests move."""

    def __init__(self) -> None:
        self.tick, self.date, self.parting, self.held = 0, DATE, False, 0
        self.open: set[Connection] = set()

    def refused(self, error: TrilaneError) -> tuple[int, Pairs, bytes]:
        return status_of(error), (), error_body(error)

    def made(self, connection: Connection) -> None:
        self.open.add(connection)

    def lost(self, connection: Connection) -> None:
        self.open.discard(connection)

    def wait(self, seconds: int) -> None:
        self.tick += seconds
        for connection in [*self.open]:
            connection.look(head=10, body=60, idle=600, taking=30)


class Client:
    """The other end of a connection whose requests `answer` answers; `asked`: those that reached it, in order."""

    def __init__(self, sock: socket.socket, worker: Worker, asked: list[Request]) -> None:
        self.sock, self.worker, self.asked = sock, worker, asked
        self._loop = asyncio.get_running_loop()

    async def send(self, sent: bytes) -> None:
        await self._loop.sock_sendall(self.sock, sent)

    async def turns(self, number: int = 5) -> None:
        """Lets the server look at what came."""
        for _ in range(number):
            await asyncio.sleep(0)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await self.turns()

    async def received(self, pattern: bytes = rb"(?!)") -> bytes:
        """All that comes until `pattern` is in it, or the server ends the connection."""
        found = b""
        async with asyncio.timeout(20):
            while not re.search(pattern, found, re.DOTALL):
                try:
                    part = await self._loop.sock_recv(self.sock, 1 << 16)
                except ConnectionResetError:
                    return found
                if not part:
                    return found
                found += part
        return found


async def by_path(request: Request) -> None:
    """Answers with what was asked; errors as the server tells them."""
    try:
        body = await read_body(request)
    except TrilaneError as error:
        send(request, status_of(error), error_body(error))
        return
    send(request, 200, f"{request.method} {request.path} {len(body)}".encode())


def talk(say: Talk, answer: Callable[[Request], Any] = by_path) -> None:
    """Lets `say` talk to a connection."""

    async def run() -> None:
        worker, loop = Worker(), asyncio.get_running_loop()
        asked: list[Request] = []

        async def noted(request: Request) -> None:
            asked.append(request)
            await answer(request)

        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(worker, noted, loop), ours)
        try:
            await say(Client(theirs, worker, asked))
        finally:
            theirs.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def told(answers: bytes) -> list[tuple[int, bytes]]:
    """The answers in what was received: status and body of each."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        found.append((int(head.split(b" ")[1]), rest[:length]))
        answers = rest[length:]
    return found


def post(body: bytes, *headers: bytes, path: bytes = b"/p") -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"content-length: %d" % len(body), *headers))
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%b\r\n%b" % (path, lines, body)


def test_an_answer_is_written_as_http_wants_it() -> None:
    async def say(client: Client) -> None:
        await client.send(post(b"abc"))
        assert await client.received(b"3$") == (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: now\r\ncontent-length: 9\r\n\r\nPOST /p 3"
        )
        await client.send(b"HEAD /h HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await client.received(b"\r\n\r\n")
        assert answer.endswith(b"content-length: 9\r\n\r\n")

    talk(say)


def test_a_head_is_read_with_its_names_in_lower_case_and_its_path_decoded() -> None:
    async def say(client: Client) -> None:
        await client.send(b"GET /a%20b/%C3%A4?x=1%20 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\nAccept: a\r\n\r\n")
        await client.received(b"200 OK")
        (request,) = client.asked
        assert (request.path, request.query, request.method) == ("/a b/ä", "x=1%20", "GET")
        assert request.headers == {"host": "x", "x-a": "1, 2", "accept": "a"}
        await client.send(b"GET http://x:1/there?y HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.received(b"200 OK")
        assert (client.asked[1].path, client.asked[1].query) == ("/there", "y")

    talk(say)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(1, 60), max_size=12))
@example([])
@example([1] * 12)
def test_requests_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    chunked = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    sent = post(b"x" * 20) + GET % 1 + chunked + GET % 2

    async def say(client: Client) -> None:
        start = 0
        for cut in cuts:
            await client.send(sent[start : start + cut])
            await client.turns(2)
            start += cut
        await client.send(sent[start:])
        answers = await client.received(rb"GET /2 0")
        assert [body for _, body in told(answers)] == [b"POST /p 20", b"GET /1 0", b"POST /c 5", b"GET /2 0"]

    talk(say)


def test_pipelined_requests_are_answered_one_after_the_other_in_order() -> None:
    now = 0

    async def slowly(request: Request) -> None:
        nonlocal now
        now += 1
        assert now == 1
        for _ in range(5 - len(request.path)):
            await asyncio.sleep(0)
        now -= 1
        send(request, 200, request.path.encode())

    async def say(client: Client) -> None:
        await client.send(b"".join(GET % number for number in (1, 22, 333)))
        assert [body for _, body in told(await client.received(b"/333$"))] == [b"/1", b"/22", b"/333"]

    talk(say, slowly)


def test_a_flood_of_pipelined_requests_is_answered_in_part_and_ended() -> None:
    async def say(client: Client) -> None:
        await client.send(b"".join(GET % number for number in range(PIPELINED + 50)))
        answers = told(await client.received())
        assert [body for _, body in answers] == [b"GET /%d 0" % number for number in range(PIPELINED + 1)]

    talk(say)


def test_a_request_is_begun_when_its_small_body_is_there_and_at_its_head_if_it_is_large() -> None:
    async def say(client: Client) -> None:
        await client.send(post(b"x" * 100)[:-1])
        await client.turns()
        assert not client.asked
        await client.send(b"x")
        await client.received(b"100$")
        await client.send(post(b"x" * (SMALL_BODY + 1))[:-10])
        await client.until(lambda: len(client.asked) == 2)
        await client.send(b"x" * 10)
        assert (await client.received(rb"\d+$")).endswith(b"POST /p %d" % (SMALL_BODY + 1))

    talk(say)


def test_who_waits_to_be_told_to_go_on_is_told_when_the_body_is_wanted() -> None:
    async def say(client: Client) -> None:
        whole = post(b"abc", b"expect: 100-continue")
        await client.send(whole[:-3])
        assert await client.received(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.received(b"3$")).endswith(b"POST /p 3")

    talk(say)


async def unread(request: Request) -> None:
    """Answers without a look at the body."""
    send(request, 429, b"no")


def test_a_refused_body_that_is_small_is_skipped_and_a_large_one_ends_the_connection() -> None:
    async def say(client: Client) -> None:
        large = post(b"x" * (2 * SMALL_BODY))
        await client.send(large[: -SMALL_BODY // 2])
        assert b"connection" not in await client.received(b"no$")
        await client.send(large[-SMALL_BODY // 2 :])
        await client.send(GET % 1)
        assert told(await client.received(b"no$")) == [(429, b"no")]
        await client.send(post(b"x" * (4 * SMALL_BODY))[:1000])
        answer = await client.received()  # until the server ends it
        assert b"connection: close" in answer
        assert told(answer) == [(429, b"no")]

    talk(say, unread)


@pytest.mark.parametrize("chunked", [True, False])
def test_what_is_larger_than_any_body_may_be_is_refused(*, chunked: bool) -> None:
    async def say(client: Client) -> None:
        if chunked:
            await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            part = b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))
            for _ in range((LARGEST_BODY >> 20) + 1):
                await client.send(part)
        else:
            await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (LARGEST_BODY + 1))
        ((status, body),) = told(await client.received())
        assert status == 413
        assert b"bytes or more" in body

    talk(say)


@pytest.mark.parametrize("chunked", [True, False])
def test_large_bodies_take_no_more_room_than_there_is_and_give_it_back(*, chunked: bool) -> None:
    size = LARGEST_BODY if chunked else 2 * SMALL_BODY
    head = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    start = b"POST /large HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n" % head

    async def say(client: Client) -> None:
        worker = client.worker
        worker.held = BODIES - size
        await client.send(start)
        await client.until(lambda: worker.held == BODIES)
        await client.send(b"3\r\nabc\r\n0\r\n\r\n" if chunked else b"x" * size)
        assert b"POST /large" in await client.received(b"POST")
        assert worker.held == BODIES - size
        worker.held += 1
        await client.send(GET % 1 + start)
        assert b"GET /1 0" in await client.received(b"GET /1 0")
        ((status, body),) = told(await client.received())
        assert status == 429
        assert b"room" in body
        assert worker.held == BODIES - size + 1

    talk(say)


def test_a_client_that_goes_away_in_mid_body_gives_its_room_back() -> None:
    async def say(client: Client) -> None:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
        await client.until(lambda: client.worker.held == 100_000)
        client.sock.close()
        await client.until(lambda: not client.worker.open)
        assert client.worker.held == 0

    talk(say)


def test_a_client_that_sends_no_more_still_gets_its_answer() -> None:
    async def slowly(request: Request) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await by_path(request)

    async def say(client: Client) -> None:
        await client.send(GET % 1 + GET % 2)
        client.sock.shutdown(socket.SHUT_WR)
        assert [body for _, body in told(await client.received())] == [b"GET /1 0", b"GET /2 0"]

    talk(say, slowly)


def test_a_body_that_ends_early_is_the_callers_fault() -> None:
    async def say(client: Client) -> None:
        await client.send(post(b"x" * (2 * SMALL_BODY))[:1000])
        await client.until(lambda: bool(client.asked))
        client.sock.shutdown(socket.SHUT_WR)
        ((status, body),) = told(await client.received())
        assert status == 400
        assert b"ended early" in body

    talk(say)


def test_a_client_that_goes_away_is_nobodys_fault() -> None:
    async def say(client: Client) -> None:
        await client.send(GET % 1)
        await client.until(lambda: bool(client.asked))
        client.sock.close()
        await client.turns()
        gone.set()
        await client.until(lambda: not client.worker.open)
        assert client.asked[0].answered

    gone = asyncio.Event()

    async def later(request: Request) -> None:
        await gone.wait()
        await by_path(request)

    talk(say, later)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n" % (b"y" * HEAD * 3), 431),
        (b"GET /%b" % (b"y" * HEAD * 3), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_told_once_and_ended(sent: bytes, status: int) -> None:
    async def say(client: Client) -> None:
        await client.send(GET % 1 + sent[:100])
        await client.turns()
        await client.send(sent[100:])
        first, second = told(await client.received())
        assert first == (200, b"GET /1 0")
        assert second[0] == status
        assert b'"where":"request"' in second[1]

    talk(say)


def test_a_wish_for_another_protocol_is_not_heeded_and_its_body_is_read() -> None:
    offer = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")

    async def say(client: Client) -> None:
        sent = post(b"abc", *offer) + b"GET /u HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        large = post(b"x" * (SMALL_BODY + 1), *offer, path=b"/large")
        for part in (sent + large[:500], large[500:] + GET % 1):
            await client.send(part)
        answers = told(await client.received(b"GET /1 0$"))
        assert [body for _, body in answers] == [b"POST /p 3", b"GET /u 0", b"POST /large 65537", b"GET /1 0"]
        assert "upgrade" not in client.asked[0].headers

    talk(say)


def test_many_wishes_for_another_protocol_are_answered_in_part_like_any_flood() -> None:
    async def say(client: Client) -> None:
        await client.send(b"GET /u HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" * 4 * PIPELINED)
        assert set(told(await client.received())) == {(200, b"GET /u 0")}

    talk(say)


def test_what_follows_a_body_is_no_header_of_its_request() -> None:
    async def say(client: Client) -> None:
        head = b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        await client.send(head + b"3\r\nabc\r\n0\r\nx-trilane-caller: checkout\r\nhost: y\r\n\r\n" + GET % 1)
        answers = told(await client.received(b"GET /1 0$"))
        assert [body for _, body in answers] == [b"POST /c 3", b"GET /1 0"]
        assert client.asked[0].headers == {"host": "x", "transfer-encoding": "chunked"}

    talk(say)


@pytest.mark.parametrize("line", [b"x" * 4_000 + b": y\r\n", b"x" * 4_000])
def test_trailers_without_end_are_told_and_ended(line: bytes) -> None:
    async def say(client: Client) -> None:
        await client.send(b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
        for _ in range(2 * HEAD // len(line)):
            await client.send(line)
            await client.turns()
        ((status, body),) = told(await client.received())
        assert status == 431
        assert b"trailers" in body

    talk(say)


def test_a_body_in_large_chunks_is_no_trailer() -> None:
    async def say(client: Client) -> None:
        await client.send(b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.send(b"%x\r\n%b\r\n" % (16 * HEAD, b"x" * 16 * HEAD) * 2 + b"0\r\n\r\n")
        assert told(await client.received(b"POST"))[0][0] == 200

    talk(say)


def test_long_targets_are_not_kept() -> None:
    kept = request_module._split.cache_info().currsize

    async def say(client: Client) -> None:
        await client.send(b"GET /%b?q HTTP/1.1\r\nhost: x\r\n\r\n" % (b"y" * 30_000))
        await client.received(b"200 OK")
        assert (len(client.asked[0].path), client.asked[0].query) == (30_001, "q")
        assert request_module._split.cache_info().currsize == kept

    talk(say)


@pytest.mark.parametrize(
    ("asked", "said", "stays"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"connection: close", False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", b"connection: keep-alive", True),
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"connection: close", False),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"200 OK", True),
    ],
)
def test_a_connection_stays_as_its_client_wishes(asked: bytes, said: bytes, *, stays: bool) -> None:
    async def say(client: Client) -> None:
        await client.send(asked)
        assert said in await client.received(b"GET / 0$")
        if stays:
            await client.send(asked)
            assert said in await client.received(b"GET / 0$")
        else:
            assert await client.received() == b""

    talk(say)


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [(b"", 600, None), (b"GET / HT", 10, 408), (post(b"xyz")[:-1], 60, 408), (GET % 1, 600, None)],
)
def test_a_connection_on_which_nothing_comes_forward_is_ended(sent: bytes, seconds: int, status: int | None) -> None:
    async def say(client: Client) -> None:
        await client.send(sent)
        if sent == GET % 1:
            await client.received(b"0$")
        await client.turns()
        client.worker.wait(seconds)
        await client.turns()
        assert client.worker.open
        client.worker.wait(1)
        answers = told(await client.received())
        assert [one for one, _ in answers] == ([status] if status else [])

    talk(say)


def test_who_takes_no_answers_is_asked_no_more_and_cut_off_in_the_end() -> None:
    async def large(request: Request) -> None:
        send(request, 200, b"x" * (4 << 20))

    async def say(client: Client) -> None:
        await client.send(GET % 1 + GET % 2 + GET % 3)
        await client.turns()
        assert len(client.asked) == 1
        client.worker.wait(30)
        assert client.worker.open
        client.worker.wait(1)
        await client.until(lambda: not client.worker.open)

    talk(say, large)


def test_an_answer_that_ends_the_connection_says_so_while_the_worker_parts() -> None:
    async def say(client: Client) -> None:
        client.worker.parting = True
        await client.send(GET % 1)
        assert b"connection: close" in await client.received()

    talk(say)


def test_headers_of_answers_have_no_lines_of_their_own() -> None:
    async def wrong(request: Request) -> None:
        with pytest.raises(ValueError, match="a line of its own"):
            request.answer(200, (("x", "a\r\nb: c"),), b"")
        request.answered = False
        send(request, 500, b"no")
        with pytest.raises(RuntimeError, match="twice"):
            send(request, 200, b"again")

    async def say(client: Client) -> None:
        await client.send(GET % 1)
        assert told(await client.received(b"no$")) == [(500, b"no")]

    talk(say, wrong)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=20))
def test_no_bytes_keep_the_server_from_the_next_connection(parts: list[bytes], tail: bytes) -> None:
    async def say(client: Client) -> None:
        await client.send(b"POST /x HTTP/1.1\r\nhost: x\r\n" * (len(tail) % 2))
        for part in (*parts, tail):
            try:
                await client.send(part)
            except OSError:  # it is ended already
                return
            await asyncio.sleep(0)
        client.sock.shutdown(socket.SHUT_WR)
        for status, _ in told(await client.received()):
            assert status < 500

    talk(say)


def test_a_process_takes_connections_and_ends_them_when_everybody_is_answered() -> None:
    async def run() -> None:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        async def slowly(request: Request) -> None:
            begun.set()
            await go_on.wait()
            await by_path(request)

        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        connections = Connections(slowly, listener, loop=loop)
        connections.open()
        idle, busy = await asyncio.open_connection(*address), await asyncio.open_connection(*address)
        busy[1].write(GET % 1)
        await begun.wait()
        assert len(connections) == 2
        closing = asyncio.ensure_future(connections.close(longest=20))
        assert await idle[0].read() == b""
        assert not closing.done()
        go_on.set()
        answer = await busy[0].read()
        assert b"connection: close" in answer
        assert b"GET /1 0" in answer
        assert re.search(rb"date: \w+, \d\d \w+ \d{4} [\d:]+ GMT", answer)
        await closing
        listener.close()
        for _, writer in (idle, busy):
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
