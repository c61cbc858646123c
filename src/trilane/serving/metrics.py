"""What a server counts, for Prometheus.

Law: nothing here blocks; what is counted for each request, and once a batch for its decisions, is counted in plain
numbers, which are told to Prometheus a few times a second and before each scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics

from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.serving.admission import Admission
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers
from trilane.serving.model_metrics import ModelMetrics
from trilane.serving.policy import TIERS
from trilane.serving.reading import Reading
from trilane.serving.signals import Told

__all__ = ["Metrics", "ValueCount"]

_LATENCIES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_AGES = (1, 5, 15, 60, 300, 900, 3_600, 6 * 3_600, 86_400, 2 * 86_400)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The server's counters. `shared`: whether they are summed over the processes of this server."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        own = CollectorRegistry()
        self._own = own
        self.requests = Counter(
            "trilane_requests_total", "Requests by route and status.", ["route", "status"], registry=own
        )
        self._latency = Histogram(
            "trilane_decide_seconds",
            "Time from a request's body to its answer.",
            ["endpoint"],
            registry=own,
            buckets=_LATENCIES,
        )
        self.batch_rows = Histogram(
            "trilane_batch_rows", "Rows answered together.", ["endpoint"], registry=own, buckets=_SIZES
        )
        self.decisions = Counter("trilane_decisions_total", "Decisions made.", ["endpoint", "degraded"], registry=own)
        self.values = Counter(
            "trilane_feature_values_total",
            "Feature values served, by view and status.",
            ["endpoint", "view", "status"],
            registry=own,
        )
        self.ages = Histogram(
            "trilane_feature_age_seconds",
            "Age of a view's values, of one row in each batch.",
            ["endpoint", "view"],
            registry=own,
            buckets=_AGES,
        )
        self.events = Counter("trilane_events_total", "Events at the door, by fate.", ["source", "fate"], registry=own)
        self.failures = Counter(
            "trilane_transform_failures_total", "Failures of request views.", ["view"], registry=own
        )
        self.records = Counter("trilane_records_total", "Decision records, by fate.", ["fate"], registry=own)
        self.store_failures = Counter(
            "trilane_store_failures_total", "Reads and writes that a store refused.", ["store"], registry=own
        )
        self._lanes(own)
        self._partitions()
        self._ladder(own)
        self._quality(own)
        self._objectives(own)
        self._replica()
        self._admission(own)
        self.models = ModelMetrics(own)
        self._answered: dict[tuple[str, int], int] = {}
        self._observed: list[_Observed] = []
        self._times: dict[str, _Observed] = {}
        self._batches: dict[str, _Batches] = {}
        self._served: dict[tuple[str, str, str], int] = {}
        self._aged: dict[tuple[str, str], _Observed] = {}

    def _lanes(self, own: CollectorRegistry) -> None:
        """How the nearline lanes do."""
        self.lane_age = Gauge(
            "trilane_lane_age_seconds",
            "How far a nearline lane lags behind the clock.",
            ["source"],
            registry=own,
            multiprocess_mode="mostrecent",
        )
        self.hot_keys = Gauge(
            "trilane_hot_keys",
            "Keys of a source that are split over its partitions.",
            ["source"],
            registry=own,
            multiprocess_mode="mostrecent",
        )

    def _ladder(self, own: CollectorRegistry) -> None:
        """Which rungs answer, and what is left alone or asked twice."""
        self.breaker_open = Gauge(
            "trilane_breaker_open",
            "Whether a dependency is left alone: 1 or 0.",
            ["dependency"],
            registry=own,
            multiprocess_mode="livesum",
        )
        self.breaker_opened = Counter(
            "trilane_breaker_opened_total", "How often a breaker opened.", ["dependency"], registry=own
        )
        self.hedged = Counter(
            "trilane_hedged_reads_total", "Reads that were asked twice, by which was first.", ["first"], registry=own
        )
        self.rungs = Counter(
            "trilane_rungs_total",
            "Decisions by the rung that made them.",
            ["endpoint", "rung"],
            registry=own,
        )

    def _objectives(self, own: CollectorRegistry) -> None:
        """How objectives stand, whoever counted."""

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            labels = ("endpoint", "objective", *labels)
            return Gauge(name, text, labels, registry=own, multiprocess_mode="mostrecent")

        self.objective_compliance = gauge("trilane_slo_compliance", "The share of good answers.")
        self.objective_left = gauge("trilane_slo_budget_left", "What is left of the error budget; below 0: overdrawn.")
        self.objective_burn = gauge("trilane_slo_burn_rate", "How fast the budget burns; 1: as allowed.", "window")

    def _quality(self, own: CollectorRegistry) -> None:
        """What is on record of events and loads, whoever counted it."""

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=own, multiprocess_mode="mostrecent")

        self.lane_behind = gauge("trilane_lane_behind_events", "Events that a lane has not read yet.", "source")
        self.lane_events = gauge("trilane_lane_events", "Events that a nearline lane has read.", "source", "fate")
        self.letters = gauge("trilane_dead_letters", "Dead letters there are.", "source", "code", "state")
        self.expectation = gauge("trilane_source_expectation", "Whether it is met.", "source", "expectation")
        self.batch_failing = gauge("trilane_batch_failing", "Whether the last load failed.", "view")
        self.table_rows = gauge("trilane_table_violations", "Rows of the last load that break a rule.", "view", "rule")

    def _replica(self) -> None:
        """How busy this process is; of several, the sum."""

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=self._own, multiprocess_mode="livesum")

        self.in_flight = gauge("trilane_in_flight", "Requests that are being answered.")
        self.queued = gauge("trilane_queued_rows", "Rows that wait for a batch.")
        self.utilisation = gauge("trilane_utilisation", "Share of the last minute in which batches ran, a process.")
        self.cpu = gauge("trilane_cpu_utilisation", "Processor time of the last minute over that minute, a process.")

    def tell(self, told: Told) -> None:
        """Tells how busy this process is."""
        self.in_flight.set(told.in_flight)
        self.queued.set(told.queued)
        self.utilisation.set(told.utilisation)
        self.cpu.set(told.cpu)

    def _admission(self, own: CollectorRegistry) -> None:
        """Who was let in, and who not."""

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=own, multiprocess_mode="livesum")

        self._admitted = Counter("trilane_admitted_total", "Requests that were let in.", ["tier"], registry=own)
        self._refused = Counter("trilane_refused_total", "Requests refused.", ["reason", "tier"], registry=own)
        self._inside = gauge("trilane_admitted_in_flight", "Requests that were let in and are not out.", "tier")
        self._waiting = gauge("trilane_waiting_requests", "Requests that wait for a batch.", "tier")
        self._limit = gauge("trilane_concurrency_limit", "How many requests may be in; 0 without a limit.")
        self._told: Counts[tuple[str, ...]] = Counts()

    def tell_admission(self, admission: Admission) -> None:
        """Counts who was let in and who not since this was told the last time: nothing is counted for each request."""
        now: Counts[tuple[str, ...]] = Counts({(tier,): admission.admitted[i] for i, tier in enumerate(TIERS)})
        now.update({(reason, TIERS[tier]): number for (reason, tier), number in admission.refused.items()})
        for labels, number in (now - self._told).items():
            (self._admitted if len(labels) == 1 else self._refused).labels(*labels).inc(number)
        self._told = now
        for number, tier in enumerate(TIERS):
            self._inside.labels(tier).set(admission.in_flight[number])
        self._limit.set(admission.limit if admission.is_limited else 0)

    def tell_waiting(self, admission: Admission) -> None:
        """Tells how many wait, which takes a look at the line of every model."""
        for number, tier in enumerate(TIERS):
            self._waiting.labels(tier).set(admission.waiting(number))

    def _partitions(self) -> None:
        """How the nearline workers share the partitions."""
        self.partition_lag = self._by_partition(
            "trilane_partition_lag_events", "Events of a partition that are in the log and not applied."
        )
        self.partition_age = self._by_partition(
            "trilane_partition_lag_seconds", "How far a partition lags behind the clock."
        )
        self.partition_owned = self._by_partition(
            "trilane_partition_owned", "Whether a worker has the partition: 1 or 0."
        )
        self.partition_failing = self._by_partition(
            "trilane_partition_failing", "Whether the partition stands because of a fault: 1 or 0."
        )
        self.partition_faults = self._by_partition(
            "trilane_partition_faults", "How often the partition stood because of a fault."
        )
        self.partition_moves = self._by_partition(
            "trilane_partition_moves", "How often another worker took the partition over."
        )

    def _by_partition(self, name: str, says: str) -> Gauge:
        """What is told anew at each scrape, as the workers noted it."""
        return Gauge(name, says, ["source", "partition"], registry=self._own, multiprocess_mode="mostrecent")

    def time(self, endpoint: str, seconds: float, trace: str = "") -> None:
        """Counts how long a decision took; `trace`: the id of its trace, if it has one."""
        times = self._times.get(endpoint)
        if times is None:
            times = self._times[endpoint] = self._observing(self._latency.labels(endpoint), _LATENCIES)
        if trace and not self._shared:
            times.histogram.observe(seconds, {"trace_id": trace})
        else:
            times.add(seconds)

    def _observing(self, histogram: Histogram, bounds: tuple[float, ...]) -> _Observed:
        found = _Observed(histogram, bounds)
        self._observed.append(found)
        return found

    def count_request(self, route: str, status: int) -> None:
        """Counts a request that was answered."""
        key = route, status
        self._answered[key] = self._answered.get(key, 0) + 1

    def tell_requests(self) -> None:
        """Tells Prometheus of the requests that were counted since this was called the last time."""
        answered, self._answered = self._answered, {}
        for (route, status), number in answered.items():
            self.requests.labels(route, str(status)).inc(number)
        served, self._served = self._served, {}
        for labels, number in served.items():
            self.values.labels(*labels).inc(number)
        for endpoint, batches in self._batches.items():
            self._tell_batches(endpoint, batches)
        for observed in self._observed:
            observed.tell()

    def count(self, endpoint: str, answers: Answers) -> None:
        """Counts one batch of decisions."""
        size = len(answers.scores)
        worse = answers.degraded if answers.faults else 0
        batches = self._batches.get(endpoint)
        if batches is None:
            batches = self._batches[endpoint] = _Batches(self._observing(self.batch_rows.labels(endpoint), _SIZES))
        batches.sizes.add(size)
        batches.whole += size - worse
        batches.worse += worse
        if worse or answers.origins:
            for rung, number in enumerate(np.bincount(answers.rungs, minlength=len(RUNGS)).tolist()):
                batches.rungs[rung] += number
        else:
            batches.rungs[0] += size

    def _tell_batches(self, endpoint: str, batches: _Batches) -> None:
        self.decisions.labels(endpoint, "false").inc(batches.whole)
        if batches.worse:
            self.decisions.labels(endpoint, "true").inc(batches.worse)
        for rung, number in zip(RUNGS, batches.rungs, strict=True):
            if number:
                self.rungs.labels(endpoint, rung).inc(number)
        batches.whole, batches.worse, batches.rungs = 0, 0, [0] * len(RUNGS)

    def values_of(self, endpoint: str, plan: FeaturePlan) -> ValueCount:
        """What counts the values of a plan's features under an endpoint's name."""

        def ages(view: str) -> _Observed:
            found = self._aged.get((endpoint, view))
            if found is None:
                found = self._aged[endpoint, view] = self._observing(self.ages.labels(endpoint, view), _AGES)
            return found

        return ValueCount(self._count_values, ages, endpoint, plan)

    def _count_values(self, labels: tuple[str, str, str], number: int) -> None:
        self._served[labels] = self._served.get(labels, 0) + number

    def text(self, *, exemplars: bool = False) -> bytes:
        """What was told so far in Prometheus' text format, or in OpenMetrics, which has `exemplars`.

        Any thread may ask, as it takes tens of milliseconds of hundreds of models.
        """
        write = openmetrics.generate_latest if exemplars else generate_latest
        if not self._shared:
            return bytes(write(self._own))
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return bytes(write(together))


class _Observed:
    """What a histogram was not told of yet, by its buckets."""

    __slots__ = ("bounds", "counts", "histogram", "total")

    def __init__(self, histogram: Histogram, bounds: tuple[float, ...]) -> None:
        self.histogram, self.bounds = histogram, bounds
        self.counts, self.total = [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One more was seen."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def tell(self) -> None:
        """Adds all to the histogram, which takes no more than one at a time by any other way."""
        if not any(self.counts):
            return
        counts, total = self.counts, self.total
        self.counts, self.total = [0] * len(counts), 0.0
        for bucket, number in zip(self.histogram._buckets, counts, strict=True):
            if number:
                bucket.inc(number)
        self.histogram._sum.inc(total)


class _Batches:
    """The batches of an endpoint of which Prometheus was not told yet."""

    __slots__ = ("rungs", "sizes", "whole", "worse")

    def __init__(self, sizes: _Observed) -> None:
        self.sizes, self.whole, self.worse, self.rungs = sizes, 0, 0, [0] * len(RUNGS)


class ValueCount:
    """Counts the statuses and ages of the values that are read for one endpoint, view by view."""

    def __init__(
        self,
        counted: Callable[[tuple[str, str, str], int], None],
        ages: Callable[[str], _Observed],
        endpoint: str,
        plan: FeaturePlan,
    ) -> None:
        names = [column.view.name for column in plan.columns]
        views = list(dict.fromkeys(names))
        self._labels = [(endpoint, view, status) for view in views for status in STATUSES]
        self._first = [names.index(view) for view in views]
        self._base = np.array([views.index(name) * len(STATUSES) for name in names])
        fresh = [self._labels[place * len(STATUSES)] for place in range(len(views))]
        self._fresh = [(labels, names.count(labels[1])) for labels in fresh]
        self._counted, self._ages = counted, [ages(view) for view in views]

    def add(self, reading: Reading) -> None:
        """Counts what was read together."""
        size = len(reading.statuses)
        if not size:
            return
        if reading.statuses.any():
            numbers = np.bincount((reading.statuses + self._base).reshape(-1), minlength=len(self._labels))
            for place in np.flatnonzero(numbers).tolist():
                self._counted(self._labels[place], int(numbers[place]))
        else:
            for labels, columns in self._fresh:
                self._counted(labels, columns * size)
        for seen, age in zip(self._ages, reading.ages[0, self._first].tolist(), strict=True):
            seen.add(age / 1e6)
