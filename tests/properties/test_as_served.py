"""The second clock's law: a training set as served holds what serving answered, however the lanes lagged.

A worker lags and stops for as long as it likes, events come out of order, early or late, versions land late or again;
all goes through the real log, worker, stores and archive. Values and statuses at each ask equal what was served, bit
for bit; without any lag they are also ideal.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

import trilane as tl
from tests.properties.test_parity import (
    ASKS,
    CUT,
    DISORDER,
    ENGINE,
    ENTITIES,
    FACTS,
    HOUR,
    LATER,
    MINUTE,
    SOURCE,
    START,
    Ask,
    Fact,
    Replay,
    _aggregations,
    _bits,
    _named,
    _samples,
    transform,
)
from trilane.clock import SECOND
from trilane.features.aggregation import Aggregation
from trilane.features.entity import Entity
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.features.view import Step, View
from trilane.lanes.batch.archive import archive
from trilane.lanes.batch.landings import keep_landings
from trilane.lanes.batch.materialize import due, materialize
from trilane.lanes.nearline import Consumer, Tools
from trilane.lanes.visibility import keep_visibility
from trilane.serving.reading import FeatureReader
from trilane.training import values_at
from trilane.types import arrow_type


def declare(
    near: Sequence[Aggregation],
    far: Sequence[Aggregation],
    entities: tuple[Entity, Entity],
    source: tl.EventSource = SOURCE,
) -> FeaturePlan:
    hourly = tl.batch(source, entities[1], features=_named(far), schedule="1h", landing="20m", freshness="100m")(
        _selecting("hourly")
    )
    other = tl.last(hourly, max_age="3h") if entities[0] is entities[1] else tl.prior(hourly, max_age="3h")
    steps: list[Step] = [tl.stale(max_age="20m"), other, tl.prior("median"), tl.default()]
    now = tl.nearline(source, entities[0], freshness="2m", features=_named(near), fallback=steps)(_selecting("now"))

    @tl.request(inputs={"y": tl.Float64}, features={"ratio": tl.Float64}, uses=[now])
    def mixed(request):  # type: ignore[no-untyped-def]
        return {"ratio": request["now.f0"] / request["y"]}

    told = [now.age, tl.age(now["f0"]), hourly.age, tl.age(hourly["f0"])]
    told += [tl.status(now["f0"], status) for status in STATUSES]
    return FeaturePlan.of([told[0], mixed, now, *told[1:], hourly], where="as served")


def declare_long(
    aggregations: Sequence[Aggregation], entities: tuple[Entity, Entity], source: tl.EventSource
) -> FeaturePlan:
    """A view whose long windows need a history, beside short ones, and a ratio of one to the other."""
    far = {"short": tl.count(window="2h"), "mixed": tl.mean("x", window="1h")}
    hourly = tl.batch(source, entities[1], features=far, schedule="1h", landing="20m", freshness="100m")(
        _selecting("hourly")
    )
    other = tl.last(hourly, max_age="3h") if entities[0] is entities[1] else tl.prior(hourly, max_age="3h")
    mixed = tl.ratio(tl.sum("n", window="15m"), tl.count(window="6h"))
    features = {
        **_named(aggregations),
        "short": tl.count(window="15m"),
        "long": tl.sum("x", window="6h"),
        "mixed": mixed,
    }
    steps: list[Step] = [tl.stale(max_age="4h"), other, tl.prior("median"), tl.default()]
    history = {"schedule": "1h", "landing": "20m", "tail": "2h"}
    past = tl.nearline(source, entities[0], freshness="90m", features=features, fallback=steps, **history)(
        _selecting("now")
    )
    told = [past.age, tl.age(past["short"]), tl.age(past["long"])]
    told += [tl.status(past[name], status) for name in ("short", "long") for status in STATUSES]

    @tl.request(inputs={"y": tl.Float64}, features={"ratio": tl.Float64}, uses=[past])
    def mixed_(request):  # type: ignore[no-untyped-def]
        return {"ratio": request["now.long"] / request["y"]}

    return FeaturePlan.of([mixed_, past, *told, hourly], where="as served")


def usual(plan: FeaturePlan) -> dict[str, float]:
    """What a training set would say is usual: of some features, for others were always missing."""
    return dict.fromkeys(plan.names[::2], 17.25)


def _selecting(name: str):  # type: ignore[no-untyped-def]
    def function(facts):  # type: ignore[no-untyped-def]
        return transform(facts).select("at", "place", "desk", "x", "n")

    function.__name__ = name
    return function


class Lagging(Replay):
    """A replay whose worker and control work when chance lets them; `landing`: how often a history is landed."""

    landing = 0.0

    def begin(self) -> None:
        """The first word of the lane and the first version, before which nothing is recorded."""
        self.reader = FeatureReader(self.plan, self.store, priors=usual(self.plan))
        self.tools = Tools(
            log=self.log,
            writer=self.writers[0],
            engine=ENGINE,
            dead_letters=self.letters,
            clock=self.clock,
            limit=self.chance.choice([1, 2, 5, 1_000]),
            heartbeat=1,
        )
        self.consumers = [self.consumer(partition) for partition in range(self.source.partitions)]
        for consumer in self.consumers:
            consumer.step()
        self.load((START - 2 * HOUR) // HOUR * HOUR)

    def consumer(self, partition: int) -> Consumer:
        return Consumer(self.source, partition, self.views["nearline"], self.tools)

    def load(self, boundary: int, views: Sequence[View] | None = None) -> None:
        archive(self.log, self.warehouse, self.source)
        for view in self.views["batch"] if views is None else views:
            keep_landings(self.store, self.warehouse, view)
            options = {"warehouse": self.warehouse, "root": self.folder, "writer": self.writers[1]}
            materialize(view, boundary, **options, clock=self.clock)  # type: ignore[arg-type]

    def work(self) -> None:
        for partition in range(self.source.partitions):
            for _ in range(self.chance.choice([0, 0, 1, 1, 2, 30])):
                self.consumers[partition].step()
            if self.chance.random() < 0.1:
                self.consumers[partition] = self.consumer(partition)
        if self.chance.random() < 0.3:
            last = due(self.views["batch"][0], self.clock.now())
            self.load(last - self.chance.choice([0, 0, 0, 1]) * HOUR)
        for view in self.views["nearline"]:
            if view.has_history and self.chance.random() < self.landing:
                # As it is due, or before its events had settled, so that it is not final; or of long ago.
                latest = self.clock.now() // HOUR * HOUR
                self.load(latest - self.chance.choice([0, 1, 1, 2, 3]) * HOUR, [view])
        if self.chance.random() < 0.2:
            keep_visibility(self.store, self.warehouse, self.source)

    def learnt(self, asks: Sequence[Ask], training: str) -> np.ndarray:
        archive(self.log, self.warehouse, self.source)
        keep_visibility(self.store, self.warehouse, self.source)
        for view in (*self.views["batch"], *self.views["nearline"]):
            if view.is_landed:
                keep_landings(self.store, self.warehouse, view)
        columns = {f.name: pa.array([getattr(ask, f.name) for ask in asks], arrow_type(f)) for f in self.plan.inputs}
        columns["at"] = pa.array([ask.at for ask in asks], pa.timestamp("us", "UTC"))
        where = {"warehouse": self.warehouse, "root": self.folder, "event_time": "at", "training": training}
        where["priors"] = usual(self.plan)
        return values_at(self.plan, pa.table(columns), **where, slice_rows=self.chance.choice([9, 400_000]))  # type: ignore[arg-type]

    def answers(self, asks: Sequence[Ask]) -> np.ndarray:
        rows = [self.kind(**{f.name: getattr(ask, f.name) for f in self.plan.inputs}) for ask in asks]
        return self.reader.read(rows, asks[0].at).values


def _story(replay: Lagging, facts: Sequence[Fact], asks: Sequence[Ask]) -> np.ndarray:
    """Everything in the order of its instant; between two of them the worker and control do what they like."""
    replay.begin()
    chance = replay.chance
    arrivals: dict[int, list[bytes]] = {}
    for number, fact in enumerate(facts):
        for _ in range(1 + fact.again):
            shift = chance.choice([0, 0, SECOND, fact.delay, -30 * SECOND, 2 * DISORDER])
            arrivals.setdefault(max(fact.at + shift, START - HOUR), []).append(fact.text(number))
    stops = {ask.at for ask in asks} | set(arrivals)
    until = max(5 * HOUR, *(ask.at - START for ask in asks))
    stops |= {START + chance.randrange(until) for _ in range(chance.choice([0, 10, 40]))}
    values = np.full((len(asks), len(replay.plan.columns)), np.nan)
    for stop in sorted(stops):
        replay.arrive(arrivals.get(stop, []), stop)
        replay.work()
        places = [place for place, ask in enumerate(asks) if ask.at == stop]
        if places:
            values[places] = replay.answers([asks[place] for place in places])
    return values


def _without_beats(plan: FeaturePlan, served: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """What was served, but with the age 0 where an idle lane said again and again that it had caught up: how long
    before an ask it last said so is not on record, only that it was fresh.
    """
    found = served.copy()
    [freshest] = [view.freshness / SECOND for view in plan.views if view.name == "now"]
    for place in (place for place, name in enumerate(plan.names) if name.startswith("now.") and "age_s" in name):
        idle = (learnt[:, place] < served[:, place]) & (served[:, place] <= freshest / 4)  # a lane's patience
        found[idle, place] = learnt[idle, place]
    return found


@settings(max_examples=12)
@given(
    near=st.lists(_aggregations(("5s", "1m", "15m", "1h", "2h")), min_size=1, max_size=5),
    far=st.lists(_aggregations(("1h", "2h", "12h")), min_size=1, max_size=3),
    entities=st.tuples(st.sampled_from(ENTITIES), st.sampled_from(ENTITIES)),
    source=st.sampled_from([SOURCE, CUT]),
    facts=st.lists(FACTS, min_size=5, max_size=30),
    asks=st.lists(ASKS, min_size=3, max_size=10),
    seed=st.integers(0, 2**32),
)
def test_every_value_that_was_served_is_the_value_as_served(
    near: list[Aggregation],
    far: list[Aggregation],
    entities: tuple[Entity, Entity],
    source: tl.EventSource,
    facts: list[Fact],
    asks: list[Ask],
    seed: int,
) -> None:
    plan = declare(near, far, entities, source)
    with TemporaryDirectory() as folder:
        replay = Lagging(Path(folder), plan, random.Random(seed), source=source)
        try:
            served, learnt = _story(replay, facts, asks), replay.learnt(asks, "as_served")
            assert _bits(_without_beats(plan, served, learnt)) == _bits(learnt), plan.names
        finally:
            replay.close()


@settings(max_examples=12)
@given(
    aggregations=st.lists(_samples(), min_size=1, max_size=4),
    entities=st.tuples(st.sampled_from(ENTITIES), st.sampled_from(ENTITIES)),
    source=st.sampled_from([SOURCE, CUT]),
    landing=st.sampled_from([0.0, 0.05, 0.3]),
    facts=st.lists(st.builds(dataclasses.replace, FACTS, at=LATER), min_size=5, max_size=30),
    asks=st.lists(st.builds(dataclasses.replace, ASKS, at=LATER), min_size=3, max_size=12),
    seed=st.integers(0, 2**32),
)
def test_what_was_served_with_a_history_however_late_is_the_value_as_served(
    aggregations: list[Aggregation],
    entities: tuple[Entity, Entity],
    source: tl.EventSource,
    landing: float,
    facts: list[Fact],
    asks: list[Ask],
    seed: int,
) -> None:
    plan = declare_long(aggregations, entities, source)
    with TemporaryDirectory() as folder:
        replay = Lagging(Path(folder), plan, random.Random(seed), source=source)
        replay.landing = landing
        try:
            served, learnt = _story(replay, facts, asks), replay.learnt(asks, "as_served")
            assert _bits(_without_beats(plan, served, learnt)) == _bits(learnt), plan.names
        finally:
            replay.close()


def test_a_history_may_know_more_or_less_than_the_lane() -> None:
    """Of two events before its boundary it holds one that the lane has not read yet, and lacks one that came later."""
    plan = declare_long([tl.count(window="2h"), tl.count(window="6h")], ENTITIES, CUT)
    early = [Fact(START + 50 * MINUTE, 0, "EWR", 1, 1.0, 1, again=False)]
    late = [Fact(START + 55 * MINUTE, 0, "EWR", 1, 10.0, 1, again=False)]
    asks = [Ask(START + minutes * MINUTE, "EWR", 1, 3.0) for minutes in (85, 87, 89)]
    with TemporaryDirectory() as folder:
        replay = Lagging(Path(folder), plan, random.Random(5), source=CUT)
        try:
            replay.begin()
            replay.arrive([early[0].text(0)], START + 50 * MINUTE)
            replay.arrive([], START + 61 * MINUTE)
            replay.load(START + HOUR, replay.views["nearline"])
            replay.arrive([late[0].text(1)], START + 64 * MINUTE)
            served = []
            for partition, ask in enumerate(asks):
                replay.arrive([], ask.at)
                served.append(replay.answers([ask])[0])
                replay.arrive([], ask.at + MINUTE)
                replay.consumers[partition].step()
            found = np.array(served)
            short, long = (found[:, plan.names.index(f"now.{name}")].tolist() for name in ("f0", "f1"))
            assert (short, long) == ([0, 1, 2], [1, 1, 1])
            learnt = replay.learnt(asks, "as_served")
            assert _bits(_without_beats(plan, found, learnt)) == _bits(learnt), plan.names
        finally:
            replay.close()


def test_a_lane_that_lags_is_seen_in_the_set_as_served_alone() -> None:
    """So that the law above is no law about nothing."""
    near = [tl.count(window="15m"), tl.sum("x", window="1h")]
    plan = declare(near, [tl.count(window="2h")], ENTITIES)
    facts = [Fact(START + i * 20 * SECOND, 0, "EWR", 1, 1.0, i, again=False) for i in range(120)]
    asks = [Ask(START + i * MINUTE, "EWR", 1, 3.0) for i in range(1, 40)]
    differ = 0
    with TemporaryDirectory() as folder:
        replay = Lagging(Path(folder), plan, random.Random(5))
        try:
            served = _story(replay, facts, asks)
            learnt = replay.learnt(asks, "as_served")
            assert _bits(_without_beats(plan, served, learnt)) == _bits(learnt)
            ideal = replay.learnt(asks, "ideal")
            differ = sum(a != b for a, b in zip(_bits(served), _bits(ideal), strict=True))
        finally:
            replay.close()
    assert differ > 10
