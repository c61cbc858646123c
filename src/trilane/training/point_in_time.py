"""The point-in-time join: each row of the spine gets the values that serving would have had at its instant.

Laws: a nearline value comes from events strictly before the row's event time, a batch value from the version that was
visible then, both from events that were not late, by the tile algebra itself: the bits are those of the tiles. What
lies at or after the instant changes nothing. Memory does not grow with the events: the engine sorts them by key on
disk, and portions of bounded size are joined one after another; an entity with more than a portion is cut by time. Only
the events that one instant's windows see must fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trilane.features.algebra import Array, Floats, Ints
from trilane.features.columns import request_column, state_columns
from trilane.features.plan import FeaturePlan
from trilane.features.request import compute
from trilane.features.tile import Events, TileLayout
from trilane.features.transform import INPUT
from trilane.features.view import View, entity_of
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Connection, Warehouse, instant_sql, quoted, relation_sql
from trilane.training.gathered import fill_gathered, instants_of, left_of
from trilane.training.spine import ROW, SPINE, TIME

__all__ = ["Progress", "join"]

Progress: TypeAlias = Callable[[str, int, int], None]

_CHUNK = 65_536
_KEY = "_key"


def join(
    plan: FeaturePlan,
    connection: Connection,
    rows: int,
    *,
    warehouse: Warehouse,
    root: Path,
    folder: Path,
    slice_rows: int,
    progress: Progress | None = None,
) -> Floats:
    """The values [rows, features of all views of the plan, in its order] for the engine's table `spine`.

    They lie in a file in `folder`, which the operating system pages in and out.
    """
    places = places_of(plan)
    width = sum(len(view.features) for view in plan.views)
    values = np.memmap(folder / "values.f64", np.float64, "w+", shape=(max(rows, 1), width))[:rows]
    asks: dict[tuple[str, ...], str] = {}
    cluster = warehouse.cluster()
    for view in plan.views:
        if view.lane != "request" and rows and cluster is not None:
            fill_gathered(values[:, places[view.name]], view, connection, cluster, root, slice_rows, progress)
        elif view.lane != "request" and rows:
            keys = entity_of(view).key_names
            if keys not in asks:
                asks[keys] = _sort_asks(connection, keys, len(asks))
            source = relation_sql(warehouse, view.source, root)  # type: ignore[arg-type]
            lane = _Lane(view, TileLayout(view), connection, asks[keys], source)
            lane.fill(values[:, places[view.name]], slice_rows, progress)
    if any(view.lane == "request" for view in plan.views):
        _fill_requests(plan, connection, values, progress)
    return values


def places_of(plan: FeaturePlan) -> dict[str, slice]:
    """Where each view's features stand in the result of `join`."""
    ends = np.cumsum([len(view.features) for view in plan.views]).tolist()
    return {view.name: slice(end - len(view.features), end) for view, end in zip(plan.views, ends, strict=True)}


def _sort_asks(connection: Connection, keys: tuple[str, ...], number: int) -> str:
    """Numbers the keys that occur and sorts the rows that ask by key and time; the name of the table of both."""
    listed, known = quoted(keys), " AND ".join(f"{quoted([key])} IS NOT NULL" for key in keys)
    connection.run(
        f"CREATE TABLE keys{number} AS SELECT {listed}, row_number() OVER (ORDER BY {listed}) - 1 AS {_KEY} "
        f"FROM {SPINE} WHERE {known} GROUP BY {listed}"
    )
    connection.run(
        f"CREATE TABLE asks{number} AS SELECT {_KEY}, {TIME}, {ROW} FROM {SPINE} JOIN keys{number} USING ({listed}) "
        f"ORDER BY {_KEY}, {TIME}, {ROW}"
    )
    return str(number)


@dataclass(frozen=True, slots=True)
class _Portion:
    """Asks of the keys from `first` to before `stop`, at times from `since` to before `until`."""

    first: int
    stop: int
    since: int
    until: int

    def where(self) -> str:
        return f"{_KEY} >= {self.first} AND {_KEY} < {self.stop} AND {TIME} >= {self.since} AND {TIME} < {self.until}"


@dataclass(frozen=True, slots=True)
class _Lane:
    """The join of one nearline or batch view; `number` names the tables of its keys and asks."""

    view: View
    layout: TileLayout
    connection: Connection
    number: str
    source: str

    def fill(self, values: Floats, slice_rows: int, progress: Progress | None) -> None:
        values[:] = self.layout.read([None], np.zeros(1, np.int64))  # what a key without events answers
        total = _one(self.connection, f"SELECT count(*) FROM asks{self.number}")
        if not total:
            return
        self._sort_moments()
        done = 0
        for portion in self._portions(slice_rows):
            done += self._fill_portion(values, portion)
            if progress is not None:
                progress(self.view.name, done, total)
        self.connection.run("DROP TABLE moments")

    def _instants(self, times: Ints) -> Ints:
        return instants_of(self.view, times)

    def _left(self, instant: int) -> int:
        return left_of(self.layout, instant)

    def _sort_moments(self) -> None:
        """Runs the transform over what the asks can see, and keeps the rows of asked keys by key and time."""
        view, asks = self.view, f"asks{self.number}"
        event_time = view.source.event_time if view.source else ""
        ends = np.array([_one(self.connection, f"SELECT {end}({TIME}) FROM {asks}") for end in ("min", "max")])
        low, high = self._instants(ends).tolist()
        moment = quoted([event_time])
        on_time = " AND NOT _late" if isinstance(view.source, EventSource) else ""
        same = " AND ".join(f"m.{quoted([k])} = k.{quoted([k])}" for k in entity_of(view).key_names)
        columns = "".join(f", m.{quoted([column])}" for column in self.layout.columns)
        self.connection.run(
            f"CREATE TABLE moments AS WITH {INPUT} AS NOT MATERIALIZED (SELECT * FROM {self.source} WHERE "
            f"{moment} >= {instant_sql(self._left(low))} AND {moment} < {instant_sql(high)}{on_time}) "
            f"SELECT k.{_KEY}, epoch_us(m.{moment}) AS {TIME}{columns} FROM ({view.sql}) AS m "
            f"JOIN keys{self.number} AS k ON {same} ORDER BY k.{_KEY}, {TIME}"
        )

    def _portions(self, slice_rows: int) -> Iterator[_Portion]:
        costs = self._counts("moments") + self._counts(f"asks{self.number}")
        ends = np.cumsum(costs)
        first, far = 0, np.iinfo(np.int64).max
        while first < len(costs):
            base = int(ends[first - 1]) if first else 0
            stop = max(int(np.searchsorted(ends, base + slice_rows, "right")), first + 1)
            pieces = -(-int(costs[first]) // slice_rows) if stop == first + 1 else 1
            cuts = [-far, *self._cuts(first, pieces), far]
            for since, until in itertools.pairwise(cuts):
                yield _Portion(first, stop, since, until)
            first = stop

    def _counts(self, table: str) -> Ints:
        size = _one(self.connection, f"SELECT count(*) FROM keys{self.number}")
        found = self.connection.query(f"SELECT {_KEY}, count(*) AS n FROM {table} GROUP BY {_KEY}").to_arrow_table()
        counts = np.zeros(size, np.int64)
        counts[found.column(_KEY).to_numpy()] = found.column("n").to_numpy()
        return counts

    def _cuts(self, key: int, pieces: int) -> list[int]:
        """Instants that cut the asks of one enormous key into about equal pieces."""
        if pieces == 1:
            return []
        query = f"SELECT {TIME} FROM asks{self.number} WHERE {_KEY} = {key} ORDER BY {TIME}"
        times = self.connection.query(query).to_arrow_table().column(TIME).to_numpy()
        return sorted(set(times[np.arange(1, pieces) * len(times) // pieces].tolist()))

    def _fill_portion(self, values: Floats, portion: _Portion) -> int:
        asks = self.connection.query(
            f"SELECT {_KEY}, {TIME}, {ROW} FROM asks{self.number} WHERE {portion.where()} ORDER BY {_KEY}, {TIME}"
        ).to_arrow_table()
        if not asks.num_rows:
            return 0
        codes = asks.column(_KEY).to_numpy() - portion.first
        instants = self._instants(asks.column(TIME).to_numpy())
        fresh = np.ones(len(codes), bool)  # rows with one answer are asked once: all of a day, in a daily batch view
        fresh[1:] = (codes[1:] != codes[:-1]) | (instants[1:] != instants[:-1])
        seen = _Portion(portion.first, portion.stop, self._left(int(instants.min())), int(instants.max()))
        moments = self.connection.query(f"SELECT * FROM moments WHERE {seen.where()}").to_arrow_table()
        events = Events(
            moments.column(_KEY).to_numpy() - portion.first,
            moments.column(TIME).to_numpy(),
            state_columns(moments, self.layout.columns),
        )
        answers = self.layout.windows_of(events, codes[fresh], instants[fresh])
        values[asks.column(ROW).to_numpy()] = answers[np.cumsum(fresh) - 1]
        return int(asks.num_rows)


def _fill_requests(plan: FeaturePlan, connection: Connection, values: Floats, progress: Progress | None) -> None:
    """Computes the request views chunk by chunk, each after those that it uses."""
    places = places_of(plan)
    views = [view for view in plan.views if view.lane == "request"]
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        table = connection.query(
            f"SELECT * FROM {SPINE} WHERE {ROW} >= {start} AND {ROW} < {start + _CHUNK} ORDER BY {ROW}"
        ).to_arrow_table()
        for view in views:
            columns: dict[str, Array] = {
                field.name: request_column(field, table.column(field.name).combine_chunks()) for field in view.inputs
            }
            for used in view.uses:
                answers = np.array(chunk[:, places[used.name]])
                columns.update({name: answers[:, i] for i, name in enumerate(used.output_names)})
            chunk[:, places[view.name]] = compute(view, columns, len(chunk))
        if progress is not None:
            progress("request", min(start + _CHUNK, len(values)), len(values))


def _one(connection: Connection, sql: str) -> int:
    [(value,)] = connection.query(sql).fetchall()
    return int(str(value))
