"""Tiles read by a window give what a brute-force look at all events gives, however the events came."""

from __future__ import annotations

import ibis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from tests.properties import oracle as oracles
from trilane.features.algebra import Ints
from trilane.features.event_windows import windows_of
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View
from trilane.features.window import LADDER, Window

SECOND = 1_000_000
T0 = 1_380_000_000 * SECOND


class Trade:
    trade_id: tl.String
    key: tl.String
    at: tl.Timestamp
    price: tl.Float64 | None


trades = tl.EventSource("trades", schema=Trade, event_time="at", event_id="trade_id")
thing = tl.Entity("thing", key=tl.String)
LENGTHS = ("5s", "30s", "1m", "10m", "1h", "3h", "12h", "lifetime")

Event = tuple[int, float | None]


def _view(lengths: list[str]) -> View:
    features = {
        f"f{number}_{w}": declare("price", w)
        for w in lengths
        for number, declare in enumerate(d for samples in oracles.SAMPLES.values() for d in samples)
    }

    @tl.nearline(trades, thing, freshness="1m", features=features)
    def view(events: ibis.Table) -> ibis.Table:
        return events

    return view


def _events(events: list[Event]) -> Events:
    values = np.array([0.0 if v is None else v for _, v in events])
    valid = np.array([v is not None for _, v in events], bool)
    times = np.array([t for t, _ in events], np.int64)
    return Events(np.zeros(len(events), np.int64), times, {"price": (values, valid)})


PRICES = st.none() | st.floats(-1e6, 1e6).map(lambda x: round(x, 3) + 0.0)
SPANS = st.sampled_from([10, 100, 5_000, 40_000])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], int]:
    span = draw(SPANS) * SECOND
    events = draw(st.lists(st.tuples(st.integers(0, span).map(lambda t: T0 + t), PRICES), min_size=1, max_size=25))
    latest = max(t for t, _ in events)
    return events, latest + 1 + draw(st.integers(0, span))


@given(histories(), st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3, unique=True), st.data())
def test_served_tiles_equal_brute_force_and_the_training_join(
    history: tuple[list[Event], int], lengths: list[str], data: st.DataObject
) -> None:
    events, q = history
    layout = TileLayout(_view(lengths))
    rows: list[bytes | None] = [None]
    arriving = data.draw(st.permutations(events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    newest = max(t for t, _ in events)
    for low, high in zip([0, *cuts], [*cuts, len(events)], strict=True):
        codes, records = layout.tiles(_events(arriving[low:high]))
        rows = [*layout.merge(rows, codes, records, newest=newest, slack=0)]
    served = layout.read(rows, np.array([q]))[0]
    joined = windows_of(layout, _events(events), np.array([0]), np.array([q]))[0]
    np.testing.assert_array_equal(served, joined)
    rows_of_events = [{"at": at, "price": price} for at, price in events]
    for feature, value in zip(layout.view.features, served.tolist(), strict=True):
        assert feature.aggregation is not None
        expected = oracles.answer(feature.aggregation, rows_of_events, q)
        oracles.check(feature.aggregation, rows_of_events, value, expected)


@given(histories(), st.lists(st.tuples(st.integers(0, 10**12), PRICES), max_size=5))
def test_no_window_sees_an_event_at_or_after_the_question(history: tuple[list[Event], int], later: list[Event]) -> None:
    events, q = history
    layout = TileLayout(_view(["10m", "1h"]))
    asked: Ints = np.array([q])
    with_future = [*events, *((q + t, v) for t, v in later)]
    before = windows_of(layout, _events(events), np.array([0]), asked)
    np.testing.assert_array_equal(before, windows_of(layout, _events(with_future), np.array([0]), asked))


@given(st.integers(1, 2_000), st.sampled_from([1, 5, 15, 60, 300, 3_600]), st.integers(0, 10**10))
def test_the_window_rule_holds(number: int, unit: int, offset: int) -> None:
    length = number * unit * SECOND
    hop = next((h for h in LADDER if h * 12 <= length), SECOND)
    if length % hop:
        with pytest.raises(tl.DefinitionError, match="no multiple of its hop"):
            Window.of(length)
        return
    window = Window.of(length)
    q = T0 + offset
    left = window.left(q)
    assert left % window.hop == 0
    assert left <= q - length < left + window.hop
    assert window.hop == SECOND or window.hop * 12 <= length


def test_a_silent_key_decays() -> None:
    layout = TileLayout(_view(["10m"]))
    codes, records = layout.tiles(_events([(T0, 1.0), (T0 + SECOND, 2.0)]))
    rows = layout.merge([None], codes, records, newest=T0, slack=0)
    counts = [layout.read(rows, np.array([T0 + minutes * 60 * SECOND]))[0, 0] for minutes in (1, 9, 12, 1_000)]
    assert counts == [2, 2, 0, 0]
