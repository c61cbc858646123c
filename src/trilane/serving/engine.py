"""What answers the rows of one endpoint: read the features, run the model, degrade where that fails.

Laws: an answer is always one of the declared ones; it says which rung of the ladder made it and why it is worse than
promised; one row's answer depends on that row, the instant, the stores, and whether the model is well, not on the rows
that were batched with it. Reading, scoring and laddering are steps of their own, so that a store or a runtime elsewhere
can be awaited between them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError, TrilaneError, UnavailableError
from trilane.features.algebra import Floats
from trilane.features.fallback import MISSING
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Scores
from trilane.serving.answer_cache import Kept
from trilane.serving.breaker import Breaker
from trilane.serving.degradation import STALE
from trilane.serving.endpoint import Endpoint
from trilane.serving.guard import HeldUp
from trilane.serving.ladder import Draft, Ladder, Smaller, as_float32, breaker_of, late, predicted, stored_views
from trilane.serving.latency import LatencyModel
from trilane.serving.reading import LEAST, Fault, FeatureReader, Reading, Rows, Throttle
from trilane.serving.salvage import by_halves, one_by_one
from trilane.serving.trials import Trials

__all__ = ["Answers", "Engine", "Scored", "rebuild"]

_NO_PARTS: Mapping[str, float] = {}
_NONE_KEPT: Mapping[int, Kept] = {}
_FOR_READING = 0.75  # of the time that is left, what a store may take before the answer goes on without it
_LONG = 2e-3  # seconds of the model's own work
_EVERY = 16  # of so many batches the time of one is learnt from


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to `rows`, made together: scores [rows] with what they were made of.

    `rungs` [rows]: the positions in `RUNGS` of what made them; `origins`: of those from the cache, by row, the id of
    the decision that they were made for; `parts`: the seconds that each step took, in order.
    """

    id: str
    bundle: str
    at: int
    rows: Rows
    scores: Floats
    reading: Reading
    faults: tuple[Fault, ...]
    rungs: npt.NDArray[np.uint8]
    origins: Mapping[int, str] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def by_model(self) -> npt.NDArray[np.bool_]:
        """Which scores [rows] are the model's own."""
        own: npt.NDArray[np.bool_] = self.rungs <= STALE
        return own

    def why(self, row: int) -> tuple[str, ...]:
        """Why the answer to `row` is worse than promised; empty if it is not."""
        return tuple(fault.reason for fault in self.faults if fault.rows is None or row in fault.rows)

    def of(self, rows: Sequence[int]) -> Answers:
        """The answers to some of the rows alone, to be counted: their ids stay those of the whole."""
        place, take, told = {row: at for at, row in enumerate(rows)}, list(rows), self.reading
        own = {
            fault: fault.rows and frozenset(place[row] for row in fault.rows if row in place) for fault in self.faults
        }
        return replace(
            self,
            rows=[self.rows[row] for row in take],
            scores=self.scores[take],
            reading=replace(told, values=told.values[take], statuses=told.statuses[take], ages=told.ages[take]),
            faults=tuple(replace(fault, rows=left) for fault, left in own.items() if left is None or left),
            rungs=self.rungs[take],
            origins={place[row]: origin for row, origin in self.origins.items() if row in place},
        )

    @property
    def degraded(self) -> int:
        """How many answers are worse than promised."""
        if any(fault.rows is None for fault in self.faults):
            return len(self.scores)
        return len(frozenset[int]().union(*(fault.rows for fault in self.faults if fault.rows is not None)))


@dataclass(frozen=True, slots=True)
class Scored:
    """The model's scores [rows], NaN where it gave none; why it gave none; what was kept and is answered instead."""

    scores: Floats
    whole: bool
    faults: tuple[Fault, ...] = ()
    kept: Mapping[int, Kept] = field(default_factory=dict)


class Engine:
    """Answers for one bundle of an endpoint. `timer`: seconds, by which deadlines are told; `latency`: of its model;
    `work`: the seconds for which this thread has been at work, of which those that it waited for others are no part;
    `thorough`: whether of a batch that the model refuses each row is found that it takes, however long that is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        bundle: str,
        reader: FeatureReader,
        runtime: Runtime,
        smaller: Smaller | None = None,
        breaker: Breaker | None = None,
        latency: LatencyModel | None = None,
        timer: Callable[[], float] = time.perf_counter,
        work: Callable[[], float] = time.thread_time,
        thorough: bool = False,
    ) -> None:
        self.endpoint, self.bundle, self.reader, self.runtime = endpoint, bundle, reader, runtime
        self.breaker = breaker_of(endpoint) if breaker is None else breaker
        self.ladder = Ladder(endpoint, smaller=smaller, timer=timer)
        self._timer, self._work, self._thorough = timer, work, thorough
        cache = self.ladder.cache
        self._kept_first = cache if cache is not None and cache.rung.serve == "always" else None
        self._views = stored_views(endpoint.model)
        # How long the model and a read take is asked only where a smaller model could be in time instead.
        self._latency = None if smaller is None else latency or LatencyModel()
        self._read_time, self._batches, self._trials = 0.0, 0, Trials()
        self._throttle = Throttle(__name__)
        self._own = copy.deepcopy(latency or LatencyModel())

    def is_long(self, rows: int) -> bool:
        """Whether the model works so long on a batch of `rows` that others should not stand still for it."""
        return self._own.expected(rows) >= _LONG

    def answer(
        self, rows: Rows, *, now: int, id: str, deadline: float = math.inf, patience: float = math.inf
    ) -> Answers:
        """Answers `rows` as of instant `now`, by `deadline` of the timer. UnavailableError if no rung is left; HeldUp,
        with nothing done, if a store takes longer than `patience` seconds.
        """
        kept, answer = self._by_request(rows, now, id)
        if answer is not None:
            return answer
        began = self._timer()
        reading = self.read(rows, now, deadline, patience)
        read = self._timer()
        scored = self.scored(reading, now=now, deadline=deadline, kept=kept)
        parts = {"features": read - began, "model": self._timer() - read}
        return self.answered(rows, reading, scored, now=now, id=id, deadline=deadline, parts=parts)

    async def answer_later(
        self,
        rows: Rows,
        *,
        now: int,
        id: str,
        deadline: float,
        read: Callable[[Rows, int, float], Awaitable[Reading]],
        elsewhere: Callable[[Callable[[], Scored]], Awaitable[Scored]] | None = None,
    ) -> Answers:
        """The same, with the features awaited from `read`, which has until an instant, and the model run by
        `elsewhere`, if given, while others are let in or refused.
        """
        kept, answer = self._by_request(rows, now, id)
        if answer is not None:
            return answer
        began = self._timer()
        reading = await read(rows, now, began + max(_FOR_READING * (deadline - began), LEAST))
        self._note_read(began)
        fetched = self._timer()
        score = functools.partial(self.scored, reading, now=now, deadline=deadline, kept=kept)
        scored = score() if elsewhere is None else await elsewhere(score)
        parts = {"features": fetched - began, "model": self._timer() - fetched}
        return self.answered(rows, reading, scored, now=now, id=id, deadline=deadline, parts=parts)

    def _by_request(self, rows: Rows, now: int, id: str) -> tuple[Mapping[int, Kept], Answers | None]:
        """What is kept for what was asked, before anything is read; and the answers, if that is all of them."""
        if not self.keeps_by_request or self._kept_first is None:
            return _NONE_KEPT, None
        kept = self._kept_first.find(self._kept_first.keys_of(rows), now)
        if len(kept) < len(rows) or not kept:
            return kept, None
        draft = Draft.of(len(rows))
        draft.give(kept)
        return kept, self._of(draft, rows, self._nothing(rows), now, id)

    @property
    def keeps_by_request(self) -> bool:
        """Whether kept answers go before the reading of features."""
        return self._kept_first is not None and not self._kept_first.by_features

    def answer_without_model(
        self,
        rows: Rows,
        *,
        now: int,
        id: str,
        reason: str,
        deadline: float = -math.inf,
        patience: float = math.inf,
    ) -> Answers:
        """The next rungs of the ladder, for rows whose time is up; the smaller model's, if `deadline` leaves room, and
        a store that can be read in `patience` seconds.
        """
        draft, smaller = Draft.of(len(rows), [Fault(reason)]), self.ladder.smaller
        reading = None
        if smaller is not None and patience > 0:
            start = self._timer()
            within = deadline - start - self._read_time
            if smaller.fits(len(rows), start, within) and smaller.breaker.would_enter(start):
                with contextlib.suppress(HeldUp):
                    reading = self.read(rows, now, deadline, patience)
                    draft.faults[:0] = reading.faults
        self.ladder.descend(draft, rows, reading, now=now, deadline=deadline)
        return self._of(draft, rows, reading or self._nothing(rows), now, id)

    def close(self) -> None:
        """Gives back what its models hold."""
        self.runtime.close()
        if self.ladder.smaller is not None:
            self.ladder.smaller.runtime.close()

    # -- the steps ----------------------------------------------------------------------------------------------

    def read(self, rows: Rows, now: int, deadline: float = math.inf, patience: float = math.inf) -> Reading:
        """The features of `rows`; for a store that can hang no longer than is left for it of the time to `deadline`."""
        start = self._timer()
        within = max(_FOR_READING * (deadline - start), LEAST)
        reading = self.reader.read(rows, now, within=within, patience=patience)
        if self._latency is not None:
            self._note_read(start)
        return reading

    def _note_read(self, start: float) -> None:
        self._read_time = max(self._timer() - start, 0.9 * self._read_time)

    def scored(
        self, reading: Reading, *, now: int, deadline: float = math.inf, kept: Mapping[int, Kept] | None = None
    ) -> Scored:
        """The model's scores, of the rows for which none is `kept`."""
        size, kept = len(reading.values), kept or {}
        matrix = as_float32(reading)
        if self._kept_first is not None and self._kept_first.by_features:
            kept = self._kept_first.find(self._kept_first.keys_in(matrix), now)
        if not kept:
            return self._predicted(reading, matrix, deadline)
        scores, rest = np.full(size, np.nan), [row for row in range(size) if row not in kept]
        if not rest:
            return Scored(scores, False, (), kept)
        found = self._predicted(reading, matrix[rest], deadline)
        scores[rest] = found.scores
        return Scored(scores, False, tuple(_moved(fault, rest) for fault in found.faults), kept)

    def answered(
        self,
        rows: Rows,
        reading: Reading,
        scored: Scored,
        *,
        now: int,
        id: str,
        deadline: float = math.inf,
        parts: Mapping[str, float] = _NO_PARTS,
    ) -> Answers:
        """The model's scores where they are good, and the ladder's answers elsewhere."""
        cache, rungs = self.ladder.cache, _own_rungs(reading)
        if scored.whole and cache is None:
            return Answers(id, self.bundle, now, rows, scored.scores, reading, reading.faults, rungs, parts=parts)
        finite = np.isfinite(scored.scores)
        draft = Draft(np.where(finite, scored.scores, np.nan), rungs, [*reading.faults, *scored.faults], {})
        draft.give(scored.kept)
        if cache is not None and finite.any() and (cache.by_features or not reading.faults):
            keys = self.ladder.keys(rows, reading)
            cache.keep(keys, scored.scores, np.flatnonzero(finite).tolist(), now, id)
        self.ladder.descend(draft, rows, reading, now=now, deadline=deadline)
        return self._of(draft, rows, reading, now, id, parts)

    def _predicted(self, reading: Reading, matrix: npt.NDArray[np.float32], deadline: float) -> Scored:
        size, start, tried = len(matrix), self._timer(), False
        why = late(self.ladder.stale, reading, self._views) if reading.faults else ""
        if not why and self._latency is not None and deadline - start < self._latency.upper(size):
            tried = self._trials.due(start, self._latency, size, deadline - start)
            why = "" if tried else "model: the deadline leaves no room for it"
        ticket = 0 if why else self.breaker.enter(start)
        if not ticket:
            why = why or f"model: its breaker is open: {self.breaker.reason}"
            return Scored(np.full(size, np.nan), False, (Fault(why),))
        faults: tuple[Fault, ...] = ()
        began = self._work()
        self._trials.began(start, tried=tried)
        try:
            scores = predicted(self.runtime, matrix, self.endpoint.model.name)
        except TrilaneError as error:
            self._throttle.tell(f"endpoint {self.endpoint.name}", error)
            scores, faults = self._salvaged(matrix, error)
        end = self._timer()
        if tried:
            self._trials.ended(end - start)
        finite = np.isfinite(scores)
        if whole := bool(finite.all()):
            self.breaker.leave(ticket, end, end - start)
            self._learn(size, end - start, self._work() - began, tried=tried)
            return Scored(scores, whole)
        # A score that is no number is the row's doing as often as the model's: it opens no breaker for other rows.
        self.breaker.leave(ticket, end, end - start, failed=bool(faults) and not finite.any())
        return Scored(scores, whole, (*faults, *self._not_finite(finite, faults)))

    def _learn(self, size: int, seconds: float, work: float, *, tried: bool) -> None:
        self._batches += 1
        if self._batches % _EVERY == 0:
            self._own.observe(size, work)
        if self._latency is not None:
            if tried:
                self._latency.renew(size, seconds)
            elif self._batches % _EVERY == 0:
                self._latency.observe(size, seconds)

    def _salvaged(self, matrix: npt.NDArray[np.float32], error: TrilaneError) -> tuple[Scores, tuple[Fault, ...]]:
        """The scores of the rows that the model takes without others, as one of them may have spoilt the batch."""
        if self._thorough and not self.ladder.rungs:  # one row without an answer leaves all of them without
            return np.full(len(matrix), np.nan), (Fault(f"model: {error.what}"),)
        salvage, name = by_halves if self._thorough else one_by_one, self.endpoint.model.name
        return salvage(lambda rows: predicted(self.runtime, rows, name), matrix, error)

    def _not_finite(self, finite: npt.NDArray[np.bool_], faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
        size = len(finite)
        told = frozenset[int]().union(*(range(size) if fault.rows is None else fault.rows for fault in faults))
        bad = frozenset(np.flatnonzero(~finite).tolist()) - told
        if not bad:
            return ()
        what, where = "a score is not a finite number", f"model {self.endpoint.model.name!r}"
        remedy = "Check the model's output on rows with missing features"
        self._throttle.tell(f"endpoint {self.endpoint.name}", ModelError(what, where=where, remedy=remedy))
        return (Fault(f"model: {what}", bad if len(bad) < size else None),)

    def _of(
        self, draft: Draft, rows: Rows, reading: Reading, now: int, id: str, parts: Mapping[str, float] = _NO_PARTS
    ) -> Answers:
        left = draft.open
        if len(left):
            reason = draft.faults[-1].reason if draft.faults else "no rung has an answer"
            raise UnavailableError(
                f"no answer: {reason}",
                where=f"endpoint {self.endpoint.name!r}",
                remedy="Try again, or declare fallback=[..., tl.constant(...)]",
            )
        return Answers(
            id, self.bundle, now, rows, draft.scores, reading, tuple(draft.faults), draft.rungs, draft.origins, parts
        )

    def _nothing(self, rows: Rows) -> Reading:
        """What is read where nothing is."""
        shape = len(rows), len(self.reader.plan.columns)
        return Reading(np.full(shape, np.nan), np.full(shape, MISSING, np.uint8), np.zeros(shape, np.int64), ())


def _own_rungs(reading: Reading) -> npt.NDArray[np.uint8]:
    """For each row, whether the model saw what was promised or worse."""
    rungs = np.zeros(len(reading.values), np.uint8)  # FRESH
    for fault in reading.faults:
        rungs[slice(None) if fault.rows is None else list(fault.rows)] = STALE
    return rungs


def _moved(fault: Fault, rows: list[int]) -> Fault:
    """A fault of the rows of a part, as one of the whole."""
    chosen = range(len(rows)) if fault.rows is None else fault.rows
    return Fault(fault.reason, frozenset(rows[row] for row in chosen), fault.view, fault.age)


def rebuild(engine: Engine, features: Mapping[str, float], *, smaller: bool = False) -> float:
    """The score that the engine's model, or its smaller one, gives to recorded features (float64, by name)."""
    row = np.array([[features[name] for name in engine.reader.plan.names]]).astype(np.float32)
    other = engine.ladder.smaller
    if smaller and other is not None:
        return float(other.runtime.predict(np.ascontiguousarray(row[:, other.columns]))[0])
    return float(engine.runtime.predict(row)[0])
