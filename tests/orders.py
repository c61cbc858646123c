"""A world in which engines are compared: random orders, views of every kind over them, and the bytes that come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import trilane as tl
from trilane.clock import SECOND
from trilane.features.entity import encode_key
from trilane.features.plan import FeaturePlan
from trilane.features.view import View
from trilane.lanes.batch.materialize import materialize
from trilane.stores.offline import moments
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.offline.protocol import Fold, Warehouse, instant_sql, relation_sql
from trilane.stores.online.lmdb import LmdbStore
from trilane.training import TrainingSet, build

__all__ = ["DAY", "PLAN", "VIEWS", "InProcess", "digest", "fill", "rows_of"]

DAY = 86_400 * SECOND
CITIES, SHOPS = ["a", "é", "", "it's"], [-1, 0, 2**62]
ORDERS = tl.EventSource(
    "orders",
    schema={
        "id": tl.Int64,
        "at": tl.Timestamp,
        "city": tl.String | None,
        "shop": tl.Int64,
        "amount": tl.Float64 | None,
        "paid": tl.Bool | None,
        "note": tl.String | None,
        "unused": tl.String,
    },
    event_time="at",
    event_id="id",
    partitions=2,
)
PRICES = tl.TableSource(
    "prices", schema={"at": tl.Timestamp, "city": tl.String, "x": tl.Float64}, path="prices.csv", event_time="at"
)
ASKS = tl.TableSource(
    "asks",
    schema={"at": tl.Timestamp, "city": tl.String | None, "shop": tl.Int64, "won": tl.Bool | None},
    path="asks.parquet",
    event_time="at",
)
CITY = tl.Entity("city", city=tl.String)
PLACE = tl.Entity("place", city=tl.String, shop=tl.Int64)


@tl.nearline(
    ORDERS,
    PLACE,
    freshness="60s",
    features={
        "n": tl.count(window="1h"),
        "sum": tl.sum("amount", window="1d"),
        "std": tl.stddev("amount", window="2d"),
        "max": tl.max("amount", window="12h"),
        "notes": tl.distinct("note", window="2d"),
        "last": tl.last("amount", window="lifetime"),
    },
)
def place_now(orders: ibis.Table) -> ibis.Table:
    return orders.filter(orders.amount.isnull() | (orders.amount > -100))


@tl.batch(
    ORDERS,
    CITY,
    features={
        "n": tl.count(window="1d"),
        "mean": tl.mean("scaled", window="2d", default=-1.0),
        "hour": tl.max("hour", window="2d"),
        "half": tl.sum("half", window="2d"),
        "paid": tl.sum("paid", window="1d"),
        "texts": tl.approx_distinct("text", window="2d"),
        "latest": tl.last_k("amount", window="2d", k=3),
        "median": tl.quantile("amount", window="2d", q=0.5),
    },
    landing="2h",
)
def city_daily(orders: ibis.Table) -> ibis.Table:
    return orders.mutate(
        city=orders.city.lower().strip(),
        scaled=(orders.amount / 3).round(2),
        hour=orders.at.hour(),
        half=orders.shop % 7 // 2,
        text=orders.note.upper() + orders.amount.cast("string"),
    )


@tl.batch(PRICES, CITY, features={"x": tl.last("x", window="3d")}, landing="1h")
def city_prices(prices: ibis.Table) -> ibis.Table:
    return prices


VIEWS = (city_daily, city_prices)
PLAN = FeaturePlan.of([place_now, city_daily, city_prices], where="test")


def fill(folder: Path, *, seed: int, orders: int = 1_000, asks: int = 300) -> DuckdbWarehouse:
    """Random orders in two partitions' files, prices and asks in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    warehouse, chance = DuckdbWarehouse(folder / "warehouse"), np.random.default_rng(seed)
    for partition in range(2):
        half = orders // 2
        notes = chance.choice(["x", "y", "ß"], half).tolist()
        amounts = chance.normal(size=half) * 10.0 ** chance.integers(-12, 12, half)
        table = pa.table(
            {
                "id": np.arange(half),
                "at": _instants(chance.integers(0, 4 * DAY, half)),
                "city": pa.array([None if c == "b" else c for c in chance.choice([*CITIES, "b"], half).tolist()]),
                "shop": chance.choice(SHOPS, half),
                "amount": pa.array(amounts, mask=chance.random(half) < 0.1),
                "paid": pa.array(chance.random(half) < 0.5, mask=chance.random(half) < 0.1),
                "note": pa.array(notes, pa.string(), mask=chance.random(half) < 0.1),
                "unused": pa.array(notes),
                "_arrived_at": np.zeros(half, np.int64),
                "_offset": np.arange(half),
                "_late": chance.random(half) < 0.1,
            }
        )
        warehouse.append_events(ORDERS, table, partition=partition, first=0, last=max(half - 1, 0), newest=None)
    lines = [f"2026-01-0{i % 4 + 1}T0{i % 10}:00:00Z,{CITIES[i % 2]},{chance.normal()}" for i in range(20)]
    (folder / "prices.csv").write_text("\n".join(["at,city,x", *lines, ""]))
    cities = chance.choice([*CITIES, "b"], asks).tolist()
    spine = pa.table(
        {
            "at": _instants(chance.integers(0, 5 * DAY, asks)),
            "city": pa.array([None if c == "b" else c for c in cities], pa.string()),
            "shop": chance.choice(SHOPS, asks),
            "won": chance.random(asks) < 0.5,
        }
    )
    pq.write_table(spine, folder / "asks.parquet")
    return warehouse


def _instants(since: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    return pa.array(tl.clock.instant("2026-01-01T00:00:00Z") + since, pa.timestamp("us", "UTC"))


def rows_of(folder: Path, warehouse: Warehouse, view: View, *, slice_events: int = 100) -> list[bytes | None]:
    """The row of each city in the version of `view` at the end of the third day."""
    boundary = tl.clock.instant("2026-01-04T00:00:00Z")
    store = LmdbStore(folder / f"online-{view.name}-{type(warehouse).__name__}", map_size=1 << 24)
    writer = store.writer("batch")
    try:
        version = materialize(
            view, boundary, warehouse=warehouse, root=folder, writer=writer, slice_events=slice_events
        )
        if version is None:
            raise AssertionError("a version was promised")
        [rows] = store.read([(version.space, [encode_key([city]) or b"" for city in CITIES])])
        return [*rows, str(version.rows).encode()]
    finally:
        writer.close()
        store.close()


def digest(folder: Path, warehouse: Warehouse, *, slice_rows: int = 100) -> str:
    """The digest of the training set of all views."""
    out = folder / f"sets-{type(warehouse).__name__}"
    made: TrainingSet = build(PLAN, ASKS, label="won", warehouse=warehouse, root=folder, out=out, slice_rows=slice_rows)
    return made.digest


class InProcess:
    """A cluster of one process, which shows what folds make of the cuts that a real one chooses."""

    def __init__(self, warehouse: DuckdbWarehouse, *, partitions: int, batch: int) -> None:
        self._warehouse, self._partitions, self._batch = warehouse, partitions, batch

    def __getattr__(self, name: str) -> object:
        return getattr(self._warehouse, name)

    def cluster(self) -> InProcess:
        return self

    def gather(
        self,
        view: View,
        root: Path,
        *,
        since: int,
        until: int,
        fold: Fold,
        schema: pa.Schema,
        ends: Sequence[int] | None = None,
        beside: pa.RecordBatchReader | None = None,
    ) -> Iterator[pa.RecordBatch]:
        if view.source is None:
            raise AssertionError("a view with tiles has a source")
        late = " AND NOT _late" if view.source is ORDERS else ""
        relation = relation_sql(self._warehouse, view.source, root)
        seen = f'WHERE "at" >= {instant_sql(since)} AND "at" < {instant_sql(until)}{late}'
        with self._warehouse.connect(threads=1) as connection:
            sql = f"WITH events AS (SELECT * FROM {relation} {seen}) {moments.select_sql(view)}"
            table = moments.moments_of(view, connection.query(sql).to_arrow_table())
        table = table.append_column(moments.ROW, pa.nulls(table.num_rows, pa.int64()))
        if beside is not None:
            keys = [field.name for field in moments.key_fields(view)]
            asks = beside.read_all().rename_columns([*keys, moments.TIME, moments.ROW])
            table = pa.concat_tables([table, asks], promote_options="default")
        for part in self._placed(view, table):
            for found in fold(iter(part.to_batches(self._batch))):
                yield found.cast(schema)

    def _placed(self, view: View, table: pa.Table) -> Iterator[pa.Table]:
        keys = [field.name for field in moments.key_fields(view)]
        table = table.sort_by([(name, "ascending") for name in (*keys, moments.TIME)]).combine_chunks()
        chosen = np.array([hash(tuple(row.values())) for row in table.select(keys).to_pylist()], np.int64)
        for number in range(self._partitions):
            yield table.filter(pa.array(chosen % self._partitions == number)).combine_chunks()
