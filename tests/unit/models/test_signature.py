"""A signature names what is wrong with a matrix."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from trilane.errors import ModelError
from trilane.models.signature import Signature

SIGNATURE = Signature.of(["hour", "distance"])


def test_a_signature_reads_back_from_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SIGNATURE), type=Signature) == SIGNATURE


def test_missing_values_fit() -> None:
    SIGNATURE.check(np.full((3, 2), np.nan, np.float32))


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 2, 1)])
def test_another_shape_is_refused_with_the_columns_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"takes 2 columns.*hour, distance"):
        SIGNATURE.check(np.zeros(shape, np.float32))


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="float32, the matrix is float64"):
        SIGNATURE.check(np.zeros((1, 2)))


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_columns_have_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(ModelError, match="a name of its own"):
        Signature.of(names)
