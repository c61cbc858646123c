"""The join of one stored view: the answers to all asks, portion by portion, ideal and as served.

Law: memory does not grow with the events: the engine sorts them by key on disk, and portions of bounded size are joined
one after another; an entity with more than a portion is cut by time. Only the events that one instant's windows see
must fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trilane.errors import DefinitionError
from trilane.features.algebra import Floats, Ints
from trilane.features.columns import state_columns
from trilane.features.event_windows import EventWindows
from trilane.features.tile import Events, TileLayout
from trilane.features.transform import INPUT, carrying
from trilane.features.view import View, entity_of
from trilane.sources.change import CHANGED_AT, SIGN
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Connection, instant_sql, quoted
from trilane.training.changed import ChangedWindows
from trilane.training.gathered import instants_of, left_of
from trilane.training.past import Past
from trilane.training.sight import Lagging, LaneSight, VersionSight
from trilane.training.spine import ROW, SPINE, TIME

__all__ = ["Lane", "Progress", "sort_asks"]

Progress: TypeAlias = Callable[[str, int, int], None]

_KEY = "_key"


def sort_asks(connection: Connection, keys: tuple[str, ...], number: int) -> str:
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
class Lane:
    """The join of one nearline or batch view; `number` names the tables of its keys and asks.

    With a `sight` it also answers as served: what could be read at the instant, or the version that answered. `past`:
    of a nearline view with a history.
    """

    view: View
    layout: TileLayout
    connection: Connection
    number: str
    source: str
    sight: LaneSight | VersionSight | Lagging | None = None
    past: Past | None = None

    def fill(self, values: Floats, slice_rows: int, progress: Progress | None, served: Floats | None = None) -> None:
        """Writes what each row asks for, and into `served` what it was served."""
        for rows in (values,) if served is None else (values, served):
            rows[:] = self.layout.read([None], np.zeros(1, np.int64))  # what a key without events answers
        total = _one(self.connection, f"SELECT count(*) FROM asks{self.number}")
        if not total:
            return
        self._sort_moments()
        done = 0
        for portion in self._portions(slice_rows):
            done += self._fill_portion(values, served, portion)
            if progress is not None:
                progress(self.view.name, done, total)
        self.connection.run("DROP TABLE moments")

    def _instants(self, times: Ints) -> Ints:
        return instants_of(self.view, times)

    def _left(self, instant: int) -> int:
        return left_of(self.layout, instant)

    @property
    def _carried(self) -> tuple[str, ...]:
        """What must pass the transform to know when an event could be read, and whether it takes one back."""
        changes = (CHANGED_AT, SIGN) if self.view.has_changes else ()
        if self.sight is None or isinstance(self.sight, Lagging) or not isinstance(self.view.source, EventSource):
            return changes
        own = ("_offset", "_arrived_at") if isinstance(self.sight, LaneSight) else ("_offset",)
        return (*own, *changes, *(("_partition",) if self.view.source.partitions > 1 else ()))

    def _sort_moments(self) -> None:
        """Runs the transform over what the asks can see, and keeps the rows of asked keys by key and time."""
        view = self.view
        event_time = view.source.event_time if view.source else ""
        low, high = self._reach()
        moment = quoted([event_time])
        on_time = " AND NOT _late" if isinstance(view.source, EventSource) else ""
        on_time += f" AND {CHANGED_AT} < {high}" if view.has_changes else ""
        same = " AND ".join(f"m.{quoted([k])} = k.{quoted([k])}" for k in entity_of(view).key_names)
        columns = "".join(f", m.{quoted([column])}" for column in (*self.layout.columns, *self._carried))
        sql = carrying(view.sql, self._carried) if self._carried else view.sql
        self.connection.run(
            f"CREATE TABLE moments AS WITH {INPUT} AS NOT MATERIALIZED (SELECT * FROM {self.source} WHERE "
            f"{moment} >= {instant_sql(self._left(low))} AND {moment} < {instant_sql(high)}{on_time}) "
            f"SELECT k.{_KEY}, epoch_us(m.{moment}) AS {TIME}{columns} FROM ({sql}) AS m "
            f"JOIN keys{self.number} AS k ON {same} ORDER BY k.{_KEY}, {TIME}"
        )

    def _reach(self) -> tuple[int, int]:
        """The first and the last instant of any answer."""
        asks = f"asks{self.number}"
        ends = np.array([_one(self.connection, f"SELECT {end}({TIME}) FROM {asks}") for end in ("min", "max")])
        low, high = self._instants(ends).tolist()
        if isinstance(self.sight, Lagging) and len(self.sight.lags):
            low = int(self._instants(ends - self.sight.lags.max()).min())
        if isinstance(self.sight, VersionSight):
            times = self.connection.query(f"SELECT DISTINCT {TIME} FROM {asks}").to_arrow_table().column(TIME)
            low = min(low, int(self._versions(self.sight, times.to_numpy())[0].min()))
        return low, high

    def _versions(self, sight: VersionSight, times: Ints) -> tuple[Ints, Ints]:
        """Boundary and landing that answered; the declared boundary where none did, whose values nobody reads."""
        landing = sight.landing(times)
        return sight.boundaries(times, np.where(landing == -1, -2, landing)), landing

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

    def _fill_portion(self, values: Floats, served: Floats | None, portion: _Portion) -> int:
        asks = self.connection.query(
            f"SELECT {_KEY}, {TIME}, {ROW} FROM asks{self.number} WHERE {portion.where()} ORDER BY {_KEY}, {TIME}"
        ).to_arrow_table()
        if not asks.num_rows:
            return 0
        codes, rows = asks.column(_KEY).to_numpy() - portion.first, asks.column(ROW).to_numpy()
        times = asks.column(TIME).to_numpy()
        instants = self._instants(times)
        begin = int(instants.min())
        if isinstance(self.sight, Lagging):
            begin = min(begin, int(self._instants(times - self.sight.lags[rows]).min()))
        if isinstance(self.sight, VersionSight):
            begin = min(begin, int(self._versions(self.sight, times)[0].min()))
        seen = _Portion(portion.first, portion.stop, self._left(begin), int(instants.max()))
        moments = self.connection.query(f"SELECT * FROM moments WHERE {seen.where()}").to_arrow_table()
        events = Events(
            moments.column(_KEY).to_numpy() - portion.first,
            moments.column(TIME).to_numpy(),
            state_columns(moments, self.layout.columns),
            moments.column(SIGN).to_numpy() if self.view.has_changes else None,
        )
        carried = {name: moments.column(name).to_numpy() for name in self._carried}
        windows = self._windows(events, carried)
        found = _each(windows.at, codes, instants)
        if isinstance(windows, EventWindows) and CHANGED_AT in carried:
            found = windows.seen_at(codes, times, carried[CHANGED_AT] + 1, found)
        values[rows] = found
        if served is not None:
            if isinstance(self.sight, Lagging):
                served[rows] = self._behind(windows, codes, times, times - self.sight.lags[rows])
            elif isinstance(self.sight, LaneSight) and isinstance(windows, EventWindows):
                served[rows] = self._seen(self.sight, windows, events, carried, codes, times, found)
            elif isinstance(self.sight, VersionSight):
                served[rows] = self._answered(self.sight, windows, events, carried, codes, times, found)
        return int(asks.num_rows)

    def _behind(self, windows: EventWindows | ChangedWindows, codes: Ints, times: Ints, then: Ints) -> Floats:
        """The values at `times` of a lane that has come as far as it should have come `then`."""
        if self.view.lane == "nearline" and isinstance(windows, EventWindows):
            if self.view.has_changes:
                raise DefinitionError(
                    "a lag cannot be tried on rows that can be taken back",
                    where=f"view {self.view.name!r}",
                    remedy='Train as served (training="as_served"), which replays the lag that there was',
                )
            return windows.at(codes, times, then)
        return _each(windows.at, codes, self._instants(then))

    def _windows(self, events: Events, carried: Mapping[str, Ints]) -> EventWindows | ChangedWindows:
        """Sums follow changes as they come; a batch view may keep anything, and is computed anew at each boundary."""
        if self.view.has_changes and self.view.lane == "batch":
            return ChangedWindows(self.layout, events, carried[CHANGED_AT])
        return EventWindows(self.layout, events)

    def _seen(
        self,
        sight: LaneSight,
        windows: EventWindows,
        events: Events,
        carried: Mapping[str, Ints],
        codes: Ints,
        times: Ints,
        values: Floats,
    ) -> Floats:
        """The values of a nearline view over what could be read at each instant."""
        known, moments = sight.known(times), carried.get(CHANGED_AT, events.times)
        values = values.copy()
        origin = carried.get("_partition", np.zeros(0, np.int64)), carried["_offset"]
        for chosen in (known, ~known):
            if chosen.any():
                if chosen is not known:
                    visible = np.maximum(carried["_arrived_at"], moments + 1)
                else:
                    visible = sight.visible(*origin, moments)
                values[chosen] = windows.seen_at(codes[chosen], times[chosen], visible, values[chosen])
                if self.past is not None:
                    asks = codes[chosen], times[chosen], known[chosen]
                    values[chosen] = self.past.corrected(
                        self.layout, windows, events, origin, visible, asks, values[chosen]
                    )
        return values

    def _answered(
        self,
        sight: VersionSight,
        windows: EventWindows | ChangedWindows,
        events: Events,
        carried: Mapping[str, Ints],
        codes: Ints,
        times: Ints,
        values: Floats,
    ) -> Floats:
        """The values of a batch view in the version that answered at each instant."""
        boundaries, landing = self._versions(sight, times)
        values = values.copy()
        other = boundaries != self._instants(times)
        if other.any():
            values[other] = _each(windows.at, codes[other], boundaries[other])
        if not carried:
            return values
        partitions = carried.get("_partition", np.zeros(0, np.int64))
        for number in np.unique(landing[landing >= 0]).tolist():
            boundary = sight.landings[number].boundary
            inside = (events.times < boundary) & (events.times >= self._left(boundary))
            lacking = inside & sight.landings[number].lacking(partitions, carried["_offset"])
            if lacking.any():
                asks = landing == number
                there = self._windows(events.chosen(~lacking), {n: c[~lacking] for n, c in carried.items()})
                values[asks] = _each(there.at, codes[asks], boundaries[asks])
        return values


def _each(answer: Callable[[Ints, Ints], Floats], codes: Ints, instants: Ints) -> Floats:
    """Rows with one answer are asked once: all of a day, in a daily batch view."""
    fresh = np.ones(len(codes), bool)
    fresh[1:] = (codes[1:] != codes[:-1]) | (instants[1:] != instants[:-1])
    return np.asarray(answer(codes[fresh], instants[fresh])[np.cumsum(fresh) - 1])


def _one(connection: Connection, sql: str) -> int:
    [(value,)] = connection.query(sql).fetchall()
    return int(str(value))
