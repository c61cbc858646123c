"""What every runtime must do, as checks that anybody can run against their own.

Each law of `LAWS` takes an open runtime and a float32 matrix of at least 1,000 rows that fits it, each of `TENSOR_LAWS`
arrays of at least 12 rows that fit its inputs; it raises AssertionError if it is broken. The last law of each closes
the runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trilane.errors import ModelError
from trilane.models.runtime.opening import fit_answer
from trilane.models.runtime.protocol import Arrays, Runtime, TensorRuntime
from trilane.models.signature import Matrix

__all__ = ["LAWS", "Law", "TENSOR_LAWS", "TensorLaw"]

Law = Callable[[Runtime, Matrix], None]
TensorLaw = Callable[[TensorRuntime, Arrays], None]


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


def its_answers_are_as_it_declares_them(runtime: TensorRuntime, arrays: Arrays) -> None:
    """By name, data type and shape, for any number of rows."""
    for rows in (0, 1, 2, 7):
        answers = runtime.run([array[:rows] for array in arrays])
        fit_answer(answers, runtime.outputs, rows=rows, nan=True, where="the runtime")
    _expect(runtime.platform != "", "it has no platform")


def rows_are_answered_alike_alone_and_together(runtime: TensorRuntime, arrays: Arrays) -> None:
    """To the last bits of a floating number, which may depend on the size of a batch."""
    rows = 12
    together = runtime.run([array[:rows] for array in arrays])
    for size in (1, 5):
        parts = [runtime.run([array[at : min(at + size, rows)] for array in arrays]) for at in range(0, rows, size)]
        for place, whole in enumerate(together):
            found = np.concatenate([part[place] for part in parts])
            same = np.allclose(found, whole, rtol=1e-5, equal_nan=True) if whole.dtype.kind == "f" else found == whole
            _expect(bool(np.all(same)), f"output {place} in batches of {size} is another")


def what_it_is_given_is_left_as_it_was(runtime: TensorRuntime, arrays: Arrays) -> None:
    """It may be another caller's memory; nor need it be writable."""
    given = [array[:5].copy() for array in arrays]
    for array in given:
        array.flags.writeable = False
    runtime.run(given)
    _expect(all(np.array_equal(a, b[:5]) for a, b in zip(given, arrays, strict=True)), "run changed its input")


def an_answer_outlives_the_next_one(runtime: TensorRuntime, arrays: Arrays) -> None:
    """It is not memory that the runtime writes again."""
    first = runtime.run([array[:3] for array in arrays])
    before = [array.tolist() for array in first]
    runtime.run([array[3:6] for array in arrays])
    _expect([array.tolist() for array in first] == before, "the second run changed the first one's answer")


def a_closed_one_refuses(runtime: TensorRuntime, arrays: Arrays) -> None:
    """And may be closed twice."""
    runtime.close()
    runtime.close()
    try:
        runtime.run([array[:1] for array in arrays])
    except ModelError:
        return
    raise AssertionError("a closed runtime answered")


TENSOR_LAWS: tuple[TensorLaw, ...] = (
    its_answers_are_as_it_declares_them,
    rows_are_answered_alike_alone_and_together,
    what_it_is_given_is_left_as_it_was,
    an_answer_outlives_the_next_one,
    a_closed_one_refuses,
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
