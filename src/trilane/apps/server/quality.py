"""What the lanes, the dead letters and the batch jobs have on record, as gauges.

Law: a gauge that was told once is told again at each scrape, as 0 when there is nothing left of what it counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trilane.apps.expectations import findings
from trilane.apps.project import Project
from trilane.apps.server.status import shares
from trilane.apps.slo import standings
from trilane.features.view import View
from trilane.lanes.progress import Progress
from trilane.lifecycle.metadata.protocol import FAILED
from trilane.serving.metrics import Metrics

__all__ = ["Quality"]

_EXPECTATIONS = 10_000_000  # microseconds between two looks into the log for what sources bring
_Told = tuple[str, tuple[str, ...]]


class Quality:
    """Fills the gauges of `metrics`; for one thread at a time."""

    def __init__(self, project: Project, metrics: Metrics) -> None:
        self._project, self._metrics = project, metrics
        self._told: set[_Told] = set()
        self._looked: int | None = None
        self._met: dict[_Told, float] = {}

    def tell(self, views: Sequence[View], lanes: Mapping[str, Mapping[int, Progress]]) -> None:
        """Sets all gauges as of now."""
        found = {**dict(self._lanes(lanes)), **dict(self._letters()), **dict(self._jobs(views)), **self._expectations()}
        for name, labels in self._told | found.keys():
            getattr(self._metrics, name).labels(*labels).set(found.get((name, labels), 0))
        self._told |= found.keys()

    def tell_objectives(self) -> None:
        """How the objectives of the applied endpoints stand."""
        if self._project.applied_digest() is None:
            return
        for endpoint, ones in standings(self._project).items():
            for one in ones:
                labels = endpoint, one.objective.text
                self._metrics.objective_compliance.labels(*labels).set(one.compliance)
                self._metrics.objective_left.labels(*labels).set(one.left)
                for window, rate in one.burn.items():
                    self._metrics.objective_burn.labels(*labels, window).set(rate)

    def tell_partitions(self, lanes: Mapping[str, Mapping[int, Progress]]) -> None:
        """Sets who has each partition now, how far it lags and what hinders it."""
        metrics = self._metrics
        for one in shares(self._project, lanes, self._project.clock.now()):
            labels = one["source"], str(one["partition"])
            if one["lag"] is not None:
                metrics.partition_lag.labels(*labels).set(one["lag"])
            if one["age_s"] is not None:
                metrics.partition_age.labels(*labels).set(one["age_s"])
            metrics.partition_owned.labels(*labels).set(one["owner"] is not None)
            metrics.partition_failing.labels(*labels).set(one["fault"] is not None)
            metrics.partition_faults.labels(*labels).set(one["faults"])
            metrics.partition_moves.labels(*labels).set(one["moves"])

    def _lanes(self, lanes: Mapping[str, Mapping[int, Progress]]) -> Iterator[tuple[_Told, float]]:
        for source, partitions in lanes.items():
            behind = sum(self._project.log.end(source, number) - p.offset for number, p in partitions.items())
            yield ("lane_behind", (source,)), behind
            fates: dict[str, int] = {}
            for progress in partitions.values():
                counts = {"applied": progress.applied, "duplicate": progress.duplicates, **progress.verdicts}
                for fate, number in counts.items():
                    fates[fate] = fates.get(fate, 0) + number
            for fate, number in fates.items():
                yield ("lane_events", (source, fate)), number

    def _letters(self) -> Iterator[tuple[_Told, float]]:
        for labels, number in self._project.dead_letters.census().items():
            yield ("letters", labels), number

    def _jobs(self, views: Sequence[View]) -> Iterator[tuple[_Told, float]]:
        for name in sorted({view.name for view in views if view.lane == "batch"}):
            for run in self._project.metadata.runs(kind="materialize", subject=name, limit=1):
                yield ("batch_failing", (name,)), float(run.status == FAILED)
                for rule, rows in dict(run.facts.get("violations") or {}).items():
                    yield ("table_rows", (name, str(rule))), rows

    def _expectations(self) -> dict[_Told, float]:
        now = self._project.clock.now()
        if self._looked is None or now - self._looked >= _EXPECTATIONS:
            self._looked = now
            found = findings(self._project)
            self._met = {("expectation", (one.source, one.expectation)): float(one.met) for one in found}
        return self._met
