"""Requests of one endpoint or model on the event loop, answered together as its dispatcher decides.

A batch that runs on the loop holds up the loop: what came meanwhile is seen after it, and may have come as it began. So
batches take turns, the loop looks before the next one is formed, those that are seen then are taken for as old as that,
and what a batch takes is learnt with the delivery of its answers.

Laws: a batch is formed at the instant it starts. Rows of one request stay together. A full queue refuses at once, so
that waiting requests keep their deadlines. Every request is answered or told why not, never because of its company, and
not after its deadline only because an executor hangs.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import msgspec

from trilane.errors import ContractError, UnavailableError
from trilane.serving.admission import Admission
from trilane.serving.arrivals import Arrivals
from trilane.serving.dispatch import Batch, Dispatcher, Job, Late, Wait
from trilane.serving.latency import LatencyModel
from trilane.serving.lateness import Lateness
from trilane.serving.line import Keeper
from trilane.serving.share import Account, Share, check_rows, too_many
from trilane.serving.trials import TRIAL
from trilane.serving.turns import Turns

__all__ = ["Batcher"]

Portion = TypeVar("Portion")
Result = TypeVar("Result")

# The loop's timers are no finer (selectors round up to it); a shorter wait looks again after each round of the loop.
_TICK = 1e-3
_LATE, _OUTLIVED, _ALONE = "deadline passed", "deadline passed while the model ran", "alone"


class _Waiting(msgspec.Struct, Generic[Portion, Result], frozen=True):
    portion: Portion
    future: asyncio.Future[Share[Result]]


_Jobs: TypeAlias = Sequence[Job[_Waiting[Portion, Result]]]


@dataclass(slots=True, eq=False)
class _Running(Generic[Portion, Result]):
    """A batch that will be answered later. `jobs`: all that were asked together, those who left included."""

    jobs: _Jobs[Portion, Result]
    rows: int
    began: float
    predicted: float
    reason: str
    answer: asyncio.Future[Result]
    timer: asyncio.TimerHandle | None = None


class Batcher(Generic[Portion, Result]):
    """Collects requests and answers them by `run`; those that cannot be in time by `expire`, with no work done.

    A request brings one portion, of any kind, that counts as some rows; `run` gets the portions of a batch in order,
    and its result holds the rows of all of them in that order. It may answer at once, on the loop, or give an awaitable
    of the answer, and then up to `executors` batches run at a time. `expire` gets portions and the reason.
    `latency`: what is known of the time that `run` takes, in seconds; `max_rows`: the largest batch; `queue_rows`: how
    many rows may wait; `admission`: what let the requests in; `turns`: of all batchers on this loop; `lateness`: of
    those who share its executors, `admission`'s if there is none; `worked` is called with the seconds that each batch
    took; deadlines are instants of `time.perf_counter`.
    """

    def __init__(
        self,
        run: Callable[[list[Portion]], Result | Awaitable[Result]],
        expire: Callable[[list[Portion], str], Result],
        *,
        loop: asyncio.AbstractEventLoop,
        latency: LatencyModel | None = None,
        executors: int = 1,
        max_rows: int = 1_024,
        queue_rows: int = 16_384,
        worked: Callable[[float], None] | None = None,
        admission: Keeper | None = None,
        turns: Turns | None = None,
        lateness: Lateness | None = None,
    ) -> None:
        self._worked = worked
        self._turns = turns or Turns(loop)
        self._run, self._expire, self._loop = run, expire, loop
        self._executors, self._queue_rows = executors, queue_rows
        self._admission: Keeper = admission or Admission(executors=executors)
        self.lateness = lateness or self._admission.lateness
        self._dispatcher = Dispatcher[_Waiting[Portion, Result]](
            latency or LatencyModel(), max_rows=max_rows, shares=self._admission.shares
        )
        self._alone: deque[Job[_Waiting[Portion, Result]]] = deque()  # whose batch failed: each is asked for alone
        self._running: set[_Running[Portion, Result]] = set()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._dispatcher.rows

    @property
    def running(self) -> int:
        """Batches whose answers are awaited."""
        return len(self._running)

    @property
    def latency(self) -> LatencyModel:
        """What was learnt of the time that batches take."""
        return self._dispatcher.latency

    @property
    def arrivals(self) -> Arrivals:
        """What was learnt of when requests come."""
        return self._dispatcher.arrivals

    def submit(self, portion: Portion, *, rows: int, deadline: float, tier: int = 0) -> asyncio.Future[Share[Result]]:
        """Queues one request of `rows` rows. Raises UnavailableError (429) when too many wait, and ContractError for a
        request that no queue could take.
        """
        if self._dispatcher.rows + rows > self._queue_rows or rows < 1:
            check_rows(rows, queue=self._queue_rows)
            self._make_room(tier, rows)
        if math.isnan(deadline):
            raise ContractError("a deadline that is no number", where="deadline", remedy="Give an instant, or none")
        future: asyncio.Future[Share[Result]] = self._loop.create_future()
        now = time.perf_counter()
        due = deadline - self._turns.blind if deadline > now else deadline
        self._dispatcher.add(Job(rows, now, due, _Waiting(portion, future), tier), now)
        self._soon()
        return future

    def wait(self, tier: int, rows: int, now: float) -> float:
        """Seconds until a request of `rows` that came now would be answered, if all goes as usual."""
        busy = 0.0
        if len(self._running) >= self._executors:
            busy = max(0.0, min(running.began + running.predicted for running in self._running) - now)
        return self._dispatcher.wait(tier, rows, now, busy, self._executors)

    def unloaded(self, requests: int) -> float:
        """Seconds that an answer takes if `requests` are in and none waits for more than it must."""
        return self._dispatcher.unloaded(requests)

    def may_try(self, deadline: float, now: float) -> bool:
        """Whether a request that seems to be too late should be let in, to see whether it still is."""
        return len(self._running) < self._executors and self._dispatcher.may_try(deadline, now)

    def waiting(self, tier: int) -> int:
        """How many requests of a tier wait."""
        return self._dispatcher.waiting.requests_of(tier)

    def put_out(self, tier: int) -> bool:
        """Refuses (429) the request of a tier that waits with the latest deadline; False if none waits."""
        waiting, now = self._dispatcher.waiting, time.perf_counter()
        while waiting.requests_of(tier):
            future = waiting.put_out(tier).payload.future
            if not future.done():
                future.set_exception(self._admission.put_out(tier, self.wait(tier, 1, now)))
                return True
        return False

    def _make_room(self, tier: int, rows: int) -> None:
        """Puts out lower requests for one of `tier`. Raises UnavailableError (429) if there are not enough of them."""
        lower = self._dispatcher.waiting.rows - self._dispatcher.waiting.rows_before(tier)
        if self._dispatcher.rows - lower + rows > self._queue_rows:
            raise too_many(self.queued)
        for other in reversed(self._dispatcher.waiting.filled()):
            while self._dispatcher.rows + rows > self._queue_rows and self.put_out(other):
                pass

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            self._turns.ask(self._pump)

    def _pump(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while len(self._running) < self._executors:
            now = time.perf_counter()
            if self._alone:
                at_once = self._ask_alone(self._alone.popleft(), now)
            else:
                decision = self._dispatcher.next(now, others_busy=len(self._running) == self._executors - 1)
                if isinstance(decision, Late):
                    self._give_up(decision.jobs, _LATE, now)
                    continue
                if not isinstance(decision, Batch):
                    if isinstance(decision, Wait):
                        self._again_at(decision.until, now)
                    return
                at_once = self._ask(decision.jobs, decision.reason, now)
            if at_once:
                return
        self._free_the_late()

    def _again_at(self, instant: float, now: float) -> None:
        if instant - now < _TICK:
            self._soon()
        else:
            self._timer = self._loop.call_later(instant - now, self._soon)

    def _free_the_late(self) -> None:
        """While every executor is busy: those that wait in vain hear of it in time."""
        now = time.perf_counter()
        late = self._dispatcher.late(now)
        if late is not None:
            self._give_up(late.jobs, _LATE, now)
        self._give_up([job for job in self._alone if job.deadline <= now], _LATE, now)
        self._alone = deque(job for job in self._alone if not job.payload.future.done())
        due = min((job.deadline for job in self._alone), default=self._dispatcher.late_from)
        if due < math.inf:
            self._timer = self._loop.call_later(max(due - now, _TICK), self._soon)

    def _ask(self, jobs: _Jobs[Portion, Result], reason: str, now: float) -> bool:
        """Runs a batch; whether that is over and something was done, so that it is the turn of others."""
        jobs = [job for job in jobs if not job.payload.future.cancelled()]
        if not jobs:
            self._nothing_learnt(reason, 0.0)
            return False
        rows = sum([job.rows for job in jobs])
        predicted = self.latency.expected(rows)
        try:
            answer = self._run([job.payload.portion for job in jobs])
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            actual = time.perf_counter() - now
            self._nothing_learnt(reason, actual)
            self._failed(jobs, error)
            self._over(0, now, actual, reason)
            return True
        if inspect.isawaitable(answer):
            future = asyncio.ensure_future(answer, loop=self._loop)
            running = _Running(jobs, rows, now, predicted, reason, future)
            self._running.add(running)
            self._watch(running, now)
            future.add_done_callback(lambda _: self._finished(running))
            return False
        actual = time.perf_counter() - now
        self._tell(jobs, answer, Account(rows, len(jobs), now, predicted, actual, reason))
        self._over(rows, now, actual, reason)
        return True

    def _over(self, rows: int, began: float, seconds: float, reason: str) -> None:
        self._turns.held(seconds)
        self._loop.call_soon(
            self._delivered, rows, began, reason
        )  # after those who wait for the answers, in the next round

    def _delivered(self, rows: int, began: float, reason: str) -> None:
        """Learns of a batch that was answered, and looks whether more wait."""
        if rows:
            self._done(rows, time.perf_counter() - began, reason)
        if self._dispatcher.requests or self._alone:
            self._soon()

    def _ask_alone(self, job: Job[_Waiting[Portion, Result]], now: float) -> bool:
        if job.deadline < now:
            self._give_up([job], _LATE, now)
            return False
        return self._ask([job], _ALONE, now)

    def _finished(self, running: _Running[Portion, Result]) -> None:
        self._running.discard(running)
        if running.timer is not None:
            running.timer.cancel()
        self._soon()
        actual = time.perf_counter() - running.began
        if running.answer.cancelled():
            self._nothing_learnt(running.reason, actual)
            stopped = UnavailableError("the batch was stopped before its end", where="model", remedy="Try again")
            self._failed(running.jobs, stopped, again=False)
            return
        error = running.answer.exception()
        if error is not None:
            self._nothing_learnt(running.reason, actual)
            self._failed(running.jobs, error)
            return
        self._done(running.rows, actual, running.reason)
        account = Account(running.rows, len(running.jobs), running.began, running.predicted, actual, running.reason)
        self._tell(running.jobs, running.answer.result(), account)

    def _nothing_learnt(self, reason: str, seconds: float) -> None:
        if reason == TRIAL:
            self._dispatcher.failed(seconds)

    def _done(self, rows: int, seconds: float, reason: str) -> None:
        self._dispatcher.done(rows, seconds, tried=reason == TRIAL)
        if self._worked is not None:
            self._worked(seconds)

    def _watch(self, running: _Running[Portion, Result], now: float) -> None:
        """Wakes when the first of those who still wait for a batch need its answer no longer."""
        ends = min((job.deadline for job in running.jobs if not job.payload.future.done()), default=math.inf)
        if ends < math.inf:
            running.timer = self._loop.call_later(max(ends - now, _TICK), self._outlived, running)

    def _outlived(self, running: _Running[Portion, Result]) -> None:
        now = time.perf_counter()
        late = [job for job in running.jobs if job.deadline <= now and not job.payload.future.done()]
        if late:
            self._give_up(late, _OUTLIVED, now)
        self._watch(running, now)

    def _give_up(self, jobs: _Jobs[Portion, Result], reason: str, now: float) -> None:
        """Answers with no work those for whom there is no time left."""
        jobs = [job for job in jobs if not job.payload.future.done()]
        if not jobs:
            return
        for job in jobs:
            if job.deadline > -math.inf:  # else it was let in without hope
                self._admission.missed(self, job.tier, now)
        try:
            result = self._expire([job.payload.portion for job in jobs], reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            if len(jobs) == 1:
                _fail(jobs[0], error)
            else:
                for job in jobs:
                    self._give_up([job], reason, now)
            return
        rows = sum(job.rows for job in jobs)
        self._tell(jobs, result, Account(rows, len(jobs), now, self.latency.expected(rows), 0.0, reason))

    def _tell(self, jobs: _Jobs[Portion, Result], result: Result, account: Account) -> None:
        if account.reason == TRIAL and all(job.deadline <= time.perf_counter() for job in jobs):
            self._give_up(jobs, _OUTLIVED, time.perf_counter())  # which was expected: nobody gets it for an answer
            return
        start = 0
        for job in jobs:
            stop = start + job.rows
            if not job.payload.future.done():
                job.payload.future.set_result(Share(result, start, stop, account, job.arrived))
            start = stop

    def _failed(self, jobs: _Jobs[Portion, Result], error: BaseException, *, again: bool = True) -> None:
        """Tells a lone request of the error; asks for each of many alone, so that one cannot spoil the others."""
        if again and len(jobs) > 1:
            self._alone.extend(job for job in jobs if not job.payload.future.done())
            return
        for job in jobs:
            _fail(job, error)


def _fail(job: Job[_Waiting[Portion, Result]], error: BaseException) -> None:
    if isinstance(error, StopIteration):  # which a future refuses
        error = RuntimeError(f"StopIteration: {error}")
    if not job.payload.future.done():
        job.payload.future.set_exception(error)
