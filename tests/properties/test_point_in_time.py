"""Served values, training values and a brute-force oracle agree, for definitions, events and cuts that nobody chose.

The oracle walks lists of events and knows nothing of tiles: a window W asked at q sees [floor(q - W, h), q).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

import trilane as tl
from tests.properties import oracle as oracles
from trilane.clock import SECOND
from trilane.features import aggregation as aggregation_module
from trilane.features import catalogue as catalogue_module
from trilane.features.aggregation import Aggregation
from trilane.features.columns import entity_codes, event_times, state_columns
from trilane.features.entity import Entity, encode_key
from trilane.features.event_windows import windows_of
from trilane.features.plan import FeaturePlan
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View
from trilane.lanes.batch.materialize import materialize
from trilane.sources.event import EventSource
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.online.lmdb import LmdbStore
from trilane.training import values_at
from trilane.types import arrow_type

Declare = Callable[[], View]

MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
START = 1_380_585_600 * SECOND  # 2013-10-01T00:00Z: a boundary of every hop

SOURCE = EventSource(
    "happenings",
    schema={
        "id": tl.Int64,
        "at": tl.Timestamp,
        "place": tl.String | None,
        "desk": tl.Int64,
        "x": tl.Float64 | None,
        "n": tl.Int64 | None,
        "b": tl.Bool,
        "seen": tl.Timestamp | None,
    },
    event_time="at",
    event_id="id",
)
ONE_KEY = Entity("place", place=tl.String)
TWO_KEYS = Entity("desk", place=tl.String, desk=tl.Int64)
ENGINE = DuckdbMicroBatch()
WINDOWS = ("5s", "12s", "1m", "15m", "1h", "2h", "1d", "lifetime")
SAMPLED = [declare for samples in oracles.SAMPLES.values() for declare in samples]
SCOPED: list[Callable[[str], Aggregation]] = [
    lambda w: tl.sum("x", window=w, filter="b"),
    lambda w: tl.count(window=w, by="desk", buckets=(1,)),
    lambda w: tl.mean("x", window=w, by="place", buckets={"newark": "EWR", "none": ""}, default=-1.5),
    lambda w: tl.quantile("n", 0.5, window=w, by="b", buckets=(True,), filter="b"),
    lambda w: tl.top_k("x", k=2, window=w, filter="b"),
    lambda w: tl.distinct("place", window=w),
    lambda w: tl.approx_distinct("place", window=w, max_error=0.1),
    lambda w: tl.frequent_items("place", k=2, window=w, output="count"),
    lambda w: tl.ratio(tl.count(window=w, filter="b"), tl.count(window=w), default=0.0),
]


@dataclass(frozen=True)
class Happening:
    """One event, as the oracle knows it."""

    at: int
    place: str | None
    desk: int
    x: float | None
    n: int | None
    b: bool
    seen: int | None


@dataclass(frozen=True)
class Ask:
    at: int
    place: str | None
    desk: int | None


def transform(events):  # type: ignore[no-untyped-def]
    return events.filter(events.desk != 9)


@st.composite
def aggregations(draw: st.DrawFn, *, windows: Sequence[str] = WINDOWS) -> Aggregation:
    window = draw(st.sampled_from(windows))
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(SCOPED))(window)
    declared = draw(st.sampled_from(SAMPLED))(draw(st.sampled_from(["x", "n", "b"])), window)
    if declared.family or declared.default is not None:
        return declared
    return dataclasses.replace(declared, default=draw(st.sampled_from([None, 0.0, -1.5])))


def features_of(chosen: Sequence[Aggregation]) -> dict[str, Aggregation]:
    return {f"f{i}": aggregation for i, aggregation in enumerate(chosen)}


# Views are declared in the tests' bodies, for Ibis draws random names, which a strategy must not.
def nearline_view(chosen: Sequence[Aggregation], entity: Entity) -> View:
    return tl.nearline(SOURCE, entity, freshness="60s", features=features_of(chosen))(transform)


def batch_view(chosen: Sequence[Aggregation], entity: Entity) -> View:
    return tl.batch(SOURCE, entity, features=features_of(chosen), schedule="1h", landing="10m")(transform)


ENTITIES = st.sampled_from([ONE_KEY, TWO_KEYS])
NEARLINE = st.builds(partial, st.just(nearline_view), st.lists(aggregations(), min_size=1, max_size=6), ENTITIES)
BATCH = st.builds(
    partial,
    st.just(batch_view),
    st.lists(aggregations(windows=("12h", "1d", "1h", "2h", "lifetime")), min_size=1, max_size=4),
    ENTITIES,
)

TRIES = settings().max_examples  # of the profile; these tests write files, so they try a part of it
PLACES = ("", "EWR", "é" * 200, None)
NUMBERS = (None, -0.0, 0.0, 0.1, -1e-3, 3.0, -7.25, 1e6, 123456.789)


def moment(chance: random.Random, grid: int) -> int:
    """Instants crowd at the ends of hops and windows, where off-by-one lives."""
    return START + chance.randrange(40) * grid + chance.choice((0, 0, 0, -1, 1, chance.randrange(grid)))


def happening(chance: random.Random, grid: int) -> Happening:
    return Happening(
        at=moment(chance, grid),
        place=chance.choices(PLACES, (2, 4, 1, 1))[0],
        desk=chance.choices((1, 2, 9), (4, 2, 1))[0],
        x=chance.choice((*NUMBERS, chance.uniform(-1e3, 1e3))),
        n=chance.choice((None, -2, 0, 1, chance.randrange(-(2**40), 2**40))),
        b=chance.random() < 0.5,
        seen=chance.choice((None, moment(chance, grid))),
    )


def ask(chance: random.Random, grid: int) -> Ask:
    return Ask(moment(chance, grid), chance.choices((*PLACES, "unknown"), (2, 4, 1, 1, 1))[0], chance.choice((1, 2)))


@dataclass(frozen=True)
class Story:
    """Events and asks at instants of one grid; drawn by a seed, for lists drawn one by one come out nearly empty."""

    seed: int
    grid: int
    size: int
    slice_rows: int

    def events(self) -> list[Happening]:
        chance = random.Random(self.seed)
        return [happening(chance, self.grid) for _ in range(self.size)]

    def asks(self) -> list[Ask]:
        chance = random.Random(f"asks {self.seed}")
        return [ask(chance, self.grid) for _ in range(15)]


STORIES = st.builds(
    Story,
    seed=st.integers(0, 2**32),
    grid=st.sampled_from([SECOND, 5 * SECOND, MINUTE, 5 * MINUTE, HOUR // 2]),
    size=st.integers(0, 120),
    slice_rows=st.sampled_from([7, 40, 400_000]),
)


def table_of(events: Sequence[Happening]) -> pa.Table:
    return pa.table(
        {
            f.name: pa.array(
                [i if f.name == "id" else getattr(event, f.name) for i, event in enumerate(events)], arrow_type(f)
            )
            for f in SOURCE.fields
        }
    )


def warehouse_of(folder: Path, events: Sequence[Happening]) -> DuckdbWarehouse:
    warehouse = DuckdbWarehouse(folder / "warehouse")
    if events:
        size = len(events)
        table = table_of(events)
        for name, values in (("_arrived_at", np.zeros(size, np.int64)), ("_offset", np.arange(size))):
            table = table.append_column(name, pa.array(values))
        table = table.append_column("_late", pa.array(np.zeros(size, bool)))
        warehouse.append_events(SOURCE, table, partition=0, first=0, last=size - 1, newest=None)
    return warehouse


def asks_table(asks: Sequence[Ask]) -> pa.Table:
    return pa.table(
        {
            "asked_at": pa.array([ask.at for ask in asks], pa.timestamp("us", "UTC")),
            "place": pa.array([ask.place for ask in asks], pa.string()),
            "desk": pa.array([ask.desk for ask in asks], pa.int64()),
        }
    )


def trained(
    view: View, folder: Path, events: Sequence[Happening], asks: Sequence[Ask], slice_rows: int
) -> npt.NDArray[np.float64]:
    plan = FeaturePlan.of([view], where="test")
    warehouse = warehouse_of(folder, events)
    return values_at(
        plan, asks_table(asks), event_time="asked_at", warehouse=warehouse, root=folder, slice_rows=slice_rows
    )


def served(
    view: View, events: Sequence[Happening], asks: Sequence[Ask], chance: random.Random
) -> npt.NDArray[np.float64]:
    """Feeds the tiles in disorder and in random micro-batches, and asks when all that happened before has come."""
    layout = TileLayout(view)
    rows: dict[bytes, bytes] = {}
    answers = np.empty((len(asks), len(view.features)))
    done = -(2**62)
    newest = 0
    for place in sorted(range(len(asks)), key=lambda i: asks[i].at):
        ask = asks[place]
        fresh = [event for event in events if done <= event.at < ask.at]
        chance.shuffle(fresh)
        for batch in cut(fresh, chance):
            newest = max(newest, *(event.at for event in batch))
            apply(view, layout, rows, batch, newest)
        done = max(done, ask.at)
        key = encode_key(key_of(view, ask))
        answers[place] = layout.read([None if key is None else rows.get(key)], np.array([ask.at]))[0]
    return answers


def cut(events: list[Happening], chance: random.Random) -> Iterator[list[Happening]]:
    start = 0
    while start < len(events):
        stop = start + chance.randint(1, len(events) - start)
        yield events[start:stop]
        start = stop


def apply(view: View, layout: TileLayout, rows: dict[bytes, bytes], batch: list[Happening], newest: int) -> None:
    result = ENGINE.run(view.sql, table_of(batch))
    assert view.entity is not None
    codes, keys = entity_codes(result, view.entity)
    times, columns = event_times(result, "at"), state_columns(result, layout.columns)
    known = codes >= 0
    events = Events(codes[known], times[known], {n: (v[known], ok[known]) for n, (v, ok) in columns.items()})
    tiles = layout.tiles(events)
    merged = layout.merge([rows.get(key) for key in keys], *tiles, newest=newest, slack=3 * HOUR)
    rows.update(zip(keys, merged, strict=True))


def key_of(view: View, row: Ask | Happening) -> list[object]:
    assert view.entity is not None
    return [getattr(row, name) for name in view.entity.key_names]


def oracle(view: View, events: Sequence[Happening], ask: Ask, right: int) -> list[float]:
    mine = [e for e in events if e.desk != 9 and None not in key_of(view, e) and key_of(view, e) == key_of(view, ask)]
    rows = [dataclasses.asdict(e) for e in mine]
    return [oracles.answer(f.aggregation, rows, right) for f in view.features if f.aggregation]


def check(
    view: View,
    events: Sequence[Happening],
    found: npt.NDArray[np.float64],
    expected: Sequence[Sequence[float]],
) -> None:
    rows = [dataclasses.asdict(e) for e in events]
    for row, wanted in zip(found.tolist(), expected, strict=True):
        for feature, got, want in zip(view.features, row, wanted, strict=True):
            assert feature.aggregation is not None
            oracles.check(feature.aggregation, rows, got, want)


def same_bits(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> bool:
    return np.where(np.isnan(a), np.nan, a).tobytes() == np.where(np.isnan(b), np.nan, b).tobytes()


@settings(max_examples=TRIES // 2)
@given(declare=NEARLINE, story=STORIES)
def test_served_values_equal_training_values_and_the_oracle(declare: Declare, story: Story) -> None:
    view, events, asks = declare(), story.events(), story.asks()
    with TemporaryDirectory() as folder:
        learnt = trained(view, Path(folder), events, asks, story.slice_rows)
    assert same_bits(learnt, served(view, events, asks, random.Random(story.seed)))
    check(view, events, learnt, [oracle(view, events, ask, ask.at) for ask in asks])


@settings(max_examples=TRIES // 5)
@given(declare=BATCH, story=STORIES)
def test_batch_versions_equal_training_values_and_the_oracle(declare: Declare, story: Story) -> None:
    view, events, asks = declare(), story.events(), story.asks()
    layout = TileLayout(view)
    with TemporaryDirectory() as name:
        folder = Path(name)
        learnt = trained(view, folder, events, asks, story.slice_rows)
        store = LmdbStore(folder / "online", map_size=1 << 24)
        writer = store.writer("batch")
        answers = np.empty_like(learnt)
        for i, ask in sorted(enumerate(asks), key=lambda pair: pair[1].at):
            version = materialize(
                view,
                view.boundary(ask.at),
                warehouse=DuckdbWarehouse(folder / "warehouse"),
                root=folder,
                writer=writer,
                slice_events=story.slice_rows,
            )
            assert version is not None
            assert version.visible_from <= ask.at
            key = encode_key(key_of(view, ask))
            [[row]] = store.read([(version.space, [key])]) if key is not None else [[None]]
            answers[i] = layout.read([row], np.array([ask.at]))[0]
        writer.close()
        store.close()
    assert same_bits(learnt, answers)
    check(view, events, learnt, [oracle(view, events, ask, view.boundary(ask.at)) for ask in asks])


@settings(max_examples=TRIES // 4)
@given(declare=st.one_of(NEARLINE, BATCH), story=STORIES)
def test_no_join_sees_the_future(declare: Declare, story: Story) -> None:
    """What happens at or after the latest ask changes nothing."""
    view, events, asks = declare(), story.events(), story.asks()
    now = sorted(ask.at for ask in asks)[len(asks) // 2]
    asks = [ask for ask in asks if ask.at <= now]
    with TemporaryDirectory() as before, TemporaryDirectory() as after:
        known = trained(view, Path(before), [e for e in events if e.at < now], asks, story.slice_rows)
        assert same_bits(known, trained(view, Path(after), events, asks, story.slice_rows))


@given(declare=st.one_of(NEARLINE, BATCH))
def test_a_key_without_events_answers_like_an_empty_row(declare: Declare) -> None:
    view = declare()
    layout = TileLayout(view)
    nothing = state_columns(ENGINE.run(view.sql, table_of([])), layout.columns)
    none = np.zeros(0, np.int64)
    asked = np.array([START, START + HOUR])
    straight = windows_of(layout, Events(none, none, nothing), np.zeros(2, np.int64), asked)
    assert same_bits(straight, layout.read([None, None], asked))


def test_a_sample_of_every_aggregation_is_tried() -> None:
    named = {*aggregation_module.__all__, *catalogue_module.__all__} - {"Aggregation", "Scope"}
    assert named == set(oracles.SAMPLES)
    assert named - {"first", "last"} <= set(tl.__all__)
