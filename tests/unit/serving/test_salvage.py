"""Of a batch that a model refuses the rows that it takes are scored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from trilane.errors import ModelError
from trilane.models.signature import Scores
from trilane.serving.reading import Fault
from trilane.serving.salvage import Salvaged, by_halves, one_by_one

WHOLE = ModelError("some row is below zero")


def predict(matrix: npt.NDArray[np.float32]) -> Scores:
    below = matrix[matrix < 0]
    if len(below):
        raise ModelError(f"{int(below[0])} is below zero")
    return matrix[:, 0].astype(np.float64)


def matrix(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1)


@pytest.mark.parametrize("salvage", [one_by_one, by_halves])
def test_the_rows_that_are_taken_are_scored_and_the_others_told(salvage: Callable[..., Salvaged]) -> None:
    scores, faults = salvage(predict, matrix(1, 2, -3, 4, 5), WHOLE)
    assert np.array_equal(scores, [1, 2, np.nan, 4, 5], equal_nan=True)
    assert faults == (Fault("model: -3 is below zero", frozenset({2})),)


def test_who_waits_is_not_kept_waiting_for_rows_after_many_refusals() -> None:
    scores, faults = one_by_one(predict, matrix(1, -1, -2, -3, 5), WHOLE)
    assert np.array_equal(scores, [1, np.nan, np.nan, np.nan, np.nan], equal_nan=True)
    assert faults == (Fault("model: -3 is below zero", frozenset({1, 2, 3, 4})),)


def test_by_halves_each_row_is_found_and_has_the_reason_that_it_has_alone() -> None:
    scores, faults = by_halves(predict, matrix(1, -1, -1, -2, -1, 5), WHOLE)
    assert np.array_equal(scores, [1, np.nan, np.nan, np.nan, np.nan, 5], equal_nan=True)
    assert set(faults) == {
        Fault("model: -1 is below zero", frozenset({1, 2, 4})),
        Fault("model: -2 is below zero", frozenset({3})),
    }


def test_where_no_row_is_taken_all_have_the_reason() -> None:
    assert by_halves(predict, matrix(-1, -1), WHOLE)[1] == (Fault("model: -1 is below zero"),)
    assert by_halves(predict, matrix(-1), WHOLE)[1] == (Fault("model: some row is below zero"),)
    assert one_by_one(predict, matrix(-1), WHOLE)[1] == (Fault("model: some row is below zero"),)
