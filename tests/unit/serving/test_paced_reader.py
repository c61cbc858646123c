"""Reads of a store that is slow are made beside the loop, which goes on meanwhile; quick ones stay on it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

import trilane as tl
from tests.shop import MINUTE, T0, event
from tests.unit.serving.conftest import Shop, same_bits
from trilane.errors import UnavailableError
from trilane.serving.guard import GuardedStore
from trilane.serving.paced_reader import PacedReader
from trilane.serving.reading import FeatureReader, Reading
from trilane.stores.online.protocol import OnlineStore

NOW = T0 + 3 * MINUTE


class Gate:
    """A store whose answers are held back while it is shut; it knows who asked it, and how many are in it."""

    def __init__(self, store: OnlineStore) -> None:
        self._store, self._open, self._counting = store, threading.Event(), threading.Lock()
        self._open.set()
        self.here = threading.get_ident()  # the loop's
        self.threads: list[int] = []
        self.inside = self.most = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        with self._counting:
            self.threads.append(threading.get_ident())
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            if not self._open.wait(None if within == math.inf else within):
                raise UnavailableError("no answer in time")
            return self._store.read(requests, within=within)
        finally:
            with self._counting:
                self.inside -= 1

    @property
    def beside(self) -> int:
        """How many threads beside the loop asked."""
        return len({*self.threads} - {self.here})


class Case:
    """A filled shop behind a gate, read by one reader or several."""

    def __init__(self, shop: Shop, *, limit: float = 60.0) -> None:
        shop.deliver(*(event(n, shop="abc"[n % 3], at=T0 + n, amount=float(n)) for n in range(60)))
        shop.run_nearline()
        self.shop, self.gate = shop, Gate(shop.store)
        self.guard = GuardedStore(self.gate, limit=limit)  # type: ignore[arg-type]
        self.threads = ThreadPoolExecutor(4)

    def reader(self, other: FeatureReader | None = None) -> PacedReader:
        reader = FeatureReader((other or self.shop.reader()).plan, self.guard)
        return PacedReader(reader, loop=asyncio.get_running_loop(), threads=self.threads)

    def expected(self, *shops: str, now: int = NOW) -> Reading:
        return self.shop.reader().read(self.shop.rows(*shops), now)


@pytest.fixture
def case(shop: Shop) -> Iterator[Case]:
    found = Case(shop)
    yield found
    found.gate.open()
    found.threads.shutdown()


def _run(made: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(made(), 60)

    asyncio.run(run())


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def _same(one: Reading, other: Reading) -> bool:
    return (
        same_bits(one.values, other.values)
        and one.statuses.tolist() == other.statuses.tolist()
        and one.ages.tolist() == other.ages.tolist()
        and one.faults == other.faults
    )


def test_quick_reads_are_made_on_the_loop(case: Case) -> None:
    async def run() -> None:
        reads = case.reader()
        for shops in ("a", "ab", "cab"):
            assert _same(await reads.later(case.shop.rows(*shops), NOW), case.expected(*shops))
        assert (case.gate.beside, reads.patience(1) > 0) == (0, True)

    _run(run)


def test_the_first_read_that_holds_up_the_loop_is_made_beside_it_with_the_same_bits(case: Case) -> None:
    async def run() -> None:
        reads, others = case.reader(), 0
        case.gate.shut()
        asked = asyncio.ensure_future(reads.later(case.shop.rows("a", "b"), NOW))
        await _until(lambda: case.gate.beside == 1)
        for _ in range(100):
            await asyncio.sleep(0)
            others += not asked.done()
        assert (others, reads.patience(1)) == (100, 0.0)
        assert case.guard.breaker.is_closed, "what was given up on the loop is not held against the store"
        case.gate.open()
        assert _same(await asked, case.expected("a", "b"))
        assert case.gate.threads[0] == case.gate.here

    _run(run)


def test_reads_come_back_to_the_loop_once_they_are_quick_again(case: Case) -> None:
    async def run() -> None:
        reads = case.reader()
        case.gate.shut()
        asked = asyncio.ensure_future(reads.later(case.shop.rows("a"), NOW))
        await _until(lambda: case.gate.beside == 1)
        case.gate.open()
        await asked
        while case.gate.threads[-1] != case.gate.here:
            assert _same(await reads.later(case.shop.rows("c", "a"), NOW), case.expected("c", "a"))

    _run(run)


def test_no_two_threads_are_ever_in_one_reader_and_each_caller_gets_its_own(case: Case) -> None:
    async def run() -> None:
        reads = case.reader()
        case.gate.shut()
        wanted = [("abc"[n % 3] * (n % 5 + 1), NOW + n * MINUTE) for n in range(40)]
        asked = [
            asyncio.ensure_future(reads.later(case.shop.rows(*shops), now, until=math.inf)) for shops, now in wanted
        ]
        await _until(lambda: case.gate.beside == 1)
        assert reads.patience(1) == 0.0, "nothing is read on the loop meanwhile"
        case.gate.open()
        for one, (shops, now) in zip(asked, wanted, strict=True):
            assert _same(await one, case.expected(*shops, now=now))
        assert case.gate.most == 1

    _run(run)


def test_readers_do_not_wait_for_one_another(case: Case) -> None:
    async def run() -> None:
        readers = [case.reader() for _ in range(3)]
        case.gate.shut()
        asked = [asyncio.ensure_future(one.later(case.shop.rows("a"), NOW)) for one in readers]
        await _until(lambda: case.gate.inside == 3)
        case.gate.open()
        for one in asked:
            assert _same(await one, case.expected("a"))

    _run(run)


def test_who_goes_away_leaves_the_read_to_its_end_and_those_behind_get_theirs(case: Case) -> None:
    async def run() -> None:
        reads = case.reader()
        case.gate.shut()
        gone = asyncio.ensure_future(reads.later(case.shop.rows("a"), NOW))
        await _until(lambda: case.gate.beside == 1)
        asked = len(case.gate.threads)
        waiting, never = (asyncio.ensure_future(reads.later(case.shop.rows("b"), NOW)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        never.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (reads.patience(1), len(case.gate.threads), case.gate.inside) == (0.0, asked, 1)
        case.gate.open()
        assert _same(await waiting, case.expected("b"))
        assert len(case.gate.threads) - asked <= 2, "nothing is read for who went away before it was their turn"

    _run(run)


@tl.request(inputs={"basket": tl.Float64}, features={"double": tl.Float64})
def doubled(request: dict[str, npt.NDArray[np.float64]]) -> dict[str, npt.NDArray[np.float64]]:
    return {"double": 2 * request["basket"]}


def test_what_needs_no_such_store_stays_on_the_loop_while_the_store_is_slow(case: Case) -> None:
    async def run() -> None:
        reads, plain = case.reader(), case.reader(case.shop.reader(doubled))
        unguarded = PacedReader(case.shop.reader(), loop=asyncio.get_running_loop(), threads=case.threads)
        case.gate.shut()
        asked = asyncio.ensure_future(reads.later(case.shop.rows("a"), NOW))
        await _until(lambda: case.gate.beside == 1)
        assert (plain.patience(1), unguarded.patience(1)) == (math.inf, math.inf)
        assert (await plain.later(case.shop.rows("a"), NOW)).values.tolist() == [[20.0]]
        assert _same(await unguarded.later(case.shop.rows("a"), NOW), case.expected("a"))
        assert not asked.done()
        case.gate.open()
        await asked

    _run(run)


def test_a_store_that_hangs_costs_the_values_labelled_and_then_no_time_at_all(shop: Shop) -> None:
    case = Case(shop, limit=0.02)

    async def run() -> None:
        reads = case.reader()
        reading = await reads.later(shop.rows("a"), NOW, until=time.perf_counter() + 10)
        assert "no answer in time" in reading.faults[0].reason
        assert "a call failed" in case.guard.breaker.reason
        assert case.gate.beside == 1, "it was waited for beside the loop"
        assert reads.patience(1) > 0, "what is refused at once is refused on the loop"
        reading = await reads.later(shop.rows("a"), NOW, until=time.perf_counter() + 10)
        assert "its breaker is open" in reading.faults[0].reason

    case.gate.shut()
    _run(run)
    case.gate.open()
    case.threads.shutdown()


def test_a_read_that_waited_too_long_for_its_turn_says_nothing_of_the_store(case: Case) -> None:
    async def run() -> None:
        reads = case.reader()
        case.gate.shut()
        first = asyncio.ensure_future(reads.later(case.shop.rows("a"), NOW))
        await _until(lambda: case.gate.beside == 1)
        late = asyncio.ensure_future(reads.later(case.shop.rows("b"), NOW, until=time.perf_counter()))
        case.gate.open()
        assert _same(await first, case.expected("a"))
        await late  # with values, if the store gives them in the millisecond that any read has
        assert case.guard.breaker.is_closed

    _run(run)
