"""A runtime as a job asks it, which has the time that a request has not.

Laws: it waits for a model whose process is being started anew, so that what a row is answered does not depend on how
long that takes; one that does not come back fails the part, and is no reason to answer anything worse.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from trilane.errors import ModelError, UnavailableError
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Matrix, Scores, Signature

__all__ = ["PATIENCE", "ForgivingRuntime", "PatientRuntime"]

PATIENCE = 10  # times that a question is asked again of a process that is not there


class PatientRuntime:
    """`runtime`, asked again once it is back; `lost` is told of one that is not. `sleep`: for seconds."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        lost: Callable[[UnavailableError], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._runtime, self._lost, self._sleep = runtime, lost, sleep

    @property
    def signature(self) -> Signature:
        return self._runtime.signature

    def predict(self, matrix: Matrix) -> Scores:
        tries = 0
        while True:
            try:
                return self._runtime.predict(matrix)
            except UnavailableError as error:
                tries, pause = tries + 1, error.facts.get("retry_after_s")
                if not isinstance(pause, float) or tries > PATIENCE:
                    self._lost(error)
                    raise
                self._sleep(pause)

    def close(self) -> None:
        self._runtime.close()


class ForgivingRuntime:
    """`runtime`, which gives NaN to a row that it fails on alone, and so costs no other row its score."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def signature(self) -> Signature:
        return self._runtime.signature

    def predict(self, matrix: Matrix) -> Scores:
        try:
            return self._runtime.predict(matrix)
        except ModelError:
            if len(matrix) < 2:
                return np.full(len(matrix), np.nan)
            middle = len(matrix) // 2
            return np.concatenate([self.predict(matrix[:middle]), self.predict(matrix[middle:])])

    def close(self) -> None:
        self._runtime.close()
