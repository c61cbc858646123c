"""The measured deployment profile of an artifact: its size, how long it loads, how long it takes for how many rows.

Law: figures come from the timer that is passed in, on this machine, and are no part of the artifact's digest. The rows
are drawn anew for each call: a processor that sees the same few rows again learns their ways through the trees.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from trilane.errors import SetupError
from trilane.models.artifact import Artifact, machine
from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Matrix

__all__ = ["Profile", "fastest_batch", "measure", "profile_here", "read_profile", "sweep", "write_profile"]

BATCHES = (1, 8, 64, 256)
SHORT = (1, 4, 16, 64, 256)  # at the moment a model is loaded
_USUAL = 64  # rows: beyond it most models gain little, and their matrix leaves the nearest cache
_FILE = "profile.json"
_FEWEST, _ENOUGH = 5, 1.0  # calls of a batch size at least, and seconds of them that are enough of a slow model


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an artifact costs on `machine`.

    `load_s`: seconds to open it, None (and not in the file) where nobody measured that; `latency_us` is the median by
    number of rows; `alpha_us + beta_us * rows` the line with the least relative error through them.
    """

    machine: str
    model_bytes: int
    load_s: float | None = None
    latency_us: dict[int, float]
    alpha_us: float
    beta_us: float

    def seconds(self) -> dict[int, float]:
        """The median by number of rows, in seconds."""
        return {rows: time * 1e-6 for rows, time in self.latency_us.items()}


def measure(
    artifact: Artifact,
    *,
    open_runtime: Callable[[Artifact], Runtime],
    timer: Callable[[], float],
    rows: Matrix | None = None,
    calls: int = 200,
    seed: int = 0,
) -> Profile:
    """Measures with `timer` (seconds) `calls` calls of each batch size, of `rows` or else of the golden rows."""
    start = timer()
    with contextlib.closing(open_runtime(artifact)) as runtime:
        load = timer() - start
        pool = artifact.golden().matrix() if rows is None else rows
        random = np.random.default_rng(seed)
        latency = {size: _median_us(runtime, pool, size, calls, timer, random) for size in BATCHES}
    alpha, beta = _line(latency)
    return Profile(
        machine=machine(),
        model_bytes=artifact.model_path.stat().st_size,
        load_s=load,
        latency_us=latency,
        alpha_us=alpha,
        beta_us=beta,
    )


def sweep(
    runtime: Runtime, rows: Matrix, *, timer: Callable[[], float], calls: int = 5, budget: float = 0.5
) -> dict[int, float]:
    """Seconds by number of rows, each the median of a few calls: short enough for the moment a model is loaded.

    No call of a larger size begins when it would have to end after `budget` seconds; sizes of which that is true are
    left out, but for the first.
    """
    random, began, found = np.random.default_rng(0), timer(), dict[int, float]()
    runtime.predict(rows[:1])  # the first call of a model sets things up that later ones find
    for size in SHORT:
        if found and timer() - began + calls * size * found[max(found)] / max(found) > budget:
            break
        found[size] = _median_us(runtime, rows, size, calls, timer, random) * 1e-6
    return found


def profile_here(artifact: Artifact, runtime: Runtime, *, timer: Callable[[], float]) -> dict[int, float]:
    """Seconds by number of rows on this machine: as they were measured on it, or else by a short sweep with `runtime`,
    the artifact opened, which is put beside the artifact if that can be written to.
    """
    known, here = read_profile(artifact), machine()
    if known is not None and known.machine == here:
        return known.seconds()
    found = sweep(runtime, artifact.golden().matrix(), timer=timer)
    latency = {size: seconds * 1e6 for size, seconds in found.items()}
    alpha, beta = _line(latency)
    size = artifact.model_path.stat().st_size
    profile = Profile(machine=here, model_bytes=size, latency_us=latency, alpha_us=alpha, beta_us=beta)
    with contextlib.suppress(SetupError):  # a folder that is only read is none the worse: the next load sweeps again
        write_profile(artifact, profile)
    return found


def write_profile(artifact: Artifact, profile: Profile) -> Path:
    """Puts the profile beside the artifact, in place of an older one."""
    path = artifact.path / _FILE
    draft = path.with_name(f".{_FILE}.{os.urandom(4).hex()}")
    try:
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(profile)))
        draft.replace(path)
    except OSError as error:
        remedy = "Make the folder writable or free space"
        raise SetupError(f"the profile cannot be written: {error}", where=str(path), remedy=remedy) from error
    return path


def read_profile(artifact: Artifact) -> Profile | None:
    """The profile beside the artifact; None if nobody measured it, or what lies there is none."""
    try:
        return msgspec.json.decode((artifact.path / _FILE).read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError):
        return None


def fastest_batch(profile: Profile | None) -> int:
    """The batch, among those that were measured, at which a row costs least; 64 where nothing was measured."""
    if profile is None or not profile.latency_us:
        return _USUAL
    return min(profile.latency_us, key=lambda rows: profile.latency_us[rows] / rows)


def _median_us(
    runtime: Runtime, pool: Matrix, size: int, calls: int, timer: Callable[[], float], random: np.random.Generator
) -> float:
    times = []
    for _ in range(calls):
        matrix = pool[random.integers(0, len(pool), size)]
        start = timer()
        runtime.predict(matrix)
        times.append(timer() - start)
        if len(times) >= _FEWEST and sum(times) > _ENOUGH:
            break
    return float(np.median(times) * 1e6)


def _line(latency: dict[int, float]) -> tuple[float, float]:
    sizes, times = np.array(list(latency)), np.array(list(latency.values()))
    # Each point counts by its relative error; else the largest batch alone would decide.
    weights = 1.0 / np.maximum(times, 1e-9)
    columns = np.stack([np.ones(len(sizes)), sizes], axis=1) * weights[:, None]
    (alpha, beta), *_ = np.linalg.lstsq(columns, times * weights, rcond=None)
    return float(max(alpha, 0.0)), float(max(beta, 0.0))
