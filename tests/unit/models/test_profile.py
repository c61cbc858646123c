"""A profile is measured with the timer that is passed in, and read back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trilane.models.artifact import Artifact, load, pack
from trilane.models.profile import measure, profile_here, read_profile, sweep, write_profile
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
    assert profile.model_bytes == len(parts["files"]["model.onnx"])
    assert read_profile(artifact) is None
    write_profile(artifact, profile)
    write_profile(artifact, profile)
    assert read_profile(artifact) == profile
    assert load(artifact.path) == artifact


def test_a_damaged_profile_is_no_profile(root: Path, parts: dict[str, Any]) -> None:
    artifact = pack(root, **parts)
    (artifact.path / "profile.json").write_text("{")
    assert read_profile(artifact) is None


def test_a_sweep_at_load_takes_no_longer_than_it_may(root: Path, parts: dict[str, Any]) -> None:
    rows = pack(root, **parts).golden().matrix()
    quick = Clocked()
    found = sweep(quick, rows, timer=lambda: quick.now)
    assert found == pytest.approx({1: 12e-6, 4: 18e-6, 16: 42e-6, 64: 138e-6, 256: 522e-6})
    slow = Clocked()
    assert set(sweep(slow, rows, timer=lambda: slow.now, budget=400e-6)) == {1, 4}
    assert slow.now <= 400e-6
    slower = Clocked()
    assert set(sweep(slower, rows, timer=lambda: slower.now, budget=0.0)) == {1}


def test_what_was_measured_on_this_machine_is_used_and_what_was_not_is_measured_and_kept(
    root: Path, parts: dict[str, Any]
) -> None:
    artifact, runtime = pack(root, **parts), Clocked()
    found = profile_here(artifact, runtime, timer=lambda: runtime.now)
    assert set(found) == {1, 4, 16, 64, 256}
    kept = read_profile(artifact)
    assert kept is not None
    assert kept.seconds() == pytest.approx(found)
    assert kept.load_s is None  # the runtime was open already: nobody measured it
    assert "load_s" not in (artifact.path / "profile.json").read_text()
    before = runtime.now
    assert profile_here(artifact, runtime, timer=lambda: runtime.now) == pytest.approx(found)
    assert runtime.now == before
    write_profile(artifact, msgspec.structs.replace(kept, machine="another"))
    profile_here(artifact, runtime, timer=lambda: runtime.now)
    assert runtime.now > before
    anew = read_profile(artifact)
    assert anew is not None
    assert anew.machine == kept.machine


def test_a_folder_that_cannot_be_written_to_is_no_reason_not_to_load(root: Path, parts: dict[str, Any]) -> None:
    artifact, runtime = pack(root, **parts), Clocked()
    (artifact.path / "profile.json").mkdir()  # what nobody can write to, whoever runs the test
    assert set(profile_here(artifact, runtime, timer=lambda: runtime.now)) == {1, 4, 16, 64, 256}
