"""The stored form of tiles changes knowingly or not at all."""

from __future__ import annotations

import hashlib

import ibis

import trilane as tl
from trilane.features.tile import TileLayout
from trilane.features.view import LAYOUT

# When this test fails, stored tiles can no longer be read: raise LAYOUT in features/view.py, and add its digest here.
DIGESTS = {2: "db57f6a7cfd6748b"}


class Event:
    event_id: tl.String
    key: tl.String
    at: tl.Timestamp
    x: tl.Float64


def test_the_bytes_of_a_tile_are_those_of_this_layout() -> None:
    events = tl.EventSource("events", schema=Event, event_time="at", event_id="event_id")
    ops = ("sum", "mean", "min", "max", "first", "last", "variance")

    @tl.nearline(
        events,
        tl.Entity("key", key=tl.String),
        freshness="1m",
        features={"count": tl.count(window="1h")} | {op: getattr(tl, op)("x", window="1h") for op in ops},
    )
    def view(rows: ibis.Table) -> ibis.Table:
        return rows

    found = hashlib.sha256(str(TileLayout(view).record.descr).encode()).hexdigest()[:16]
    assert found == DIGESTS[LAYOUT]
