"""What is on record of events and loads is told as metrics, and a table that breaks its promises does not land."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shop import DEFINITIONS, MINUTE, T0, append, event, make_project
from trilane.apps import deploy
from trilane.apps.batch_job import land_version
from trilane.apps.config import load_config
from trilane.apps.expectations import findings
from trilane.apps.project import Project
from trilane.apps.server.quality import Quality
from trilane.apps.server.status import lanes
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import ContractError
from trilane.serving.metrics import Metrics
from trilane.sources.dead_letters import DISCARDED
from trilane.stores.online.versions import versions

RULED = (
    DEFINITIONS.replace(
        'disorder="10m")',
        'disorder="10m", expect_every="5m", rules=[tl.rule("small", lambda t: t.amount < 9, action="quarantine"), '
        'tl.rule("whole", lambda t: t.amount % 1 == 0, action="warn")])',
    )
    + """
rates = tl.TableSource("rates", schema={"shop": tl.String, "at": tl.Timestamp, "rate": tl.Float64}, path="rates.csv",
    event_time="at", rules=[tl.unique("shop", "at"), tl.rule("above 0", lambda t: t.rate > 0, action="warn")],
    volume=tl.volume("1d", at_least=1))

@tl.batch(rates, shop, features={"rate_7d": tl.mean("rate", window="7d")})
def shop_rates(rates):
    return rates
"""
)


def _project(folder: Path) -> Project:
    make_project(folder, apply=False).close()
    (folder / "definitions.py").write_text(RULED)
    (folder / "rates.csv").write_text("shop,at,rate\na,2026-03-01T01:00:00Z,2.0\nb,2026-03-01T01:00:00Z,-1.0\n")
    project = Project(load_config(folder, environment={}), clock=SimulatedClock(T0 + 2 * MINUTE))
    deploy.apply(project)
    return project


def _told(project: Project, quality: Quality, metrics: Metrics) -> dict[str, float]:
    views = list(project.live_views().values())
    quality.tell(views, lanes(project, views))
    lines = [line.rpartition(" ") for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_verdicts_letters_loads_and_expectations_are_told_as_metrics(tmp_path: Path) -> None:
    with _project(tmp_path) as project:
        metrics = Metrics(shared=False)
        quality = Quality(project, metrics)
        values = [event(1, at=T0), event(2, at=T0, amount=50.0), event(3, at=T0, amount=0.5), event(1, at=T0), b"{"]
        append(project, values, arrived_at=T0)
        assert _told(project, quality, metrics)['trilane_lane_behind_events{source="orders"}'] == 5
        worker = Worker(project)
        while worker.step():
            pass
        worker.close()
        land_version(project, project.definitions.views["shop_rates"], T0)
        told = _told(project, quality, metrics)
        fates = {"applied": 2, "duplicate": 1, "json": 1, "rule:small": 1, "warn:whole": 1}
        for fate, number in fates.items():
            assert told[f'trilane_lane_events{{fate="{fate}",source="orders"}}'] == number
        assert told['trilane_lane_behind_events{source="orders"}'] == 0
        aside = 'trilane_dead_letters{code="rule:small",source="orders",state="quarantined"}'
        assert told[aside] == 1
        assert told['trilane_source_expectation{expectation="expect_every",source="orders"}'] == 1
        assert told['trilane_batch_failing{view="shop_rates"}'] == 0
        assert told['trilane_table_violations{rule="above 0",view="shop_rates"}'] == 1
        letters = project.dead_letters.read("orders", code="rule:small")
        project.dead_letters.settle([one.id or 0 for one in letters], DISCARDED, T0)
        assert _told(project, quality, metrics)[aside] == 0
        assert [one.met for one in findings(project)] == [True]


def test_a_table_that_breaks_a_promise_does_not_land_and_the_version_before_it_serves(tmp_path: Path) -> None:
    with _project(tmp_path) as project:
        view = project.definitions.views["shop_rates"]
        land_version(project, view, T0)
        day = 86_400 * 1_000_000
        with pytest.raises(ContractError, match="0 rows in 1d"):
            land_version(project, view, T0 + day)
        again = "a,2026-03-02T01:00:00Z,2.0\n"
        with (tmp_path / "rates.csv").open("a") as file:
            file.write(again * 2)
        with pytest.raises(ContractError, match="unique shop, at"):
            land_version(project, view, T0 + day)
        assert [version.boundary for version in versions(project.online, view.space)] == [T0]
        metrics = Metrics(shared=False)
        told = _told(project, Quality(project, metrics), metrics)
        assert told['trilane_batch_failing{view="shop_rates"}'] == 1
        [run] = project.metadata.runs(kind="materialize", limit=1)
        assert run.error is not None
        assert "unique shop, at" in str(run.error["what"])
