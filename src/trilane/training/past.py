"""Which history answered for the long windows of a nearline view at an instant, and what it held.

Laws: serving's own choice (`trilane.lanes.history`) is made of the landings that were recorded, and where none fits, of
the events that the lane had applied. A history holds the events of before its boundary that had been archived when it
was computed, whatever the lane had read; the tiles since hold what could be read. Before the first landing serving had
no history where the lane was on record; else it is not known, and histories count as landed as declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from trilane.features.algebra import Floats, Ints
from trilane.features.cascade import Bools
from trilane.features.event_windows import EventWindows, blended
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View, bare
from trilane.lanes.batch.landings import Landing, kept_landings
from trilane.lanes.history import NOTHING, HistoryChoice, fitting
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Connection, Warehouse, quoted
from trilane.training.sight import LaneSight, answering

__all__ = ["Past", "lacks"]

_DECLARED, _NONE = -2, -1


@dataclass(frozen=True, slots=True)
class Past:
    """Which landing answered for long windows from each of `moments` on; -1: none."""

    view: View
    landings: Sequence[Landing]
    moments: Ints
    answering: Ints

    @staticmethod
    def of(warehouse: Warehouse, view: View) -> Past:
        """What the warehouse has kept."""
        landings = kept_landings(warehouse, view)
        ends = (one.boundary + view.tail + 1 for one in landings)
        moments = sorted({*ends, *(at for one in landings for at in (one.landed_at, one.visible_from))})
        found = answering(landings, moments, partial(fitting, tail=view.tail))
        return Past(view, landings, np.array(moments, np.int64), found)

    def landing(self, instants: Ints, known: Bools) -> Ints:
        """The number of the landing that answered at each instant; -1: none did, -2: that was not recorded.

        `known`: at which instants it was recorded how far the lane had come.
        """
        found = np.append(self.answering, _NONE)[np.searchsorted(self.moments, instants, "right") - 1]
        first = self.landings[0].landed_at if self.landings else NOTHING
        return np.where(~known & (instants < first), _DECLARED, found)

    def corrected(
        self,
        layout: TileLayout,
        windows: EventWindows,
        events: Events,
        origin: tuple[Ints, Ints],
        visible: Ints,
        asks: tuple[Ints, Ints, Bools],
        values: Floats,
    ) -> Floats:
        """The `values` of `asks` (codes, times, whether known) over what was `visible`, with those corrected whose
        history held other events; `origin`: partition and offset of each event.
        """
        codes, times, known = asks
        landing = self.landing(times, known)
        values = values.copy()
        for number in np.unique(landing[landing >= 0]).tolist():
            chosen = landing == number
            before = events.times < self.landings[number].boundary
            held = before & ~self.landings[number].lacking(*origin)
            # As if the lane had them: what it could read from the first ask on, and not what it could by the last.
            same = np.where(held, visible <= times[chosen].min(), visible > times[chosen].max())
            other = np.unique(events.codes[before & ~same])
            chosen &= np.isin(codes, other)
            if not chosen.any():
                continue
            kept = (held | ~before) & np.isin(events.codes, other)
            far = EventWindows(layout, events.chosen(kept))
            seen = np.where(before, events.times + 1, visible)[kept]
            mine = codes[chosen], times[chosen]
            values[chosen] = blended(layout, windows.seen_parts(*mine, visible), far.seen_parts(*mine, seen))
        return values


def lacks(
    past: Past, lane: LaneSight, times: Ints, connection: Connection, warehouse: Warehouse, source: EventSource
) -> Bools:
    """At which instants long windows had no answer: no history fitted, and the lane had dropped tiles of before."""
    known, choice = lane.known(times), HistoryChoice(past.view)
    none, lacking = past.landing(times, known) == _NONE, np.zeros(len(times), bool)
    for chosen, place in ((none & known, "_offset"), (none & ~known, "_arrived_at")):
        if not chosen.any():
            continue
        instants, back = np.unique(times[chosen], return_inverse=True)
        whole = np.ones(len(instants), bool)
        for partition in range(source.partitions):
            ends = lane.ends(partition, instants) if place == "_offset" else instants + 1
            oldest = _extreme("min", connection, warehouse.events_sql(source), source, partition, place, ends)
            # What breaks a rule moves the watermark, too.
            everything = bare(past.view).source
            relation = warehouse.events_sql(everything if isinstance(everything, EventSource) else source)
            newest = _extreme("max", connection, relation, source, partition, place, ends)
            whole &= choice.has_all(instants, oldest, newest)
        lacking[chosen] = ~whole[back]
    return lacking


def _extreme(
    which: str, connection: Connection, relation: str, source: EventSource, partition: int, place: str, ends: Ints
) -> Ints:
    """The least ("min"; `NOTHING` if there is none) or greatest ("max"; 0) event time before each of `ends`."""
    bounds, back = np.unique(ends, return_inverse=True)
    connection.register("bounds", pa.table({"bound": bounds}))
    moment = f"epoch_us({quoted([source.event_time])})"
    found = connection.query(
        f"SELECT b.bound AS bound, {which}(e.moment) AS moment FROM (SELECT {place} AS place, {moment} AS moment "
        f"FROM {relation} WHERE _partition = {partition} AND NOT _late) AS e ASOF JOIN bounds AS b "
        f"ON e.place < b.bound GROUP BY b.bound"
    ).to_arrow_table()
    moments = np.full(len(bounds), NOTHING if which == "min" else 0)
    moments[np.searchsorted(bounds, found.column("bound").to_numpy())] = found.column("moment").to_numpy()
    running = np.minimum if which == "min" else np.maximum
    return np.asarray(running.accumulate(moments)[back], np.int64)
