"""Reads of one tick are done together, and each gets its own part."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from trilane.errors import UnavailableError
from trilane.serving.together import Together


def test_what_comes_in_one_tick_is_read_together_up_to_the_limit() -> None:
    async def run() -> None:
        read: list[list[int]] = []

        def doubled(rows: list[int]) -> list[int]:
            read.append(list(rows))
            return [2 * row for row in rows]

        together = Together(doubled, loop=asyncio.get_running_loop(), max_rows=4)
        asked = [[1], [2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]
        shares = await asyncio.gather(*(together.submit(rows) for rows in asked))
        assert [share.result[share.start : share.stop] for share in shares] == [
            [2 * row for row in rows] for rows in asked
        ]
        assert read == [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]

    asyncio.run(run())


def test_a_full_queue_refuses_at_once_and_takes_more_when_it_is_read() -> None:
    async def run() -> None:
        together: Together[int, int] = Together(len, loop=asyncio.get_running_loop(), queue_rows=3)
        first = together.submit([1, 2])
        with pytest.raises(UnavailableError, match="2 rows are waiting") as refused:
            together.submit([3, 4])
        assert refused.value.facts["overload"] is True
        assert (await first).result == 2
        assert (await together.submit([3, 4])).result == 2

    asyncio.run(run())


def test_who_went_away_is_not_read_for_and_a_defect_is_told_to_all() -> None:
    async def run() -> None:
        def broken(rows: list[int]) -> int:
            return 1 // (rows[0] - 1)

        together = Together(broken, loop=asyncio.get_running_loop())
        gone, one, other = (together.submit([row]) for row in (7, 1, 2))
        gone.cancel()
        for future in (one, other):
            with pytest.raises(ZeroDivisionError):
                await future
        alone = together.submit([1])
        alone.cancel()
        assert (await together.submit([3])).result == 0

    asyncio.run(run())


def test_what_comes_while_a_read_is_awaited_goes_with_the_next() -> None:
    async def run() -> None:
        loop, read, first = asyncio.get_running_loop(), list[list[int]](), asyncio.Event()

        async def doubled(rows: list[int]) -> list[int]:
            await first.wait()
            return [2 * row for row in rows]

        def reading(rows: list[int]) -> list[int] | Awaitable[list[int]]:
            read.append(list(rows))
            return doubled(rows) if not first.is_set() else [2 * row for row in rows]

        together = Together(reading, loop=loop)
        one, gone = together.submit([1]), together.submit([2, 3])
        while not read:
            await asyncio.sleep(0)
        others = [together.submit([row]) for row in (4, 5)]
        await asyncio.sleep(0)
        gone.cancel()
        first.set()
        assert [(share := await future).result[share.start : share.stop] for future in (one, *others)] == [
            [2],
            [8],
            [10],
        ]
        assert read == [[1, 2, 3], [4, 5]]

    asyncio.run(run())


def test_a_read_that_fails_later_is_told_to_all_and_hinders_no_other() -> None:
    async def run() -> None:
        async def broken(rows: list[int]) -> int:
            await asyncio.sleep(0)
            if rows[0] == 3:
                raise asyncio.CancelledError
            return 1 // (rows[0] - 1)

        together: Together[int, int] = Together(broken, loop=asyncio.get_running_loop())
        for future in (together.submit([1]), together.submit([2])):
            with pytest.raises(ZeroDivisionError):
                await future
        stopped = together.submit([3])
        with pytest.raises(asyncio.CancelledError):
            await stopped
        assert (await together.submit([2])).result == 1

    asyncio.run(run())
