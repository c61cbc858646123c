"""A model that was slow for a while, on a virtual clock: however long and however slow, it is soon asked again."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trilane.features.cascade import Bools
from trilane.serving.admission import Admission
from trilane.serving.dispatch import Batch, Decision, Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Door, Outcome, Request, poisson, simulate
from trilane.serving.trials import TRIAL

ALPHA, BETA, PATIENCE = 4e-3, 1e-3, 0.05
SELDOM = 20.0  # times that a trial lasts, or is expected to, from its beginning to that of the next
LONGEST = 10.0  # seconds from one to the next, if none lasts for half of that
FADES = 12.0  # seconds in which it is forgotten by how late answers were


def _cost(rows: int) -> float:
    return ALPHA + BETA * rows


@dataclass(frozen=True)
class Phase:
    """From `begin` on, for `seconds`, every batch takes `factor` times as long, more or less by `spread`."""

    begin: float
    seconds: float
    factor: float
    spread: float = 0.0

    @property
    def end(self) -> float:
        return self.begin + self.seconds


class Watched(Dispatcher[int]):
    """Notes each batch, with the instant at which it began and its time, and how late is expected of it."""

    def __init__(self, phase: Phase, seed: int = 3) -> None:
        super().__init__(LatencyModel.of({rows: _cost(rows) for rows in (1, 8, 64)}), max_rows=64)
        self.phase, self.random = phase, np.random.default_rng(seed)
        self.ran: list[tuple[float, float, float, Batch[int]]] = []  # begun at, took, expected, what
        self.believed = 0.0  # the longest that a lone request was ever expected to take

    def next(self, now: float, *, others_busy: bool = True) -> Decision[int] | None:
        self.believed = max(self.believed, self.latency.expected(1))
        decision = super().next(now, others_busy=others_busy)
        if isinstance(decision, Batch):
            phase, noise = self.phase, math.exp(0.03 * self.random.standard_normal())
            slow = phase.factor * math.exp(phase.spread * self.random.standard_normal())
            takes = _cost(decision.rows) * noise * (slow if phase.begin <= now < phase.end else 1.0)
            if decision.reason == TRIAL:
                assert len(decision.jobs) == 1
                assert self.requests == 0, "somebody waits while one is tried in vain"
                assert now + self.latency.upper(decision.rows) > decision.jobs[0].deadline > now
            else:
                assert now + self.latency.upper(decision.rows) <= min(job.deadline for job in decision.jobs)
            self.ran.append((now, takes, decision.expected, decision))
        return decision

    def cost(self, rows: int) -> float:
        """What the batch that began last takes."""
        return self.ran[-1][1]


def _served(requests: list[Request], outcome: Outcome, *, since: float) -> Bools:
    came = np.array([request.at for request in requests])
    served: Bools = np.isfinite(outcome.latencies[came >= since])
    return served


def _rest(seconds: float) -> float:
    """From the beginning of a trial of `seconds` to that of the next."""
    return min(SELDOM * seconds, max(LONGEST, 2 * seconds))


def _check_trials(dispatcher: Watched) -> None:
    """Each is followed by a rest, and begins where nothing ran for as long."""
    trials = [(at, took, expected) for at, took, expected, batch in dispatcher.ran if batch.reason == TRIAL]
    for (at, took, _), (following, _, _) in itertools.pairwise(trials):
        assert following >= at + _rest(took) * (1 - 1e-9)
    for (before, *_), (at, _, expected, batch) in itertools.pairwise(dispatcher.ran):
        assert batch.reason != TRIAL or at >= before + _rest(expected) * (1 - 1e-9)


def _asked(phase: Phase, rate: float, wait: float) -> list[Request]:
    """Requests until all is well again and a while longer; not so many afterwards that it takes all day."""
    after = min(rate, 8_000 / wait)
    during = poisson(rate, phase.end, seed=5, patience=PATIENCE)
    return during + [
        Request(phase.end + one.at, patience=PATIENCE) for one in poisson(after, wait + 100 / after, seed=6)
    ]


phases = st.builds(
    Phase, st.floats(0.0, 2.0), st.floats(0.0, 30.0), st.floats(1.0, 5.0).map(lambda power: 4.0**power), st.floats(0, 1)
)


@settings(max_examples=40, deadline=None)
@given(phases, st.floats(-1.0, 2.3).map(lambda power: 10.0**power), st.booleans(), st.booleans())
def test_after_a_slow_phase_of_any_length_and_factor_everybody_is_answered_in_time_again(
    phase: Phase, rate: float, at_the_door: bool, ladder: bool
) -> None:
    def run(requests: list[Request]) -> tuple[Watched, Outcome]:
        dispatcher = Watched(phase)
        door = Door(Admission(), dispatcher, ladder=ladder) if at_the_door else None
        return dispatcher, simulate(requests, dispatcher, dispatcher.cost, door=door)

    before, _ = run(poisson(rate, phase.end, seed=5, patience=PATIENCE))
    took = [(at + took, took) for at, took, *_ in before.ran] or [(0.0, 0.0)]
    slowest = max(before.believed, *(lasted for _, lasted in took))
    wait = max(took[-1][0] - phase.end, 0.0) + 2 * slowest + _rest(slowest) + FADES + 20 / min(rate, 1.0)
    requests = _asked(phase, rate, wait)
    dispatcher, outcome = run(requests)
    assert _served(requests, outcome, since=phase.end + wait).mean() >= 0.98
    _check_trials(dispatcher)
