"""Changes as they come: rows with a word, and envelopes with what was and what is."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

import trilane as tl
from trilane.sources.arrival import arrivals
from trilane.sources.change import CHANGED_AT, SIGN
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource

ROW = {"id": "p1", "card": "a", "amount": 1.5, "paid_at": "2026-03-01T12:00:00Z"}
NOON = 1_772_366_400_000  # the same in milliseconds


class Payment:
    id: tl.String
    card: tl.String
    amount: tl.Float64 | None
    paid_at: tl.Timestamp


ENVELOPES = EventSource(
    "payments", schema=Payment, event_time="paid_at", event_id="id", changes=tl.Changes.debezium(), partition_by="card"
)


class Told(Payment):
    op: tl.String
    changed_at: tl.Timestamp


ROWS = EventSource("payments", schema=Told, event_time="paid_at", event_id="id", changes=tl.Changes())


def _decoded(source: EventSource, *events: object) -> Any:
    texts = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return decoder_of(source).decode(pa.array(texts, pa.binary()))


def envelope(op: str, *, ms: int = NOON, **sides: object) -> dict[str, object]:
    return {"op": op, "ts_ms": ms, **sides}


def test_an_update_is_the_former_row_taken_back_and_the_new_one_added() -> None:
    found = _decoded(
        ENVELOPES,
        envelope("c", before=None, after=ROW),
        envelope("u", ms=NOON + 5, before=ROW, after={**ROW, "amount": 2.5}),
        envelope("d", ms=NOON + 9, before={**ROW, "amount": 2.5}, after=None),
    )
    assert found.indexes.tolist() == [0, 1, 1, 2]
    assert found.table.column(SIGN).to_pylist() == [1, -1, 1, -1]
    assert found.table.column("amount").to_pylist() == [1.5, 1.5, 2.5, 2.5]
    assert [at // 1_000 - NOON for at in found.table.column(CHANGED_AT).to_pylist()] == [0, 5, 5, 9]
    assert found.rejections == []


def test_a_change_was_made_when_its_database_says_and_not_before_its_row_happened() -> None:
    told = {**envelope("c", ms=NOON + 77, after=ROW), "source": {"ts_ms": NOON + 3, "lsn": 1}}
    wrapped = {"schema": {}, "payload": envelope("r", ms=NOON - 1, after=ROW)}
    found = _decoded(ENVELOPES, told, wrapped)
    assert [at // 1_000 - NOON for at in found.table.column(CHANGED_AT).to_pylist()] == [3, 0]


@pytest.mark.parametrize(
    ("event", "code", "path", "reason"),
    [
        (envelope("t"), "change", "$.op", "op is 't', not one of c, r, u, d"),
        (envelope("u", after=ROW), "change", "$.before", "REPLICA IDENTITY FULL"),
        (envelope("d", before=None), "change", "$.before", "nothing can be taken back"),
        (envelope("c", before=ROW), "change", "$.after", "after is null"),
        (
            envelope("d", before={"id": "p1"}),
            "type",
            "$.before",
            "missing required field `card`; without the former row",
        ),
        (envelope("u", before=ROW, after={**ROW, "amount": "x"}), "type", "$.after.amount", "Expected `float | null`"),
        ({"op": "c", "after": ROW}, "change", "$.ts_ms", "neither source.ts_ms nor ts_ms"),
        ({"payload": {"op": "c", "after": ROW, "ts_ms": -1}}, "change", "$.payload.ts_ms", "neither"),
        (envelope("c", after={**ROW, "paid_at": "1960-01-01T00:00:00Z"}), "change", "$.paid_at", "before 1970"),
        ([1], "type", "$", "Expected `object`"),
        (b"nope", "json", "$", "malformed JSON"),
    ],
)
def test_what_tells_no_whole_change_is_told_back_and_costs_its_neighbours_nothing(
    event: object, code: str, path: str, reason: str
) -> None:
    found = _decoded(ENVELOPES, envelope("c", after=ROW), event, envelope("d", before=ROW))
    assert found.indexes.tolist() == [0, 2]
    [rejection] = found.rejections
    assert (rejection.index, rejection.code, rejection.path) == (1, code, path)
    assert reason in rejection.reason


def test_a_row_says_itself_whether_it_is_added_or_taken_back() -> None:
    changed = {"changed_at": "2026-03-01T12:00:01Z"}
    found = _decoded(ROWS, *({**ROW, **changed, "op": op} for op in ("insert", "delete", "update")))
    assert found.table.column(SIGN).to_pylist() == [1, -1]
    [rejection] = found.rejections
    assert (rejection.index, rejection.code, rejection.path) == (2, "change", "$.op")
    assert "send a correction as two events" in rejection.reason


def test_at_the_door_a_change_belongs_where_its_row_then_is() -> None:
    moved = envelope("u", before=ROW, after={**ROW, "card": "b"})
    [event], refused, _ = arrivals(ENVELOPES, decoder_of(ENVELOPES), [json.dumps(moved).encode()])
    assert (event.key, event.event_id, event.moment, refused) == ("b", "p1", NOON * 1_000, [])


def test_no_events_at_all_are_no_rows() -> None:
    for source in (ENVELOPES, ROWS):
        assert _decoded(source).table.num_rows == 0


def test_at_the_door_plain_events_and_changes_are_placed_alike_and_told_back_with_their_path() -> None:
    plain = EventSource("payments", schema=Payment, event_time="paid_at", event_id="id")
    [event], [refused], _ = arrivals(plain, decoder_of(plain), [json.dumps(ROW).encode(), b"{}"])
    assert (event.key, event.moment, refused.code) == ("p1", NOON * 1_000, "type")
