"""What every runtime must do, as checks that anybody can run against their own.

Each law takes an open runtime and a float32 matrix of at least 1,000 rows that fits it, and raises AssertionError if it
is broken; the last law closes the runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trilane.errors import ModelError
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Matrix

__all__ = ["LAWS", "Law"]

Law = Callable[[Runtime, Matrix], None]


def the_score_of_a_row_is_the_same_bits_in_every_batch(runtime: Runtime, matrix: Matrix) -> None:
    """Alone, in batches of any size, at any place among any neighbours."""
    matrix = matrix[:1000]
    expected = runtime.predict(matrix)
    for size in (1, 2, 3, 7, 31, 64, 200):
        parts = [runtime.predict(matrix[at : at + size]) for at in range(0, len(matrix), size)]
        _expect_same(np.concatenate(parts), expected, f"in batches of {size}")
    _expect_same(runtime.predict(np.ascontiguousarray(matrix[::-1]))[::-1], expected, "in the other order")


def scores_are_one_float64_for_each_row(runtime: Runtime, matrix: Matrix) -> None:
    """No row, no score."""
    for rows in (0, 1, 5):
        scores = runtime.predict(matrix[:rows])
        _expect(scores.shape == (rows,) and scores.dtype == np.float64, f"{rows} rows gave {scores.shape}")


def missing_values_are_values(runtime: Runtime, matrix: Matrix) -> None:
    """A row of nothing but NaN does not raise, and does not touch its neighbours."""
    mixed = matrix[:3].copy()
    mixed[1] = np.nan
    scores = runtime.predict(mixed)
    _expect_same(scores[[0, 2]], runtime.predict(matrix[:3])[[0, 2]], "beside a row of NaN")


def the_matrix_is_left_as_it_was(runtime: Runtime, matrix: Matrix) -> None:
    """It may be the server's own memory."""
    before = matrix.tobytes()
    runtime.predict(matrix)
    _expect(matrix.tobytes() == before, "predict changed its input")


def a_view_of_other_memory_is_read_right(runtime: Runtime, matrix: Matrix) -> None:
    """Rows in steps and columns in Fortran order are the same rows."""
    expected = runtime.predict(np.ascontiguousarray(matrix[:20:2]))
    _expect_same(runtime.predict(matrix[:20:2]), expected, "in steps")
    _expect_same(runtime.predict(np.asfortranarray(matrix[:20:2])), expected, "in Fortran order")


def a_matrix_that_does_not_fit_is_refused(runtime: Runtime, matrix: Matrix) -> None:
    """Another width, another dtype, another number of dimensions; and a closed runtime refuses all."""
    _expect_refused(runtime, matrix[:, :-1])
    _expect_refused(runtime, matrix.astype(np.float64))
    _expect_refused(runtime, matrix[0])
    runtime.close()
    _expect_refused(runtime, matrix)


LAWS: tuple[Law, ...] = (
    the_score_of_a_row_is_the_same_bits_in_every_batch,
    scores_are_one_float64_for_each_row,
    missing_values_are_values,
    the_matrix_is_left_as_it_was,
    a_view_of_other_memory_is_read_right,
    a_matrix_that_does_not_fit_is_refused,
)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _expect_same(found: np.ndarray, expected: np.ndarray, when: str) -> None:
    _expect(found.tobytes() == expected.tobytes(), f"{when}, {int((found != expected).sum())} scores have other bits")


def _expect_refused(runtime: Runtime, matrix: np.ndarray) -> None:
    try:
        runtime.predict(matrix)
    except ModelError:
        return
    raise AssertionError(f"a {matrix.dtype} matrix of shape {matrix.shape} was not refused")
