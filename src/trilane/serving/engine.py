"""What answers the rows of one endpoint: read the features, run the model, degrade where that fails.

Laws: an answer is always one of the declared ones; it says what made it and why it is worse than promised; one row's
answer depends on that row, the instant and the stores alone, not on the rows that were batched with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError, TrilaneError, UnavailableError
from trilane.features.algebra import Floats
from trilane.features.fallback import MISSING
from trilane.models.runtime.protocol import Runtime
from trilane.serving.endpoint import Endpoint
from trilane.serving.reading import Fault, FeatureReader, Reading, Rows, Throttle

__all__ = ["Answers", "Engine", "rebuild"]


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to `rows`, made together: scores [rows] with what they were made of.

    `by_model` [rows] says which are the model's own.
    """

    id: str
    bundle: str
    at: int
    rows: Rows
    scores: Floats
    reading: Reading
    faults: tuple[Fault, ...]
    by_model: npt.NDArray[np.bool_]

    def why(self, row: int) -> tuple[str, ...]:
        """Why the answer to `row` is worse than promised; empty if it is not."""
        return tuple(fault.reason for fault in self.faults if fault.rows is None or row in fault.rows)

    @property
    def degraded(self) -> int:
        """How many answers are worse than promised."""
        if any(fault.rows is None for fault in self.faults):
            return len(self.scores)
        return len(frozenset[int]().union(*(fault.rows for fault in self.faults if fault.rows is not None)))


class Engine:
    """Answers for one bundle of an endpoint."""

    def __init__(self, endpoint: Endpoint, *, bundle: str, reader: FeatureReader, runtime: Runtime) -> None:
        self.endpoint = endpoint
        self.bundle = bundle
        self.reader = reader
        self.runtime = runtime
        self._throttle = Throttle(__name__)

    def answer(self, rows: Rows, *, now: int, id: str) -> Answers:
        """Answers `rows` as of instant `now`. Raises UnavailableError if the ladder has no rung left."""
        reading = self.reader.read(rows, now)
        try:
            scores = self._score(reading)
        except TrilaneError as error:
            self._throttle.tell(f"endpoint {self.endpoint.name}", error)
            return self._ladder(rows, now, id, reading, f"model: {error.what}")
        finite = np.isfinite(scores)
        if finite.all():
            return Answers(id, self.bundle, now, rows, scores, reading, reading.faults, finite)
        self._throttle.tell(f"endpoint {self.endpoint.name}", _not_finite(self.endpoint))
        return self._ladder(rows, now, id, reading, "model: a score is not a finite number", scores)

    def answer_without_model(self, rows: Rows, *, now: int, id: str, reason: str) -> Answers:
        """The next rung of the ladder, with no work done, for rows whose time is up."""
        shape = len(rows), len(self.reader.plan.columns)
        nothing = Reading(np.full(shape, np.nan), np.full(shape, MISSING, np.uint8), np.zeros(shape, np.int64), ())
        return self._ladder(rows, now, id, nothing, reason)

    def _score(self, reading: Reading) -> Floats:
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, in training too
                matrix = reading.values.astype(np.float32)
            return self.runtime.predict(matrix)
        except TrilaneError:
            raise
        except Exception as error:
            raise ModelError(
                f"{type(error).__name__}: {error}",
                where=f"model {self.endpoint.model.name!r}",
                remedy="Train and pack the model again with the installed libraries",
            ) from error

    def _ladder(
        self, rows: Rows, now: int, id: str, reading: Reading, reason: str, scores: Floats | None = None
    ) -> Answers:
        """Answers by the ladder where `scores` has no finite one; everywhere if there are none."""
        if not self.endpoint.fallback:
            raise UnavailableError(
                f"no answer: {reason}",
                where=f"endpoint {self.endpoint.name!r}",
                remedy="Try again, or declare fallback=[tl.constant(...)]",
            )
        good = np.zeros(len(rows), bool) if scores is None else np.isfinite(scores)
        worse = self.endpoint.fallback[0].score
        answers = np.full(len(rows), worse) if scores is None else np.where(good, scores, worse)
        fault = Fault(reason, frozenset(np.flatnonzero(~good).tolist()) if good.any() else None)
        return Answers(id, self.bundle, now, rows, answers, reading, (*reading.faults, fault), good)


def _not_finite(endpoint: Endpoint) -> ModelError:
    return ModelError(
        "a score is not a finite number",
        where=f"model {endpoint.model.name!r}",
        remedy="Check the model's output on rows with missing features",
    )


def rebuild(engine: Engine, features: Mapping[str, float]) -> float:
    """The score that the engine's model gives to recorded features (float64, by name)."""
    row = np.array([[features[name] for name in engine.reader.plan.names]])
    return float(engine.runtime.predict(row.astype(np.float32))[0])
