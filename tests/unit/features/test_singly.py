"""A few rows of tiles are read one by one, and many together, to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.features.singly import FEW
from trilane.features.tile import Events, TileLayout

HOUR = 3_600_000_000
START = 400_000 * HOUR


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
    "sized": lambda w: tl.count("size", window=w, default=-1.0),
    "sum": lambda w: tl.sum("price", window=w),
    "whole": lambda w: tl.sum("size", window=w, default=-1.0),
    "mean": lambda w: tl.mean("price", window=w, default=0.5),
    "min": lambda w: tl.min("size", window=w),
    "max": lambda w: tl.max("price", window=w),
    "first": lambda w: tl.first("size", window=w),
    "last": lambda w: tl.last("price", window=w, default=9.0),
}


def _layout(features: dict[str, Any]) -> TileLayout:
    @tl.nearline(trades, thing, freshness="1m", features=features)
    def view(events: Any) -> Any:
        return events

    return TileLayout(view)


prices = st.none() | st.floats(-1e18, 1e18) | st.sampled_from([0.0, -0.0, 0.1, -0.1, 2.0**-90, 2.0**61, 2.0**70])
sizes = st.none() | st.integers(-(2**62) + 1, 2**62 - 1)
moments = st.tuples(st.integers(0, FEW - 2), st.integers(0, 60 * HOUR), prices, sizes)


@given(
    st.lists(st.sampled_from(sorted(DECLARED)), min_size=1, unique=True),
    st.lists(st.sampled_from(["1m", "1h", "12h", "3d", "lifetime"]), min_size=1, max_size=3, unique=True),
    st.lists(moments, max_size=30),
    st.lists(st.integers(-2 * HOUR, 80 * HOUR), min_size=FEW, max_size=FEW),
)
def test_a_few_rows_give_the_bits_of_many(
    names: list[str], windows: list[str], events: list[tuple[int, int, float | None, int | None]], asked: list[int]
) -> None:
    layout = _layout({f"{name}_{window}": DECLARED[name](window) for name in names for window in windows})
    assert layout._singly is not None
    codes = np.array([code for code, *_ in events], np.int64)
    times = START + np.array([time for _, time, *_ in events], np.int64)
    columns = {
        "price": (
            np.array([(price or 0.0) + 0.0 for *_, price, _ in events], np.float64),
            np.array([price is not None for *_, price, _ in events], bool),
        ),
        "size": (
            np.array([size or 0 for *_, size in events], np.int64),
            np.array([size is not None for *_, size in events], bool),
        ),
    }
    tiles = layout.tiles(Events(codes, times, columns))
    rows: list[bytes | None] = [*layout.merge([None] * (FEW - 1), *tiles, newest=START, slack=0), None]
    instants = START + np.array(asked, np.int64)
    found, general = layout.read(rows, instants), layout._search(rows, instants)
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(general).tobytes(), (found, general)


def test_what_is_more_than_sums_and_picked_values_is_read_the_general_way() -> None:
    assert _layout({"deviation": tl.stddev("price", window="1h")})._singly is None
    assert _layout({"rate": tl.rate(tl.count(window="1h"), per="1m")})._singly is None
    assert _layout({"k": tl.distinct("size", window="1h", limit=8)})._singly is None


def test_bytes_that_are_no_row_are_refused() -> None:
    layout = _layout({"n": tl.count(window="1h")})
    with pytest.raises(ValueError, match="buffer"):
        layout.read([b"abc"], np.array([START]))
