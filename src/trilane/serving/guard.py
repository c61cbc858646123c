"""An online store behind a breaker: while it does not answer, nobody waits for it.

Laws: a read that held its caller up for `hang` and failed opens the breaker at once, so that a store that hangs holds
its readers up by one such read between two probes; probes read beside the loop, in a thread of their own, and only
while somebody asks; what a read is given little time for says nothing of the store. Any thread may read: what is
learnt of reads is written under a lock, which nobody holds while it waits for the store.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from trilane.errors import UnavailableError
from trilane.serving.breaker import Breaker
from trilane.serving.pace import LONG, Pace
from trilane.stores.online import versions
from trilane.stores.online.hedging import Hedging
from trilane.stores.online.protocol import Holder, Lease, OnlineStore, Writer

__all__ = ["GuardedStore", "HeldUp"]

_NEARLY = 0.9  # of the time that a read was given: one that fails later failed because it was over
_Requests: TypeAlias = Sequence[tuple[str, Sequence[bytes]]]


class HeldUp(Exception):  # noqa: N818 - it is no fault yet: the read is made again where it holds nobody up
    """The store did not answer in the time for which its reader may be held up; whether it will is not known."""


class GuardedStore:
    """Keeps the promise of OnlineStore; reads raise UnavailableError at once while the breaker is open.

    `limit`: the seconds that a read of a decision is given at most; `start` runs a probe beside the loop, by default in
    a thread; `read_twice` hears of each read that `hedging` asked a second time, and whether that
    was answered first.
    """

    def __init__(
        self,
        store: OnlineStore,
        *,
        limit: float = 0.05,
        breaker: Breaker | None = None,
        start: Callable[[Callable[[], None]], object] | None = None,
        timer: Callable[[], float] = time.perf_counter,
        hedging: Hedging | None = None,
        read_twice: Callable[[bool], None] = lambda _won: None,
    ) -> None:
        self.limit, self._store, self._timer = limit, store, timer
        # One thread for all probes, which keeps its connection; it begins with the first of them.
        self._start = start or ThreadPoolExecutor(1, "store-probe").submit
        self.breaker = breaker or Breaker(slow=limit / 2, hang=limit / 2, rest=0.2, longest=2.0)
        self._hedging, self._read_twice = hedging, read_twice
        self._decided = self._won = 0
        self._pace, self._learning = Pace(), threading.Lock()
        self._outcome: tuple[int, float, bool] | None = None  # of the probe that has ended

    @property
    def atomic(self) -> bool:
        return self._store.atomic

    @property
    def max_key_bytes(self) -> int:
        return self._store.max_key_bytes

    @property
    def is_long(self) -> bool:
        """Whether a read is expected to hold its caller up; while the breaker is open none does."""
        return self._pace.is_long and self.breaker.is_closed

    def greet(self) -> None:
        """Opens what this thread needs to read, that its first read may not wait for it nor count as a slow one."""
        with contextlib.suppress(Exception):  # what is wrong is told to that read
            self._store.read([(versions.SPACE, [b"-"])])

    def read(
        self, requests: _Requests, *, within: float = math.inf, patience: float = math.inf
    ) -> list[list[bytes | None]]:
        """As OnlineStore promises. Raises HeldUp after `patience` seconds, if more of them are left: then nothing is
        held against the store, and the caller asks again from where it holds nobody up.
        """
        start = self._timer()
        if self._outcome is not None:
            self._hear()
        if not self.breaker.is_closed:
            self._probe(requests, start)
            raise UnavailableError(
                f"its breaker is open: {self.breaker.reason}",
                where="online store",
                remedy="Nothing: it is asked again beside the answers, and used once it is well",
            )
        ticket = self.breaker.enter(start)
        within = min(within, self.limit) if within < math.inf else within
        try:
            found = self._store.read(requests, within=patience if patience < within else within)
        except Exception as error:
            seconds = (end := self._timer()) - start
            with self._learning:
                if patience < within and seconds >= _NEARLY * patience:
                    self._pace.held_up()
                    raise HeldUp from error
                if seconds >= LONG:  # one that failed sooner, or had no longer, says nothing of how long they take
                    self._pace.note(seconds, _size(requests))
                if within >= self.limit or seconds >= self.limit / 2:
                    self.breaker.leave(ticket, end, seconds, failed=True)
            raise
        seconds = (end := self._timer()) - start
        with self._learning:
            if self._hedging is not None and self._hedging.decided != self._decided:
                self._tell_hedge(self._hedging)
            if seconds >= LONG or not self._pace.calm:
                self._pace.note(seconds, _size(requests))
            # A read that is not bound to a decision's time may be as large as it is slow.
            self.breaker.leave(ticket, end, seconds if within < math.inf else 0.0)
        return found

    def _tell_hedge(self, hedging: Hedging) -> None:
        decided, won = hedging.decided, hedging.won
        for turn in range(decided - self._decided):
            self._read_twice(turn < won - self._won)
        self._decided, self._won = decided, won

    def _hear(self) -> None:
        with self._learning:
            outcome, self._outcome = self._outcome, None
            if outcome is not None:
                ticket, seconds, failed = outcome
                self.breaker.leave(ticket, self._timer(), seconds, failed=failed)

    def _probe(self, requests: _Requests, now: float) -> None:
        with self._learning:
            ticket = 0 if self.breaker.is_closed else self.breaker.enter(now)
        if not ticket:
            return
        # The first key of what is asked: enough to learn whether it answers, and nothing that it may be slow at.
        asked = next(([(space, keys[:1])] for space, keys in requests if keys), [])

        def ask() -> None:
            start = self._timer()
            try:
                self._store.read(asked, within=self.limit)
                failed = False
            except Exception:  # noqa: BLE001 - whatever it is, the store is not well
                failed = True
            self._outcome = ticket, self._timer() - start, failed

        self._start(ask)

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        return self._store.scan(space)

    def writer(self, region: str, part: str = "", *, holder: str = "") -> Writer:
        return self._store.writer(region, part, holder=holder)

    def lease(self, group: str, name: str, *, holder: str = "") -> Lease:
        return self._store.lease(group, name, holder=holder)

    def holders(self, group: str) -> dict[str, Holder]:
        return self._store.holders(group)

    def close(self) -> None:
        self._store.close()


def _size(requests: _Requests) -> int:
    """How many keys are asked for."""
    return sum(len(keys) for _, keys in requests)
