"""What a source may become while its events lie in the log, and how it goes on in mid-stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.shop import DEFINITIONS, MINUTE, T0, append, event, make_project
from trilane.apps import deploy, training_job
from trilane.apps.config import load_config
from trilane.apps.deploy import Plan
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.errors import ConflictError, DefinitionError
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.batch.archive import archive

Edit = Callable[..., Project]


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edit]:
    """Opens the project, with a part of its definitions written otherwise."""
    projects: list[Project] = []

    def edit(old: str = "", new: str = "") -> Project:
        path = tmp_path / "definitions.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        projects.append(Project(load_config(tmp_path, environment={}), clock=SimulatedClock(T0 + 30 * MINUTE)))
        return projects[-1]

    make_project(tmp_path, clock=SimulatedClock(T0)).close()
    yield edit
    for project in projects:
        project.close()


def _taken(project: Project) -> None:
    append(project, [event(1, at=T0), event(2, at=T0 + MINUTE)], arrived_at=T0 + MINUTE)


def _acts(plan: Plan) -> set[str]:
    return {effect.action for effect in plan.effects if effect.kind == "view"}


COMPATIBLE = [
    ("    amount: tl.Float64 | None\n", "    amount: tl.Float64 | None\n    channel: tl.String | None\n"),
    ("    order_id: tl.String\n", "    order_id: tl.String\n    note: tl.String | None\n"),
]


@pytest.mark.parametrize(("old", "new"), COMPATIBLE)
def test_a_new_nullable_field_passes_and_rebuilds_nothing(edited: Edit, old: str, new: str) -> None:
    _taken(edited())
    found = deploy.plan(edited(old, new))
    assert (found.refusals, _acts(found)) == ((), set())


INCOMPATIBLE = [
    (
        "    amount: tl.Float64 | None\n",
        "    amount: tl.Float64 | None\n    channel: tl.String\n",
        "events in the log lack it",
        "",
    ),
    (
        "amount: tl.Float64 | None\n\n\nclass Ask",
        "amount: tl.Int64 | None\n\n\nclass Ask",
        "from float64 to int64",
        "shop_now",
    ),
    (
        "amount: tl.Float64 | None\n\n\nclass Ask",
        "amount: tl.Float64\n\n\nclass Ask",
        "may be null no more",
        "shop_now",
    ),
    (
        "shop: tl.String\n    at",
        'shop: Annotated[tl.String, tl.check(pattern="^a")]\n    at',
        "pattern='^a'",
        "shop_daily",
    ),
    ('disorder="10m"', 'disorder="20m"', "judged to be late", ""),
    ('disorder="10m"', 'disorder="10m", partitions=2', "partitions changes from 1 to 2", ""),
    ('disorder="10m"', 'disorder="10m", partition_by="shop"', "partition_by changes", ""),
    ('event_id="order_id"', 'event_id="shop"', "event_id changes", ""),
]


@pytest.mark.parametrize(("old", "new", "said", "view"), INCOMPATIBLE)
def test_a_change_that_the_log_does_not_keep_is_refused_with_the_views_and_the_remedy(
    edited: Edit, old: str, new: str, said: str, view: str
) -> None:
    edited("import trilane as tl", "from typing import Annotated\nimport trilane as tl")
    before = edited()
    deploy.apply(before)
    _taken(before)
    project = edited(old, new)
    refused = [one for one in deploy.plan(project).refusals if said in one.what]
    assert len(refused) == 1
    assert refused[0].remedy
    assert not view or any(name.startswith(view) for name in refused[0].views)
    with pytest.raises(ConflictError, match="event source 'orders'"):
        deploy.apply(project)
    left = deploy.plan(project, breaking=["orders"]).refusals
    assert all(not one.forcible for one in left)
    assert (refused[0] in left) != refused[0].forcible


@pytest.mark.parametrize(("old", "new", "said", "view"), INCOMPATIBLE[4:])
def test_a_source_without_events_changes_at_will(edited: Edit, old: str, new: str, said: str, view: str) -> None:
    assert deploy.plan(edited(old, new)).refusals == ()


def test_a_wider_constraint_passes_and_a_narrower_one_is_refused_until_its_author_insists(edited: Edit) -> None:
    edited("import trilane as tl", "from typing import Annotated\nimport trilane as tl")
    ruled = edited("shop: tl.String\n    at", "shop: Annotated[tl.String, tl.check(max_length=5)]\n    at")
    deploy.apply(ruled)
    _taken(ruled)
    wider = deploy.plan(edited("max_length=5", "max_length=9"))
    assert (wider.refusals, _acts(wider)) == ((), set())
    narrower = edited("max_length=9", "max_length=3")
    assert [one.source for one in deploy.plan(narrower).refusals] == ["orders"]
    assert _acts(deploy.apply(narrower, breaking=["orders"])) == set()
    with pytest.raises(DefinitionError, match="no event source 'nope'"):
        deploy.plan(narrower, breaking=["nope"])


def test_a_field_that_a_deployed_view_reads_goes_only_when_that_view_has_gone(edited: Edit) -> None:
    project = edited()
    append(project, [event(n, at=T0 + n * MINUTE, amount=float(n)) for n in range(9)], arrived_at=T0 + 9 * MINUTE)
    archive(project.log, project.warehouse, project.definitions.sources["orders"])
    training_job.train(project, "big")
    deploy.apply(project)
    slim = DEFINITIONS
    for old, new in (
        ("    at: tl.Timestamp\n    amount: tl.Float64 | None\n", "    at: tl.Timestamp\n"),
        ('"mean_7d": tl.mean("amount", window="7d"), ', ""),
        ('features={"mean_1h": "mean_7d"}', 'features={"n_10m": "n_7d"}'),
        ("orders.filter(orders.amount.isnull() | (orders.amount >= 0))", "orders"),
        ('request["basket"] - request["shop_now.mean_1h"]', 'request["basket"] - request["shop_now.n_10m"]'),
        *((f'        "{name}_{w}": tl.{op}("amount", window="{w}"),\n', "") for name, op, w in (
            ("sum", "sum", "1h"), ("std", "stddev", "1h"), ("max", "max", "10m"), ("last", "last", "1h"))),
        ('        "mean_1h": tl.mean("amount", window="1h", default=0.0),\n', ""),
    ):  # fmt: skip
        assert old in slim, old
        slim = slim.replace(old, new, 1)
    changed = edited(DEFINITIONS, slim)
    [refused] = deploy.plan(changed).refusals
    assert "the field 'amount' goes" in refused.what
    assert {name.split("@")[0] for name in refused.views} == {"shop_daily", "shop_now"}
    assert not refused.forcible


def test_events_of_the_old_schema_and_of_the_new_count_side_by_side_in_mid_stream(edited: Edit) -> None:
    project = edited()
    worker = Worker(project)
    _taken(project)
    while worker.step():
        pass
    archive(project.log, project.warehouse, project.definitions.sources["orders"])
    worker.close()
    added = edited(
        "    amount: tl.Float64 | None\n\n\nclass Ask",
        "    amount: tl.Float64 | None\n    tip: tl.Float64 | None\n\n\nclass Ask",
    )
    changed = edited(
        '"n_7d": tl.count(window="7d")}', '"n_7d": tl.count(window="7d"), "tips": tl.sum("tip", window="7d")}'
    )
    assert _acts(deploy.apply(changed)) == {"rebuild"}
    assert added.definitions.views["shop_now"].version == project.definitions.views["shop_now"].version
    append(changed, [event(3, at=T0 + 2 * MINUTE)[:-1] + b', "tip": 2.5}'], arrived_at=T0 + 2 * MINUTE)
    again = Worker(changed)
    while again.step():
        pass
    again.close()
    source = changed.definitions.sources["orders"]
    archive(changed.log, changed.warehouse, source)
    with changed.warehouse.connect(threads=1) as connection:
        rows = connection.query(f"SELECT tip FROM {changed.warehouse.events_sql(source)} ORDER BY _offset").fetchall()
    assert rows == [(None,), (None,), (2.5,)]
    assert changed.dead_letters.count() == {}
    view = changed.definitions.views["shop_now"]
    [[row]] = changed.online.read([(view.space, [encode_key(("a",)) or b""])])
    values = TileLayout(view).read([row], np.array([T0 + 5 * MINUTE]))[0].tolist()
    assert dict(zip(view.feature_names, values, strict=True))["n_10m"] == 3
