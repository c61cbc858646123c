"""What comes in one tick is answered together; nobody waits in vain, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from trilane.errors import ModelError, UnavailableError
from trilane.serving.batcher import Batcher, Share


class Kitchen:
    """Answers numbers by their doubles, and keeps what was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.expired: list[list[int]] = []

    def run(self, rows: list[int]) -> list[int]:
        self.batches.append(rows)
        if 13 in rows:
            raise ModelError("no thirteen")
        if 14 in rows:
            raise ZeroDivisionError("a defect")
        return [2 * row for row in rows]

    def expire(self, rows: list[int]) -> list[int]:
        self.expired.append(rows)
        return [-1 for _ in rows]

    def batcher(self, *, max_rows: int = 1_024, queue_rows: int = 16_384) -> Batcher[int, list[int]]:
        return Batcher(self.run, self.expire, loop=asyncio.get_running_loop(), max_rows=max_rows, queue_rows=queue_rows)


def _on_loop(test: Callable[[Kitchen], Coroutine[Any, Any, None]]) -> Kitchen:
    kitchen = Kitchen()
    asyncio.run(test(kitchen))
    return kitchen


def _part(share: Share[list[int]]) -> list[int]:
    return share.result[share.start : share.stop]


def test_requests_of_one_tick_are_answered_together_each_with_its_own_part() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        futures = [batcher.submit(rows, deadline=math.inf) for rows in ([1], [2, 3], [4])]
        assert batcher.queued == 4
        assert [_part(share) for share in await asyncio.gather(*futures)] == [[2], [4, 6], [8]]
        assert batcher.queued == 0

    assert _on_loop(ask).batches == [[1, 2, 3, 4]]


def test_a_request_alone_does_not_wait_for_company() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        for number in range(3):
            assert _part(await batcher.submit([number], deadline=math.inf)) == [2 * number]

    assert _on_loop(ask).batches == [[0], [1], [2]]


def test_batches_stay_within_their_size_and_keep_the_rows_of_a_request_together() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher(max_rows=3)
        futures = [batcher.submit(rows, deadline=math.inf) for rows in ([1, 2], [3, 4], [5], [6, 7, 8, 9], [10])]
        answers = await asyncio.gather(*futures)
        assert [_part(share) for share in answers] == [[2, 4], [6, 8], [10], [12, 14, 16, 18], [20]]

    assert _on_loop(ask).batches == [[1, 2], [3, 4, 5], [6, 7, 8, 9], [10]]


def test_beyond_its_deadline_a_request_is_answered_with_no_work() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        late, early = batcher.submit([1], deadline=-math.inf), batcher.submit([2], deadline=math.inf)
        assert (_part(await late), _part(await early)) == ([-1], [4])

    kitchen = _on_loop(ask)
    assert (kitchen.batches, kitchen.expired) == ([[2]], [[1]])


def test_a_full_queue_refuses_at_once_and_says_that_it_is_overload() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher(queue_rows=2)
        kept = batcher.submit([1, 2], deadline=math.inf)
        with pytest.raises(UnavailableError, match="2 rows are waiting") as refused:
            batcher.submit([3], deadline=math.inf)
        assert refused.value.facts["overload"] is True
        assert _part(await kept) == [2, 4]
        assert _part(await batcher.submit([3], deadline=math.inf)) == [6]

    _on_loop(ask)


@pytest.mark.parametrize(("bad", "error"), [(13, ModelError), (14, ZeroDivisionError)])
def test_an_error_reaches_the_request_that_causes_it_and_no_other(bad: int, error: type[Exception]) -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        futures = [batcher.submit(rows, deadline=math.inf) for rows in ([1], [2, bad], [3])]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(answers[1], error)
        assert [_part(share) for share in answers if isinstance(share, Share)] == [[2], [6]]

    _on_loop(ask)


def test_who_has_gone_away_costs_no_work_and_disturbs_nobody() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        gone, stays = batcher.submit([1], deadline=math.inf), batcher.submit([2], deadline=math.inf)
        gone.cancel()
        assert _part(await stays) == [4]
        assert batcher.queued == 0

    assert _on_loop(ask).batches == [[2]]
