"""What is changed is built beside what answers, compared, swapped in at once, and may be returned to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import deploy, training_job
from trilane.apps.backfill import backfill, missing
from trilane.apps.batch_job import land_version
from trilane.apps.comparison import compare
from trilane.apps.config import load_config
from trilane.apps.control import Scheduler, boundaries
from trilane.apps.definitions import snapshot
from trilane.apps.filling import fillings
from trilane.apps.project import Project
from trilane.apps.rebuild import rebuilds
from trilane.apps.retention import retire
from trilane.apps.swap import pending, swap
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock, duration
from trilane.errors import ConflictError, DefinitionError
from trilane.features.entity import encode_key
from trilane.features.view import View
from trilane.lanes.nearline import Consumer
from trilane.stores.online.versions import versions

NOW = T0 + duration("3d")
EVENTS = [event(n, shop="abc"[n % 3], at=NOW - (120 - n) * MINUTE, amount=float(n)) for n in range(120)]


class World:
    """A project of which nobody but the test runs anything."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, SimulatedClock(NOW)
        self.projects: list[Project] = []
        self.workers: list[Worker] = []

    def open(self) -> Project:
        self.projects.append(Project(load_config(self.folder, environment={}), clock=self.clock))
        return self.projects[-1]

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "definitions.py"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def work(self) -> Worker:
        """A worker that has done all there is to do."""
        self.workers.append(Worker(self.open()))
        while self.workers[-1].step():
            pass
        self.workers[-1].step()
        return self.workers[-1]

    def stop(self) -> None:
        while self.workers:
            self.workers.pop().close()

    def fill(self) -> None:
        self.work()
        self.stop()
        scheduler = Scheduler(self.open())
        for second in (0.0, 2.0):  # what it lands now, it swaps in then
            scheduler.step(second)

    def view(self, name: str = "shop_now") -> View:
        return self.open().definitions.views[name]

    def answers_by(self) -> str:
        return self.open().bundles()["is_big"].views["shop_now"]

    def by_name(self) -> str:
        return self.open().served.views["shop_now"].version

    def rows(self, view: View) -> int:
        return len(list(self.open().online.scan(view.space)))

    def close(self) -> None:
        self.stop()
        while self.projects:
            self.projects.pop().close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose model is trained and deployed, and whose stores are filled; nobody has it open."""
    world = World(tmp_path_factory.mktemp("filled"))
    world.projects.append(make_project(world.folder, clock=world.clock))
    append(world.open(), EVENTS, arrived_at=NOW)
    training_job.train(world.open(), "big")
    world.fill()
    deploy.apply(world.open())
    world.close()
    return world.folder


@pytest.fixture
def world(tmp_path: Path, filled: Path) -> Iterator[World]:
    """A copy of it, of the test's own."""
    world = World(Path(shutil.copytree(filled, tmp_path / "shop")))
    yield world
    world.close()


def _shorten(world: World, *, train: bool = True, **options: Any) -> tuple[View, View]:
    """Applies a changed window, and the model trained on it: the old version of the view and the new."""
    old = world.view()
    world.edit('tl.sum("amount", window="1h")', 'tl.sum("amount", window="30m")')
    deploy.apply(world.open(), **options)
    if train:
        training_job.train(world.open(), "big")
        deploy.apply(world.open(), **options)
    return old, world.view()


def test_an_endpoint_and_reads_by_name_switch_once_what_they_read_is_filled(world: World) -> None:
    old, new = _shorten(world)
    assert {old.space, new.space} <= set(world.open().live_views())
    assert (world.answers_by(), world.by_name()) == (old.version, old.version)
    waiting = pending(world.open())
    assert [one.name for one in waiting] == ["is_big", "reads by name"]
    assert "shop_now@" in waiting[0].why
    assert "0% filled" in waiting[0].why
    found = deploy.plan(world.open())
    [effect] = [one for one in found.effects if one.kind == "endpoint"]
    assert (effect.action, found.does_nothing) == ("fill", True)
    assert swap(world.open()) == []
    world.fill()
    assert (world.answers_by(), world.by_name()) == (new.version, new.version)
    assert pending(world.open()) == []


def test_a_return_is_instant_while_the_former_version_is_kept(world: World) -> None:
    old, new = _shorten(world)
    world.fill()
    append(world.open(), [event(500, shop="a", at=NOW - MINUTE, amount=7.0)], arrived_at=NOW)
    world.fill()
    world.edit('tl.sum("amount", window="30m")', 'tl.sum("amount", window="1h")')
    deploy.apply(world.open())
    assert (world.answers_by(), world.by_name()) == (old.version, old.version)
    found = {one.version: one for one in fillings(world.open(), world.open().live_views().values())}
    assert found[old.version].filled
    assert found[new.version].filled


def test_rows_of_what_is_retired_or_kept_long_enough_are_removed_and_no_other(world: World) -> None:
    old, new = _shorten(world)
    world.fill()
    assert (world.rows(old), world.rows(new)) == (3, 3)
    with pytest.raises(ConflictError, match="answers"):
        retire(world.open(), "shop_now", new.version[:6])
    assert [one.version for one in retire(world.open(), "shop_now")] == [old.version]
    world.fill()
    assert (world.rows(old), world.rows(new)) == (0, 3)
    with pytest.raises(DefinitionError, match="no version"):
        retire(world.open(), "shop_now", old.version)
    assert old.space not in {one.space for one in fillings(world.open(), world.open().live_views().values())}


def test_what_expired_is_built_anew_when_it_returns(world: World) -> None:
    old, _ = _shorten(world)
    world.fill()
    before = dict(world.open().online.scan(world.view().space))
    world.clock.move_to(NOW + duration("2d"))
    world.fill()
    assert world.rows(old) == 0
    world.edit('tl.sum("amount", window="30m")', 'tl.sum("amount", window="1h")')
    deploy.apply(world.open())
    assert world.answers_by() != old.version
    world.fill()
    assert world.answers_by() == old.version
    assert world.rows(old) == 3
    assert before


def test_a_build_that_is_overtaken_is_cleaned_up_and_never_answers(world: World) -> None:
    old, abandoned = _shorten(world, train=False)
    worker = world.work()
    assert world.rows(abandoned) == 3
    world.stop()
    world.edit('tl.sum("amount", window="30m")', 'tl.sum("amount", window="20m")')
    deploy.apply(world.open())
    world.fill()
    assert world.rows(abandoned) == 0
    assert abandoned.version != world.by_name() == world.view().version
    assert world.rows(old) == 3, "its endpoint answers still"
    assert worker.offsets == {}


def test_a_build_that_is_half_way_when_it_is_overtaken_leaves_nothing(world: World) -> None:
    _, abandoned = _shorten(world, train=False)
    worker = Worker(world.open())
    world.workers.append(worker)
    worker._tools.__dict__["limit"] = 40
    worker.step()
    group = worker._holdings["orders", 0].consumers[-1]
    assert (group.group, group.progress.offset) == (abandoned.space, 40)
    assert [one.done for one in fillings(world.open(), [abandoned])] == [40]
    world.stop()
    world.edit('tl.sum("amount", window="30m")', 'tl.sum("amount", window="20m")')
    deploy.apply(world.open())
    world.fill()
    for space in (abandoned.space, f"nearline/seen/orders/0{abandoned.space}"):
        assert list(world.open().online.scan(space)) == []
    keys = [key for key, _ in world.open().online.scan("nearline/lanes")]
    assert keys == [b"orders/0"]


def test_a_build_under_steady_events_comes_level_with_the_lane(world: World) -> None:
    _, new = _shorten(world, train=False)
    worker, number = Worker(world.open()), 1_000
    world.workers.append(worker)
    worker._tools.__dict__["limit"] = 50
    log = world.open()
    original = worker._tools.log.end

    def end(source: str, partition: int) -> int:
        nonlocal number
        number += 1
        append(log, [event(number, at=NOW - MINUTE)], arrived_at=NOW)  # whenever anybody looks, there is one more
        return original(source, partition)

    worker._tools.log.__dict__["end"] = end
    for _ in range(10):
        worker.step()
    assert [consumer.group for consumer in worker._holdings["orders", 0].consumers] == [""]
    assert fillings(world.open(), [new])[0].filled


def test_a_view_that_cannot_be_built_is_told_and_hinders_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = _shorten(world)
    step = Consumer.step

    def failing(self: Consumer, until: int | None = None) -> Any:
        if self.group:
            raise ZeroDivisionError("a defect of its transform")
        return step(self, until)

    monkeypatch.setattr(Consumer, "step", failing)
    append(world.open(), [event(900, at=NOW - MINUTE)], arrived_at=NOW)
    worker = world.work()
    assert worker.offsets == {("orders", 0): 121}
    assert worker._holdings["orders", 0].fault == ""
    [told] = fillings(world.open(), [new])
    assert (told.filled, told.fault) == (False, "ZeroDivisionError: a defect of its transform")
    assert "cannot be built on" in caplog.text
    assert world.answers_by() == old.version
    monkeypatch.undo()
    world.stop()
    world.fill()
    [told] = fillings(world.open(), [new])
    assert (told.filled, told.fault) == (True, "")


def test_what_is_held_waits_for_a_word(world: World) -> None:
    old, new = _shorten(world, hold=True)
    world.fill()
    assert world.answers_by() == old.version
    assert [one.why for one in pending(world.open())] == ["`trilane swap`", "`trilane swap`"]
    assert {one.name for one in swap(world.open(), held=True)} == {"is_big", "reads by name"}
    assert (world.answers_by(), world.by_name()) == (new.version, new.version)


def test_who_insists_need_not_wait(world: World) -> None:
    _, new = _shorten(world, at_once=True)
    assert (world.answers_by(), world.by_name()) == (new.version, new.version)


def test_of_two_that_apply_at_once_the_second_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    late = world.open()
    world.edit('window="10m"', 'window="20m"')
    _ = late.working
    world.edit('window="20m"', 'window="15m"')

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.undo()
        deploy.apply(world.open())
        return snapshot(*arguments)

    base = late.applied_digest()
    monkeypatch.setattr("trilane.apps.deploy.snapshot", meanwhile)
    with pytest.raises(ConflictError, match="applied meanwhile"):
        deploy.apply(late)
    assert world.open().applied_digest() not in (base, late.working.digest)


def test_values_of_both_versions_are_compared_by_key_and_feature(world: World) -> None:
    with pytest.raises(ConflictError, match="only version"):
        compare(world.open(), "shop_now")
    world.edit('"max_10m": tl.max', '"most_10m": tl.max')
    old, new = _shorten(world, train=False)
    with pytest.raises(ConflictError, match="0% filled"):
        compare(world.open(), "shop_now")
    world.fill()
    found = compare(world.open(), "shop_now", keys=10)
    assert (found.old, found.new, found.keys) == (old.version, new.version, 3)
    assert (found.only_old, found.only_new) == (("max_10m",), ("most_10m",))
    told = {one.feature: one for one in found.differences}
    assert told["n_10m"].equal == 1.0
    assert told["n_10m"].disagreement == 0.0
    last = {shop: [float(n) for n in range(120) if "abc"[n % 3] == shop] for shop in "abc"}
    apart = {shop: sum(values[-20:]) - sum(values[-10:]) for shop, values in last.items()}
    assert told["sum_1h"].equal == 0.0
    assert told["sum_1h"].mean == pytest.approx(sum(apart.values()) / 3)
    assert [key for key, _, _ in told["sum_1h"].worst] == sorted(
        apart, key=lambda shop: -apart[shop] / sum(last[shop][-20:])
    )
    assert found.disagreement == told["sum_1h"].disagreement > 0.3


def test_a_plan_says_what_a_change_takes(world: World) -> None:
    world.edit('tl.mean("amount", window="7d")', 'tl.mean("amount", window="14d")')
    world.edit('tl.sum("amount", window="1h")', 'tl.sum("amount", window="30m")')
    project = world.open()
    found = deploy.plan(project)
    now, daily = rebuilds(project, project.working, deploy.costs(project, found.changes))[::-1]
    if now.view != "shop_now":
        now, daily = daily, now
    assert (now.events, now.boundaries, now.seconds) == (120, 0, None)
    assert (now.keys, now.models, now.endpoints) == (3, ("big",), ("is_big",))
    assert now.bytes > 0
    assert (daily.events, daily.boundaries) == (0, 1)
    assert daily.seconds is not None, "an earlier version took some time"


def test_a_backfill_lands_what_is_missing_and_goes_on_where_it_stopped(world: World) -> None:
    project, view = world.open(), world.view("shop_daily")
    wanted = [T0 + duration("1d") * day for day in (1, 2, 3)]
    assert missing(project, view, wanted) == [wanted[0], wanted[2]], "one has landed already"
    assert next(backfill(project, view, wanted)).boundary == wanted[0], "and there it is interrupted"
    rest = list(backfill(world.open(), view, wanted))
    assert [(one.boundary, one.done, one.whole) for one in rest] == [(wanted[2], 1, 1)]
    assert [v.boundary for v in versions(project.online, view.space)] == wanted
    assert missing(project, view, [*wanted, T0]) == [], "later ones would drive it out"
    assert boundaries(view, NOW)[0] in wanted


def test_batch_versions_of_what_is_kept_no_longer_are_removed(world: World) -> None:
    old = world.view("shop_daily")
    world.edit('tl.mean("amount", window="7d")', 'tl.mean("amount", window="14d")')
    deploy.apply(world.open())
    training_job.train(world.open(), "big")
    deploy.apply(world.open())
    world.fill()
    land_version(world.open(), old, NOW)
    landed = versions(world.open().online, old.space)
    assert landed[-1].rows == 3
    world.clock.move_to(NOW + duration("2d"))
    scheduler = Scheduler(world.open())
    scheduler.step(0.0)
    assert versions(world.open().online, old.space) == ()
    key = encode_key(["a"]) or b""
    assert world.open().online.read([(landed[-1].space, [key])]) != [[None]], "a reader may have the old list still"
    scheduler.step(2.0)
    assert world.open().online.read([(landed[-1].space, [key])]) == [[None]]
