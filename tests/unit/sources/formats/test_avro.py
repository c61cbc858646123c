"""Framings, evolution of schemas, what does not fit, and values that claim more than they hold."""

from __future__ import annotations

import datetime as dt
import io
import json
import struct
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import fastavro
import pyarrow as pa
import pytest

import trilane as tl
from tests.registry import Registry, registry
from trilane.contract import Rejection
from trilane.errors import ContractError, DefinitionError, SetupError, UnavailableError
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.declaration import Format
from trilane.sources.formats.opening import open_transcriber
from trilane.sources.formats.protocol import Decoded
from trilane.sources.schema_registry import SchemaRegistry

MICROS = {"type": "long", "logicalType": "timestamp-micros"}
FIELDS: dict[str, Any] = {"id": tl.String, "at": tl.Timestamp, "x": tl.Float64 | None}


def _schema(*fields: tuple[str, object], **more: object) -> dict[str, Any]:
    listed = [{"name": name, "type": kind} for name, kind in (("id", "string"), ("at", MICROS), *fields)]
    return {"type": "record", "name": "Fact", "fields": listed, **more}


def _source(form: Format | str, **more: object) -> EventSource:
    return EventSource("facts", schema={**FIELDS, **more}, event_time="at", event_id="id", format=form)


def _bytes(schema: object, **fact: object) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {"id": "a", "at": 5, **fact})  # type: ignore[arg-type]
    return out.getvalue()


def _decoded(source: EventSource, *values: bytes, schemas: Any = None) -> Decoded:
    return decoder_of(source, schemas).decode(pa.array(values, pa.binary()))


def _framed(number: int, value: bytes) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + value


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry() as found:
        yield found


@pytest.fixture
def schemas(server: Registry, tmp_path: Path) -> Iterator[SchemaRegistry]:
    found = SchemaRegistry(server.url, tmp_path)
    yield found
    found.close()


def test_each_value_is_read_by_the_schema_that_it_names(server: Registry, schemas: SchemaRegistry) -> None:
    old, new = _schema(), _schema(("x", "int"), ("more", {"type": "array", "items": "long"}))
    one, two = server.register("facts-value", old), server.register("facts-value", new)
    values = [_framed(one, _bytes(old)), _framed(two, _bytes(new, x=3, more=[1, 2])), _framed(one, _bytes(old, id="c"))]
    found = _decoded(_source("avro"), *values * 3000, schemas=schemas)
    assert found.table.num_rows == 9000
    assert found.table.column("x").to_pylist()[:3] == [None, 3.0, None]
    assert found.table.column("id").to_pylist()[-3:] == ["a", "a", "c"]
    assert len(server.asked) == 2


def test_an_unknown_id_is_poison_and_a_silent_registry_is_not(server: Registry, schemas: SchemaRegistry) -> None:
    number = server.register("facts-value", _schema())
    source, good = _source("avro"), _framed(1, _bytes(_schema()))
    found = _decoded(source, good, _framed(77, b"x"), b"{}", b"", b"\0\0\0", schemas=schemas)
    assert found.indexes.tolist() == [0]
    unframed = "the value names no schema: it does not begin as its framing says"
    assert found.rejections == [
        Rejection(1, "schema", "$", "the registry has no schema 77"),
        *[Rejection(place, "avro", "$", unframed) for place in (2, 3, 4)],
    ]
    server.status = 500
    assert _decoded(source, good, schemas=schemas).table.num_rows == number
    with pytest.raises(UnavailableError, match="does not answer"):
        _decoded(source, good, _framed(78, b"x"), schemas=schemas)
    with pytest.raises(SetupError, match="no schema registry is configured"):
        _decoded(source, good)


def test_a_schema_that_does_not_fit_refuses_its_values_with_the_path(server: Registry, schemas: SchemaRegistry) -> None:
    server.register("a", {"type": "record", "name": "Fact", "fields": [{"name": "at", "type": MICROS}]})
    server.register("a", _schema(("x", "string")))
    server.register("a", '{"type": "nonsense"}')
    server.register("a", "message M {}", kind="JSON")
    found = _decoded(_source("avro"), *[_framed(number, b"") for number in range(1, 5)], schemas=schemas)
    assert [(one.code, one.path) for one in found.rejections] == [
        ("schema", "$.id"),
        ("schema", "$.x"),
        ("schema", "$"),
        ("schema", "$"),
    ]


def test_single_objects_name_any_of_the_declared_schemas() -> None:
    old, new = _schema(), _schema(("x", ["null", "double"]))
    values = []
    for schema, fact in ((old, {}), (new, {"x": 2.5})):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {"id": "a", "at": 5, **fact})
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        mark = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        values.append(b"\xc3\x01" + mark + out.getvalue())
    source = _source(tl.avro(new, old, framing="single_object"))
    found = _decoded(source, *values, b"\xc3\x01" + bytes(8), b"\xc3")
    assert found.table.column("x").to_pylist() == [None, 2.5]
    assert [one.code for one in found.rejections] == ["schema", "avro"]
    assert (
        open_transcriber(source.format, None).value({"id": "a", "at": "1970-01-01T00:00:00.000005Z", "x": 2.5})
        == values[1]
    )


def test_defaults_and_aliases_of_the_reader_count(server: Registry, schemas: SchemaRegistry) -> None:
    reader = _schema()
    reader["fields"] += [
        {"name": "x", "type": "double", "default": 1.5},
        {"name": "city", "type": "string", "default": "Zürich"},
        {"name": "n", "type": "long", "aliases": ["count"]},
    ]
    writer = _schema(("count", "int"))
    server.register("facts-value", writer)
    source = _source(tl.avro(reader, framing="registry"), city=tl.String, n=tl.Int64)
    [row] = _decoded(source, _framed(1, _bytes(writer, count=4)), schemas=schemas).table.to_pylist()
    assert (row["x"], row["city"], row["n"]) == (1.5, "Zürich", 4)


@pytest.mark.parametrize(
    ("field", "kind", "message"),
    [
        (tl.Float64, "string", r"string in the schema cannot be read as float64"),
        (tl.Int64, "double", "double in the schema cannot be read as int64"),
        (tl.Timestamp, "long", "long in the schema cannot be read as timestamp"),
        (tl.Int64, MICROS, r"long \(timestamp-micros\) in the schema cannot be read as int64"),
        (tl.String, {"type": "array", "items": "string"}, "array in the schema cannot be read as string"),
        (tl.Float64, {"type": "record", "name": "R", "fields": []}, "it is a record in the schema; name one"),
        (tl.Bool, ["null", "int"], "int in the schema cannot be read as bool"),
    ],
)
def test_a_declared_schema_that_does_not_fit_is_told_at_definition(field: Any, kind: object, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        _source(tl.avro(_schema(("f", kind))), f=field)


def test_faulty_declarations_are_told(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="which may not be null"):
        _source(tl.avro(_schema()), y=tl.Int64)
    with pytest.raises(DefinitionError, match="paths names 'z'"):
        _source(tl.avro(_schema(), paths={"z": "id"}))
    with pytest.raises(DefinitionError, match="no Avro schema"):
        _source(tl.avro({"type": "record"}))
    with pytest.raises(DefinitionError, match="cannot be read"):
        tl.avro("missing.avsc")
    with pytest.raises(DefinitionError, match="does not say which schema"):
        tl.avro(_schema(), _schema())
    with pytest.raises(DefinitionError, match="needs a schema"):
        tl.avro(framing="single_object")
    with pytest.raises(DefinitionError, match="there is no format 'xml'"):
        _source("xml")
    with pytest.raises(DefinitionError, match="a subject is of a registry"):
        tl.avro(_schema(), subject="a")


def test_constraints_and_bounds_are_kept_as_of_json() -> None:
    schema = _schema(("x", "double"), ("n", "long"), ("code", "string"))
    source = _source(
        tl.avro(schema),
        x=tl.Float64,
        n=Annotated[tl.Int64, tl.check(ge=0)],
        code=Annotated[tl.String, tl.check(pattern="^[a-z]+$")],
        at=Annotated[tl.Timestamp, tl.check(ge="1970-01-01T00:00:00Z")],
    )

    def value(**fact: Any) -> bytes:
        facts: dict[str, Any] = {"x": 1.0, "n": 1, "code": "a", **fact}
        return _bytes(schema, **facts)

    bad: list[dict[str, Any]] = [
        {"n": -1},
        {"code": "7"},
        {"at": -1},
        {"x": float("nan")},
        {"x": float("-inf")},
        {"n": -(2**63)},
    ]
    found = _decoded(source, value(), *[value(**fact) for fact in bad], value(at=-(2**63)))
    assert found.indexes.tolist() == [0]
    assert [(one.code, one.path, one.reason) for one in found.rejections] == [
        ("type", "$.n", "Expected `int` >= 0"),
        ("type", "$.code", "Expected `str` matching regex '^[a-z]+$'"),
        ("type", "$.at", "Expected `timestamp` >= 1970-01-01T00:00:00Z"),
        ("nan", "$.x", "the number is not finite"),
        ("nan", "$.x", "the number is not finite"),
        ("type", "$.n", "Expected `int` >= -9223372036854775807"),
        ("type", "$.at", "the instant lies outside the years 1 to 9999"),
    ]


def test_a_text_may_be_an_instant_as_in_json() -> None:
    schema = {"type": "record", "name": "F", "fields": [{"name": name, "type": "string"} for name in ("id", "at")]}
    texts = ["2026-03-02T00:00:00Z", "2026-03-02T01:00:00.5+01:00", "yesterday"]
    values = [bytes([2, 97, len(text) * 2]) + text.encode() for text in texts]
    found = _decoded(_source(tl.avro(schema)), *values)
    assert [when.isoformat() for when in found.table.column("at").to_pylist()] == [
        "2026-03-02T00:00:00+00:00",
        "2026-03-02T00:00:00.500000+00:00",
    ]
    assert [(one.index, one.code, one.path) for one in found.rejections] == [(2, "type", "$.at")]


def test_claims_beyond_the_bytes_cost_nothing() -> None:
    huge = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2**63 - 1
    nulls = _schema(("many", {"type": "array", "items": "null"}))
    assert _decoded(_source(tl.avro(nulls)), b"\x02a\x0a" + huge + b"\0").table.num_rows == 1
    ends = [b"\x02a\x0a" + huge, b"\x02a\x0a" + huge + b"\x02", huge + b"a", b"\x02a" + b"\xff" * 30]
    longs = _schema(("many", {"type": "array", "items": "long"}))
    assert {one.code for one in _decoded(_source(tl.avro(longs)), *ends).rejections} == {"avro"}
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    deep = b"\x02a\x0a" + b"\x02" * 100_000 + b"\0"
    assert [one.code for one in _decoded(_source(tl.avro(_schema(("node", node)))), deep).rejections] == ["avro"]
    with pytest.raises(ContractError, match="too deep"):
        open_transcriber(tl.avro(_schema(("node", node))), None).plain(deep)


def test_a_block_that_is_skipped_has_the_size_that_it_says() -> None:
    source = _source(tl.avro(_schema(("tags", {"type": "array", "items": "string"}))))
    one, broken = b"\x02b", b"\x05b"  # a text of one byte, and of a length below none
    true, false, lying = b"\x01\x04" + one, b"\x01\x04" + broken, b"\x01\x06" + one + b"\0"
    found = _decoded(source, *(b"\x02a\x0a" + block + b"\0" for block in (true, false, lying)))
    assert found.indexes.tolist() == [0]
    assert [(one.index, one.code) for one in found.rejections] == [(1, "avro"), (2, "avro")]


def test_a_schema_that_unfolds_without_end_is_refused() -> None:
    inner: object = "null"
    for level in range(40):
        fields = [{"name": "a", "type": inner}, {"name": "b", "type": f"L{level - 1}" if level else "null"}]
        inner = {"type": "record", "name": f"L{level}", "fields": fields}
    for kind in (inner, {"type": "array", "items": inner}):
        with pytest.raises(DefinitionError, match="too large"):
            _source(tl.avro(_schema(("bomb", kind))))


def test_what_one_field_is_in_a_union_may_not_fit() -> None:
    schema = _schema(("x", ["null", "double", "string"]))
    found = _decoded(_source(tl.avro(schema)), _bytes(schema, x=1.0), _bytes(schema, x="1"), _bytes(schema, x=None))
    assert found.table.column("x").to_pylist() == [1.0, None]
    assert found.rejections == [Rejection(1, "type", "$.x", "string in the schema cannot be read as float64")]


def test_uuids_decimals_and_broken_texts() -> None:
    schema = _schema(
        ("u", {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}),
        ("d", {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 30}),
    )
    source = _source(tl.avro(schema), u=tl.String, d=tl.Float64)
    parts = [b"\x02a\x0a", bytes(range(16)), b"\x04\x01\x00"]
    found = _decoded(source, b"".join(parts), b"".join([b"\x02\xff\x0a", *parts[1:]]), b"".join([*parts[:2], b"\0"]))
    [first, third] = found.table.to_pylist()
    assert (first["u"], first["d"], third["d"]) == ("00010203-0405-0607-0809-0a0b0c0d0e0f", 2.56e-28, 0.0)
    assert found.rejections == [Rejection(1, "type", "$.id", "the text is no UTF-8")]


def test_a_value_is_written_in_words_and_back() -> None:
    schema = _schema(
        ("x", ["null", "double"]),
        ("raw", "bytes"),
        ("price", {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}),
        ("day", {"type": "int", "logicalType": "date"}),
        ("tags", {"type": "map", "values": {"type": "array", "items": "int"}}),
    )
    form = open_transcriber(tl.avro(schema), None)
    fact: dict[str, Any] = {
        "raw": b"\xff",
        "price": Decimal("1.25"),
        "day": dt.date(2026, 3, 2),
        "tags": {"a": [1]},
        "x": None,
    }
    value = _bytes(schema, **fact)
    plain = form.plain(value)
    assert plain["tags"] == {"a": [1]}
    assert (plain["price"], plain["day"], plain["raw"]) == (1.25, "2026-03-02", "ÿ")
    assert form.value(plain, like=value) == form.value(plain) == value
    with pytest.raises(ContractError, match="does not fit the schema"):
        form.value({"id": 5})
    with pytest.raises(ContractError, match="no value of the schema"):
        form.plain(struct.pack("q", 7))


def test_a_schema_may_lie_in_a_file_beside_the_definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "facts.avsc"
    outside.write_text(json.dumps(_schema()))
    found = tl.avro(outside)
    assert found == tl.avro(str(outside))
    assert found.spec()["schemas"] == [found.schemas[0].digest]
