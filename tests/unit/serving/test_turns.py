"""Batches that share a loop take turns, and the loop looks in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from trilane.serving.batcher import Batcher
from trilane.serving.latency import LatencyModel
from trilane.serving.share import Share
from trilane.serving.turns import Turns


def _batchers(turns: Turns, happened: list[str], *names: str) -> dict[str, Batcher[int, int]]:
    def running(name: str) -> Callable[[list[int]], int]:
        def run(portions: list[int]) -> int:
            happened.append(f"{name} runs {len(portions)}")
            return sum(portions)

        return run

    def made(name: str) -> Batcher[int, int]:
        latency = LatencyModel(alpha=0.0)  # so that no batch is worth waiting for
        return Batcher(running(name), lambda portions, _: sum(portions), loop=loop, turns=turns, latency=latency)

    loop = asyncio.get_running_loop()
    return {name: made(name) for name in names}


def test_the_answers_of_a_batch_are_out_before_the_next_one_runs() -> None:
    happened: list[str] = []

    async def ask(batcher: Batcher[int, int], name: str) -> None:
        share: Share[int] = await batcher.submit(1, rows=1, deadline=math.inf)
        happened.append(f"{name} has {share.result}")

    async def run() -> None:
        turns = Turns(asyncio.get_running_loop())
        batchers = _batchers(turns, happened, "a", "b")
        await asyncio.gather(*(ask(batchers[name], name) for name in "abab"))

    asyncio.run(run())
    assert happened == ["a runs 2", "a has 2", "a has 2", "b runs 2", "b has 2", "b has 2"]


def test_what_the_loop_sees_between_two_batches_joins_the_next_one() -> None:
    happened: list[str] = []

    async def run() -> None:
        turns = Turns(asyncio.get_running_loop())
        batchers = _batchers(turns, happened, "a", "b")
        early = [batchers[name].submit(1, rows=1, deadline=math.inf) for name in "ab"]
        await early[0]
        assert turns.blind > 0
        late = batchers["b"].submit(1, rows=1, deadline=math.inf)
        await asyncio.gather(early[1], late)

    asyncio.run(run())
    assert happened == ["a runs 1", "b runs 2"]


def test_turns_are_taken_in_order_and_one_that_runs_nothing_takes_none() -> None:
    happened: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop)

        def first() -> None:
            happened.append("first")
            turns.held(1.0)

        turns.ask(lambda: happened.append("nothing"))
        turns.ask(first)
        turns.ask(lambda: happened.append("second"))
        loop.call_soon(lambda: happened.append(f"the loop, blind for {turns.blind:g} s"))
        while "second" not in happened:
            await asyncio.sleep(0)
        assert turns.blind == 0.0

    asyncio.run(run())
    assert happened == ["nothing", "first", "the loop, blind for 1 s", "second"]


def test_who_asks_again_at_once_leaves_the_loop_to_others() -> None:
    looks: list[int] = []

    async def run() -> None:
        turns = Turns(asyncio.get_running_loop())

        def look() -> None:
            looks.append(len(looks))
            if len(looks) < 5:
                turns.ask(look)

        turns.ask(look)
        await asyncio.sleep(0)
        assert len(looks) < 5
        while len(looks) < 5:
            await asyncio.sleep(0)

    asyncio.run(run())


def test_a_defect_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[str] = []

    async def run() -> None:
        turns = Turns(asyncio.get_running_loop())
        turns.ask(lambda: happened.append(str(1 / 0)))
        turns.ask(lambda: happened.append("second"))
        while not happened:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert happened == ["second"]
    assert "ZeroDivisionError" in caplog.text
