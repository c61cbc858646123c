"""Every definition that cannot work is refused when written, with the author's file, the object, cause and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.features.plan import FeaturePlan
from trilane.features.view import View

FIELDS = {"id": tl.String, "shop": tl.String, "at": tl.Timestamp, "amount": tl.Float64 | None, "note": tl.String | None}
ORDERS = tl.EventSource("orders", schema=FIELDS, event_time="at", event_id="id")
SHOP = tl.Entity("shop", shop=tl.String)


def same(events: Any) -> Any:
    return events


def source(**changes: Any) -> Callable[[], object]:
    given = {"name": "orders", "schema": FIELDS, "event_time": "at", "event_id": "id", **changes}
    return lambda: tl.EventSource(given.pop("name"), **given)


def nearline(function: Callable[..., Any] = same, **changes: Any) -> Callable[[], object]:
    given = {"freshness": "60s", "features": {"n": tl.count(window="1h")}, **changes}
    return lambda: tl.nearline(ORDERS, given.pop("entity", SHOP), **given)(function)


def batch(**changes: Any) -> Callable[[], object]:
    return lambda: tl.batch(ORDERS, SHOP, **{"features": {"n": tl.count(window="7d")}, **changes})(same)


def history(**changes: Any) -> Callable[[], object]:
    return nearline(**{"features": {"n": tl.count(window="30d")}, "schedule": "1d", **changes})


def request(function: Callable[..., Any] = same, **changes: Any) -> Callable[[], object]:
    given = {"inputs": {"x": tl.Float64}, "features": {"f": tl.Float64}, **changes}
    return lambda: tl.request(**given)(function)


def daily(events: Any) -> Any:
    return events


def simple(row: Any) -> Any:
    return {"f": row["x"]}


LAST_DAYS = tl.batch(ORDERS, SHOP, features={"n_7d": tl.count(window="7d")})(daily)
SIMPLE = tl.request(inputs={"x": tl.Float64}, features={"f": tl.Float64})(simple)


def town_days(events: Any) -> Any:
    return events.mutate(town=events.shop)


def aged(events: Any) -> Any:
    return events


TOWN_DAYS = tl.batch(ORDERS, tl.Entity("town", town=tl.String), features={"n_7d": tl.count(window="7d")})(town_days)
AGED = tl.batch(ORDERS, SHOP, features={"age_s": tl.count(window="7d")})(aged)


def raising(events: Any) -> Any:
    raise KeyError("nothing")


def grouping(events: Any) -> Any:
    return events.group_by("shop").agg(at=events.at.max())


def sorting(events: Any) -> Any:
    return events.order_by("at")


def windowing(events: Any) -> Any:
    return events.mutate(before=events.amount.lag())


def by_the_clock(events: Any) -> Any:
    import ibis

    return events.mutate(seen=ibis.now())


def without_key(events: Any) -> Any:
    return events.drop("shop")


def key_of_another_type(events: Any) -> Any:
    return events.mutate(shop=events.shop.length())


def without_time(events: Any) -> Any:
    return events.drop("at")


def other(row: Any) -> Any:
    return {"f": row["x"]}


def _twins() -> object:
    one = tl.request(inputs={"x": tl.Float64}, features={"f": tl.Float64})(other)
    two = tl.request(inputs={"x": tl.Float64}, features={"g": tl.Float64})(other)
    return FeaturePlan.of([one, two], where="model 'm'")


def _clashing_inputs() -> object:
    def words(row: Any) -> Any:
        return {"f": 0}

    return FeaturePlan.of(
        [SIMPLE, tl.request(inputs={"x": tl.String}, features={"f": tl.Float64})(words)], where="model 'm'"
    )


SPINE_FIELDS = {"x": tl.Float64, "at": tl.Timestamp, "y": tl.Bool | None, "s": tl.String}


def model(**changes: Any) -> Callable[[], object]:
    spine = tl.TableSource("asks", schema=changes.pop("fields", SPINE_FIELDS), path="a.parquet", event_time="at")
    given = {"name": "m", "features": [SIMPLE], "spine": spine, "label": "y", "train": same, **changes}
    return lambda: tl.Model(given.pop("name"), **given)


@pytest.mark.parametrize(
    ("declare", "where", "what", "remedy"),
    [
        # sources
        (source(event_time="when"), "orders", "event_time names 'when', which the schema lacks", "at"),
        (source(event_id="nr"), "orders", "event_id names 'nr'", "Choose one of"),
        (source(partition_by="town"), "orders", "partition_by names 'town'", "Choose one of"),
        (source(event_time="shop"), "orders", "event_time 'shop' is a string", "tl.Timestamp"),
        (source(event_id="note"), "orders", "event_id 'note' may be null", "| None"),
        (source(event_id="at"), "orders", "event_id 'at' cannot identify", "tl.Int64"),
        (source(partitions=0), "orders", "at least 1", "partitions=1"),
        (source(disorder="a while"), "", "'a while' is not a duration", "'15m'"),
        (source(name="my orders"), "my orders", "'my orders' is not a name", "letters"),
        (source(schema={**FIELDS, "a b": tl.Int64}), "orders", "'a b' is not a name", "letters"),
        (source(schema={**FIELDS, "x": bytes}), "x", "is not a value type", "tl.Bool"),
        (
            lambda: tl.TableSource("t", schema=FIELDS, path="t.parquet", event_time="shop"),
            "t",
            "event_time names 'shop'",
            "became known",
        ),
        # entities
        (lambda: tl.Entity("shop"), "shop", "at least one key column", "shop_id"),
        (lambda: tl.Entity("shop", size=tl.Float64), "shop", "key 'size' is a float", "tl.String"),
        (lambda: tl.Entity("shop", size=dict), "size", "is not a value type", "tl.Bool"),
        # windows and aggregations
        (lambda: tl.count(window="0s"), "", "no multiple of its hop", "multiple"),
        (lambda: tl.count(window="61s"), "", "61s is no multiple of its hop of 5s", "finer hop="),
        (lambda: tl.count(window="1h", hop="10m"), "", "overhangs", "at most 5m"),
        (lambda: tl.count(window="10s", hop="500ms"), "", "finer than 1s", "1s"),
        (lambda: tl.count(window="1h", max_overhang=5), "", "max_overhang=5 is no part", "max_overhang=0.05"),
        (lambda: tl.count(window="10s", max_overhang=0.05), "", "window of 10s by 5.0% or less", "finest hop is 1s"),
        (lambda: tl.count(window="1h", hop="1m", max_overhang=0.05), "", "both choose the hop", "one of them"),
        (lambda: tl.count(window="lifetime", max_overhang=0.05), "", "has no hop", "Leave out"),
        (lambda: tl.decayed_count(half_life="1h", max_overhang=0.05), "", "follows from its half-life", "hop="),
        (lambda: tl.count(window="long"), "", "'long' is not a duration", "'15m'"),
        (lambda: tl.last("amount"), "amount", "last of a column needs a window", "window="),  # type: ignore[call-overload]
        (lambda: tl.last(LAST_DAYS), "daily", "last of a view needs max_age", "max_age="),  # type: ignore[call-overload]
        # views
        (nearline(features={}), "same", "at least one feature", "features="),
        (nearline(features={"a-b": tl.count(window="1h")}), "same", "'a-b' is not a name", "letters"),
        (nearline(features={"n": 3}), "same", "'n' is no aggregation", "tl.count"),
        (nearline(features={"n": tl.sum("price", window="1h")}), "same", "'price', which is unknown", "amount"),
        (nearline(features={"n": tl.sum("note", window="1h")}), "", "sum of 'note', a string", "Aggregate a column"),
        (nearline(features={"n": tl.mean("at", window="1h")}), "", "mean of 'at', a timestamp", "Aggregate a column"),
        (nearline(freshness="soon"), "", "'soon' is not a duration", "'15m'"),
        (nearline(raising), "raising", "the transform raised KeyError", "amount"),
        (nearline(lambda _: 3), "<lambda>", "the transform returned int", "Ibis table"),
        (nearline(grouping), "grouping", "depends on more than one row", "Only filter"),
        (nearline(sorting), "sorting", "depends on more than one row", "Only filter"),
        (nearline(windowing), "windowing", "depends on more than one row", "Only filter"),
        (nearline(by_the_clock), "by_the_clock", "or on the clock", "Only filter"),
        (nearline(without_key), "without_key", "no column for the key 'shop'", "Return a string column"),
        (nearline(key_of_another_type), "key_of_another_type", "int64 for the key 'shop'", "Return a string column"),
        (nearline(without_time), "without_time", "drops or changes the event time 'at'", "Keep the column"),
        (nearline(entity=tl.Entity("town", town=tl.String)), "same", "no column for the key 'town'", "Return a string"),
        # histories
        (history(tail="1d"), "same", "shorter than the schedule and the landing time", "at least 26h"),
        (history(tail="30d"), "same", "no window is longer than the tail of 30d", "shorter tail="),
        (history(tail="27h"), "same", "hop of 'n', 1d, does not divide the tail", "finer hop="),
        (history(schedule="90m", tail="5d"), "same", "hop of 'n', 1d, does not divide the schedule", "finer hop="),
        (history(schedule="0s"), "same", "schedule above 0", 'schedule="1d"'),
        (nearline(tail="3d"), "same", "tail= needs a schedule", 'schedule="1d"'),
        (batch(schedule="90m"), "same", "does not divide the schedule", "hop="),
        (request(features={"f": tl.String}), "same", "'f' is a string", "Encode"),
        (request(features={}), "same", "at least one feature", "features="),
        (request(features={"f": []}), "f", "is not a value type", "tl.Bool"),
        (request(lambda row: row), "<lambda>", "'<lambda>' is not a name", "letters"),
        (lambda: LAST_DAYS["n_8d"], "daily", "there is no feature 'n_8d'", "n_7d"),
        # cascades
        (nearline(fallback=[tl.default(), tl.stale(max_age="1h")]), "same", "nothing can follow", "last"),
        (nearline(fallback=[tl.stale(max_age="60s")]), "same", "exceed the freshness of 1m", "larger max_age"),
        (
            nearline(fallback=[tl.last(LAST_DAYS, max_age="36h", features={"n": "n_7d"}), tl.stale(max_age="1h")]),
            "same",
            "must come first",
            "front",
        ),
        (
            nearline(fallback=[tl.last(LAST_DAYS, max_age="36h")]),
            "same",
            "no feature of 'daily' stands in",
            "features=",
        ),
        (
            nearline(fallback=[tl.last(LAST_DAYS, max_age="36h", features={"n": "n_9d"})]),
            "same",
            "maps 'n' to 'n_9d'",
            "n_7d",
        ),
        (nearline(fallback=[tl.last(SIMPLE, max_age="36h")]), "same", "'simple' is a request view", "batch view"),
        (
            nearline(fallback=[tl.last(TOWN_DAYS, max_age="36h", features={"n": "n_7d"})]),
            "same",
            "'town_days' is of the entity 'town', not of",
            "tl.prior(town_days)",
        ),
        (nearline(fallback=[tl.prior(SIMPLE)]), "same", "'simple' is a request view", "batch view"),
        (nearline(fallback=[tl.prior(TOWN_DAYS)]), "same", "no feature of 'town_days' stands in", "features="),
        (lambda: tl.prior("mode"), "tl.prior", "'mode' is no prior", "median"),
        (lambda: tl.prior("mean", max_age="1d"), "tl.prior", "with max_age", "tl.prior(batch_view)"),  # type: ignore[call-overload]
        (nearline(fallback=[tl.prior(), tl.stale(max_age="1h")]), "same", "nothing but tl.default() can", "before it"),
        (nearline(fallback=["default"]), "same", "'default' is no step", "tl.default()"),
        # traits
        (lambda: tl.age(SIMPLE), "simple", "is computed at once", "it uses"),
        (lambda: tl.age("shop"), "tl.age", "'shop' is no feature view", "one feature"),  # type: ignore[arg-type]
        (lambda: tl.status(LAST_DAYS, "stale"), "tl.status", "no status of a feature", 'view["feature"]'),  # type: ignore[arg-type]
        (lambda: tl.status(LAST_DAYS["n_7d"], "old"), "tl.status", "'old' is no status", "prior"),
        (
            lambda: FeaturePlan.of([AGED, AGED.age], where="model 'm'"),
            "m",
            "two columns are called 'aged.age_s'",
            "Rename",
        ),
        # plans and models
        (lambda: FeaturePlan.of([], where="model 'm'"), "m", "there is no feature", "features="),
        (lambda: FeaturePlan.of([SIMPLE, SIMPLE["f"]], where="model 'm'"), "m", "a feature is listed twice", "once"),
        (lambda: FeaturePlan.of([same], where="model 'm'"), "m", "is no feature view", "view['feature']"),  # type: ignore[list-item]
        (_twins, "m", "two views are called 'other'", "Rename the one at"),
        (_clashing_inputs, "m", "input 'x' is a float64 here and a string in 'words'", "two names"),
        (model(name="a b"), "a b", "'a b' is not a name", "letters"),
        (model(label="z"), "m", "the label 'z' is no number of the spine 'asks'", "Choose one of"),
        (model(label="s"), "m", "the label 's' is no number", "Choose one of"),
        (
            model(fields={"at": tl.Timestamp, "y": tl.Bool}),
            "m",
            "must have 'x' as float64; it is missing",
            "Add the column 'x'",
        ),
        (model(fields={**SPINE_FIELDS, "x": tl.Int64}), "m", "'x' as float64; it is a int64", "Add the column 'x'"),
    ],
)
def test_a_definition_that_cannot_work_says_file_object_cause_and_remedy(
    declare: Callable[[], object], where: str, what: str, remedy: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        declare()
    error = refused.value
    assert what in error.what
    assert where in error.where
    assert remedy in error.remedy
    assert str(error.facts["file"]).startswith(f"{__file__}:"), error.facts
    assert str(error).startswith(f"{__file__}:")


@pytest.mark.parametrize(
    ("window", "part", "hop"), [("1h", 0.05, "1m"), ("1h", 0.5, "5m"), ("61s", 0.08, "1s"), ("90d", 0.002, "1h")]
)
def test_an_error_budget_picks_the_coarsest_hop_within_it(window: str, part: float, hop: str) -> None:
    found = tl.count(window=window, max_overhang=part).window
    assert found.hop == tl.duration(hop)
    assert found.overhang <= part


def test_the_parameters_of_a_history_are_part_of_the_views_version() -> None:
    def version(**given: Any) -> str:
        found = history(**given)()
        assert isinstance(found, View)
        return found.version

    given = [{}, {"schedule": "2d", "tail": "6d"}, {"tail": "4d"}, {"landing": "1h"}]
    versions = [version(**one) for one in given]
    assert len(set(versions)) == len(given)
    assert version(tail="3d") == versions[0]  # the default: two schedules and the landing time
    plain = nearline(features={"n": tl.count(window="30d")})()
    assert isinstance(plain, View)
    assert plain.version not in versions
    assert not plain.has_history


def test_a_view_can_be_called_like_the_function_it_was() -> None:
    assert SIMPLE({"x": 3}) == {"f": 3}
    assert (SIMPLE.output_names, LAST_DAYS.output_names) == (("simple.f",), ("daily.n_7d",))


def test_the_version_of_a_view_is_that_of_its_values_alone() -> None:
    again = tl.batch(ORDERS, SHOP, features={"n_7d": tl.count(window="7d")}, freshness="9d", fallback=[tl.default()])(
        daily
    )
    wider = tl.batch(ORDERS, SHOP, features={"n_7d": tl.count(window="8d")})(daily)
    assert again.version == LAST_DAYS.version
    assert wider.version != LAST_DAYS.version
    assert again.spec() != LAST_DAYS.spec()


def test_a_plan_lists_views_after_those_they_use_and_inputs_once_with_the_stricter_promise() -> None:
    def outer(row: Any) -> Any:
        return {"f": row["daily.n_7d"]}

    nested = tl.request(
        inputs={"x": tl.Float64 | None, "shop": tl.String}, features={"f": tl.Float64}, uses=[LAST_DAYS, SIMPLE]
    )(outer)
    plan = FeaturePlan.of([nested, LAST_DAYS["n_7d"]], where="test")
    assert [view.name for view in plan.views] == ["daily", "simple", "outer"]
    assert plan.names == ("outer.f", "daily.n_7d")
    assert {field.name: field.nullable for field in plan.inputs} == {"shop": False, "x": False}
    assert [entity.name for entity in plan.entities] == ["shop"]


def test_the_stand_ins_of_a_plan_are_what_only_cascades_read() -> None:
    near = tl.nearline(
        ORDERS,
        SHOP,
        freshness="60s",
        features={"n": tl.count(window="1h")},
        fallback=[tl.last(LAST_DAYS, max_age="36h", features={"n": "n_7d"})],
    )(same)
    assert [view.name for view in FeaturePlan.of([near], where="test").stand_ins] == ["daily"]
    assert FeaturePlan.of([near, LAST_DAYS], where="test").stand_ins == ()
