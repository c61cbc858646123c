"""What `/metrics` would say of a project's lanes, letters and loads, without a server."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from trilane.apps.project import Project
from trilane.apps.server.quality import Quality
from trilane.apps.server.status import lanes
from trilane.serving.metrics import Metrics

__all__ = ["Scrape", "scrape"]


class Scrape:
    """The samples of one scrape."""

    def __init__(self, samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]) -> None:
        self._samples = samples

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        wanted = frozenset(labels.items())
        return sum(value for (found, given), value in self._samples.items() if found == name and wanted <= given)


def scrape(project: Project) -> Scrape:
    """The metrics as of now."""
    metrics = Metrics(shared=False)
    quality, views = Quality(project, metrics), list(project.live_views().values())
    found = lanes(project, views)
    quality.tell(views, found)
    quality.tell_partitions(found)
    families = text_string_to_metric_families(metrics.text().decode())
    return Scrape({(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples})
