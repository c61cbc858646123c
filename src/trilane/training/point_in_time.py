"""The point-in-time join: each row of the spine gets the values that serving would have had at its instant.

Laws: a nearline value comes from events strictly before the row's event time, a batch value from the version that was
visible then, both from events that were not late, by the tile algebra itself: the bits are those of the tiles. What
lies at or after the instant changes nothing. As served, an event counts from when it could be read, a version from when
it had landed, and the cascade decides by the age that the lane had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Array, Floats, Ints
from trilane.features.cascade import Answered, Bools, Own, answered
from trilane.features.columns import request_column
from trilane.features.fallback import FRESH, MISSING
from trilane.features.plan import FeaturePlan
from trilane.features.request import compute
from trilane.features.tile import TileLayout
from trilane.features.trait import told, worst_of
from trilane.features.view import Prior, View, entity_of, stand_ins
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Connection, Warehouse, relation_sql
from trilane.training.gathered import fill_gathered, instants_of
from trilane.training.past import Past, lacks
from trilane.training.sight import Lagging, LaneSight, VersionSight
from trilane.training.spine import ROW, SPINE, TIME
from trilane.training.stored import Lane, Progress, sort_asks

__all__ = ["Joined", "Place", "Progress", "Served", "join", "places_of"]

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Joined:
    """The values [rows, features of all views of the plan, in its order, then the traits]; as served also what would
    have been ideal, the statuses, and of each stored view in how many rows it was recorded what could be read.

    `priors`: what is usual, by `view.feature`, of the views whose cascade asks for it.
    """

    values: Floats
    ideal: Floats | None = None
    statuses: npt.NDArray[np.uint8] | None = None
    recorded: Mapping[str, int] = field(default_factory=dict)
    priors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """What serving answered, or would have answered with lanes that are behind.

    `lags`: how far the lane of each stored view is behind at each row, microseconds; None: as it was. `priors`: what is
    usual; None: over these very rows. Without `decided`, the lanes' own values, however old.
    """

    lags: Mapping[str, Ints] | None = None
    priors: Mapping[str, float] | None = None
    decided: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a join works: `root`, from where paths of tables begin; `folder`, whose files hold the arrays, which the
    operating system pages in and out; `slice_rows`, the events and asks that are joined at once.
    """

    warehouse: Warehouse
    root: Path
    folder: Path
    slice_rows: int = 400_000


def join(
    plan: FeaturePlan,
    connection: Connection,
    rows: int,
    place: Place,
    *,
    served: Served | None = None,
    progress: Progress | None = None,
) -> Joined:
    """Joins the engine's table `spine`, which has so many rows; on a cluster if there is one, but always here what is
    joined as served, and views of rows that can be taken back.
    """
    warehouse, folder, slice_rows = place.warehouse, place.folder, place.slice_rows
    places = places_of(plan)
    width = plan.width
    values = _file(folder / "values.f64", rows, width)
    asks: dict[tuple[str, ...], str] = {}
    replay: _Replay | None = None

    def lane(view: View, sight: LaneSight | VersionSight | Lagging | None = None) -> Lane:
        keys = entity_of(view).key_names
        if keys not in asks:
            asks[keys] = sort_asks(connection, keys, len(asks))
        source = relation_sql(warehouse, view.source, place.root)  # type: ignore[arg-type]
        past = replay.pasts.get(view.name) if replay is not None else None
        return Lane(view, TileLayout(view), connection, asks[keys], source, sight, past)

    stored = [view for view in plan.views if view.lane != "request" and rows]
    joined = Joined(values)
    times = _times(connection) if plan.traits or served is not None else np.zeros(rows, np.int64)
    if served is not None:
        replay = _Replay(plan, times, warehouse, served, connection)
        joined = replay.joined(folder, values, width)
        for view in [*stored, *(v for v in replay.stand_ins if rows)]:
            own = replay.own(folder, view)
            spare = _file(folder / "spare.f64", rows, len(view.features))
            ideal = joined.ideal[:, places[view.name]] if view in stored and joined.ideal is not None else spare
            lane(view, replay.sights[view.name]).fill(ideal, slice_rows, progress, own.values)
    else:
        cluster = warehouse.cluster()
        for view in stored:
            found = values[:, places[view.name]]
            if cluster is None or view.has_changes:
                lane(view).fill(found, slice_rows, progress)
            else:
                fill_gathered(found, view, connection, cluster, place.root, slice_rows, progress)
    ideally = values if joined.ideal is None else joined.ideal
    joined.priors.update(_usual(plan, ideally, places))
    _fill_traits(plan, ideally, times)
    if replay is not None:
        replay.decide(joined, places)
    if any(view.lane == "request" for view in plan.views):
        for found, statuses in (
            (values, joined.statuses),
            *([(joined.ideal, None)] if joined.ideal is not None else []),
        ):
            _fill_requests(plan, connection, found, statuses, progress)
    return joined


def _file(path: Path, rows: int, width: int) -> Floats:
    return np.memmap(path, np.float64, "w+", shape=(max(rows, 1), max(width, 1)))[:rows, :width]


def places_of(plan: FeaturePlan) -> dict[str, slice]:
    """Where each view's features stand in the result of `join`."""
    ends = np.cumsum([len(view.features) for view in plan.views]).tolist()
    return {view.name: slice(end - len(view.features), end) for view, end in zip(plan.views, ends, strict=True)}


def _times(connection: Connection) -> Ints:
    """The instant of each row."""
    table = connection.query(f"SELECT {TIME} FROM {SPINE} ORDER BY {ROW}").to_arrow_table()
    return np.asarray(table.column(TIME).to_numpy(), np.int64)


def _usual(plan: FeaturePlan, values: Floats, places: Mapping[str, slice]) -> dict[str, float]:
    """The statistics that cascades ask for, of the values that there are."""
    found = {}
    for view in plan.views:
        for step in view.fallback:
            if not isinstance(step, Prior):
                continue
            for position, name in enumerate(view.output_names):
                column = np.array(values[:, places[view.name].start + position])
                column = column[np.isfinite(column)]
                if len(column):
                    found[name] = float(np.median(column) if step.statistic == "median" else np.mean(column))
    return found


def _fill_traits(plan: FeaturePlan, values: Floats, times: Ints) -> None:
    """Writes the traits of lanes that are as they should be."""
    starts, width = plan.starts, plan.width - len(plan.traits)
    stored = [view for view in plan.views if view.lane != "request"]
    for start in range(0, len(values), _CHUNK) if plan.traits else ():
        rows = slice(start, start + _CHUNK)
        found, now = np.array(values[rows, :width]), times[rows]
        lanes = {view.name: now - instants_of(view, now) for view in stored}
        ages = np.zeros(found.shape, np.int64)
        for view in stored:
            ages[:, starts[view.name] : starts[view.name] + len(view.features)] = lanes[view.name][:, None]
        statuses = np.where(np.isnan(found), MISSING, FRESH).astype(np.uint8)
        values[rows, width:] = told(plan, statuses, ages, lanes)


class _Replay:
    """What serving saw at the instant of each row, or would have seen, view by view."""

    def __init__(
        self, plan: FeaturePlan, times: Ints, warehouse: Warehouse, served: Served, connection: Connection
    ) -> None:
        self._plan, self._views, self._rows, self._served = plan, plan.views, len(times), served
        rows = len(times)
        self.sights: dict[str, LaneSight | VersionSight | Lagging] = {}
        self.pasts: dict[str, Past] = {}
        self._lacks: dict[str, Bools] = {}
        self._ages: dict[str, tuple[Ints, Bools]] = {}
        self._own: dict[str, Own] = {}
        self._recorded: dict[str, int] = {}
        lanes: dict[str, LaneSight] = {}
        for view in (*plan.views, *plan.stand_ins):
            if served.lags is not None:
                if view.lane != "request":
                    lags = served.lags.get(view.name, np.zeros(rows, np.int64))
                    self.sights[view.name] = Lagging(lags)
                    self._ages[view.name] = times - instants_of(view, times - lags), np.ones(rows, bool)
            elif view.lane == "nearline" and isinstance(view.source, EventSource):
                sight = lanes.setdefault(view.source.name, LaneSight.of(warehouse, view.source))
                self.sights[view.name] = sight
                self._ages[view.name] = sight.ages(times), np.ones(rows, bool)
                self._recorded[view.name] = int(sight.known(times).sum())
                if view.has_history:
                    past = self.pasts[view.name] = Past.of(warehouse, view)
                    self._lacks[view.name] = lacks(past, sight, times, connection, warehouse, view.source)
            elif view.lane == "batch":
                versions = self.sights[view.name] = VersionSight.of(warehouse, view)
                landing = versions.landing(times)
                self._ages[view.name] = times - versions.boundaries(times, landing), landing != -1
                self._recorded[view.name] = int((landing != -2).sum())
        late = [view for view in plan.views if view.lane != "request" and not self._fresh(view).all()]
        wanted = {stand_in.name for view in late for stand_in in stand_ins(view)}
        self.stand_ins = [view for view in plan.stand_ins if view.name in wanted and served.decided]

    def _fresh(self, view: View) -> Bools:
        ages, there = self._ages[view.name]
        return there & (ages <= view.freshness) & ~self._lacks.get(view.name, np.zeros(1, bool))

    def joined(self, folder: Path, values: Floats, width: int) -> Joined:
        """The result, its files still empty."""
        ideal = _file(folder / "ideal.f64", self._rows, width)
        statuses = np.memmap(folder / "statuses.u8", np.uint8, "w+", shape=(max(self._rows, 1), max(width, 1)))
        recorded = {view.name: self._recorded[view.name] for view in self._views if view.name in self._recorded}
        return Joined(values, ideal, statuses[: self._rows, :width], recorded)

    def own(self, folder: Path, view: View) -> Own:
        """Where the view's own values go."""
        values = _file(folder / f"own{len(self._own)}.f64", self._rows, len(view.features))
        self._own[view.name] = found = Own(values, *self._ages[view.name])
        return found

    def decide(self, joined: Joined, places: Mapping[str, slice]) -> None:
        """Runs the cascade of every stored view, chunk by chunk."""
        priors = joined.priors if self._served.priors is None else self._served.priors
        features = self._plan.width - len(self._plan.traits)
        for start in range(0, self._rows, _CHUNK) if joined.statuses is not None else ():
            rows = slice(start, start + _CHUNK)
            ages, lanes = np.zeros((len(joined.values[rows]), features), np.int64), {}
            for view in self._views:
                if view.lane == "request":
                    continue
                own, place = self._part(view, rows), places[view.name]
                found = self._decided(view, own, rows, priors)
                joined.values[rows, place], joined.statuses[rows, place] = found.values, found.statuses  # type: ignore[index]
                ages[:, place], lanes[view.name] = found.ages, np.where(own.there, own.ages, np.nan)
            traits = told(self._plan, joined.statuses[rows, :features], ages, lanes)  # type: ignore[index]
            joined.values[rows, features:] = traits
            joined.statuses[rows, features:] = np.where(np.isnan(traits), MISSING, FRESH)  # type: ignore[index]

    def _decided(self, view: View, own: Own, rows: slice, priors: Mapping[str, float]) -> Answered:
        if self._served.decided:
            others = {v.name: self._part(v, rows) for v in stand_ins(view) if v.name in self._own}
            return answered(view, own, others, priors)
        statuses = np.where(np.isnan(own.values), MISSING, FRESH).astype(np.uint8)
        ages = np.broadcast_to(own.ages[:, None], own.values.shape)
        return Answered(own.values, statuses, ages, np.zeros(own.values.shape, bool))

    def _part(self, view: View, rows: slice) -> Own:
        own = self._own[view.name]
        lacking = None
        if view.name in self._lacks:
            long = [any(map(view.is_long, feature.windows)) for feature in view.features]
            lacking = self._lacks[view.name][rows, None] & np.array(long, bool)
        return Own(np.array(own.values[rows]), own.ages[rows], own.there[rows], lacking)


def _worst(plan_view: View, statuses: npt.NDArray[np.uint8], places: Mapping[str, slice]) -> npt.NDArray[np.uint8]:
    """Of each row the worst status among the values that a request view uses; a missing one may be an answer."""
    found = [statuses[:, places[used.name]] for used in plan_view.uses]
    return worst_of(np.concatenate(found, axis=1)) if found else np.zeros(len(statuses), np.uint8)


def _fill_requests(
    plan: FeaturePlan,
    connection: Connection,
    values: Floats,
    statuses: npt.NDArray[np.uint8] | None,
    progress: Progress | None,
) -> None:
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
            chunk[:, places[view.name]] = computed = compute(view, columns, len(chunk))
            if statuses is not None:
                worst = _worst(view, statuses[start : start + _CHUNK], places)
                statuses[start : start + _CHUNK, places[view.name]] = np.where(
                    np.isnan(computed), MISSING, worst[:, None]
                )
        if progress is not None:
            progress("request", min(start + _CHUNK, len(values)), len(values))
