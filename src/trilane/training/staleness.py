"""How far lanes are behind in production, and draws of it for the rows of a training set.

Laws: a draw is determined by the seed, the lane and the row; views of one event stream are behind together; over many
rows the draws have the distribution that was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from trilane.clock import duration
from trilane.features.algebra import Floats, Ints
from trilane.features.plan import FeaturePlan
from trilane.features.view import View
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Warehouse
from trilane.training.sight import LaneSight, VersionSight

__all__ = ["Drawn", "Lags", "declared", "drawn", "measured", "told"]

_SPREAD = 10_000  # instants that are looked at where no decision says which count
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """How far the lane of a view was taken to be behind, in seconds, and whether that was measured."""

    measured: bool
    median: float
    p99: float
    highest: float


@dataclass(frozen=True, slots=True)
class Lags:
    """A distribution of lags: microseconds, ascending, with the share of each and of all before it."""

    values: Ints
    shares: Floats
    measured: bool = False

    def at(self, chances: Floats) -> Ints:
        """The quantiles at `chances` in [0, 1)."""
        place = np.searchsorted(self.shares, chances, "right")
        return self.values[np.minimum(place, len(self.values) - 1)]


def declared(shares: Mapping[str, float]) -> Lags:
    """The distribution that gives each lag its weight.

    >>> declared({"0s": 9, "10m": 1}).at(np.array([0.0, 0.89, 0.9])).tolist()
    [0, 0, 600000000]
    """
    pairs = sorted((duration(lag), float(weight)) for lag, weight in shares.items())
    weights = np.array([weight for _, weight in pairs])
    return Lags(np.array([lag for lag, _ in pairs], np.int64), np.cumsum(weights) / weights.sum())


def measured(warehouse: Warehouse, view: View, instants: Ints) -> Lags | None:
    """How far a stored view's lane was behind at `instants`, as was recorded; without instants, evenly over all that
    was recorded. None if nothing was.

    A nearline lane is behind by its age, a batch view by the time since the version it should have answered with.
    """
    if view.lane == "nearline" and isinstance(view.source, EventSource):
        sight = LaneSight.of(warehouse, view.source)
        parts = [part for records in sight.partitions for part in records]
        if not parts:
            return None
        ends = min(int(part["at"][0]) for part in parts), max(int(part["last"][-1]) for part in parts)
        at = instants if len(instants) else np.linspace(*ends, _SPREAD).astype(np.int64)
        lags = sight.ages(at)[sight.known(at)]
    else:
        versions = VersionSight.of(warehouse, view)
        if not len(versions.moments):
            return None
        ends = int(versions.moments[0]), int(versions.moments[-1])
        at = instants if len(instants) else np.linspace(*ends, _SPREAD).astype(np.int64)
        landing = versions.landing(at)
        at, landing = at[landing >= 0], landing[landing >= 0]
        should = (at - view.landing) // view.schedule * view.schedule
        lags = np.maximum(should - versions.boundaries(at, landing), 0)
    if not len(lags):
        return None
    return Lags(np.sort(lags), np.arange(1, len(lags) + 1) / len(lags), measured=True)


def drawn(plan: FeaturePlan, lags: Mapping[str, Lags], rows: int, *, seed: int = 0) -> dict[str, Ints]:
    """By stored view how far its lane is behind at each row; a view without a distribution is level."""
    found = {}
    for view in (*plan.views, *plan.stand_ins):
        if view.lane != "request" and view.name in lags:
            stream = view.source.name if view.lane == "nearline" and view.source is not None else view.name
            found[view.name] = lags[view.name].at(_chances(f"{seed}/{view.lane}/{stream}", rows))
    return found


def told(lags: Mapping[str, Lags], rows: Mapping[str, Ints]) -> dict[str, Drawn]:
    """What was drawn, view by view."""
    found = {}
    for name, lag in rows.items():
        seconds = lag / 1e6 if len(lag) else np.zeros(1)
        median, high = np.quantile(seconds, [0.5, 0.99]).tolist()
        found[name] = Drawn(measured=lags[name].measured, median=median, p99=high, highest=float(seconds.max()))
    return found


def _chances(name: str, rows: int) -> Floats:
    """Numbers in [0, 1), one a row: SplitMix64 (Steele et al. 2014), for it is the same everywhere and forever."""
    start = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    with np.errstate(over="ignore"):
        x = start + np.arange(1, rows + 1, dtype=np.uint64) * _MIX[0]
        x = (x ^ (x >> np.uint64(30))) * _MIX[1]
        x = (x ^ (x >> np.uint64(27))) * _MIX[2]
    return np.asarray(((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53, np.float64)
