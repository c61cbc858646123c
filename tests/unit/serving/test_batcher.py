"""What comes in one tick is answered together; nobody waits in vain, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import pytest

from trilane.errors import ContractError, ModelError, UnavailableError
from trilane.serving.batcher import Batcher
from trilane.serving.latency import LatencyModel
from trilane.serving.share import Share


class Kitchen:
    """Answers numbers by their doubles, and keeps what was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.expired: list[list[int]] = []
        self.reasons: list[str] = []

    def run(self, portions: list[list[int]]) -> list[int]:
        rows = [row for portion in portions for row in portion]
        self.batches.append(rows)
        if 13 in rows:
            raise ModelError("no thirteen")
        if 14 in rows:
            raise ZeroDivisionError("a defect")
        return [2 * row for row in rows]

    def expire(self, portions: list[list[int]], reason: str) -> list[int]:
        rows = [row for portion in portions for row in portion]
        self.expired.append(rows)
        self.reasons.append(reason)
        if 15 in rows:
            raise UnavailableError("no answer")
        return [-1 for _ in rows]

    def batcher(self, *, max_rows: int = 1_024, queue_rows: int = 16_384) -> Batcher[list[int], list[int]]:
        return Batcher(self.run, self.expire, loop=asyncio.get_running_loop(), max_rows=max_rows, queue_rows=queue_rows)


_Answer: TypeAlias = asyncio.Future[Share[list[int]]]


def _on_loop(test: Callable[[Kitchen], Coroutine[Any, Any, None]]) -> Kitchen:
    kitchen = Kitchen()
    asyncio.run(test(kitchen))
    return kitchen


def _ask(batcher: Batcher[list[int], list[int]], rows: list[int], *, deadline: float = math.inf) -> _Answer:
    return batcher.submit(rows, rows=len(rows), deadline=deadline)


def _part(share: Share[list[int]]) -> list[int]:
    return share.result[share.start : share.stop]


def test_requests_of_one_tick_are_answered_together_each_with_its_own_part() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        futures = [_ask(batcher, rows) for rows in ([1], [2, 3], [4])]
        assert batcher.queued == 4
        assert [_part(share) for share in await asyncio.gather(*futures)] == [[2], [4, 6], [8]]
        assert batcher.queued == 0

    assert _on_loop(ask).batches == [[1, 2, 3, 4]]


def test_a_request_alone_does_not_wait_for_company() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        for number in range(3):
            assert _part(await _ask(batcher, [number])) == [2 * number]

    assert _on_loop(ask).batches == [[0], [1], [2]]


def test_batches_stay_within_their_size_and_keep_the_rows_of_a_request_together() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher(max_rows=3)
        futures = [_ask(batcher, rows) for rows in ([1, 2], [3, 4], [5], [6, 7, 8, 9], [10])]
        answers = await asyncio.gather(*futures)
        assert [_part(share) for share in answers] == [[2, 4], [6, 8], [10], [12, 14, 16, 18], [20]]

    assert _on_loop(ask).batches == [[1, 2], [3, 4, 5], [6, 7, 8, 9], [10]]


def test_beyond_its_deadline_a_request_is_answered_with_no_work() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        late, early = _ask(batcher, [1], deadline=-math.inf), _ask(batcher, [2])
        assert (_part(await late), _part(await early)) == ([-1], [4])

    kitchen = _on_loop(ask)
    assert (kitchen.batches, kitchen.expired) == ([[2]], [[1]])


def test_a_full_queue_refuses_at_once_and_says_that_it_is_overload() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher(queue_rows=2)
        kept = _ask(batcher, [1, 2])
        with pytest.raises(UnavailableError, match="2 rows are waiting") as refused:
            _ask(batcher, [3])
        assert refused.value.facts["overload"] is True
        assert _part(await kept) == [2, 4]
        assert _part(await _ask(batcher, [3])) == [6]

    _on_loop(ask)


@pytest.mark.parametrize(("bad", "error"), [(13, ModelError), (14, ZeroDivisionError)])
def test_an_error_reaches_the_request_that_causes_it_and_no_other(bad: int, error: type[Exception]) -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        futures = [_ask(batcher, rows) for rows in ([1], [2, bad], [3])]
        answers = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(answers[1], error)
        assert [_part(share) for share in answers if isinstance(share, Share)] == [[2], [6]]

    _on_loop(ask)


def test_who_has_gone_away_costs_no_work_and_disturbs_nobody() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        gone, stays = _ask(batcher, [1]), _ask(batcher, [2])
        gone.cancel()
        assert _part(await stays) == [4]
        assert batcher.queued == 0

    assert _on_loop(ask).batches == [[2]]


def test_what_is_no_request_is_refused_with_the_reason() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher(queue_rows=4)
        for rows in (0, -1):
            with pytest.raises(ContractError, match="rows") as refused:
                batcher.submit([], rows=rows, deadline=math.inf)
            assert refused.value.where == "rows"
        with pytest.raises(ContractError, match="at most 4 rows") as large:
            _ask(batcher, [1, 2, 3, 4, 5])
        assert large.value.facts["status"] == 413
        with pytest.raises(ContractError, match="no number"):
            _ask(batcher, [1], deadline=math.nan)
        assert batcher.queued == 0

    assert _on_loop(ask).batches == []


def test_an_error_of_the_ladder_reaches_those_for_whom_there_is_no_rung() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        none, some = _ask(batcher, [15], deadline=-1.0), _ask(batcher, [1], deadline=-1.0)
        with pytest.raises(UnavailableError, match="no answer"):
            await none
        assert _part(await some) == [-1]

    _on_loop(ask)


def test_an_answer_tells_of_its_batch_when_it_is_asked() -> None:
    async def ask(kitchen: Kitchen) -> None:
        batcher = kitchen.batcher()
        first, second = await asyncio.gather(_ask(batcher, [1]), _ask(batcher, [2, 3]))
        told = second.explained()
        assert (told["rows"], told["requests"]) == (3, 2)
        assert told["reason"] in ("idle", "waited")  # as quick as this machine is
        assert set(told) == {"rows", "requests", "wait_ms", "predicted_ms", "actual_ms", "reason"}
        assert first.account is second.account
        late = await _ask(batcher, [4], deadline=-math.inf)
        assert late.explained()["reason"] == "deadline passed"
        assert Share([1], 0, 1).explained() == {}

    _on_loop(ask)


class Annexe(Kitchen):
    """Answers later: when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[asyncio.Future[list[int]]] = []

    def later(self, portions: list[list[int]]) -> asyncio.Future[list[int]]:
        self.batches.append([row for portion in portions for row in portion])
        self.orders.append(asyncio.get_running_loop().create_future())
        return self.orders[-1]

    def serve(self, order: int) -> None:
        """Answers a batch as a kitchen would."""
        rows = self.batches[order]
        if 13 in rows:
            self.orders[order].set_exception(ModelError("no thirteen"))
        else:
            self.orders[order].set_result([2 * row for row in rows])

    def distant(self, *, executors: int = 1, max_rows: int = 1_024) -> Batcher[list[int], list[int]]:
        loop = asyncio.get_running_loop()
        return Batcher(
            self.later, self.expire, loop=loop, executors=executors, max_rows=max_rows, latency=LatencyModel(alpha=1e-6)
        )


async def _turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def _later(test: Callable[[Annexe], Coroutine[Any, Any, None]]) -> Annexe:
    annexe = Annexe()
    asyncio.run(test(annexe))
    return annexe


def test_while_the_executor_is_busy_requests_merge_into_the_next_batch() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        answers = [_ask(batcher, [1])]
        await _turns()
        for number in (2, 3, 4):
            answers.append(_ask(batcher, [number]))
            await _turns()
        assert (annexe.batches, batcher.queued, batcher.running) == ([[1]], 3, 1)
        annexe.serve(0)
        await _turns()
        assert annexe.batches == [[1], [2, 3, 4]]
        annexe.serve(1)
        assert [_part(share) for share in await asyncio.gather(*answers)] == [[2], [4], [6], [8]]
        assert batcher.running == 0

    _later(ask)


def test_as_many_batches_run_at_once_as_there_are_executors() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant(executors=2, max_rows=2)
        answers = [_ask(batcher, [number]) for number in range(6)]
        await _turns()
        assert (annexe.batches, batcher.running) == ([[0, 1], [2, 3]], 2)
        annexe.serve(1)
        await _turns()
        assert annexe.batches == [[0, 1], [2, 3], [4, 5]]
        annexe.serve(0)
        annexe.serve(2)
        assert [_part(share) for share in await asyncio.gather(*answers)] == [[2 * n] for n in range(6)]

    _later(ask)


def test_it_learns_from_the_time_until_the_answer_not_until_the_promise_of_one() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        answer = _ask(batcher, [1])
        await _turns()
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            await asyncio.sleep(0)
        annexe.serve(0)
        share = await answer
        assert batcher.latency.expected(1) >= 0.01
        assert float(share.explained()["actual_ms"]) >= 10

    _later(ask)


def test_a_failure_later_is_told_to_its_own_request_alone() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        answers = [_ask(batcher, [number]) for number in (1, 13, 3)]
        await _turns()
        for order in range(4):
            annexe.serve(order)
            await _turns()
        told = await asyncio.gather(*answers, return_exceptions=True)
        assert annexe.batches == [[1, 13, 3], [1], [13], [3]]
        assert isinstance(told[1], ModelError)
        assert [_part(share) for share in told if isinstance(share, Share)] == [[2], [6]]

    _later(ask)


def test_a_batch_that_is_stopped_is_told_to_all_and_not_asked_again() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        answers = [_ask(batcher, [number]) for number in (1, 2)]
        await _turns()
        annexe.orders[0].cancel()
        told = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(one, UnavailableError) for one in told)
        assert annexe.batches == [[1, 2]]

    _later(ask)


def test_a_batch_that_nobody_waits_for_any_more_is_not_run() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        _ask(batcher, [1])
        await _turns()
        gone = [_ask(batcher, [2]), _ask(batcher, [3])]
        for one in gone:
            one.cancel()
        annexe.serve(0)
        await _turns()
        assert (annexe.batches, batcher.queued, batcher.running) == ([[1]], 0, 0)

    _later(ask)


def test_a_batch_that_outlives_its_deadlines_frees_who_waits_and_keeps_its_executor() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        soon, later = time.perf_counter() + 0.05, time.perf_counter() + 0.1
        first, second, patient = (
            _ask(batcher, [1], deadline=soon),
            _ask(batcher, [2], deadline=later),
            _ask(batcher, [3]),
        )
        assert _part(await first) == [-1]
        assert not second.done() or time.perf_counter() >= later
        share = await second
        assert (_part(share), share.explained()["reason"]) == ([-1], "deadline passed while the model ran")
        waits = _ask(batcher, [4])
        await _turns()
        assert (annexe.batches, batcher.running) == ([[1, 2, 3]], 1)
        annexe.serve(0)
        assert _part(await patient) == [6]
        await _turns()
        annexe.serve(1)
        assert _part(await waits) == [8]

    # Both at once if the machine was away from the first until the second.
    assert [number for numbers in _later(ask).expired for number in numbers] == [1, 2]


def test_who_waits_behind_a_model_that_hangs_is_answered_at_the_deadline() -> None:
    async def ask(annexe: Annexe) -> None:
        batcher = annexe.distant()
        hung = _ask(batcher, [1])
        await _turns()
        queued = _ask(batcher, [2], deadline=time.perf_counter() + 0.01)
        share = await queued
        assert (_part(share), share.explained()["reason"]) == ([-1], "deadline passed")
        assert (annexe.batches, batcher.queued, hung.done()) == ([[1]], 0, False)
        hung.cancel()
        annexe.serve(0)
        await _turns()
        assert batcher.running == 0

    _later(ask)


async def _tried(kitchen: Kitchen, batcher: Batcher[list[int], list[int]]) -> _Answer:
    """One who is tried in vain: those before, who come too early for it, hear at once that they are late."""
    ran = len(kitchen.batches)
    while True:
        answer = _ask(batcher, [7], deadline=time.perf_counter() + 0.015)
        await _turns()
        if len(kitchen.batches) > ran:
            return answer
        assert _part(await answer) == [-1]
        await asyncio.sleep(0.05)


def test_a_model_that_was_slow_is_tried_again_and_what_comes_of_it_too_late_is_no_answer() -> None:
    async def ask(annexe: Annexe) -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(annexe.later, annexe.expire, loop=loop, latency=LatencyModel(alpha=0.02))
        share = await (await _tried(annexe, batcher))
        assert (_part(share), share.explained()["reason"]) == ([-1], "deadline passed while the model ran")
        # One at a time: the others hear at once that they are late.
        waits = await _ask(batcher, [2], deadline=time.perf_counter() + 0.01)
        assert (_part(waits), waits.explained()["reason"]) == ([-1], "deadline passed")
        now = time.perf_counter()
        assert not batcher.may_try(now + 1e9 + 0.015, now + 1e9)
        annexe.orders[0].set_exception(ModelError("it died"))
        while _part(share) == [-1]:  # this machine may be as slow
            tried = await _tried(annexe, batcher)
            annexe.serve(len(annexe.orders) - 1)
            share = await tried
        assert (_part(share), share.explained()["reason"]) == ([14], "trial")
        following = _ask(batcher, [4], deadline=time.perf_counter() + 60.0)
        await _turns()
        annexe.serve(len(annexe.orders) - 1)
        assert _part(await following) == [8]

    assert _later(ask).batches[-1] == [4]


def test_a_trial_that_holds_up_the_loop_beyond_its_deadline_is_not_told_as_an_answer() -> None:
    async def ask(kitchen: Kitchen) -> None:
        def run(portions: list[list[int]]) -> list[int]:
            until = time.perf_counter() + 0.02
            while time.perf_counter() < until:
                pass
            return kitchen.run(portions)

        latency = LatencyModel(alpha=0.02, beta=0.0)
        batcher = Batcher(run, kitchen.expire, loop=asyncio.get_running_loop(), latency=latency)
        share = await (await _tried(kitchen, batcher))
        assert (_part(share), share.explained()["reason"]) == ([-1], "deadline passed while the model ran")

    assert _on_loop(ask).batches == [[7]]


def test_a_payload_that_is_no_list_counts_as_the_rows_it_says() -> None:
    async def ask() -> None:
        def joined(portions: list[str]) -> str:
            return "".join(portions)

        batcher = Batcher(joined, lambda _portions, _reason: "", loop=asyncio.get_running_loop())
        one, two = batcher.submit("abc", rows=3, deadline=math.inf), batcher.submit("de", rows=2, deadline=math.inf)
        shares = await asyncio.gather(one, two)
        assert [share.result[share.start : share.stop] for share in shares] == ["abc", "de"]

    asyncio.run(ask())


def test_what_came_while_a_batch_held_up_the_loop_goes_into_the_next_together() -> None:
    """Sent over a socket while the loop stood still: seen after the batch, before the next is formed."""

    async def ask(kitchen: Kitchen) -> None:
        loop, (caller, server) = asyncio.get_running_loop(), socket.socketpair()
        answers: list[_Answer] = []

        def run(portions: list[list[int]]) -> list[int]:
            if len(kitchen.batches) == 0:
                caller.sendall(b"\x05\x06")
            return kitchen.run(portions)

        batcher = Batcher(run, kitchen.expire, loop=loop, max_rows=2, latency=LatencyModel(alpha=1e-6))
        loop.add_reader(server, lambda: answers.extend(_ask(batcher, [number]) for number in server.recv(9)))
        first = [_ask(batcher, [number]) for number in (1, 2, 3)]
        await asyncio.gather(*first)
        while len(answers) < 2:
            await asyncio.sleep(0)
        await asyncio.gather(*answers)
        loop.remove_reader(server)
        caller.close()
        server.close()

    assert _on_loop(ask).batches == [[1, 2], [3, 5], [6]]


def test_who_is_seen_after_a_batch_may_have_come_as_it_began_and_must_not_be_promised_more() -> None:
    async def ask(kitchen: Kitchen) -> None:
        loop, (caller, server) = asyncio.get_running_loop(), socket.socketpair()
        late: list[_Answer] = []

        def run(portions: list[list[int]]) -> list[int]:
            if len(kitchen.batches) == 0:
                caller.sendall(b"\x05")
                until = time.perf_counter() + 0.05
                while time.perf_counter() < until:
                    pass
            return kitchen.run(portions)

        batcher = Batcher(run, kitchen.expire, loop=loop, latency=LatencyModel(alpha=1e-6))

        def read() -> None:
            late.extend(_ask(batcher, [number], deadline=time.perf_counter() + 0.04) for number in server.recv(9))

        loop.add_reader(server, read)
        await _ask(batcher, [1])
        while not late:
            await asyncio.sleep(0)
        assert _part(await late[0]) == [-1]
        loop.remove_reader(server)
        caller.close()
        server.close()

    assert _on_loop(ask).reasons == ["deadline passed"]
