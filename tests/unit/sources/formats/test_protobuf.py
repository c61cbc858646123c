"""Frames with the way to a message, what does not fit, and messages that claim more than they hold."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import trilane as tl
from tests.registry import registry
from tests.shop_proto import DESCRIPTORS, FILE, Fact
from trilane.contract import Rejection
from trilane.errors import ContractError, DefinitionError
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.declaration import Format
from trilane.sources.formats.opening import open_transcriber
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import sort_body
from trilane.sources.log.sqlite import SqliteLog
from trilane.sources.schema_registry import SchemaRegistry

FORM = tl.protobuf(DESCRIPTORS, message="shop.Fact")


def _source(form: Format | str = FORM, **more: object) -> EventSource:
    fields = {"id": tl.String, "at": tl.Timestamp, **more}
    return EventSource("facts", schema=fields, event_time="at", event_id="id", format=form)


def _fact(**more: Any) -> bytes:
    fact = Fact(id="a", **more)
    fact.at.FromMicroseconds(5)
    written: bytes = fact.SerializeToString()
    return written


def _decode(source: EventSource, *values: bytes, schemas: Any = None) -> Any:
    return decoder_of(source, schemas).decode(pa.array(values, pa.binary()))


def test_frames_lead_to_a_message_of_a_registered_file(tmp_path: Path) -> None:
    with registry() as server:
        schemas = SchemaRegistry(server.url, tmp_path)
        text = base64.b64encode(FILE.SerializeToString()).decode()
        number = server.register("facts-value", text, kind="PROTOBUF")
        head = b"\0" + number.to_bytes(4, "big")
        values = [
            head + b"\x02\x02" + _fact(n=3),
            head + b"\x02\x02" + _fact(),
            head + b"\0" + _fact(),
            head + b"\x02\x0a",
        ]
        found = _decode(_source("protobuf", n=tl.Int64), *values, b"\0\0\0\0\x09\0", b"{}", schemas=schemas)
        assert found.table.column("n").to_pylist() == [3, 0]
        assert [(one.index, one.code) for one in found.rejections] == [
            (2, "schema"),  # the first message of the file is the address
            (3, "schema"),
            (4, "schema"),
            (5, "protobuf"),
        ]
        form = open_transcriber(tl.protobuf(subject="facts-value"), schemas)
        assert form.plain(values[0])["n"] == 3
        assert form.value({**form.plain(values[0]), "n": 4}, like=values[0]) == head + b"\x02\x02" + _fact(n=4)
        assert form.value({"city": "b"}) == head + b"\0\x0a\x01b"
        schemas.close()


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("x", tl.Int64, "double in the message cannot be read as int64"),
        ("raw", tl.String, "bytes in the message cannot be read as string"),
        ("tags", tl.String, "tags is repeated in shop.Fact"),
        ("address", tl.String, r"it is the message shop.Address; name one of its fields"),
        ("missing", tl.Int64, "has no field 'missing', and it may not be null"),
    ],
)
def test_a_message_that_does_not_fit_is_told_at_definition(name: str, field: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        _source(**{name: field})


def test_faulty_declarations_are_told() -> None:
    with pytest.raises(DefinitionError, match="no message 'shop\\.Other'"):
        _source(tl.protobuf(DESCRIPTORS, message="shop.Other"))
    with pytest.raises(DefinitionError, match="no set of descriptors"):
        _source(tl.protobuf(b"\xff", message="shop.Fact"))
    with pytest.raises(DefinitionError, match="which message is it"):
        tl.protobuf(DESCRIPTORS)


def test_what_has_no_column_is_refused_with_its_path() -> None:
    source = _source(kind=tl.String, u=tl.Int64, x=tl.Float64)
    bad = [_fact(kind=7), _fact(u=2**63), _fact(x=float("inf")), b"\x0a\x01\xff" + _fact()[3:], b"\x0a\x01a"]
    found = _decode(source, *bad, _fact())
    assert found.indexes.tolist() == [5]
    assert found.rejections == [
        Rejection(0, "type", "$.kind", "the number is none of shop.Kind"),
        Rejection(1, "type", "$.u", "Expected `int` <= 9223372036854775807"),
        Rejection(2, "nan", "$.x", "the number is not finite"),
        Rejection(3, "type", "$.id", "the text is no UTF-8"),
        Rejection(4, "type", "$.at", "Expected `datetime`, got `null`"),
    ]


def test_claims_beyond_the_bytes_cost_nothing() -> None:
    huge = b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"
    deep = b"\x9b\x06" * 100_000
    often = b"\x48\x01" * 100_000
    many = _fact() + b"\xa2\x06\x00" * 100_000
    found = _decode(
        _source(n=tl.Int64), b"\x0a" + huge, deep, often, many, b"\x07", b"\x00\x01", b"\x9b\x06\x9c\x06" + _fact()
    )
    assert found.indexes.tolist() == [3, 6]
    assert {one.code for one in found.rejections} == {"protobuf"}


def test_a_body_holds_messages_after_their_lengths(tmp_path: Path) -> None:
    source, now = _source(), 10
    hot = HotKeys(SqliteLog(tmp_path), source)
    value, late = _fact(tags=["x" * 200]), Fact(id="b")
    late.at.FromMicroseconds(10**9)
    body = len(value).to_bytes(1, "big").replace(bytes([len(value)]), bytes([len(value) & 127 | 128, len(value) >> 7]))
    body += value + bytes([late.ByteSize()]) + late.SerializeToString() + b"\0"
    found, values = sort_body(source, body, "application/x-protobuf", hot, now=now)
    assert found.accepted == {0: [value]}
    assert [(one.index, one.code) for one in found.rejected] == [(1, "future"), (2, "type")]
    assert values == [value, late.SerializeToString(), b""]
    text = b'{"id": "c", "at": "1970-01-01T00:00:00.000005Z"}'
    assert sort_body(source, text, "application/json", hot, now=now)[0].rejected == []
    for bad in (b"", b"\x05a", b"\xff\xff\xff\xff\xff\x01", b"\x80"):
        with pytest.raises(ContractError, match=r"does not end within|is empty"):
            sort_body(source, bad, "application/x-protobuf", hot, now=now)
    plain = EventSource("facts", schema={"id": tl.String, "at": tl.Timestamp}, event_time="at", event_id="id")
    with pytest.raises(ContractError, match="are json"):
        sort_body(plain, body, "application/x-protobuf", hot, now=now)


def test_a_value_is_written_in_words_and_back() -> None:
    form = open_transcriber(FORM, None)
    value = _fact(n=3, tags=["b"])
    plain = form.plain(value)
    assert plain == {"id": "a", "at": "1970-01-01T00:00:00.000005Z", "n": 3, "tags": ["b"]}
    assert form.value(plain) == value
    with pytest.raises(ContractError, match="does not fit the message"):
        form.value({"n": "many"})
    with pytest.raises(ContractError, match="no message"):
        form.plain(b"\x0a\x05")
