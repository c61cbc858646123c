"""The parity law, end to end in one process: what serving reads at each ask of a replay is what training joins later.

Definitions, events, their disorder and repetitions, the cuts into micro-batches and the asks are nobody's choice. An
event arrives before an ask if and only if it happened before it; all goes through the real log, worker, stores, control
and archive.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trilane as tl
from tests.properties import oracle as oracles
from tests.remote import cluster_url, valkey_cluster_servers
from trilane.clock import SECOND, SimulatedClock, format_instant
from trilane.contract import Contract
from trilane.features.aggregation import Aggregation
from trilane.features.entity import Entity
from trilane.features.plan import FeaturePlan
from trilane.features.window import Window
from trilane.lanes.batch.archive import archive
from trilane.lanes.batch.materialize import due, materialize
from trilane.lanes.nearline import Consumer, Tools
from trilane.serving.reading import FeatureReader
from trilane.sources.dead_letters import DeadLetters
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.online import valkey
from trilane.stores.online.lmdb import LmdbStore
from trilane.stores.online.protocol import OnlineStore
from trilane.stores.online.versions import versions
from trilane.training import values_at
from trilane.types import arrow_type

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
START = 1_380_585_600 * SECOND  # a boundary of every hop
DISORDER = 10 * MINUTE
FIELDS = {
    "id": tl.Int64,
    "at": tl.Timestamp,
    "place": tl.String | None,
    "desk": tl.Int64,
    "x": tl.Float64 | None,
    "n": tl.Int64 | None,
}
SOURCE = tl.EventSource("facts", schema=FIELDS, event_time="at", event_id="id", disorder=DISORDER)
CUT = tl.EventSource("facts", schema=FIELDS, event_time="at", event_id="id", disorder=DISORDER, partitions=3)
ENTITIES = (Entity("place", place=tl.String), Entity("desk", place=tl.String, desk=tl.Int64))
OPS = ("count", "sum", "mean", "min", "max", "first", "last", "variance", "variance_sample", "stddev", "stddev_sample")
ENGINE = DuckdbMicroBatch()


@dataclass(frozen=True)
class Fact:
    at: int
    delay: int  # how much later than it happened it comes, if no ask is in between
    place: str | None
    desk: int
    x: float | None
    n: int | None
    again: bool

    def text(self, number: int) -> bytes:
        row = {"id": number, "at": format_instant(self.at), "place": self.place, "desk": self.desk}
        return json.dumps({**row, "x": self.x, "n": self.n}).encode()


@dataclass(frozen=True)
class Ask:
    at: int
    place: str | None
    desk: int | None
    y: float


def transform(facts: Any) -> Any:
    return facts.filter(facts.desk != 9)


@st.composite
def _aggregations(draw: st.DrawFn, windows: Sequence[str]) -> Aggregation:
    op = draw(st.sampled_from(OPS))
    column = draw(st.sampled_from(["x", "n", None] if op == "count" else ["x", "n"]))
    default = 0 if op == "count" else draw(st.sampled_from([None, 0.0, -1.5]))
    return Aggregation(op, column, Window.of(draw(st.sampled_from(windows))), default)


def _named(aggregations: Sequence[Aggregation]) -> dict[str, Aggregation]:
    return {f"f{i}": aggregation for i, aggregation in enumerate(aggregations)}


def _declare(
    near: Sequence[Aggregation], far: Sequence[Aggregation], entities: tuple[Entity, Entity], landing: str
) -> FeaturePlan:
    """Views of three lanes; declared in the test's body, for Ibis draws random names, which a strategy must not."""
    nearline = tl.nearline(SOURCE, entities[0], freshness="1s", features=_named(near))(_called("now"))
    batch = tl.batch(SOURCE, entities[1], features=_named(far), schedule="1h", landing=landing)(_called("hourly"))

    @tl.request(
        inputs={"y": tl.Float64, "at": tl.Timestamp, "desk": tl.Int64 | None},
        features={"ratio": tl.Float64, "hour": tl.Int64, "filled": tl.Float64},
        uses=[nearline, batch],
    )
    def mixed(request: Mapping[str, Any]) -> Any:
        value = request["now.f0"]
        ratio = value / request["y"]
        value[np.isnan(value)] = -7.0
        return {"ratio": ratio, "hour": request["at"] // HOUR % 24, "filled": value + request["hourly.f0"]}

    return FeaturePlan.of([mixed, nearline, batch], where="parity")


def _called(name: str) -> Any:
    def function(facts: Any) -> Any:
        return transform(facts)

    function.__name__ = name
    return function


MOMENTS = st.one_of(
    st.integers(0, 4 * 60).map(lambda minutes: START + minutes * MINUTE),
    st.integers(0, 4 * 3_600).map(lambda seconds: START + seconds * SECOND),
    st.integers(0, 4 * HOUR).map(lambda offset: START + offset),
)
NUMBERS = st.one_of(
    st.none(), st.just(-0.0), st.floats(-1e6, 1e6), st.floats(-1e-3, 1e-3), st.integers(-3, 3).map(float)
)
PLACES = st.sampled_from(["", "EWR", "JFK", "é" * 200, None])
FACTS = st.builds(
    Fact,
    at=MOMENTS,
    delay=st.one_of(st.just(0), st.integers(0, DISORDER // 2)),
    place=PLACES,
    desk=st.sampled_from([1, 2, 9]),
    x=NUMBERS,
    n=st.none() | st.integers(-(2**40), 2**40) | st.integers(-2, 2),
    again=st.booleans(),
)
ASKS = st.builds(Ask, at=MOMENTS, place=PLACES, desk=st.sampled_from([1, 2, 3]), y=st.sampled_from([0.0, 0.1, 3.0]))


class Replay:
    """One run over real stores in a folder, on a clock that is moved from ask to ask."""

    def __init__(
        self,
        folder: Path,
        plan: FeaturePlan,
        chance: random.Random,
        *,
        source: tl.EventSource = SOURCE,
        lateness: int = 0,
        store: OnlineStore | None = None,
    ) -> None:
        self.folder, self.plan, self.chance, self.source, self.lateness = folder, plan, chance, source, lateness
        self.clock = SimulatedClock(START - HOUR)
        self.log = SqliteLog(folder / "log")
        self.store = store or LmdbStore(folder / "online", map_size=1 << 24)
        self.warehouse = DuckdbWarehouse(folder / "warehouse")
        self.letters = DeadLetters(folder / "letters.db")
        self.writers = self.store.writer("nearline"), self.store.writer("batch")
        self.views = {lane: [v for v in plan.views if v.lane == lane] for lane in ("nearline", "batch")}
        self.reader = FeatureReader(plan, self.store)
        self.kind = Contract("ask", plan.inputs).struct
        self.number = 0

    def drain(self) -> None:
        """A worker, new each time, as one that was restarted would be; it works in micro-batches of any size."""
        limit = self.chance.choice([1, 2, 3, 7, 1_000])
        tools = Tools(
            log=self.log,
            writer=self.writers[0],
            engine=ENGINE,
            dead_letters=self.letters,
            clock=self.clock,
            limit=limit,
        )
        for partition in range(self.source.partitions):
            consumer = Consumer(self.source, partition, self.views["nearline"], tools)
            while consumer.step().read:
                pass

    def land(self) -> None:
        """What the control role would land by now."""
        now = self.clock.now()
        archive(self.log, self.warehouse, self.source)
        for view in self.views["nearline"]:
            boundary = (now - max(self.lateness, view.landing)) // view.schedule * view.schedule if view.schedule else 0
            if boundary and boundary not in {version.boundary for version in versions(self.store, view.landed_as)}:
                materialize(view, boundary, warehouse=self.warehouse, root=self.folder, writer=self.writers[1])
        for view in self.views["batch"]:
            there = {version.boundary for version in versions(self.store, view.space)}
            for boundary in {view.boundary(now), due(view, now)} - there:
                materialize(view, boundary, warehouse=self.warehouse, root=self.folder, writer=self.writers[1])

    def arrive(self, texts: list[bytes], now: int) -> None:
        self.clock.move_to(now)
        for partition in range(self.source.partitions):
            own = [text for text in texts if int(json.loads(text)["id"]) % self.source.partitions == partition]
            if own:
                self.log.append("facts", partition, own, now)

    def ask(self, asks: list[Ask]) -> np.ndarray:
        import datetime as dt

        now = asks[0].at
        moment = dt.datetime.fromisoformat(format_instant(now))
        values = {"at": moment}
        rows = [self.kind(**values, place=ask.place, desk=ask.desk, y=ask.y) for ask in asks]
        reading = self.reader.read(rows, now)
        assert not reading.faults, reading.faults
        return reading.values

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        self.store.close()
        self.log.close()
        self.letters.close()


def _arrivals(facts: Sequence[Fact], asks: Sequence[Ask], chance: random.Random) -> list[tuple[int, bytes]]:
    """When each delivery comes: after it happened, and before the next ask after that."""
    moments = sorted({ask.at for ask in asks})
    found = []
    for number, fact in enumerate(facts):
        following = next((moment for moment in moments if moment > fact.at), None)
        for _ in range(1 + fact.again):
            latest = fact.at + fact.delay
            at = latest if following is None else min(latest, following)
            found.append((at, chance.random(), fact.text(number)))
    return [(at, text) for at, _, text in sorted(found)]


def _served(replay: Replay, facts: Sequence[Fact], asks: Sequence[Ask]) -> np.ndarray:
    """The values that each ask was served; boundaries are visited as control would, between the asks."""
    arrivals = _arrivals(facts, asks, replay.chance)
    values = np.full((len(asks), len(replay.plan.columns)), np.nan)
    stops = sorted({ask.at for ask in asks})
    for stop in stops:
        # What happened before the ask comes before it; what happens at that instant or later does not.
        ready = [text for at, text in arrivals if at <= stop and _happened(text, facts) < stop]
        arrivals = [(at, text) for at, text in arrivals if text not in ready]
        replay.arrive(ready, stop)
        replay.drain()
        replay.land()
        places = [place for place, ask in enumerate(asks) if ask.at == stop]
        values[places] = replay.ask([asks[place] for place in places])
    replay.arrive([text for _, text in arrivals], replay.clock.now() + 8 * HOUR)
    return values


def _happened(text: bytes, facts: Sequence[Fact]) -> int:
    return facts[int(json.loads(text)["id"])].at


def _learnt(replay: Replay, asks: Sequence[Ask]) -> np.ndarray:
    archive(replay.log, replay.warehouse, replay.source)
    columns = {}
    for field in replay.plan.inputs:
        columns[field.name] = pa.array([getattr(ask, field.name) for ask in asks], arrow_type(field))
    return values_at(replay.plan, pa.table(columns), event_time="at", warehouse=replay.warehouse, root=replay.folder)


def _bits(values: np.ndarray) -> list[list[str]]:
    return [["nan" if v != v else float(v).hex() for v in row] for row in values.tolist()]  # noqa: PLR0124


@settings(max_examples=25)
@given(
    near=st.lists(_aggregations(("5s", "1m", "15m", "1h", "2h")), min_size=1, max_size=5),
    far=st.lists(_aggregations(("1h", "2h", "12h")), min_size=1, max_size=3),
    entities=st.tuples(st.sampled_from(ENTITIES), st.sampled_from(ENTITIES)),
    landing=st.sampled_from(["10m", "20m"]),
    facts=st.lists(FACTS, max_size=25),
    asks=st.lists(ASKS, min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_every_value_served_in_a_replay_is_the_value_in_the_training_set(
    near: list[Aggregation],
    far: list[Aggregation],
    entities: tuple[Entity, Entity],
    landing: str,
    facts: list[Fact],
    asks: list[Ask],
    seed: int,
) -> None:
    plan = _declare(near, far, entities, landing)
    with TemporaryDirectory() as folder:
        replay = Replay(Path(folder), plan, random.Random(seed))
        try:
            served = _served(replay, facts, asks)
            assert _bits(served) == _bits(_learnt(replay, asks)), plan.names
        finally:
            replay.close()


LONG = ("15m", "3h", "4h", "12h", "lifetime")
SAMPLES = [declare for declares in oracles.SAMPLES.values() for declare in declares]


@st.composite
def _samples(draw: st.DrawFn) -> Aggregation:
    return draw(st.sampled_from(SAMPLES))(draw(st.sampled_from(["x", "n"])), draw(st.sampled_from(LONG)))


def _with_history(aggregations: Sequence[Aggregation], entity: Entity, source: tl.EventSource) -> FeaturePlan:
    features = {"long": tl.sum("x", window="6h"), **_named(aggregations)}
    history = {"schedule": "1h", "landing": "20m", "tail": "2h"}
    view = tl.nearline(source, entity, freshness="1s", features=features, **history)(_called("past"))  # type: ignore[arg-type]
    inputs = {"y": tl.Float64, "at": tl.Timestamp, "place": tl.String | None, "desk": tl.Int64 | None}
    asked = tl.request(inputs=inputs, features={"y": tl.Float64})(_asked)
    return FeaturePlan.of([view, asked], where="parity")


def _asked(request: Mapping[str, Any]) -> Any:
    return {"y": request["y"]}


# Enough to drop tiles behind the tail, and asks that a history of any lateness answers.
LATER = st.integers(0, 14 * 60).map(lambda minutes: START + minutes * MINUTE)


@settings(max_examples=25)
@given(
    aggregations=st.lists(_samples(), min_size=1, max_size=4),
    entity=st.sampled_from(ENTITIES),
    source=st.sampled_from([SOURCE, CUT]),
    lateness=st.integers(10, 60).map(lambda minutes: minutes * MINUTE),
    facts=st.lists(st.builds(dataclasses.replace, FACTS, at=LATER), max_size=25),
    asks=st.lists(st.builds(dataclasses.replace, ASKS, at=LATER), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_a_late_history_serves_the_values_of_the_training_set(
    aggregations: list[Aggregation],
    entity: Entity,
    source: tl.EventSource,
    lateness: int,
    facts: list[Fact],
    asks: list[Ask],
    seed: int,
) -> None:
    plan = _with_history(aggregations, entity, source)
    with TemporaryDirectory() as folder:
        replay = Replay(Path(folder), plan, random.Random(seed), source=source, lateness=lateness)
        try:
            served = _served(replay, facts, asks)
            assert _bits(served) == _bits(_learnt(replay, asks)), plan.names
        finally:
            replay.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_late_history_does_so_in_a_store_whose_transactions_are_not_atomic(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    samples = [chance.choice(SAMPLES)(chance.choice("xn"), window) for window in LONG]
    facts = [
        Fact(START + chance.randrange(14 * 60) * MINUTE, 0, chance.choice(["EWR", "JFK"]), 1, chance.random(), 2, True)
        for _ in range(60)
    ]
    asks = [Ask(START + chance.randrange(14 * 60) * MINUTE, "EWR", 1, 1.0) for _ in range(8)]
    plan = _with_history(samples, ENTITIES[0], CUT)
    with valkey_cluster_servers(tmp_path / "valkey") as servers:
        store = valkey.open_store(cluster_url(servers))
        replay = Replay(tmp_path, plan, chance, source=CUT, lateness=30 * MINUTE, store=store)
        try:
            assert not replay.writers[0].atomic
            served = _served(replay, facts, asks)
            assert _bits(served) == _bits(_learnt(replay, asks)), plan.names
        finally:
            replay.close()
