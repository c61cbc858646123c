"""What windows cost is known from their definition."""

from __future__ import annotations

from typing import Any

import trilane as tl
from trilane.features.cost import ViewCost, cost_of

FIELDS = {"id": tl.String, "shop": tl.String, "at": tl.Timestamp, "amount": tl.Float64 | None}
ORDERS = tl.EventSource("orders", schema=FIELDS, event_time="at", event_id="id", partitions=2)
SHOP = tl.Entity("shop", shop=tl.String)


def same(events: Any) -> Any:
    return events


def near(*windows: str, **options: Any) -> ViewCost:
    features = {f"n_{window}": tl.count(window=window) for window in windows}
    return cost_of(tl.nearline(ORDERS, SHOP, freshness="60s", features=features, **options)(same))


def test_a_history_makes_a_long_window_cost_its_tail() -> None:
    [plain], [cheap] = near("90d").windows, near("90d", schedule="1d").windows
    assert (plain.tiles_kept, plain.history_kept, plain.tiles_read) == (93, 0, 91)
    assert (cheap.tiles_kept, cheap.history_kept, cheap.tiles_read) == (6, 4, 5)
    assert cheap.bytes_per_key * 8 < plain.bytes_per_key
    assert plain.hint == 'schedule="1d" would keep 6 tiles and merge 5, instead of 93 and 91'
    assert cheap.hint == ""


def test_what_has_nothing_to_gain_gets_no_hint() -> None:
    assert {window.hint for window in near("1h", "2d", "5d", "lifetime").windows} == {""}


def test_windows_of_one_hop_share_the_tiles_of_a_key() -> None:
    both, longer = near("28d", "90d"), near("90d")
    assert both.bytes_per_key == longer.bytes_per_key
    assert near("28d", "90d", schedule="1d").bytes_per_key == near("90d", schedule="1d").bytes_per_key


def test_a_batch_view_keeps_one_state_of_each_window_and_overhangs_none() -> None:
    features = {"n": tl.count(window="90d"), "top": tl.top_k("amount", k=3, window="7d")}
    cost = cost_of(tl.batch(ORDERS, SHOP, features=features)(same))
    assert [(window.tiles_kept, window.tiles_read, window.overhang) for window in cost.windows] == [(1, 1, 0.0)] * 2
    assert cost.bytes_per_key == sum(window.bytes_per_key for window in cost.windows)
    assert cost.partitions == 1


def test_a_lifetime_window_is_bounded_too() -> None:
    [window] = near("lifetime", schedule="1d", tail="3d").windows
    assert (window.hop, window.overhang, window.history_kept, window.tiles_read) == ("none", 0.0, 1, 6)
    assert near("lifetime", schedule="1d").partitions == 2
