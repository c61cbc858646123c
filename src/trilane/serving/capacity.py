"""How traffic would fare: what a replica that is simulated with it tells, and how many replicas it takes.

Laws: the policy that decides is the server's own; a replica is one worker process, and a fleet is one replica that is
simulated with its share of the traffic, each request being sent to any of them by lot. A router that looks at load
(power of two choices) does better, so the number of replicas is one that suffices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trilane.errors import UnavailableError
from trilane.serving.dispatch import Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Outcome, Request, simulate

__all__ = ["Costs", "Forecast", "replicas_for", "run_replica", "told"]

_SIZES = tuple(1 << power for power in range(11))
_Z95 = 1.6449  # of the normal distribution: what a learnt upper time, the 95th of 100, lies above the typical


@dataclass(frozen=True, slots=True)
class Costs:
    """What a replica's batches take: by rows the typical and the upper time in seconds, and `overhead` a request.

    `latency` knows the first two; a batch of the virtual clock takes a time that is drawn between and beyond them.
    """

    latency: LatencyModel
    overhead: float = 0.0

    def draws(self, seed: int, rows_each: float) -> Callable[[int], float]:
        """A function of a batch's rows to its seconds, of requests that have `rows_each` rows on average."""
        random = np.random.default_rng(seed)

        def cost(rows: int) -> float:
            typical = self.latency.expected(rows)
            spread = math.log(self.latency.upper(rows) / typical) / _Z95
            return typical * math.exp(spread * random.standard_normal()) + self.overhead * rows / rows_each

        return cost

    def most(self, rows_each: float, max_rows: int) -> float:
        """The most requests a second that one replica can ever answer."""
        sizes = [size for size in _SIZES if size <= max_rows]
        row = min(self.latency.expected(size) / size for size in sizes)
        return 1 / (row * rows_each + self.overhead)

    def learnt(self, rows_each: float) -> LatencyModel:
        """What the policy knows at the start of the virtual time: the same, before any batch has run."""
        known = {rows: self.latency.expected(rows) + self.overhead * rows / rows_each for rows in _SIZES}
        return LatencyModel.of(known)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the virtual replica did. Times in seconds; those not answered in time count as infinitely late."""

    requests: int
    rate: float
    answered: float
    goodput: float
    utilisation: float
    quantiles: dict[str, float]
    batch_rows: dict[str, float]
    tiers: dict[int, dict[str, float]]


def run_replica(requests: Sequence[Request], costs: Costs, *, max_rows: int = 1_024, seed: int = 0) -> Outcome:
    """One replica on a virtual clock, with the server's policy."""
    rows_each = sum(request.rows for request in requests) / max(len(requests), 1) or 1.0
    policy = Dispatcher[int](costs.learnt(rows_each), max_rows=max_rows)
    return simulate(requests, policy, costs.draws(seed, rows_each))


def told(requests: Sequence[Request], outcome: Outcome) -> Forecast:
    """An outcome in figures."""
    span = max(requests[-1].at - requests[0].at, 1e-9) if requests else math.inf
    in_time = np.isfinite(outcome.latencies)
    tiers = np.array([request.tier for request in requests])
    batches = np.array(outcome.batches or [0])
    return Forecast(
        requests=len(requests),
        rate=len(requests) / span,
        answered=outcome.answered if requests else 1.0,
        goodput=float(in_time.sum()) / span,
        utilisation=min(outcome.busy / span, 1.0),
        quantiles=_quantiles(outcome.latencies),
        batch_rows={"mean": float(batches.mean()), "p50": float(np.median(batches)), "max": float(batches.max())},
        tiers={
            int(tier): {
                "requests": float((tiers == tier).sum()),
                "answered": float(in_time[tiers == tier].mean()),
                **_quantiles(outcome.latencies[tiers == tier]),
            }
            for tier in np.unique(tiers)
        },
    )


def _quantiles(latencies: np.ndarray) -> dict[str, float]:
    names = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
    if not len(latencies):
        return dict.fromkeys(names, 0.0)
    return {name: float(np.quantile(latencies, q, method="higher")) for name, q in names.items()}


def replicas_for(
    good: Callable[[int], bool],
    *,
    least: int = 1,
    most: int = 1_000_000,
    tried: Callable[[int, bool], None] | None = None,
) -> int:
    """The smallest number of replicas for which `good` holds, given that more replicas are never worse.

    `tried` hears of each number that was tried. Raises UnavailableError if `most` are not enough.
    """

    def look(number: int) -> bool:
        verdict = good(number)
        if tried is not None:
            tried(number, verdict)
        return verdict

    low, high = least - 1, least
    while not look(high):
        low, high = high, 2 * high
        if low >= most:
            what = f"not even {low:,} replicas keep the promise"
            raise UnavailableError(what, where="--p99", remedy="Promise less, or make the model quicker")
        high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if look(middle) else (middle, high)
    return high
