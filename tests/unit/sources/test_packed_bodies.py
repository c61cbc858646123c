"""Bodies of Avro and of Arrow become events like those of JSON; what would grow beyond bounds is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc

import trilane as tl
from trilane.clock import format_instant, instant
from trilane.errors import ContractError
from trilane.sources import ingest
from trilane.sources.formats.arrow_stream import stream_rows
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import LARGEST_UNPACKED, MOST_EVENTS, sort_body
from trilane.sources.log.sqlite import SqliteLog

SOURCE = tl.EventSource(
    "paid", schema={"id": tl.String, "at": tl.Timestamp, "x": tl.Float64 | None}, event_time="at", event_id="id"
)
NOW = instant("2026-03-01T00:00:00Z")
AVRO, ARROW = "application/avro", "application/vnd.apache.arrow.stream"
SCHEMA = {
    "type": "record",
    "name": "Paid",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "x", "type": ["null", "double"]},
    ],
}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "at": NOW - 5, "x": 1.5},
    {"id": "b", "at": NOW - 4, "x": None},
    {"id": "c", "at": NOW + 10**9},
]


def _avro(codec: str = "deflate") -> bytes:
    out = io.BytesIO()
    rows = [{"x": None, **row, "at": pa.scalar(row["at"], pa.timestamp("us", "UTC")).as_py()} for row in ROWS]
    fastavro.writer(out, SCHEMA, rows, codec=codec)
    return out.getvalue()


def _arrow(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    with ipc.new_stream(out, table.schema, options=ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table, max_chunksize=2)
    return out.getvalue()


def _table(kind: str = "us") -> pa.Table:
    moments = pa.array([row["at"] for row in ROWS], pa.timestamp("us", "UTC")).cast(pa.timestamp(kind, "UTC"))
    return pa.table({"id": [row["id"] for row in ROWS], "at": moments, "x": [row.get("x") for row in ROWS]})


@pytest.fixture
def hot(tmp_path: Path) -> HotKeys:
    return HotKeys(SqliteLog(tmp_path), SOURCE)


@pytest.mark.parametrize(
    ("body", "kind"),
    [(_avro(), AVRO), (_avro("null"), "avro/binary"), (_arrow(_table()), ARROW), (_arrow(_table("ns")), ARROW)],
)
def test_rows_are_taken_as_if_they_had_come_as_json(body: bytes, kind: str, hot: HotKeys) -> None:
    found, texts = sort_body(SOURCE, body, kind, hot, now=NOW)
    rows = [{"x": None, **row, "at": format_instant(row["at"])} for row in ROWS]
    as_json, _ = sort_body(SOURCE, json.dumps(rows).encode(), "application/json", hot, now=NOW)
    assert [json.loads(text)["id"] for text in found.accepted[0]] == ["a", "b"]
    assert [(one.index, one.code, one.path) for one in found.rejected] == [(2, "future", "$.at")]
    assert [(one.index, one.code, one.path) for one in as_json.rejected] == [(2, "future", "$.at")]
    assert (
        SOURCE.contract.decode_many(texts)[0] == SOURCE.contract.decode_many([json.dumps(r).encode() for r in rows])[0]
    )


def test_what_cannot_be_taken_apart_is_refused_with_its_place(hot: HotKeys) -> None:
    same = pa.table({"id": pa.array(["x" * 100] * 3).dictionary_encode()})
    nothing = pa.table({"id": ["a"], "no": pa.nulls(1)})
    for body, kind, why, where in (
        (b"", AVRO, "no sound Avro file: it does not begin", "body"),
        (_avro()[:-1], AVRO, "ends early", "body"),
        (b"", ARROW, "no sound Arrow stream", "body"),
        (_arrow(_table())[:200], ARROW, "no sound Arrow stream", "body"),
        (_arrow(_table().slice(0, 0)), ARROW, "no events", "body"),
        (_arrow(_table(), compression="zstd"), ARROW, "is compressed", "body"),
        (_arrow(_table(), compression="lz4"), ARROW, "is compressed", "body"),
        (_arrow(same), ARROW, "dictionary.* is not taken", "$.id"),
        (_arrow_whole(pa.table({})), ARROW, "has no columns", "body"),
        (_arrow(nothing), ARROW, "column of null is not taken", "$.no"),
    ):
        with pytest.raises(ContractError, match=why) as caught:
            sort_body(SOURCE, body, kind, hot, now=NOW)
        assert (caught.value.where, caught.value.facts["status"]) == (where, 400)
        assert caught.value.remedy


def test_a_body_that_grows_beyond_its_bound_is_refused(hot: HotKeys) -> None:
    rows = LARGEST_UNPACKED // ingest._OF_EACH
    many = pa.table({"x": pa.array([True] * rows)})
    with pytest.raises(ContractError, match="longer than") as caught:
        sort_body(SOURCE, _arrow_whole(many), ARROW, hot, now=NOW)
    assert caught.value.facts["status"] == 413


def _arrow_whole(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


@given(st.data())
def test_changed_bytes_of_a_stream_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(_arrow(_table()))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        rows = list(stream_rows(bytes(body), where="body"))
    except ContractError:
        return
    assert all(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize(("part", "kind"), [(b"{}\n", "application/x-ndjson"), (b"{},", "application/json")])
def test_a_body_of_more_events_than_are_taken_is_refused_whole(part: bytes, kind: str, hot: HotKeys) -> None:
    body = part * (MOST_EVENTS + 1)
    with pytest.raises(ContractError, match=f"{MOST_EVENTS + 1} events") as caught:
        sort_body(SOURCE, body if part.endswith(b"\n") else b"[%b]" % body[:-1], kind, hot, now=NOW)
    assert caught.value.facts["status"] == 413
