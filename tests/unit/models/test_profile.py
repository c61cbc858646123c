"""A profile is measured with the timer that is passed in, and read back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from trilane.models.artifact import Artifact, load, pack
from trilane.models.profile import measure, read_profile, write_profile
from trilane.models.runtime.onnx import open_onnx
from trilane.models.signature import Matrix, Scores, Signature


class Clocked:
    """A runtime that takes 10 us and 2 us a row, on a timer that it moves itself."""

    def __init__(self) -> None:
        self.now = 0.0
        self.signature = Signature.of(["a"])

    def predict(self, matrix: Matrix) -> Scores:
        self.now += 10e-6 + 2e-6 * len(matrix)
        return matrix[:, 0].astype(float)

    def close(self) -> None:
        self.now += 1


def test_the_line_through_the_latencies_is_found(root: Path, parts: dict[str, Any]) -> None:
    runtime = Clocked()

    def opened(artifact: Artifact) -> Clocked:
        runtime.now += 0.25
        return runtime

    profile = measure(pack(root, **parts), open_runtime=opened, timer=lambda: runtime.now, calls=3)
    assert profile.load_s == pytest.approx(0.25)
    assert profile.latency_us == pytest.approx({1: 12, 8: 26, 64: 138, 256: 522})
    assert (profile.alpha_us, profile.beta_us) == pytest.approx((10, 2))


def test_a_profile_is_read_back_and_leaves_the_artifact_as_it_is(
    root: Path, parts: dict[str, Any], rows: Matrix
) -> None:
    artifact = pack(root, **parts)
    ticks = itertools.count()
    profile = measure(artifact, open_runtime=open_onnx, timer=lambda: next(ticks) * 1e-6, rows=rows, calls=3)
    assert profile.model_bytes == len(parts["onnx"])
    assert read_profile(artifact) is None
    write_profile(artifact, profile)
    write_profile(artifact, profile)
    assert read_profile(artifact) == profile
    assert load(artifact.path) == artifact


def test_a_damaged_profile_is_no_profile(root: Path, parts: dict[str, Any]) -> None:
    artifact = pack(root, **parts)
    (artifact.path / "profile.json").write_text("{")
    assert read_profile(artifact) is None
