"""Workers that share a socket take as many connections each."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
import uvloop

from trilane.apps.server.balance import Balance, Places
from trilane.apps.server.connections import Connections
from trilane.apps.server.request import Request


@pytest.fixture
def places() -> Iterator[Places]:
    with contextlib.closing(Places(2)) as found:
        yield found


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def workers(places: Places, number: int, clock: Clock) -> list[Balance]:
    found = [Balance(places.fileno(), places.number, places.take(), timer=clock) for _ in range(number)]
    for one in found:
        one.open()
    return found


def take(one: Balance, connections: int) -> None:
    one.took()
    one.has(connections)


def test_who_has_more_stands_back_until_another_has_as_many(places: Places) -> None:
    first, second = workers(places, 2, Clock())
    take(first, 1)
    assert not first.stands_back()  # one more is no reason to wait
    take(first, 2)
    assert first.stands_back()
    assert not second.stands_back()
    take(second, 1)
    assert not first.stands_back()
    first.has(100)
    second.has(98)
    assert not first.stands_back()  # of so many, two more are none


def test_what_nobody_else_takes_is_taken_and_nobody_is_waited_for_then(places: Places) -> None:
    clock = Clock()
    first, second = workers(places, 2, clock)
    take(first, 5)
    tries = 0
    while first.stands_back():
        tries += 1
    assert tries == 10
    take(first, 6)
    assert not first.stands_back()
    clock.now += 1.0
    assert first.stands_back()
    for turn in range(100):  # one that takes what waits is not given up
        take(second, 0)
        assert first.stands_back(), turn


def test_a_worker_that_is_gone_counts_for_nothing_and_gives_its_place_to_another(places: Places) -> None:
    first, second = workers(places, 2, Clock())
    assert places.take() == -1
    take(first, 5)
    second.close()
    second.has(0)  # of a connection that ended while it ends
    assert not first.stands_back()
    second.open()
    assert first.stands_back()
    places.free(1)
    assert not first.stands_back()
    (third,) = workers(places, 1, Clock())
    assert first.stands_back()
    assert not third.stands_back()


@pytest.mark.parametrize("others", [0, 50])
def test_a_connection_is_taken_whether_others_have_fewer_or_more(places: Places, others: int) -> None:
    async def run() -> None:
        async def never(request: Request) -> None:
            raise AssertionError(request)

        loop, clock = asyncio.get_running_loop(), Clock()
        own, other = workers(places, 2, clock)
        listener = socket.create_server(("127.0.0.1", 0))
        connections = Connections(never, listener, loop=loop, balance=own)
        connections.open()
        other.has(others)
        clients = []
        async with asyncio.timeout(20):
            for number in range(1, 6):
                clients.append(await asyncio.open_connection(*listener.getsockname()))
                while len(connections) < number:
                    await asyncio.sleep(0)
        await connections.close(longest=20)
        for _, writer in clients:
            writer.close()
        assert not other.stands_back()  # which counts one that ends no more
        listener.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_who_waits_at_the_port_is_answered_by_the_last_worker_as_it_ends() -> None:
    async def run() -> None:
        async def answer(request: Request) -> None:
            request.answer(200, (), b"there")

        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        connections = Connections(answer, listener, loop=loop)
        connections.open()
        connections._deafen()  # nothing is taken for the moment
        clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(20)]
        for _, writer in clients:
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        connections._listen()
        await connections.close(longest=20, linger=0.1, replaced=False)
        for reader, writer in clients:
            assert (await reader.read()).endswith(b"there")
            writer.close()
        listener.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
