"""How traffic would fare: what a replica that is simulated with it tells, and how many replicas it takes.

Laws: who is let in, put out and answered is decided by the server's own admission and dispatch, by the policy that is
declared; a replica is one worker process, and a fleet is one replica that is simulated with its share of the traffic,
each request being sent to any of them by lot. A router that looks at load (power of two choices) does better, so the
number of replicas is one that suffices. Who asks for more than its quota is no promise broken: that counts apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trilane.errors import UnavailableError
from trilane.features.cascade import Bools
from trilane.serving.admission import QUOTA, Admission
from trilane.serving.dispatch import Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.policy import TIERS, Policy
from trilane.serving.simulation import Door, Outcome, Request, simulate

__all__ = ["Burst", "Costs", "Forecast", "Run", "Terms", "TierForecast", "replicas_for", "run_replica", "told"]

_SIZES = tuple(1 << power for power in range(11))
_NEARLY = 1.01  # times as long as requests came is no longer
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

    def most(self, rows_each: float, max_rows: int, *, within: float = math.inf) -> float:
        """The most requests a second that one replica can ever answer, in batches of `within` seconds at most."""
        sizes = [size for size in _SIZES if size <= max_rows and self.latency.expected(size) <= within] or [1]
        row = min(self.latency.expected(size) / size for size in sizes)
        return 1 / (row * rows_each + self.overhead)

    def learnt(self, rows_each: float) -> LatencyModel:
        """What the policy knows at the start of the virtual time: the same, before any batch has run."""
        known = {rows: self.latency.expected(rows) + self.overhead * rows / rows_each for rows in _SIZES}
        return LatencyModel.of(known)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a replica lets requests in: the server's `policy`, the endpoint's `tier`, whether it has a
    `ladder`, how many `processes` of a server share the callers' quotas, and whether its model runs `apart`, in a
    process of its own.
    """

    policy: Policy | None = None
    tier: int = 0
    ladder: bool = False
    processes: int = 1
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What became of `requests`, each in the tier that it got."""

    requests: Sequence[Request]
    outcome: Outcome
    admission: Admission
    door: Door


@dataclass(frozen=True, slots=True)
class TierForecast:
    """Of the requests of one tier: how many were let in, refused by reason (after they were let in, if `put_out`),
    answered in time, and given a worse answer in time; `answered` as in `Forecast`; quantiles are of those who were let
    in and not put out.
    """

    requests: int
    admitted: int
    refused: dict[str, int]
    in_time: int
    instead: int
    answered: float
    quantiles: dict[str, float]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the virtual replica did. Times in seconds; those not answered in time count as infinitely late.

    `rate`: how many came a second, or were worked on if all came at once; `goodput`: how many were answered in time a
    second, until the last was; `answered`: which part of them; in it, and in `quantiles`, what was over a caller's
    quota is left out. `limit`: how many may be in at the end, None for any number.
    """

    requests: int
    rate: float
    answered: float
    goodput: float
    utilisation: float
    quantiles: dict[str, float]
    batch_rows: dict[str, float]
    limit: int | None
    tiers: dict[str, TierForecast]


def run_replica(
    requests: Sequence[Request], costs: Costs, terms: Terms | None = None, *, max_rows: int = 1_024, seed: int = 0
) -> Run:
    """One replica on a virtual clock, with the server's policy."""
    terms = terms or Terms()
    rows_each = sum(request.rows for request in requests) / max(len(requests), 1) or 1.0
    admission = Admission(terms.policy, parts=terms.processes)
    dispatcher = Dispatcher[int](costs.learnt(rows_each), max_rows=max_rows, shares=admission.shares)
    door = Door(admission, dispatcher, ladder=terms.ladder, apart=terms.apart)
    # Before anything runs, as a request of the Open Inference Protocol names its tier: 1 for the highest.
    got = [replace(one, tier=admission.prioritised(terms.tier, one.tier + 1, one.caller)) for one in requests]
    return Run(got, simulate(got, dispatcher, costs.draws(seed, rows_each), door=door), admission, door)


def told(run: Run) -> Forecast:
    """A run in figures."""
    requests, outcome, admission = run.requests, run.outcome, run.admission
    begin, end = (requests[0].at, requests[-1].at) if requests else (0.0, 0.0)
    # What piled up is answered after the last request came: as if in the time before, more than possible would be.
    span, worked = end - begin, max(end, outcome.last) - begin
    worked = span if worked < _NEARLY * span else worked
    in_time = np.isfinite(outcome.latencies)
    owed = np.array([run.door.refused.get(number) != QUOTA for number in range(len(requests))], bool)
    tiers = np.array([request.tier for request in requests], int)
    batches = np.array(outcome.batches or [0])
    return Forecast(
        requests=len(requests),
        rate=_rate(len(requests), span or worked),
        answered=_part(in_time[owed]),
        goodput=_rate(int(in_time.sum()), worked),
        utilisation=min(_rate(outcome.busy, worked), 1.0),
        quantiles=_quantiles(outcome.latencies[owed]),
        batch_rows={"mean": float(batches.mean()), "p50": float(np.median(batches)), "max": float(batches.max())},
        limit=admission.limit if admission.is_limited else None,
        tiers={TIERS[tier]: _tier(run, tiers == tier, owed, tier) for tier in np.unique(tiers).tolist()},
    )


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds > 0 else 0.0


def _tier(run: Run, own: Bools, owed: Bools, tier: int) -> TierForecast:
    latencies, admission = run.outcome.latencies, run.admission
    instead = np.zeros(len(own), bool)
    instead[list(run.door.instead)] = True
    kept = own.copy()
    kept[list(run.door.refused)] = False
    return TierForecast(
        requests=int(own.sum()),
        admitted=admission.admitted[tier],
        refused={reason: count for (reason, other), count in sorted(admission.refused.items()) if other == tier},
        in_time=int(np.isfinite(latencies[own]).sum()),
        instead=int(instead[own].sum()),
        answered=_part(np.isfinite(latencies[own & owed])),
        quantiles=_quantiles(latencies[kept]),
    )


def _part(true: Bools) -> float:
    return float(true.mean()) if len(true) else 1.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What was asked besides: `rate` requests a second from `begin` on for `seconds`, of a replica that can answer
    `capacity` a second; `goodput`: answers in time a second of all that was asked then; `recovered`: the seconds after
    it until everybody is answered in time again.
    """

    rate: float
    begin: float
    seconds: float
    capacity: float
    goodput: float
    recovered: float

    @staticmethod
    def of(run: Run, *, rate: float, begin: float, seconds: float, capacity: float) -> Burst:
        """What became of those who asked then, and after it."""
        at = np.array([request.at for request in run.requests])
        owed = np.array([run.door.refused.get(number) != QUOTA for number in range(len(at))], bool)
        in_time, end = np.isfinite(run.outcome.latencies), begin + seconds
        missed = at[(at >= end) & ~in_time & owed]
        return Burst(
            rate=rate,
            begin=begin,
            seconds=seconds,
            capacity=capacity,
            goodput=float((in_time & (at >= begin) & (at < end)).sum()) / seconds,
            recovered=float(missed.max() - end) if len(missed) else 0.0,
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
