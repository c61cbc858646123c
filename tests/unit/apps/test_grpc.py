"""How gRPC calls are gathered."""

from __future__ import annotations

import asyncio

from trilane.apps.server.grpc import Gate


def test_calls_that_come_one_after_another_go_on_together() -> None:
    async def come() -> list[list[int]]:
        gate, together, loop = Gate(), list[list[int]](), asyncio.get_running_loop()
        waiting: list[asyncio.Future[None]] = []

        def arrive(number: int) -> None:
            waiting.append(gate.passed())
            waiting[-1].add_done_callback(lambda _: together.append([n for n, w in enumerate(waiting) if w.done()]))
            if number < 9:
                loop.call_soon(arrive, number + 1)

        arrive(0)
        while len(together) < 10:
            await asyncio.sleep(0)
        return together

    assert asyncio.run(come()) == [list(range(10))] * 10


def test_calls_that_never_end_hold_up_nobody_for_long() -> None:
    async def come() -> int:
        gate = Gate()
        first = gate.passed()
        for number in range(1_000):
            if first.done():
                return number
            gate.passed()
            await asyncio.sleep(0)
        return 1_000

    assert asyncio.run(come()) < 100


def test_a_call_whose_caller_has_gone_is_passed_over() -> None:
    async def come() -> bool:
        gate = Gate()
        gone, other = gate.passed(), gate.passed()
        gone.cancel()
        await other
        return gone.cancelled()

    assert asyncio.run(come())
