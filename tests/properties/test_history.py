"""A history and the tiles since its boundary give what the training join gives, however late the history is."""

from __future__ import annotations

import ibis
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from tests.properties import oracle as oracles
from trilane.clock import duration
from trilane.features.algebra import Ints
from trilane.features.cost import bytes_per_tile, cost_of, tiles_per_row
from trilane.features.event_windows import windows_of
from trilane.features.history import Past
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View

SECOND, HOUR = 1_000_000, 3_600 * 1_000_000
B = 1_380_585_600 * SECOND  # a boundary of every hop
TAIL = 3 * HOUR
LENGTHS = ("30m", "3h", "4h", "6h", "12h", "2d", "lifetime")  # the first two are no longer than the tail

Event = tuple[int, int, float | None]


class Trade:
    trade_id: tl.String
    key: tl.String
    at: tl.Timestamp
    price: tl.Float64 | None


trades = tl.EventSource("trades", schema=Trade, event_time="at", event_id="trade_id", disorder="10m")


def view_of(lengths: list[str]) -> View:
    features = {
        f"f{number}_{length}": declare("price", length)
        for length in lengths
        for number, declare in enumerate(d for samples in oracles.SAMPLES.values() for d in samples)
    }

    @tl.nearline(
        trades,
        tl.Entity("thing", key=tl.String),
        freshness="1m",
        features=features,
        schedule="1h",
        landing="1h",
        tail="3h",
    )
    def view(events: ibis.Table) -> ibis.Table:
        return events

    return view


def table(events: list[Event]) -> Events:
    values = np.array([0.0 if v is None else v for _, _, v in events])
    valid = np.array([v is not None for _, _, v in events], bool)
    codes: Ints = np.array([code for code, _, _ in events], np.int64)
    return Events(codes, np.array([t for _, t, _ in events], np.int64), {"price": (values, valid)})


PRICES = st.none() | st.floats(-1e6, 1e6).map(lambda x: round(x, 3) + 0.0)
MOMENTS = st.one_of(
    st.integers(-60 * 60, 3 * 60).map(lambda minutes: B + minutes * 60 * SECOND),
    st.integers(-60 * HOUR, TAIL).map(lambda offset: B + offset),
    st.integers(-400, 1).map(lambda days: B + days * 24 * HOUR),
)
EVENTS = st.lists(st.tuples(st.integers(0, 1), MOMENTS, PRICES), min_size=1, max_size=25)
LATENESS = st.one_of(st.sampled_from([0, 1, HOUR, TAIL - 1, TAIL]), st.integers(0, TAIL))


@given(
    EVENTS,
    st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3, unique=True).map(lambda found: [*found, "12h"]),
    LATENESS,
    st.data(),
)
def test_up_to_the_tail_a_late_history_and_few_tiles_are_the_training_join(
    drawn: list[Event], lengths: list[str], lateness: int, data: st.DataObject
) -> None:
    q = B + lateness
    events = sorted((e for e in drawn if e[1] < q), key=lambda event: event[1])
    layout = TileLayout(view_of(list(dict.fromkeys(lengths))))
    shards = data.draw(st.integers(1, 2))
    rows: list[bytes | None] = [None] * (2 * shards)
    for shard in range(shards):
        own = [event for number, event in enumerate(events) if number % shards == shard]
        cuts = sorted(data.draw(st.lists(st.integers(0, len(own)), max_size=3)))
        for low, high in zip([0, *cuts], [*cuts, len(own)], strict=True):
            if low < high:
                codes, tiles = layout.tiles(table(own[low:high]))
                newest = max(at for _, at, _ in own[:high])
                merged = layout.merge(rows[shard::shards], codes, tiles, newest=newest, slack=0)
                rows[shard::shards] = merged
    past = layout.history_rows(table([event for event in events if event[1] < B]), 2, B)
    asked: Ints = np.array([q, q])
    served = layout.read(rows, asked, shards=shards, past=Past(B, past))
    np.testing.assert_array_equal(served, windows_of(layout, table(events), np.array([0, 1]), asked))
    if shards == 1:  # what it costs is bounded, whatever the windows
        size = bytes_per_tile(layout)
        assert all(len(row or b"") <= 4 + size * tiles_per_row(layout) for row in rows)
        assert all(len(row) <= 4 + cost_of(layout.view).history_bytes_per_key for row in past)


@given(EVENTS, st.integers(0, 400 * 24))
def test_tiles_alone_answer_exactly_while_they_are_said_to_be_whole(drawn: list[Event], hours: int) -> None:
    events = sorted(drawn, key=lambda event: event[1])
    layout = TileLayout(view_of(["12h", "lifetime"]))
    rows: list[bytes | None] = [None, None]
    for event in events:
        codes, tiles = layout.tiles(table([event]))
        rows = [*layout.merge(rows, codes, tiles, newest=event[1], slack=0)]
    oldest, newest = events[0][1], events[-1][1]
    q = newest + 1 + hours * HOUR
    asked: Ints = np.array([q, q])
    ends: Ints = np.array([newest])
    if layout.is_whole(asked[:1], oldest=np.array([oldest]), newest=ends, slack=0)[0]:
        served = layout.read(rows, asked)
        np.testing.assert_array_equal(served, windows_of(layout, table(events), np.array([0, 1]), asked))
    else:
        assert newest - oldest > TAIL - duration("1h")
