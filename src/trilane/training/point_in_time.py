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
from trilane.features.columns import request_column
from trilane.features.fallback import FRESH, MISSING
from trilane.features.plan import FeaturePlan
from trilane.features.request import compute
from trilane.features.tile import TileLayout
from trilane.features.view import View, entity_of, stand_ins
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Connection, Warehouse, relation_sql
from trilane.training.cascade import Own, cascade
from trilane.training.gathered import fill_gathered
from trilane.training.sight import LaneSight, VersionSight
from trilane.training.spine import ROW, SPINE, TIME
from trilane.training.stored import Lane, Progress, sort_asks

__all__ = ["Joined", "Place", "Progress", "join", "places_of"]

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Joined:
    """The values [rows, features of all views of the plan, in its order]; as served also what would have been ideal,
    the statuses, and of each stored view in how many rows it was recorded what could be read.
    """

    values: Floats
    ideal: Floats | None = None
    statuses: npt.NDArray[np.uint8] | None = None
    recorded: Mapping[str, int] = field(default_factory=dict)


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
    as_served: bool = False,
    progress: Progress | None = None,
) -> Joined:
    """Joins the engine's table `spine`, which has so many rows; on a cluster if there is one, as served always here."""
    warehouse, folder, slice_rows = place.warehouse, place.folder, place.slice_rows
    places = places_of(plan)
    width = sum(len(view.features) for view in plan.views)
    values = _file(folder / "values.f64", rows, width)
    asks: dict[tuple[str, ...], str] = {}

    def lane(view: View, sight: LaneSight | VersionSight | None = None) -> Lane:
        keys = entity_of(view).key_names
        if keys not in asks:
            asks[keys] = sort_asks(connection, keys, len(asks))
        source = relation_sql(warehouse, view.source, place.root)  # type: ignore[arg-type]
        return Lane(view, TileLayout(view), connection, asks[keys], source, sight)

    stored = [view for view in plan.views if view.lane != "request" and rows]
    joined = Joined(values)
    if as_served:
        replay = _Replay(plan, connection, warehouse, rows)
        joined = replay.joined(folder, values, width)
        for view in [*stored, *(v for v in replay.stand_ins if rows)]:
            own = replay.own(folder, view)
            spare = _file(folder / "spare.f64", rows, len(view.features))
            ideal = joined.ideal[:, places[view.name]] if view in stored and joined.ideal is not None else spare
            lane(view, replay.sights[view.name]).fill(ideal, slice_rows, progress, own.values)
        replay.decide(joined, places)
    elif (cluster := warehouse.cluster()) is not None:
        for view in stored:
            fill_gathered(values[:, places[view.name]], view, connection, cluster, place.root, slice_rows, progress)
    else:
        for view in stored:
            lane(view).fill(values[:, places[view.name]], slice_rows, progress)
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


class _Replay:
    """What serving saw at the instant of each row, view by view."""

    def __init__(self, plan: FeaturePlan, connection: Connection, warehouse: Warehouse, rows: int) -> None:
        self._views, self._rows = plan.views, rows
        table = connection.query(f"SELECT {TIME} FROM {SPINE} ORDER BY {ROW}").to_arrow_table()
        times = table.column(TIME).to_numpy()
        self.sights: dict[str, LaneSight | VersionSight] = {}
        self._ages: dict[str, tuple[Ints, npt.NDArray[np.bool_]]] = {}
        self._own: dict[str, Own] = {}
        self._recorded: dict[str, int] = {}
        lanes: dict[str, LaneSight] = {}
        for view in (*plan.views, *plan.stand_ins):
            if view.lane == "nearline" and isinstance(view.source, EventSource):
                sight = lanes.setdefault(view.source.name, LaneSight.of(warehouse, view.source))
                self.sights[view.name] = sight
                self._ages[view.name] = sight.ages(times), np.ones(rows, bool)
                self._recorded[view.name] = int(sight.known(times).sum())
            elif view.lane == "batch":
                versions = self.sights[view.name] = VersionSight.of(warehouse, view)
                landing = versions.landing(times)
                self._ages[view.name] = times - versions.boundaries(times, landing), landing != -1
                self._recorded[view.name] = int((landing != -2).sum())
        late = [view for view in plan.views if view.lane != "request" and not self._fresh(view).all()]
        wanted = {stand_in.name for view in late for stand_in in stand_ins(view)}
        self.stand_ins = [view for view in plan.stand_ins if view.name in wanted]

    def _fresh(self, view: View) -> npt.NDArray[np.bool_]:
        ages, there = self._ages[view.name]
        return there & (ages <= view.freshness)

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
        for view in self._views:
            if view.lane == "request" or joined.statuses is None:
                continue
            for start in range(0, self._rows, _CHUNK):
                rows = slice(start, start + _CHUNK)
                others = {v.name: self._part(v.name, rows) for v in stand_ins(view) if v.name in self._own}
                found = cascade(view, self._part(view.name, rows), others)
                joined.values[rows, places[view.name]], joined.statuses[rows, places[view.name]] = found

    def _part(self, name: str, rows: slice) -> Own:
        own = self._own[name]
        return Own(np.array(own.values[rows]), own.ages[rows], own.there[rows])


def _worst(plan_view: View, statuses: npt.NDArray[np.uint8], places: Mapping[str, slice]) -> npt.NDArray[np.uint8]:
    """Of each row the worst status among the values that a request view uses; a missing one may be an answer."""
    worst = np.zeros(len(statuses), np.uint8)
    for used in plan_view.uses:
        found = statuses[:, places[used.name]]
        worst = np.maximum(worst, np.where(found == MISSING, FRESH, found).max(axis=1).astype(np.uint8))
    return worst


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
