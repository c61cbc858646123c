"""What a read gives in every state of the lanes and stores, and how it says so."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

import trilane as tl
from tests.shop import MINUTE, T0, event
from tests.unit.serving.conftest import Shop, column, same_bits
from trilane.clock import SECOND
from trilane.contract import Contract
from trilane.errors import UnavailableError
from trilane.features.cost import cost_of
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan, Selection
from trilane.features.trait import worst_of
from trilane.features.view import Step, View
from trilane.lanes.batch.archive import archive
from trilane.lanes.progress import LANES, lane_key
from trilane.serving.reading import FeatureReader
from trilane.stores.online import versions
from trilane.stores.online.protocol import Holder, Lease, Writer

DAY = 86_400 * SECOND


class OutOfOrder:
    atomic = True
    """An online store that is down, or whose driver has a defect; it keeps no other promise."""

    max_key_bytes = 511

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        raise self._error

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        raise self._error

    def writer(self, region: str, part: str = "", *, holder: str = "") -> Writer:
        raise self._error

    def lease(self, group: str, name: str, *, holder: str = "") -> Lease:
        raise self._error

    def holders(self, group: str) -> dict[str, Holder]:
        raise self._error

    def close(self) -> None:
        """There is nothing to close."""


def _one(shop: Shop, name: str = "shop_now.n_10m", *, key: str | None = "a") -> tuple[Any, str, float]:
    """Value, status and age in seconds of one feature now."""
    reader = shop.reader()
    reading = reader.read(shop.rows(key), shop.clock.now())
    status = int(column(reader, reading, name, "statuses")[0])
    return (
        column(reader, reading, name)[0],
        STATUSES[status],
        column(reader, reading, name, "ages")[0] / SECOND,
    )


class Counted:
    """A store that counts its reads."""

    def __init__(self, store: Any) -> None:
        self._store, self.reads = store, 0

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        self.reads += 1
        found: list[list[bytes | None]] = self._store.read(requests)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_a_warm_reader_answers_its_first_request_in_one_read_and_as_a_cold_one(shop: Shop, cache: int) -> None:
    shop.deliver(event(1, at=T0 - DAY - 1, amount=3.0), event(2, at=T0 - 1, amount=5.0))
    shop.run_nearline()
    shop.land(T0)
    store: Any = Counted(shop.store)
    plan = shop.reader().plan
    reader, now = FeatureReader(plan, store, cache=cache), T0 + 3 * 3_600 * SECOND
    reader.warm(now)
    before = store.reads
    found, cold = (
        reader.read(shop.rows("a", None), now),
        FeatureReader(plan, shop.store).read(shop.rows("a", None), now),
    )
    assert store.reads == before + 1
    assert same_bits(found.values, cold.values)
    assert same_bits(found.statuses, cold.statuses)
    assert found.faults == cold.faults


def test_a_store_that_is_down_when_a_reader_is_warmed_is_told_by_the_first_request_alone(shop: Shop) -> None:
    counted: list[int] = []
    down = OutOfOrder(UnavailableError("it is down", where="here", remedy="Start it"))
    reader = FeatureReader(shop.reader().plan, down, unread=lambda: counted.append(1))
    reader.warm(T0)
    assert counted == []
    assert "it is down" in reader.read(shop.rows("a"), T0).faults[0].reason
    assert counted == [1]


def test_lanes_and_rows_come_in_one_read_until_a_lane_moves_elsewhere(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - DAY - 1, amount=3.0), event(2, at=T0 - 1, amount=5.0))
    shop.run_nearline()
    store: Any = Counted(shop.store)
    reader = FeatureReader(shop.reader().plan, store)

    def reads(now: int) -> int:
        before = store.reads
        found = reader.read(shop.rows("a", "z"), now)
        known: int = store.reads - before
        anew = FeatureReader(reader.plan, shop.store).read(shop.rows("a", "z"), now)
        assert same_bits(found.values, anew.values)
        assert same_bits(found.statuses, anew.statuses)
        assert same_bits(found.ages, anew.ages)
        assert found.faults == anew.faults
        return known

    assert [reads(T0), reads(T0), reads(T0 + SECOND)] == [2, 1, 1]
    shop.land(T0)
    visible = T0 + 2 * 3_600 * SECOND
    assert [reads(visible - 1), reads(visible), reads(visible)][1:] == [2, 1]  # the version, and shop_now too old
    shop.land(T0 + DAY)
    assert [reads(visible + DAY), reads(visible + DAY)] == [2, 1]


# -- the cascade ----------------------------------------------------------------------------------------------------


def test_values_of_a_lane_that_keeps_up_are_fresh(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE, amount=2.0), event(2, at=T0 - 1, amount=4.0))
    shop.run_nearline()
    shop.clock.move_to(T0 + 60 * SECOND)
    assert _one(shop) == (2, "fresh", 60)
    assert _one(shop, "shop_now.mean_1h") == (3, "fresh", 60)
    assert not any("shop_now" in fault.reason for fault in shop.reader().read(shop.rows("a"), T0 + MINUTE).faults)


def test_beyond_its_freshness_the_lanes_own_value_is_stale_and_says_so(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE))
    shop.run_nearline()
    shop.clock.move_to(T0 + 60 * SECOND + 1)
    assert _one(shop)[:2] == (1, "stale")
    [fault] = [f for f in shop.reader().read(shop.rows("a"), shop.clock.now()).faults if "shop_now" in f.reason]
    assert fault.reason == "shop_now: 60 s behind, 1m promised"
    assert fault.rows is None


def test_a_lane_too_old_to_be_stale_gives_way_to_the_batch_version_under_the_mapped_name(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - DAY + 1, amount=3.0), event(2, at=T0 - DAY + 2, amount=5.0))
    shop.run_nearline()
    shop.land(T0)
    shop.clock.move_to(T0 + 2 * 3_600 * SECOND)
    assert _one(shop, "shop_now.mean_1h") == (4, "batch", 7_200)
    # n_10m has no counterpart in shop_daily, but counts have a default: no event.
    assert _one(shop, "shop_now.n_10m") == (0, "default", 0)
    assert _one(shop, "shop_now.sum_1h") == (None, "missing", 0)


def test_a_batch_version_older_than_the_cascade_allows_is_not_used(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - 1, amount=3.0))
    shop.land(T0)
    shop.clock.move_to(T0 + 36 * 3_600 * SECOND)
    assert _one(shop, "shop_now.mean_1h")[1] == "batch"
    shop.clock.move_to(T0 + 36 * 3_600 * SECOND + 1)
    assert _one(shop, "shop_now.mean_1h") == (0, "default", 0)


def test_stand_ins_of_the_same_name_need_no_mapping(shop: Shop) -> None:
    orders, entity = shop.definitions.sources["orders"], shop.definitions.entities["shop"]

    @tl.batch(orders, entity, features={"n": tl.count(window="1d")})
    def long(events: Any) -> Any:
        return events

    @tl.nearline(
        orders, entity, freshness="60s", features={"n": tl.count(window="1h")}, fallback=[tl.last(long, max_age="36h")]
    )
    def short(events: Any) -> Any:
        return events

    shop.deliver(event(1, at=T0 - 7_200 * SECOND))
    shop.land(T0, view=long)
    reader = shop.reader(short)
    reading = reader.read(shop.rows("a", "z"), T0 + 3 * 3_600 * SECOND)
    assert column(reader, reading, "short.n") == [1, 0]
    assert column(reader, reading, "short.n", "statuses") == [2, 2]


def test_a_lane_that_never_ran_answers_by_default_or_is_missing_and_says_why(shop: Shop) -> None:
    assert _one(shop, "shop_now.mean_1h") == (0, "default", 0)
    assert _one(shop, "shop_now.last_1h") == (None, "missing", 0)
    assert _one(shop, "shop_daily.n_7d") == (None, "missing", 0)
    reasons = [fault.reason for fault in shop.reader().read(shop.rows("a"), T0).faults]
    assert reasons == ["shop_now: no values yet", "shop_daily: no values yet"]


def test_a_view_that_is_not_in_step_is_not_served_by_the_progress_of_its_lane(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE))
    shop.run_nearline()
    orders, entity = shop.definitions.sources["orders"], shop.definitions.entities["shop"]

    @tl.nearline(orders, entity, freshness="60s", features={"n": tl.count(window="1h")})
    def newcomer(events: Any) -> Any:
        return events

    reader = shop.reader(newcomer)
    assert column(reader, reader.read(shop.rows("a"), T0), "newcomer.n", "statuses") == [4]
    shop.run_nearline(newcomer, group=newcomer.space)  # it catches up, but has not joined its partition
    assert column(reader, reader.read(shop.rows("a"), T0), "newcomer.n", "statuses") == [4]


# -- keys -----------------------------------------------------------------------------------------------------------


def test_an_unknown_and_a_null_key_are_entities_without_events(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE))
    shop.run_nearline()
    reader = shop.reader(shop.view("shop_now"))
    reading = reader.read(shop.rows("a", "nobody", None, ""), T0)
    assert column(reader, reading, "shop_now.n_10m") == [1, 0, 0, 0]
    assert column(reader, reading, "shop_now.n_10m", "statuses") == [0, 0, 0, 0]
    assert column(reader, reading, "shop_now.last_1h", "statuses") == [0, 4, 4, 4]


def test_a_silent_key_decays_while_its_lane_stays_fresh(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE))
    shop.run_nearline()
    shop.clock.move_to(T0 + 20 * MINUTE)
    shop.run_nearline()
    assert _one(shop) == (0, "fresh", 0)
    assert _one(shop, "shop_now.sum_1h") == (1, "fresh", 0)


def test_repeated_keys_are_read_once_and_answered_each(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - 1), event(2, shop="b", at=T0 - 1), event(3, shop="b", at=T0 - 1))
    shop.run_nearline()
    reader = shop.reader(shop.view("shop_now"))
    reading = reader.read(shop.rows("b", "a", "b", "a", "c"), T0)
    assert column(reader, reading, "shop_now.n_10m") == [2, 1, 2, 1, 0]


def test_two_views_of_two_entities_take_their_own_parts_of_a_row(shop: Shop) -> None:
    orders, by_shop = shop.definitions.sources["orders"], shop.definitions.entities["shop"]
    by_both = tl.Entity("order_of_shop", order_id=tl.String, shop=tl.String)

    @tl.nearline(orders, by_both, freshness="60s", features={"n": tl.count(window="1h")})
    def pairs(events: Any) -> Any:
        return events

    @tl.nearline(orders, by_shop, freshness="60s", features={"n": tl.count(window="1h")})
    def singles(events: Any) -> Any:
        return events

    shop.deliver(event(1, at=T0 - 1), event(2, at=T0 - 1))
    shop.run_nearline(pairs, singles)
    plan = FeaturePlan.of([pairs, singles], where="test")
    row = Contract("ask", plan.inputs).struct
    reading = FeatureReader(plan, shop.store).read([row(order_id="o1", shop="a"), row(order_id="o1", shop="b")], T0)
    assert reading.values.tolist() == [[1, 2], [0, 0]]


# -- batch versions -------------------------------------------------------------------------------------------------


def test_a_batch_version_answers_from_the_instant_it_is_visible(shop: Shop) -> None:
    shop.deliver(*(event(n, at=T0 - DAY - 1 - n) for n in range(3)), event(9, at=T0 - 1))
    shop.land(T0 - DAY)
    shop.land(T0)
    landing = 2 * 3_600 * SECOND
    shop.clock.move_to(T0 + landing - 1)
    assert _one(shop, "shop_daily.n_7d")[:2] == (3, "fresh")
    shop.clock.move_to(T0 + landing)
    assert _one(shop, "shop_daily.n_7d") == (4, "fresh", 7_200)


def test_a_landing_that_fails_leaves_the_version_that_serves(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - DAY - 1))
    shop.land(T0 - DAY)

    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"a", b"no tiles at all"
        raise UnavailableError("the warehouse went away")

    with pytest.raises(UnavailableError):
        versions.land(shop.writer("batch"), shop.view("shop_daily").space, boundary=T0, visible_from=T0, rows=broken())
    shop.clock.move_to(T0 + DAY)
    assert _one(shop, "shop_daily.n_7d")[:2] == (1, "fresh")


def test_a_late_batch_lane_is_told_by_the_age_of_its_version(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - 1))
    shop.land(T0)
    shop.clock.move_to(T0 + 2 * DAY + 2 * 3_600 * SECOND + 1)
    assert _one(shop, "shop_daily.n_7d")[1] == "missing"  # it declares no cascade


# -- priors, ages and statuses as inputs -----------------------------------------------------------------------------


def _with_priors(shop: Shop) -> tuple[View, View]:
    orders, entity = shop.definitions.sources["orders"], shop.definitions.entities["shop"]

    @tl.batch(orders, tl.Entity("order", order_id=tl.String), features={"n": tl.count(window="1d")})
    def group(events: Any) -> Any:
        return events

    @tl.nearline(
        orders,
        entity,
        freshness="60s",
        features={
            "n": tl.count(window="1h"),
            "mean": tl.mean("amount", window="1h"),
            "max": tl.max("amount", window="1h"),
        },
        fallback=[tl.prior(group), tl.prior(), tl.default()],
    )
    def seen(events: Any) -> Any:
        return events

    return seen, group


def test_a_prior_of_a_group_comes_before_that_of_the_training_set_and_neither_passes_for_the_lanes_own(
    shop: Shop,
) -> None:
    seen, group = _with_priors(shop)
    shop.deliver(event(1, at=T0 - MINUTE), event(2, at=T0 - DAY - 1))
    shop.land(T0, view=group)
    chosen: list[Selection] = [
        seen,
        seen.age,
        tl.age(seen["n"]),
        tl.status(seen["n"], "prior"),
        tl.status(seen["max"], "missing"),
    ]
    plan = FeaturePlan.of(chosen, where="test")
    kind = Contract("ask", plan.inputs).struct
    rows = [kind(shop="a", order_id="o1"), kind(shop="a", order_id=None)]
    reader = FeatureReader(plan, shop.store, priors={"seen.n": 8.0, "seen.mean": 2.5})
    reading = reader.read(rows, T0 + 90 * DAY)
    assert reading.values[:, :2].tolist() == [[1, 2.5], [0, 2.5]]  # a group without events has 0 of them
    words = [[STATUSES[code] for code in row] for row in reading.statuses.tolist()]
    assert words[0] == ["prior", "prior", "missing", "missing", "missing", "fresh", "fresh"]
    assert reading.values[0, 5:].tolist() == [1, 1]
    without = FeatureReader(plan, shop.store).read(rows, T0 + 90 * DAY)
    assert without.statuses[0, :3].tolist() == [5, 4, 4]  # without a model, nothing is usual


def test_the_age_of_a_view_is_its_lanes_and_that_of_a_value_is_of_what_stood_in(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE, amount=3.0))
    shop.run_nearline()
    shop.land(T0)
    view = shop.view("shop_now")
    chosen: list[Selection] = [
        view.age,
        view["mean_1h"],
        tl.age(view["mean_1h"]),
        tl.age(view["n_10m"]),
        shop.view("shop_daily").age,
    ]
    reader = shop.reader(*chosen, tl.status(view["mean_1h"], "batch"))
    assert reader.plan.names == (
        "shop_now.age_s",
        "shop_now.mean_1h",
        "shop_now.mean_1h.age_s",
        "shop_now.n_10m.age_s",
        "shop_daily.age_s",
        "shop_now.mean_1h.is_batch",
    )
    late = 2 * 3_600
    for seconds, expected in (
        (30, [30, 3, 30, 30, None, 0]),
        (late, [late, 3, late, None, late, 1]),  # n_10m is the default
    ):
        values = reader.read(shop.rows("a"), T0 + seconds * SECOND).values[0].tolist()
        assert [None if value != value else value for value in values] == expected  # noqa: PLR0124


def test_a_lane_that_never_ran_has_no_age(shop: Shop) -> None:
    reader = shop.reader(shop.view("shop_now").age, shop.view("shop_daily").age)
    reading = reader.read(shop.rows("a"), T0)
    assert np.isnan(reading.values).all()
    assert [STATUSES[code] for code in reading.statuses[0]] == ["missing", "missing"]


def test_a_request_view_counts_a_prior_as_worse_than_a_batch_and_better_than_a_default() -> None:
    words = [("batch", "prior"), ("default", "prior"), ("missing", "missing")]
    codes = [[STATUSES.index(word) for word in row] for row in words]
    assert [STATUSES[code] for code in worst_of(np.array(codes, np.uint8))] == ["prior", "default", "fresh"]


# -- request views --------------------------------------------------------------------------------------------------


def _request_reader(
    shop: Shop, function: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, object], *uses: View
) -> tuple[FeatureReader, list[str]]:
    failed: list[str] = []
    view = tl.request(inputs=inputs, features={"f": tl.Float64}, uses=uses)(function)
    return FeatureReader(FeaturePlan.of([view], where="test"), shop.store, failed=failed.append), failed


def _ask(reader: FeatureReader, **columns: Sequence[object]) -> list[Any]:
    kind = Contract("ask", reader.plan.inputs).struct
    return [kind(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def test_a_request_view_uses_others_and_takes_the_worst_of_their_statuses(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE, amount=4.0))
    shop.run_nearline()
    shop.clock.move_to(T0 + 5 * MINUTE)
    assert _one(shop, "basket.over_mean")[:2] == (6, "stale")
    assert _one(shop, "basket.over_mean", key="nobody")[:2] == (10, "stale")


def test_request_views_nest(shop: Shop) -> None:
    @tl.request(inputs={"x": tl.Float64}, features={"double": tl.Float64})
    def inner(request: Mapping[str, Any]) -> Any:
        return {"double": request["x"] * 2}

    def outer(request: Mapping[str, Any]) -> Any:
        return {"f": request["inner.double"] + request["x"]}

    reader, _ = _request_reader(shop, outer, {"x": tl.Float64}, inner)
    assert reader.read(_ask(reader, x=[1.0, 2.0]), T0).values.tolist() == [[3.0], [6.0]]


def test_a_function_that_fails_for_one_row_costs_that_row_alone(shop: Shop) -> None:
    shop.run_nearline()
    reader = shop.reader()
    rows = [*shop.rows("a"), *shop.rows("a", basket=-1.0), *shop.rows("a", basket=3.0)]
    reading = reader.read(rows, T0)
    assert column(reader, reading, "basket.basket") == [10, None, 3]
    assert column(reader, reading, "basket.basket", "statuses") == [0, 4, 0]
    [fault] = [fault for fault in reading.faults if fault.reason.startswith("basket")]
    assert fault.rows == frozenset([1])
    assert "ZeroDivisionError: a basket of minus one" in fault.reason


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"g": [1.0]}, "the function returned g"),
        ({"f": [1.0], 3: [1.0]}, "the function returned 3, f"),
        ([1.0], "the function returned list"),
        (None, "the function returned NoneType"),
        ({"f": [1.0, 2.0, 3.0, 4.0]}, r"shape (4,)"),
        ({"f": [[1.0]]}, "shape (1, 1)"),
        ({"f": [[1.0], [2.0, 3.0]]}, "no number"),
        ({"f": ["1.5"]}, "no number: it is of type <U3"),
        ({"f": [1j]}, "no number: it is of type complex128"),
        ({"f": np.array(["2026-01-01"], "datetime64[D]")}, "no number: it is of type datetime64[D]"),
        ({"f": [object()]}, "no number"),
    ],
)
def test_what_a_function_must_not_return_is_told_and_missing(shop: Shop, returned: object, said: str) -> None:
    reader, failed = _request_reader(shop, lambda_named_f(returned), {"x": tl.Float64})
    reading = reader.read(_ask(reader, x=[1.0]), T0)
    assert np.isnan(reading.values).all()
    assert (reading.statuses == 4).all()
    assert said in reading.faults[0].reason
    assert failed == ["f"]


def lambda_named_f(returned: object) -> Callable[[Mapping[str, Any]], Any]:
    def f(request: Mapping[str, Any]) -> Any:
        return returned

    return f


def test_a_function_that_exits_does_not_end_the_server(shop: Shop) -> None:
    def f(request: Mapping[str, Any]) -> Any:
        raise SystemExit(1)

    reader, _ = _request_reader(shop, f, {"x": tl.Float64})
    assert "SystemExit" in reader.read(_ask(reader, x=[1.0]), T0).faults[0].reason


def test_one_number_stands_for_all_rows_and_none_for_missing(shop: Shop) -> None:
    reader, _ = _request_reader(shop, lambda_named_f({"f": 7}), {"x": tl.Float64})
    assert reader.read(_ask(reader, x=[1.0, 2.0]), T0).values.tolist() == [[7.0], [7.0]]
    reader, _ = _request_reader(shop, lambda_named_f({"f": [None, True]}), {"x": tl.Float64})
    reading = reader.read(_ask(reader, x=[1.0, 2.0]), T0)
    assert same_bits(reading.values[:, 0], [np.nan, 1.0])
    assert reading.statuses[:, 0].tolist() == [4, 0]


def test_a_function_that_writes_into_its_columns_changes_nobody_elses(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - MINUTE, amount=4.0))
    shop.run_nearline()
    used = shop.view("shop_now")

    @tl.request(inputs={}, features={"filled": tl.Float64}, uses=[used])
    def greedy(request: Mapping[str, Any]) -> Any:
        amounts = request["shop_now.last_1h"]
        amounts[np.isnan(amounts)] = -1.0
        return {"filled": amounts}

    reader = shop.reader(used, greedy)
    reading = reader.read(shop.rows("a", "b"), T0)
    assert column(reader, reading, "greedy.filled") == [4, -1]
    assert column(reader, reading, "shop_now.last_1h") == [4, None]


def test_the_type_of_a_column_does_not_depend_on_the_company(shop: Shop) -> None:
    seen: list[np.dtype[Any]] = []

    def f(request: Mapping[str, Any]) -> Any:
        seen.append(request["at"].dtype)
        return {"f": 0.0}

    reader, _ = _request_reader(shop, f, {"at": tl.Timestamp | None})
    for ats in ([_moment("2026-03-02T00:00:00Z")], [None], [_moment("2026-03-02T00:00:00Z"), None]):
        reader.read(_ask(reader, at=ats), T0)
    assert set(seen) == {np.dtype(np.float64)}


def test_instants_reach_a_function_to_the_microsecond(shop: Shop) -> None:
    def f(request: Mapping[str, Any]) -> Any:
        return {"f": request["at"] % 1_000_000}

    reader, _ = _request_reader(shop, f, {"at": tl.Timestamp})
    reading = reader.read(_ask(reader, at=[_moment(f"{year}-12-31T23:59:59.999999Z") for year in (1971, 9998)]), T0)
    assert reading.values[:, 0].tolist() == [999_999, 999_999]


def _moment(text: str) -> Any:
    import datetime as dt

    return dt.datetime.fromisoformat(text)


# -- stores that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UnavailableError("the store is down"), RuntimeError("a defect of the driver")])
def test_a_store_that_fails_costs_the_stored_values_and_nothing_else(shop: Shop, error: Exception) -> None:
    reader = FeatureReader(shop.definitions.models["big"].plan, OutOfOrder(error))
    reading = reader.read(shop.rows("a", "b"), T0)
    assert reading.faults[0].reason.startswith("online store: ")
    assert str(error) in reading.faults[0].reason
    assert column(reader, reading, "shop_now.mean_1h") == [0, 0]
    assert column(reader, reading, "shop_now.mean_1h", "statuses") == [3, 3]
    assert column(reader, reading, "shop_daily.n_7d", "statuses") == [4, 4]
    assert column(reader, reading, "basket.basket") == [10, 10]


def test_a_store_whose_folder_is_gone_costs_the_stored_values_and_nothing_else(shop: Shop) -> None:
    shop.run_nearline()
    shop.close()
    shutil.rmtree(shop.folder / "online")
    shop.__post_init__()
    assert _one(shop, "shop_now.mean_1h") == (0, "default", 0)


def test_bytes_that_are_no_tiles_are_answered_by_the_cascade_of_their_view_alone(shop: Shop) -> None:
    shop.deliver(event(1, at=T0 - 1, amount=3.0))
    shop.run_nearline()
    shop.land(T0)
    with shop.writer("nearline").transaction() as changes:
        changes.put(shop.view("shop_now").space, [(b"a", b"torn")])
    shop.clock.move_to(T0 + 7_200 * SECOND)
    shop.run_nearline()
    assert _one(shop, "shop_now.mean_1h") == (3, "batch", 7_200)
    assert _one(shop, "shop_daily.n_7d")[:2] == (1, "fresh")


@pytest.mark.parametrize("torn", [b"", b"\xc1", b"\x91\x01"])
def test_progress_that_cannot_be_read_is_a_store_that_fails(shop: Shop, torn: bytes) -> None:
    shop.run_nearline()
    with shop.writer("nearline").transaction() as changes:
        changes.put(LANES, [(lane_key("orders", 0), torn)])
    assert _one(shop, "shop_now.mean_1h") == (0, "default", 0)


# -- company --------------------------------------------------------------------------------------------------------


def test_a_rows_answer_does_not_depend_on_its_company(shop: Shop) -> None:
    chance = np.random.default_rng(3)
    shops = ["a", "b", "c", "d", None, "nobody"]
    shop.deliver(
        *(
            event(n, shop=str(chance.choice(["a", "b", "c"])), at=T0 - int(chance.integers(1, 5 * MINUTE)), amount=a)
            for n, a in enumerate(chance.normal(0, 1e6, 200).tolist())
        )
    )
    shop.run_nearline()
    shop.land(T0)
    reader = shop.reader()
    kind = shop.definitions.endpoints["is_big"].contract.struct
    rows = [
        kind(shop=shops[int(chance.integers(len(shops)))], basket=float(chance.choice([-1.0, 0.1, 7.0])))
        for _ in range(60)
    ]
    now = T0 + 3 * MINUTE
    alone = [reader.read([row], now) for row in rows]
    together = reader.read(rows, now)
    for number, reading in enumerate(alone):
        assert same_bits(together.values[number], reading.values[0])
        assert together.statuses[number].tolist() == reading.statuses[0].tolist()
        assert together.ages[number].tolist() == reading.ages[0].tolist()
        mine = {f.reason for f in together.faults if f.rows is None or number in f.rows}
        assert mine == {f.reason for f in reading.faults}


# -- histories --------------------------------------------------------------------------------------------------------


def _past(shop: Shop) -> View:
    """30 days and 1 hour of a shop's orders; of the 30 days, tiles of 3 days and a history of the rest."""

    def shop_past(orders: Any) -> Any:
        return orders

    features = {
        "n_30d": tl.count(window="30d"),
        "sum_30d": tl.sum("amount", window="30d", default=-1.0),
        "n_1h": tl.count(window="1h"),
    }
    fallback: list[Step] = [
        tl.stale(max_age="10m"),
        tl.last(shop.view("shop_daily"), max_age="36h", features={"n_30d": "n_7d"}),
    ]
    return tl.nearline(
        shop.definitions.sources["orders"],
        shop.definitions.entities["shop"],
        freshness="60s",
        features=features,
        schedule="1d",
        fallback=[*fallback, tl.default()],
    )(shop_past)


def _fill(shop: Shop, view: View, days: int) -> None:
    """An order of 1.0 at each noon before the clock; the clock goes along, as an order of the future does not count."""
    start = shop.clock.now()
    for day in range(days):
        shop.clock.move_to(start + (day + 1) * DAY)
        shop.deliver(event(day, at=start + day * DAY + DAY // 2))
    shop.run_nearline(view)


def _read(shop: Shop, view: View) -> tuple[list[Any], list[int], list[str]]:
    reader = shop.reader(view)
    reading = reader.read(shop.rows("a"), shop.clock.now())
    values = [None if value != value else value for value in reading.values[0].tolist()]  # noqa: PLR0124
    return values, reading.statuses[0].tolist(), [fault.reason for fault in reading.faults]


def test_before_the_first_history_the_tiles_answer_while_none_of_them_was_dropped(shop: Shop) -> None:
    view = _past(shop)
    _fill(shop, view, 3)
    assert _read(shop, view) == ([3, 3.0, 0], [0, 0, 0], [])
    _fill(shop, view, 30)
    values, statuses, [fault] = _read(shop, view)
    assert (values, statuses) == ([0, -1.0, 0], [3, 3, 0])
    assert fault == "shop_past: no history has landed yet, and the tiles do not reach back as far"


@pytest.mark.parametrize("refused", [False, True])
def test_before_the_first_history_tiles_of_a_log_that_was_cut_do_not_pass_for_all_there_ever_was(
    shop: Shop, refused: bool
) -> None:
    view, start = _past(shop), shop.clock.now()
    for day in range(2):
        shop.deliver(event(day, at=start + day * DAY))
    if refused:  # what is left begins with one that does not count
        shop.deliver(b"no event")
    shop.clock.move_to(start + 2 * DAY)
    shop.deliver(event(2, at=start + 2 * DAY - MINUTE))
    archive(shop.log, shop.warehouse, shop.definitions.sources["orders"])
    [path] = shop.folder.joinpath("log").rglob("orders.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM chunk WHERE key < ?", (2 if refused else 1,))
    connection.close()
    shop.run_nearline(view)
    values, statuses, [fault] = _read(shop, view)
    assert (values, statuses) == ([0, -1.0, 1], [3, 3, 0])
    assert fault == "shop_past: no history has landed yet, and the tiles do not reach back as far"
    shop.deliver(event(3, at=start + 2 * DAY - MINUTE))
    shop.run_nearline(view)
    assert _read(shop, view)[:2] == ([0, -1.0, 2], [3, 3, 0]), "nor later"
    shop.land(start + 2 * DAY, view=view)
    shop.clock.move_to(start + 2 * DAY + 2 * 3_600 * SECOND)
    shop.run_nearline(view)
    assert _read(shop, view)[1] == [0, 0, 0]


def test_a_row_keeps_the_tiles_of_the_tail_and_a_late_history_answers_up_to_it(shop: Shop) -> None:
    view = _past(shop)
    _fill(shop, view, 40)
    boundary = shop.clock.now()
    shop.land(boundary, view=view)
    shop.clock.move_to(boundary + 2 * 3_600 * SECOND)
    shop.run_nearline(view)
    assert _read(shop, view) == ([30, 30.0, 0], [0, 0, 0], [])
    shop.clock.move_to(boundary + 3 * DAY)
    shop.deliver(event(1_000, at=boundary + 3 * DAY - MINUTE))
    shop.run_nearline(view)
    assert _read(shop, view) == ([28, 28.0, 1], [0, 0, 0], [])
    [row] = [row for _, row in shop.store.scan(view.space)]
    assert len(row) <= cost_of(view).bytes_per_key


def test_beyond_the_tail_long_windows_alone_are_answered_by_the_cascade(shop: Shop) -> None:
    view = _past(shop)
    _fill(shop, view, 40)
    boundary = shop.clock.now()
    shop.land(boundary, view=view)
    now = boundary + 3 * DAY + 3 * 3_600 * SECOND
    shop.clock.move_to(now)
    shop.deliver(event(1_000, at=now - MINUTE))
    shop.run_nearline(view)
    values, statuses, [fault] = _read(shop, view)
    assert (values, statuses) == ([0, -1.0, 1], [3, 3, 0])
    assert fault == "shop_past: the last history is of 2026-04-11T00:00:00Z, 75.0 h ago, 3d allowed"
    shop.land(boundary + 3 * DAY)  # the daily view, for the cascade
    values, statuses, _ = _read(shop, view)
    assert (values, statuses) == ([4, -1.0, 1], [2, 3, 0])
    shop.clock.move_to(now + 5 * MINUTE)  # now the lane itself is stale too
    reading = shop.reader(view).read(shop.rows("a"), shop.clock.now())
    assert reading.statuses[0].tolist() == [2, 3, 1]
    assert [fault.reason.split(", ")[0] for fault in reading.faults] == [
        "shop_past: 300 s behind",
        "shop_past: the last history is of 2026-04-11T00:00:00Z",
    ]


def test_a_history_that_missed_events_gives_way_to_an_older_one_that_did_not(shop: Shop) -> None:
    view = _past(shop)
    _fill(shop, view, 40)
    boundary = shop.clock.now()
    first = shop.land(boundary - DAY, view=view)
    shop.clock.move_to(boundary + 2 * 3_600 * SECOND)
    second = shop.land(boundary, view=view)
    assert first is not None
    assert second is not None
    assert (first.final, second.final) == (True, False)
    shop.deliver(event(1_000, at=boundary - MINUTE))  # comes late, but is the newest, so that it counts
    shop.run_nearline(view)
    assert _read(shop, view)[0] == [31, 31.0, 0]
