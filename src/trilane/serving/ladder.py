"""The way down the degradation ladder, rung by rung, for the rows that a better one did not answer.

Laws: a row gets the first rung that has an answer for it, whatever its company; what hindered each rung is told; work
is begun only where the deadline leaves room for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trilane.clock import format_duration
from trilane.errors import ModelError, TrilaneError
from trilane.features.algebra import Floats, Ints
from trilane.features.view import Stale
from trilane.models.model import Model
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Scores
from trilane.serving.answer_cache import AnswerCache, Kept
from trilane.serving.breaker import Breaker
from trilane.serving.degradation import CACHED, CONSTANT, FRESH, SMALLER, CachedAnswer, ConstantAnswer, SmallerModel
from trilane.serving.endpoint import Endpoint
from trilane.serving.latency import LatencyModel
from trilane.serving.reading import Fault, Reading, Rows
from trilane.serving.trials import Trials

__all__ = ["Draft", "Ladder", "Smaller", "as_float32", "breaker_of", "late", "predicted", "stored_views"]


@dataclass(frozen=True, slots=True)
class Smaller:
    """The opened smaller model of an endpoint: `columns` are its features among those of the first one."""

    name: str
    runtime: Runtime
    columns: Ints
    breaker: Breaker
    latency: LatencyModel = field(default_factory=LatencyModel)
    trials: Trials = field(default_factory=Trials)

    def fits(self, rows: int, now: float, within: float) -> bool:
        """Whether it answers `rows` within so many seconds, or is tried, to see whether it still does not."""
        if within >= self.latency.upper(rows):
            return True
        return self.trials.due(now, self.latency, rows, within)

    def learn(self, rows: int, seconds: float, *, tried: bool) -> None:
        """It answered `rows` in so many seconds; `tried`: which were expected to be too many."""
        if tried:
            self.trials.ended(seconds)
            self.latency.renew(rows, seconds)
        else:
            self.latency.observe(rows, seconds)


@dataclass(slots=True)
class Draft:
    """Answers while they are being found: a score is NaN, and its rung FRESH, until there is one."""

    scores: Floats
    rungs: npt.NDArray[np.uint8]
    faults: list[Fault]
    origins: dict[int, str]

    @staticmethod
    def of(size: int, faults: Sequence[Fault] = ()) -> Draft:
        return Draft(np.full(size, np.nan), np.full(size, FRESH, np.uint8), list(faults), {})

    @property
    def open(self) -> Ints:
        """The rows without an answer."""
        return np.flatnonzero(~np.isfinite(self.scores))

    def give(self, kept: Mapping[int, Kept]) -> None:
        """Gives rows the scores that were kept for them."""
        for row, one in kept.items():
            self.scores[row], self.rungs[row], self.origins[row] = one.score, CACHED, one.decision

    def hindered(self, why: str, rows: Ints) -> None:
        """Notes why a rung did not answer `rows`."""
        self.faults.append(Fault(why, None if len(rows) == len(self.scores) else frozenset(rows.tolist())))


def breaker_of(endpoint: Endpoint, *, apart: bool = False) -> Breaker:
    """The breaker of a model of `endpoint`: a call that takes the whole deadline is too slow.

    `apart`: the model runs in a process of its own, which may hang: one such call opens it.
    """
    deadline = endpoint.deadline / 1e6
    return Breaker(slow=deadline, hang=deadline if apart else math.inf)


def as_float32(reading: Reading) -> npt.NDArray[np.float32]:
    """What the model sees."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, in training too
        return reading.values.astype(np.float32)


def predicted(runtime: Runtime, matrix: npt.NDArray[np.float32], name: str) -> Scores:
    """One score for each row. Raises ModelError for whatever a runtime does instead."""
    try:
        scores: object = runtime.predict(matrix)  # an author's function may give anything
        if isinstance(scores, np.ndarray) and scores.shape == (len(matrix),) and scores.dtype.kind in "fiub":
            return scores if scores.dtype == np.float64 else scores.astype(np.float64)
    except TrilaneError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        remedy = "Train and pack the model again with the installed libraries"
        raise ModelError(what, where=f"model {name!r}", remedy=remedy) from error
    told = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, np.ndarray) else type(scores).__name__
    raise ModelError(
        f"{len(matrix)} rows got {told} instead of as many scores",
        where=f"model {name!r}",
        remedy="Let the model give one number for each row",
    )


def late(stale: Stale | None, reading: Reading, views: frozenset[str]) -> str:
    """Which of `views` is further behind than the endpoint takes; empty if none, or if it takes anything."""
    if stale is None:
        return ""
    for fault in reading.faults:
        if fault.age > stale.max_age and (fault.view in views if fault.view else bool(views)):
            return f"{fault.view or 'the stored features'}: more than {format_duration(stale.max_age)} behind"
    return ""


def stored_views(model: Model) -> frozenset[str]:
    """The names of the views of which a model reads what a lane stored."""
    return frozenset(view.name for view in model.plan.views if view.lane != "request")


class Ladder:
    """The rungs of one bundle below its model's own answer."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        smaller: Smaller | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rungs = tuple(rung for rung in endpoint.fallback if not isinstance(rung, Stale))
        self.stale = next((rung for rung in endpoint.fallback if isinstance(rung, Stale)), None)
        self.smaller, self._timer = smaller, timer
        rung = next((rung for rung in self.rungs if isinstance(rung, CachedAnswer)), None)
        self.cache = None if rung is None else AnswerCache(rung, endpoint.model.plan)
        other = next((rung for rung in self.rungs if isinstance(rung, SmallerModel)), None)
        self._views = frozenset[str]() if other is None else stored_views(other.model)

    def descend(
        self,
        draft: Draft,
        rows: Rows,
        reading: Reading | None,
        *,
        now: int,
        deadline: float = math.inf,
    ) -> None:
        """Gives what the rungs have to the rows of `draft` without an answer; `reading` is None if nothing was read."""
        for rung in self.rungs:
            left = draft.open
            if not len(left):
                return
            if isinstance(rung, ConstantAnswer):
                draft.scores[left], draft.rungs[left] = rung.score, CONSTANT
            elif isinstance(rung, CachedAnswer):
                self._from_cache(draft, rows, reading, left, now)
            elif reading is not None:
                self._from_smaller(draft, reading, left, deadline)

    def keys(self, rows: Rows, reading: Reading | None) -> list[Hashable]:
        """The keys of what is kept, or would be; none without a cache, or without the values that they are made of."""
        if self.cache is None or (self.cache.by_features and reading is None):
            return []
        if self.cache.by_features and reading is not None:
            return self.cache.keys_in(as_float32(reading))
        return self.cache.keys_of(rows)

    def _from_cache(self, draft: Draft, rows: Rows, reading: Reading | None, left: Ints, now: int) -> None:
        keys = self.keys(rows, reading)
        if self.cache is not None and keys:
            found = self.cache.find([keys[row] for row in left], now)
            draft.give({int(left[place]): one for place, one in found.items()})

    def _from_smaller(self, draft: Draft, reading: Reading, left: Ints, deadline: float) -> None:
        smaller = self.smaller
        if smaller is None:
            return
        why = late(self.stale, reading, self._views)
        start = self._timer()
        if not why and not smaller.fits(len(left), start, deadline - start):
            why = "the deadline leaves no room"
        ticket = 0 if why else smaller.breaker.enter(start)
        if not ticket:
            draft.hindered(f"{smaller.name}: {why or f'its breaker is open: {smaller.breaker.reason}'}", left)
            return
        tried = deadline - start < smaller.latency.upper(len(left))
        smaller.trials.began(start, tried=tried)
        try:
            scores = predicted(smaller.runtime, as_float32(reading)[left][:, smaller.columns], smaller.name)
        except TrilaneError as error:
            smaller.breaker.leave(ticket, end := self._timer(), end - start, failed=True)
            if tried:
                smaller.trials.ended(end - start)
            draft.hindered(f"{smaller.name}: {error.what}", left)
            return
        good = np.isfinite(scores)
        smaller.breaker.leave(ticket, end := self._timer(), end - start)
        smaller.learn(len(left), end - start, tried=tried)
        draft.scores[left[good]], draft.rungs[left[good]] = scores[good], SMALLER
        if not good.all():
            draft.hindered(f"{smaller.name}: a score is not a finite number", left[~good])
