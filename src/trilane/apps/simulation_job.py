"""What an endpoint would do with other traffic, on a virtual clock: its costs, its traffic, its forecast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from trilane.apps.project import Project
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, DefinitionError
from trilane.models.artifact import load
from trilane.models.own_process import PYTHON
from trilane.models.profile import profile_here
from trilane.models.runtime.trained import open_trained
from trilane.serving.capacity import Burst, Costs, Forecast, Terms, replicas_for, run_replica, told
from trilane.serving.latency import LatencyModel
from trilane.serving.policy import TIERS, Policy
from trilane.serving.quota import Quotas
from trilane.serving.simulation import Request
from trilane.serving.traffic import asked_by, drawn, mixed, share_of, times, with_burst

__all__ = [
    "Mix",
    "Traffic",
    "bundle_of",
    "costs_learnt",
    "costs_profiled",
    "fewest",
    "forecast",
    "forecast_burst",
    "recorded_traffic",
    "synthetic",
    "terms_of",
]

MAX_ROWS = 1_024  # the largest batch of a server
_MOST, _LEAST = 200_000, 2_000  # requests of one simulated replica

_BURST = 1_000_000  # and of a burst
# The requests of one of so many replicas.
Traffic: TypeAlias = Callable[[int], Sequence[Request]]


def bundle_of(project: Project, endpoint: str) -> Bundle:
    """What is deployed under an endpoint. Raises DefinitionError or ConflictError."""
    bundles = project.bundles()
    if endpoint in bundles:
        return bundles[endpoint]
    known = project.definitions.endpoints
    if endpoint not in known:
        remedy = f"The endpoints are {', '.join(sorted(known)) or 'none'}"
        raise DefinitionError(f"there is no endpoint {endpoint!r}", where=endpoint, remedy=remedy, file="")
    remedy = "Train its model, then run `trilane apply`"
    raise ConflictError("nothing is deployed under this endpoint", where=endpoint, remedy=remedy)


def costs_profiled(project: Project, bundle: Bundle, *, overhead: float) -> Costs:
    """What the model takes, as it was measured on this machine."""
    artifact = load(project.models_folder / bundle.model / bundle.model_digest[:16])
    runtime = open_trained(artifact)
    try:
        return Costs(LatencyModel.of(profile_here(artifact, runtime, timer=time.perf_counter)), overhead)
    finally:
        runtime.close()


def costs_learnt(status: Mapping[str, Any], endpoint: str, *, overhead: float) -> Costs:
    """What a running server learnt of the endpoint's batches, reads included. Raises ConflictError if nothing."""
    learnt = status.get("endpoints", {}).get(endpoint, {}).get("batching", {}).get("latency_us", {})
    if not learnt:
        remedy = "Send it requests, or leave out --learnt"
        raise ConflictError("the server has learnt nothing of this endpoint yet", where=endpoint, remedy=remedy)
    typical = {int(rows): float(low) / 1e6 for rows, (low, _) in learnt.items()}
    upper = {int(rows): float(high) / 1e6 for rows, (_, high) in learnt.items()}
    return Costs(LatencyModel.of(typical, upper=upper), overhead)


def terms_of(project: Project, bundle: Bundle) -> Terms:
    """On what terms a server would let requests in, by the policy that is declared, applied or not."""
    endpoint = project.snapshot(bundle.definitions).endpoints[bundle.endpoint]
    return Terms(
        project.working.policy or Policy(limit=None),
        TIERS.index(endpoint.tier),
        bool(endpoint.fallback),
        project.config.workers,
        endpoint.model.runtime == PYTHON,
    )


@dataclass(frozen=True, slots=True)
class Mix:
    """Who asks, drawn by lot: parts by tier, the highest first, and by caller; None leaves the requests as they are."""

    tiers: Sequence[float] | None = None
    callers: Mapping[str, float] | None = None

    def of(self, requests: Sequence[Request], *, seed: int) -> Sequence[Request]:
        """The requests as such a mix."""
        if self.tiers is not None:
            requests = mixed(requests, self.tiers, seed=seed)
        return requests if self.callers is None else asked_by(requests, self.callers, seed=seed)


def synthetic(
    shape: str, rate: float, *, seconds: float, rows: int, patience: float, tier: int, mix: Mix, seed: int
) -> Traffic:
    """Drawn requests, `rate` a second for all replicas together; few enough to simulate, and enough for a quantile."""

    def requests(replicas: int) -> Sequence[Request]:
        own = rate / replicas
        span = min(max(seconds, _LEAST / own), _MOST / own)
        return mix.of(drawn(shape, own, span, seed=seed, rows=rows, patience=patience, tier=tier), seed=seed)

    return requests


def recorded_traffic(trace: Sequence[Request], factor: float, *, mix: Mix, seed: int) -> Traffic:
    """Recorded requests, `factor` times as many."""
    whole = mix.of(times(trace, factor, seed=seed), seed=seed)
    return lambda replicas: share_of(whole, 1 / replicas, seed=seed + 1)


def forecast(traffic: Traffic, costs: Costs, terms: Terms, *, replicas: int, seed: int) -> Forecast:
    """How one of the replicas fares."""
    return told(run_replica(_some(traffic(replicas)), costs, terms, max_rows=MAX_ROWS, seed=seed))


def forecast_burst(
    traffic: Traffic, costs: Costs, terms: Terms, *, replicas: int, seed: int, factor: float, seconds: float
) -> tuple[Forecast, Burst]:
    """How one of the replicas fares while `factor` times what it can answer is asked of it besides, for `seconds`.

    Raises DefinitionError for a burst of more requests than can be simulated.
    """
    requests = _some(traffic(replicas))
    rows_each = sum(request.rows for request in requests) / len(requests)
    # A request waits for the batch that runs and for its own, so that only batches of half its time count.
    patience = min(request.patience for request in requests)
    capacity = costs.most(rows_each, MAX_ROWS, within=patience / 2)
    rate = factor * capacity
    if rate * seconds > _BURST:
        what = f"a burst of {rate * seconds:,.0f} requests to each replica is too much to simulate"
        remedy = f"Let it last {_BURST / rate:.2g} s at most"
        raise DefinitionError(what, where="--burst-seconds", remedy=remedy, file="")
    whole, begin = with_burst(requests, rate, seconds, seed=seed + 2)
    run = run_replica(whole, costs, terms, max_rows=MAX_ROWS, seed=seed)
    return told(run), Burst.of(run, rate=rate, begin=begin, seconds=seconds, capacity=capacity)


def _some(requests: Sequence[Request]) -> Sequence[Request]:
    if not requests:
        remedy = "Give fewer --replicas, more --times, or a longer trace"
        raise DefinitionError("no request is left for a replica", where="--replicas", remedy=remedy, file="")
    return requests


def fewest(
    traffic: Traffic,
    costs: Costs,
    terms: Terms,
    *,
    p99: float,
    seed: int,
    tried: Callable[[int, Forecast], None],
) -> int:
    """The smallest number of replicas that answers 99 of 100 requests, those over a quota left out, within `p99`
    seconds. Raises DefinitionError if one request alone takes longer, whatever the number.
    """
    sample = _some(traffic(1))
    rows_each = sum(request.rows for request in sample) / len(sample)
    alone = costs.learnt(rows_each).expected(math.ceil(rows_each))
    if alone > p99:
        what = f"a request alone takes {alone * 1e3:.3g} ms"
        raise DefinitionError(what, where="--p99", remedy="Promise less, or make the model quicker", file="")
    span, least = sample[-1].at - sample[0].at, 1
    # Where there are quotas, who knows how much of it is refused; and what all comes at once has no rate.
    if span > 0 and not (terms.policy is not None and Quotas(terms.policy).limits):
        least = max(1, math.ceil(0.9 * len(sample) / span / costs.most(rows_each, MAX_ROWS)))

    def good(replicas: int) -> bool:
        found = forecast(traffic, costs, terms, replicas=replicas, seed=seed)
        tried(replicas, found)
        return found.quantiles["p99"] <= p99

    return replicas_for(good, least=least)
