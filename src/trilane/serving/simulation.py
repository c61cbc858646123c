"""Requests on a virtual clock through the policy that the server runs: what would happen, without waiting for it.

Law: the policy's own code decides, and the outcome depends on the requests, the costs and the seed alone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from trilane.features.algebra import Floats
from trilane.serving.dispatch import Batch, Decision, Dispatcher, Job, Late, Wait

__all__ = ["Outcome", "Policy", "Request", "poisson", "simulate"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it comes (seconds), its rows, and how long it may take."""

    at: float
    rows: int = 1
    patience: float = math.inf
    tier: int = 0


class Policy(Protocol):
    """What decides; a `Dispatcher` is one."""

    def add(self, job: Job[int], now: float) -> None: ...
    def next(self, now: float, *, others_busy: bool = True) -> Decision[int] | None: ...
    def done(self, rows: int, seconds: float) -> None: ...


@dataclass(slots=True)
class Outcome:
    """`latencies` [requests] in seconds, inf for those not answered in time; the batches' rows; the executor's time."""

    latencies: Floats
    batches: list[int] = field(default_factory=list)
    busy: float = 0.0

    def quantile(self, q: float) -> float:
        """The latency, in seconds, that a part `q` of all requests stays below; those not answered count as inf."""
        return float(np.quantile(self.latencies, q, method="higher"))

    @property
    def answered(self) -> float:
        """The part of the requests that was answered in time."""
        return float(np.isfinite(self.latencies).mean())


def poisson(rate: float, seconds: float, *, seed: int, rows: int = 1, patience: float = math.inf) -> list[Request]:
    """Requests that come independently, `rate` a second on average."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, int(rate * seconds * 1.2) + 64)
    return [Request(at, rows, patience) for at in np.cumsum(gaps).tolist() if at < seconds]


def simulate(
    requests: Sequence[Request], policy: Policy, cost: Callable[[int], float], *, executors: int = 1
) -> Outcome:
    """Runs `requests`, sorted by time, on `executors`; `cost` gives the seconds that a batch of so many rows takes."""
    outcome = Outcome(np.full(len(requests), np.inf))
    running: list[tuple[float, int, Batch[int], float]] = []  # ends at, number, batch, lasted
    now, coming, alarm, started = 0.0, 0, math.inf, 0
    while coming < len(requests) or running or alarm < math.inf:
        arrival = requests[coming].at if coming < len(requests) else math.inf
        now = min(arrival, running[0][0] if running else math.inf, alarm)
        alarm = math.inf
        while running and running[0][0] <= now:
            ended, _, batch, lasted = heapq.heappop(running)
            policy.done(batch.rows, lasted)
            for job in batch.jobs:
                if ended <= job.deadline:
                    outcome.latencies[job.payload] = ended - job.arrived
        while coming < len(requests) and requests[coming].at <= now:
            one = requests[coming]
            policy.add(Job(one.rows, one.at, one.at + one.patience, coming, one.tier), now)
            coming += 1
        while len(running) < executors:
            decision = policy.next(now, others_busy=len(running) == executors - 1)
            if isinstance(decision, Late):
                continue
            if isinstance(decision, Wait):
                alarm = max(decision.until, math.nextafter(now, math.inf))
            if not isinstance(decision, Batch):
                break
            lasted = cost(decision.rows)
            started += 1
            heapq.heappush(running, (now + lasted, started, decision, lasted))
            outcome.batches.append(decision.rows)
            outcome.busy += lasted
    return outcome


def _is_a_policy(dispatcher: Dispatcher[int]) -> Policy:
    return dispatcher
