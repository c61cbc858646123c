"""A runtime in slices gives the scores of the whole, and keeps every law of a runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trilane.models.profile import Profile, fastest_batch
from trilane.models.runtime.laws import LAWS, Law
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.runtime.sliced import SlicedRuntime
from trilane.models.signature import Matrix


@pytest.fixture
def runtime(parts: dict[str, Any]) -> SlicedRuntime:
    return SlicedRuntime(OnnxRuntime(parts["files"]["model.onnx"], parts["signature"]), rows=7)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_runtime_in_slices_keeps_the_laws(law: Law, runtime: SlicedRuntime, rows: Matrix) -> None:
    law(runtime, np.concatenate([rows] * 4))


def test_its_scores_are_those_of_the_whole(runtime: SlicedRuntime, parts: dict[str, Any], rows: Matrix) -> None:
    whole = OnnxRuntime(parts["files"]["model.onnx"], parts["signature"]).predict(rows)
    assert runtime.predict(rows).tobytes() == whole.tobytes()


def test_the_fastest_batch_is_where_a_row_costs_least() -> None:
    measured = {1: 10.0, 8: 16.0, 64: 120.0, 256: 600.0}
    profile = Profile(machine="m", model_bytes=1, load_s=0.0, latency_us=measured, alpha_us=8.0, beta_us=2.0)
    assert fastest_batch(profile) == 64
    assert fastest_batch(None) == 64
