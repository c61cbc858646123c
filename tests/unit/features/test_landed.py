"""Rows of batch versions are read the fast way and the general way to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View

DAY = 86_400_000_000


class Trade:
    trade_id: tl.String
    key: tl.String
    at: tl.Timestamp
    price: tl.Float64 | None
    size: tl.Int64 | None


trades = tl.EventSource("trades", schema=Trade, event_time="at", event_id="trade_id")
thing = tl.Entity("thing", key=tl.String)
DECLARED = {
    "count": lambda w: tl.count(window=w),
    "sum": lambda w: tl.sum("price", window=w),
    "whole": lambda w: tl.sum("size", window=w, default=-1.0),
    "mean": lambda w: tl.mean("price", window=w, default=0.5),
    "min": lambda w: tl.min("size", window=w),
    "max": lambda w: tl.max("price", window=w),
    "first": lambda w: tl.first("size", window=w),
    "last": lambda w: tl.last("price", window=w),
    "last_size": lambda w: tl.last("size", window=w, default=9.0),
    "deviation": lambda w: tl.stddev("price", window=w),
    "skew": lambda w: tl.skew("price", window=w),
}


def _layout(features: dict[str, Any]) -> TileLayout:
    @tl.batch(trades, thing, features=features)
    def view(events: Any) -> Any:
        return events

    return TileLayout(view)


def _general(layout: TileLayout, view: View) -> TileLayout:
    """The same layout without the fast way, which a row of another length would not take either."""
    found = TileLayout(view)
    found._landed = None
    return found


rows = st.tuples(
    st.integers(0, 3),
    st.integers(1, 8 * DAY - 1),
    st.none() | st.floats(-1e6, 1e6),
    st.none() | st.integers(-(2**40), 2**40),
)


@given(
    st.lists(rows, max_size=12),
    st.lists(
        st.tuples(st.sampled_from(sorted(DECLARED)), st.sampled_from(["1d", "7d", "lifetime"])), min_size=1, unique=True
    ),
    st.lists(st.integers(-1, 3), max_size=6),
)
def test_the_fast_way_gives_the_same_bits(
    events: list[tuple[int, int, float | None, int | None]], chosen: list[tuple[str, str]], asked: list[int]
) -> None:
    layout = _layout({f"f{i}": DECLARED[name](window) for i, (name, window) in enumerate(chosen)})
    codes, times = (np.array([event[i] for event in events], np.int64) for i in (0, 1))
    columns = {}
    for place, name, kind in ((2, "price", np.float64), (3, "size", np.int64)):
        valid = np.array([event[place] is not None for event in events], bool)
        columns[name] = (np.array([event[place] or 0 for event in events], kind), valid)
    stored = layout.boundary_rows(Events(codes, times, columns), 4, 8 * DAY)
    wanted = [None if number < 0 else stored[number] for number in asked]
    instants = np.full(len(wanted), 8 * DAY + 5)
    assert layout._landed is not None
    found = layout.read(wanted, instants)
    expected = _general(layout, layout.view).read(wanted, instants)
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "feature",
    [
        tl.distinct("key", window="7d", limit=3),
        tl.time_since_last(window="7d"),
        tl.rate(tl.sum("price", window="7d"), per="1h"),
    ],
)
def test_what_has_no_fixed_place_or_ages_is_left_to_the_general_way(feature: Any) -> None:
    assert _layout({"f": feature, "n": tl.count(window="7d")})._landed is None


def test_bytes_of_another_length_are_left_to_the_general_way_and_refused() -> None:
    layout = _layout({"n": tl.count(window="7d"), "p": tl.last("price", window="1d")})
    with pytest.raises(ValueError, match="buffer"):
        layout.read([b"no tiles at all"], np.zeros(1, np.int64))
