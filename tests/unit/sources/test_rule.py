"""What a rule may say, and what becomes of a row that breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.lanes.judgement import judge
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import sort_events
from trilane.sources.log.sqlite import SqliteLog
from trilane.sources.rule import is_released
from trilane.stores.offline.duckdb import DuckdbMicroBatch

SCHEMA = {"id": tl.Int64, "at": tl.Timestamp, "paid_at": tl.Timestamp | None, "x": tl.Float64 | None, "k": tl.String}
NOW = tl.instant("2026-01-01T00:00:00Z")


def source(*rules: Any) -> tl.EventSource:
    return tl.EventSource("facts", schema=SCHEMA, event_time="at", event_id="id", rules=rules)


def _events(*rows: tuple[float | None, str]) -> pa.Table:
    moment = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "at": pa.array([NOW] * len(rows), moment),
            "paid_at": pa.array([None] * len(rows), moment),
            "x": pa.array([x for x, _ in rows], pa.float64()),
            "k": pa.array([k for _, k in rows]),
        }
    )


def test_a_rule_is_broken_where_it_is_false_and_neither_where_it_is_null_nor_where_it_cannot_be_computed() -> None:
    ruled = source(
        tl.rule("x is small", lambda t: t.x < 10),
        tl.rule("k is a small number", lambda t: t.k.cast("int64") < 5, action="quarantine"),
        tl.rule("x is even", lambda t: t.x % 2 == 0, action="warn"),
        tl.rule("paid after", lambda t: t.paid_at >= t.at),
    )
    table = _events((1, "1"), (None, "x"), (11, "9"), (2, "7"), (4, "3"))
    found = judge(ruled, table, lambda _: b"{}", DuckdbMicroBatch())
    assert found.first.tolist() == [-1, -1, 0, 1, -1]
    assert found.broken.tolist() == [False, False, True, True, False]
    assert {name: mask.tolist() for name, mask in found.warned.items()} == {
        "x is even": [True, False, True, False, False]
    }


def test_an_event_that_was_released_breaks_no_rule_that_puts_aside_but_the_others() -> None:
    ruled = source(
        tl.rule("x is small", lambda t: t.x < 10), tl.rule("k is a", lambda t: t.k == "a", action="quarantine")
    )
    texts = [b'{"_released": true}', b'{"_released": false}', b'{"_released": true}', b'["_released"]']
    found = judge(ruled, _events((1, "b"), (1, "b"), (11, "b"), (1, "b")), texts.__getitem__, DuckdbMicroBatch())
    assert found.first.tolist() == [-1, 1, 0, 1]
    assert found.released.tolist() == [True, False, True, False]


def test_a_source_without_rules_is_not_looked_at() -> None:
    found = judge(source(), _events((1, "a")), lambda _: b"", DuckdbMicroBatch())
    assert not found.broken.any()


def test_nobody_but_an_operator_releases_an_event(tmp_path: Path) -> None:
    aside = source(tl.rule("k is a", lambda t: t.k == "a", action="quarantine"))
    text = b'{"id": 1, "at": "2026-01-01T00:00:00Z", "k": "b", "_released": true}'
    [refused] = sort_events(aside, [text], HotKeys(SqliteLog(tmp_path), aside), now=NOW).rejected
    assert (refused.code, refused.path) == ("type", "$._released")
    assert sort_events(source(), [text], HotKeys(SqliteLog(tmp_path), source()), now=NOW).rejected == []
    assert not is_released(b'{"_released": true')


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tl.rule("", lambda t: t.x > 0), "no name"),
        (lambda: tl.rule("a", lambda t: t.x > 0, action="drop"), "no action 'drop'"),  # type: ignore[arg-type]
        (lambda: source(tl.rule("a", lambda t: t.nothing > 0)), "raised AttributeError"),
        (lambda: source(tl.rule("a", lambda t: t.x)), "no condition"),
        (lambda: source(tl.rule("a", lambda t: t)), "no condition"),
        (lambda: source(tl.rule("a", lambda t: t.x.sum() > 0)), "depends on more than one row"),
        (lambda: source(tl.rule("a", lambda t: t.x > t.x.lag())), "depends on more than one row"),
        (lambda: source(tl.rule("a", lambda t: t.x > 0), tl.rule("a", lambda t: t.x > 1)), "same name"),
        (lambda: source(tl.unique("id")), "no rule of rows"),
        (tl.unique, "names no column"),
        (lambda: tl.unique("id", action="quarantine"), "nobody's choice"),
        (
            lambda: tl.TableSource("t", schema=SCHEMA, path="t.csv", event_time="at", rules=[tl.unique("no")]),
            "which the schema lacks",
        ),
        (lambda: tl.volume("1h"), "bounds nothing"),
        (lambda: tl.volume("1h", at_least=2, at_most=1), "no number of rows fits"),
    ],
)
def test_a_rule_that_says_nothing_of_one_row_is_refused_where_it_is_written(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


def test_what_decides_which_events_count_is_part_of_a_views_version_and_a_warning_is_not() -> None:
    def version(*rules: Any) -> str:
        @tl.nearline(source(*rules), tl.Entity("k", k=tl.String), freshness="1m", features={"n": tl.count(window="1h")})
        def view(events: Any) -> Any:
            return events

        return view.version

    plain = version()
    assert version(tl.rule("a", lambda t: t.x > 0, action="warn")) == plain
    assert version(tl.rule("a", lambda t: t.x > 0)) != plain
    assert version(tl.rule("a", lambda t: t.x > 0)) == version(tl.rule("renamed", lambda t: t.x > 0))
    assert version(tl.rule("a", lambda t: t.x > 0)) != version(tl.rule("a", lambda t: t.x > 1))
