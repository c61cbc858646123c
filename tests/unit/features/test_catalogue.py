"""What the further aggregations are called, refuse, and say about their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.cost import bytes_per_tile, tiles_per_row
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View

FIELDS = {
    "id": tl.String, "shop": tl.String, "at": tl.Timestamp, "amount": tl.Float64 | None, "channel": tl.String | None,
    "number": tl.Int64, "paid": tl.Bool,
}  # fmt: skip
ORDERS = tl.EventSource("orders", schema=FIELDS, event_time="at", event_id="id")
SHOP = tl.Entity("shop", shop=tl.String)
SECOND = 1_000_000


def same(events: Any) -> Any:
    return events


def view(**features: Aggregation) -> View:
    return tl.nearline(ORDERS, SHOP, freshness="60s", features=features)(same)


def daily(**features: Aggregation) -> View:
    return tl.batch(ORDERS, SHOP, features=features)(same)


NAMED: dict[str, tuple[Callable[[], Aggregation], list[str]]] = {
    "last_k": (lambda: tl.last_k("amount", k=2, window="1h"), ["f_0", "f_1"]),
    "quantiles": (lambda: tl.quantiles("amount", (0.5, 0.99, 0.999), window="1h"), ["f_p50", "f_p99", "f_p99_9"]),
    "histogram": (lambda: tl.histogram("amount", edges=(0, 10), window="1h"), ["f_0", "f_1", "f_2"]),
    "buckets": (
        lambda: tl.count(window="1h", by="channel", buckets=("web", "app")), ["f_web", "f_app", "f_other"],
    ),
    "named buckets": (
        lambda: tl.count(window="1h", by="channel", buckets={"web": "Web shop"}), ["f_web", "f_other"],
    ),
    "numbered buckets": (lambda: tl.sum("amount", window="1h", by="number", buckets=(1, 2)), ["f_1", "f_2", "f_other"]),
    "one value": (lambda: tl.skew("amount", window="1h"), ["f"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED, ids=str)
def test_each_answer_is_a_feature_of_its_own_name(case: str) -> None:
    declare, names = NAMED[case]
    assert list(view(f=declare()).feature_names) == names


BAD: Mapping[str, tuple[Callable[[], object], str]] = {
    "k of nothing": (lambda: tl.top_k("amount", k=0, window="1h"), "is not bounded"),
    "unbounded k": (lambda: tl.last_k("amount", k=10**6, window="1h"), "is not bounded"),
    "k that is no number": (lambda: tl.last_k("amount", k=None, window="1h"), "is not bounded"),  # type: ignore[arg-type]
    "unbounded distinct": (lambda: tl.distinct("channel", window="1h", limit=10**9), "is not bounded"),
    "impossible error": (lambda: tl.approx_distinct("channel", window="1h", max_error=1e-6), "cannot be kept"),
    "impossible rank": (lambda: tl.quantile("amount", 0.5, window="1h", max_rank_error=0), "cannot be kept"),
    "no quantile": (lambda: tl.quantile("amount", 95, window="1h"), "is no quantile"),
    "no quantiles": (lambda: tl.quantiles("amount", (), window="1h"), "there is no quantile"),
    "descending edges": (lambda: tl.histogram("amount", edges=(2, 1), window="1h"), "do not ascend"),
    "endless edges": (lambda: tl.histogram("amount", edges=(0, float("inf")), window="1h"), "do not ascend"),
    "unknown output": (
        lambda: tl.frequent_items("channel", k=1, window="1h", output="name"), "is unknown",  # type: ignore[arg-type]
    ),
    "buckets of a list": (
        lambda: tl.top_k("amount", k=2, window="1h", by="channel", buckets=("web",)), "cannot also go by=",
    ),
    "buckets of bins": (
        lambda: tl.histogram("amount", edges=(0,), window="1h", by="channel", buckets=("web",)), "cannot also go by=",
    ),
    "buckets of nothing": (lambda: tl.count(window="1h", buckets=("web",)), "buckets= of no column"),
    "undeclared buckets": (lambda: tl.count(window="1h", by="channel"), "has 0 buckets"),
    "too many buckets": (lambda: tl.count(window="1h", by="number", buckets=range(101)), "has 101 buckets"),
    "a bucket that is no name": (lambda: tl.count(window="1h", by="channel", buckets=("a b",)), "makes no name"),
    "buckets of another type": (
        lambda: view(f=tl.count(window="1h", by="number", buckets=("web",))), "by= cannot use 'number', a int64",
    ),
    "buckets of a float": (
        lambda: view(f=tl.count(window="1h", by="amount", buckets=(1,))), "by= cannot use 'amount', a float64",
    ),
    "a filter that is no boolean": (
        lambda: view(f=tl.count(window="1h", filter="amount")), "filter= cannot use 'amount', a float64",
    ),
    "an unknown filter": (lambda: view(f=tl.count(window="1h", filter="nothing")), "'nothing', which is unknown"),
    "an unknown part": (
        lambda: view(f=tl.ratio(tl.sum("nothing", window="1h"), tl.count(window="1h"))), "'nothing', which is unknown",
    ),
    "quantile of a text": (lambda: view(f=tl.quantile("channel", 0.5, window="1h")), "a string, is not defined"),
    "texts as items": (lambda: view(f=tl.frequent_items("channel", k=1, window="1h")), "a string, is not defined"),
    "histogram of a text": (lambda: view(f=tl.histogram("channel", edges=(0,), window="1h")), "a histogram cannot use"),
    "rate of a mean": (lambda: tl.rate(tl.mean("amount", window="1h")), "no rate of mean"),
    "rate over a lifetime": (lambda: tl.rate(tl.count(window=None)), "no rate over a lifetime"),
    "ratio of lists": (
        lambda: tl.ratio(tl.top_k("amount", k=2, window="1h"), tl.count(window="1h")), "has no single value",
    ),
    "decay over a lifetime": (
        lambda: tl.decayed_sum("amount", half_life="1h", window="lifetime"), "keeps more than 10000 hops",
    ),
    "no half-life": (lambda: tl.decayed_sum("amount", half_life="1ms"), "is too short"),
    "a hop of a lifetime": (lambda: tl.count(window="lifetime", hop="1d"), "has no hop"),
    "names that clash": (
        lambda: view(f=tl.top_k("amount", k=2, window="1h"), f_1=tl.count(window="1h")),
        "two features are called 'f_1'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_what_cannot_work_is_refused_when_it_is_written(case: str) -> None:
    declare, message = BAD[case]
    with pytest.raises(DefinitionError, match=message) as caught:
        declare()
    assert caught.value.remedy


def test_what_changes_a_value_changes_the_version_and_old_declarations_keep_theirs() -> None:
    assert view(f=tl.count(window="1h")).version == view(f=tl.count(window="1h", filter=None)).version
    versions = {
        view(f=declared).version
        for declared in (
            tl.count(window="1h"), tl.count(window="1h", filter="paid"), tl.quantile("amount", 0.5, window="1h"),
            tl.quantile("amount", 0.6, window="1h"), tl.quantile("amount", 0.5, window="1h", max_rank_error=0.02),
            tl.rate(tl.count(window="1h")), tl.rate(tl.count(window="1h"), per="1m"), tl.count(window=None),
        )
    }  # fmt: skip
    assert len(versions) == 8
    assert "where" not in tl.count(window="1h").spec()


def test_quantiles_of_one_column_and_window_share_one_state() -> None:
    one = TileLayout(view(f=tl.quantile("amount", 0.5, window="1h")))
    three = TileLayout(view(f=tl.quantiles("amount", (0.1, 0.5, 0.9), window="1h")))
    assert bytes_per_tile(three) == bytes_per_tile(one)


def _filled(layout: TileLayout, seconds: int) -> list[bytes]:
    """One entity with five events a second, each with an amount of its own."""
    size = 5 * seconds
    number = np.arange(size)
    everything = np.ones(size, bool)
    columns = {"amount": (number * 1.37, everything), "channel": (number * 7, everything), "paid": (number, everything)}
    events = Events(np.zeros(size, np.int64), 10**15 + number * SECOND // 5, columns)
    if layout.is_batch:
        return layout.boundary_rows(events, 1, 10**15 // (3_600 * SECOND) * 3_600 * SECOND + 3_600 * SECOND)
    codes, tiles = layout.tiles(events)
    return layout.merge([None], codes, tiles, newest=10**15 + seconds * SECOND, slack=0)


@pytest.mark.parametrize("declare", [view, daily])
def test_a_full_row_keeps_to_what_the_layout_says(declare: Callable[..., View]) -> None:
    features = {
        "last": tl.last_k("amount", k=5, window="1h"),
        "seen": tl.distinct("channel", window="1h", limit=50),
        "about": tl.approx_distinct("channel", window="1h", max_error=0.2),
        "middle": tl.quantile("amount", 0.5, window="1h", max_rank_error=0.1),
        "often": tl.frequent_items("channel", k=1, window="1h", output="count", limit=20),
        "fading": tl.decayed_sum("amount", half_life="10m"),
        "paid": tl.count(window="6h", filter="paid"),
    }
    layout = TileLayout(declare(**features))
    [row] = _filled(layout, 3_000)
    assert len(row) <= 4 + bytes_per_tile(layout) * tiles_per_row(layout)
    assert layout.windows[0].overhang == pytest.approx(1 / 12)
    assert layout.windows[0].tiles == 13


def test_tiles_that_no_window_sees_take_their_items_with_them() -> None:
    layout = TileLayout(view(f=tl.last_k("amount", k=5, window="1m")))
    [row] = _filled(layout, 3_000)
    assert len(row) <= 4 + bytes_per_tile(layout) * tiles_per_row(layout)


def test_a_torn_row_is_told() -> None:
    layout = TileLayout(view(f=tl.last_k("amount", k=5, window="1m")))
    [row] = _filled(layout, 100)
    for size in (5, len(row) // 2, len(row) - 1):
        with pytest.raises(ValueError, match=r"."):
            layout.read([row[:size]], np.array([10**15]))


def test_a_lifetime_forgets_nothing() -> None:
    layout = TileLayout(view(n=tl.count(window=None), middle=tl.quantile("amount", 0.5, window="lifetime")))
    [row] = _filled(layout, 10)
    years = 10 * 365 * 86_400 * SECOND
    [[n, middle]] = layout.read([row], np.array([10**15 + years])).tolist()
    assert (n, middle) == (50, 24 * 1.37)


def test_a_row_is_decoded_anew_where_its_values_age_between_tiles() -> None:
    still, ageing = (
        TileLayout(view(f=declared)) for declared in (tl.count(window="1h"), tl.time_since_last(window="1h"))
    )
    assert still.reach(10**15) == still.reach(10**15 + 1)
    assert ageing.reach(10**15) != ageing.reach(10**15 + 1)
