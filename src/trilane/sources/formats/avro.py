"""Avro values as columns: bare, in single objects, or in the frames of a schema registry.

Laws: those of Decoder; a registry is asked once for each schema, never for each value; an id that it does not know is a
fault of the value, a registry that is silent is no fault of anybody's.
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import fastavro
import numpy as np
import pyarrow as pa
from fastavro.schema import SchemaParseException, UnknownType, fingerprint, to_parsing_canonical_form

from trilane.errors import ContractError
from trilane.sources.formats import container, framing
from trilane.sources.formats.avro_leaves import Schema
from trilane.sources.formats.avro_steps import Plan, plan, skip_one
from trilane.sources.formats.columns import Columns
from trilane.sources.formats.cursor import Cursor, Fault, Ints
from trilane.sources.formats.declaration import RELEASED_MARK, Format
from trilane.sources.formats.protocol import Decoded, Registered, Schemas, Unfit, joined
from trilane.types import Field

__all__ = ["AvroDecoder", "AvroTranscriber", "Parsed", "contained", "parsed"]

_BROKEN = Fault("avro", "$", "the bytes are no value of the schema")
_LEFT = Fault("avro", "$", "bytes follow the value")
_FAULTS = (ValueError, EOFError, IndexError, OverflowError, decimal.DecimalException, TypeError)
_PORTION = 8_192  # values that are read together: what they need fits the processor's cache
_WHOLE = "Send an object container as an Avro library writes it, whole"
_MARKER = b"\xc3\x01"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A schema that fastavro has checked, and the named types that it may refer to."""

    schema: Schema
    names: dict[str, Schema]

    @property
    def print(self) -> int:
        """The fingerprint by which single objects name it: CRC-64-AVRO of its canonical form."""
        canonical = to_parsing_canonical_form(self.schema)
        return int.from_bytes(bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")), "little")


def parsed(text: bytes | str, references: Sequence[tuple[str, str]] = ()) -> Parsed:
    """Reads a schema, after those that it refers to. Raises Unfit if it is none."""
    names: dict[str, Any] = {}
    try:
        for _, other in references:
            fastavro.parse_schema(json.loads(other), named_schemas=names)
        schema = fastavro.parse_schema(json.loads(text), named_schemas=names)
    except (
        ValueError,
        SchemaParseException,
        UnknownType,
        RecursionError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise Unfit("$", f"the schema is no Avro schema: {type(error).__name__}: {error}") from None
    return Parsed(schema, names)


class _Framed:
    """Which schema each value has, by the framing of the format."""

    def __init__(self, format_: Format, schemas: Schemas | None) -> None:
        self._format, self._schemas = format_, schemas
        self.declared = [parsed(one.content) for one in format_.schemas]
        self._by_print = {one.print: one for one in self.declared} if format_.framing == "single_object" else {}
        self._parsed: dict[int, Parsed] = {}

    def strip(self, cursor: Cursor) -> Ints:
        """Moves beyond the frames, and gives the numbers that they name schemas by (0: the declared one)."""
        if self._format.framing == "bare":
            return np.zeros(len(cursor.rows), np.int64)
        head, kind = (b"\0", ">u4") if self._format.by_registry else (_MARKER, "<i8")
        return framing.numbers(cursor, head, kind)

    def schema(self, number: int) -> Parsed:
        """The schema with this number. Raises Unfit if there is none, UnavailableError if it cannot be had now."""
        if self._format.framing == "bare":
            return self.declared[0]
        if self._format.framing == "single_object":
            number &= 2**64 - 1
            if number not in self._by_print:
                raise Unfit("$", "the value names a schema that is none of the declared ones")
            return self._by_print[number]
        if number not in self._parsed:
            found = framing.registered(self._schemas, number)
            if found is None:
                raise Unfit("$", f"the registry has no schema {number}")
            self._parsed[number] = self._read(found)
        return self._parsed[number]

    def newest(self) -> tuple[bytes, Parsed]:
        """The frame and the schema to write in. Raises SetupError or UnavailableError."""
        if self._format.by_registry:
            found = framing.newest(self._schemas, self._format)
            return b"\0" + found.id.to_bytes(4, "big"), self._read(found)
        one = self.declared[0]
        return b"" if self._format.framing == "bare" else _MARKER + one.print.to_bytes(8, "little"), one

    def _read(self, found: Registered) -> Parsed:
        if found.kind != "AVRO":
            raise Unfit("$", f"schema {found.id} of the registry is {found.kind}, not AVRO")
        return parsed(found.text, found.references)


class AvroDecoder:
    """Keeps the promise of Decoder. Raises Unfit if a declared schema does not fit the fields."""

    def __init__(self, fields: Sequence[Field], format_: Format, schemas: Schemas | None) -> None:
        self._fields, self._paths = tuple(fields), dict(format_.paths)
        self._framed = _Framed(format_, schemas)
        self._plans: dict[int, Plan | Fault] = {}
        self._shared = self._framed.declared[0].schema if self._framed.declared else None
        for one in self._framed.declared:
            self._plan_of(one)

    def decode(self, values: pa.Array) -> Decoded:
        starts = range(0, max(len(values), 1), _PORTION)
        return joined([(start, self._portion(values.slice(start, _PORTION))) for start in starts])

    def _portion(self, values: pa.Array) -> Decoded:
        cursor = Cursor.over(values, _BROKEN)
        columns = Columns(self._fields, cursor.texts)
        numbers = self._framed.strip(cursor)
        sound = cursor.texts.faulty < 0
        for number in np.unique(numbers[sound]).tolist():
            places = np.flatnonzero((numbers == number) & sound)
            whole = len(places) == len(numbers)
            part = cursor if whole else cursor.only(places)
            self._read(number, part, columns)
            if not whole:
                cursor.join(places, part)
        cursor.refuse(cursor.at < cursor.end, _LEFT)
        return columns.finish()

    def _read(self, number: int, cursor: Cursor, columns: Columns) -> None:
        found = self._plans.get(number)
        if found is None:
            try:
                found = self._plan_of(self._framed.schema(number))
                self._plans[number] = found
            except Unfit as error:
                # Not kept: a registry may get the schema later.
                found = Fault("schema", error.path, error.reason)
        if isinstance(found, Fault):
            cursor.texts.refuse(cursor.rows, found)
            cursor.at = cursor.end
        else:
            found.read(cursor, columns)

    def _plan_of(self, one: Parsed) -> Plan:
        return plan(one.schema, self._fields, self._paths, names=one.names, reader=self._shared)


class AvroTranscriber:
    """Keeps the promise of Transcriber."""

    def __init__(self, format_: Format, schemas: Schemas | None) -> None:
        self._framed = _Framed(format_, schemas)

    def plain(self, value: bytes) -> dict[str, Any]:
        value = value.removesuffix(RELEASED_MARK)
        one, at = self._schema(value)
        try:
            # Only what is known to end may be given to a reader that believes what lengths say.
            if skip_one(value, at, len(value), one.schema, one.names, made=True) != len(value):
                raise ValueError("bytes follow the value")
            found: Any = fastavro.schemaless_reader(io.BytesIO(value[at:]), one.schema, None)
        except _FAULTS as error:
            raise ContractError(f"the bytes are no value of the schema: {error}", where="$") from None
        plain: dict[str, Any] = _simple(found)
        return plain

    def value(self, plain: dict[str, Any], *, like: bytes | None = None) -> bytes:
        if like is None:
            frame, one = self._framed.newest()
        else:
            one, at = self._schema(like)
            frame = like[:at]
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, one.schema, _typed(plain, one.schema, one.names), strict_allow_default=True)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, decimal.DecimalException) as error:
            remedy = "Send what the writer's schema promises"
            raise ContractError(f"the event does not fit the schema: {error}", where="$", remedy=remedy) from None
        return frame + out.getvalue()

    def _schema(self, value: bytes) -> tuple[Parsed, int]:
        return framing.of_one(value, _BROKEN, lambda cursor: self._framed.strip(cursor).tolist(), self._framed.schema)


def contained(file: BinaryIO, *, where: str, whole: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of an object container file, one after the other. Raises ContractError for what is none.

    `whole`: how many bytes its blocks may have, unpacked.
    """
    try:
        said, mark = container.header(file)
        one = parsed(said.get("avro.schema", b""))
        if not isinstance(one.schema, dict) or one.schema.get("type") != "record":
            raise ValueError("its schema is no record")
        plan(one.schema, (), {}, names=one.names, reader=None)  # refuses a schema whose values have endless parts
        for count, block in container.blocks(file, said.get("avro.codec", b"null").decode(), mark, whole=whole):
            at = 0
            for _ in range(count):
                at = skip_one(block, at, len(block), one.schema, one.names, made=True)
            if at != len(block):
                raise ValueError("bytes follow the last record of a block")
            records = io.BytesIO(block)
            for _ in range(count):
                yield _simple(fastavro.schemaless_reader(records, one.schema, None))
    except Unfit as error:
        raise ContractError(f"this is no sound Avro file: {error.reason}", where=where, remedy=_WHOLE) from error
    except (*_FAULTS, SchemaParseException, UnknownType) as error:
        raise ContractError(f"this is no sound Avro file: {error}", where=where, remedy=_WHOLE) from error


def _simple(value: object) -> Any:  # noqa: ANN401
    """A decoded value in what JSON has; bytes in ISO 8859-1, as Avro's own JSON writes them."""
    if isinstance(value, dict):
        return {str(name): _simple(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_simple(inner) for inner in value]
    if isinstance(value, bytes):
        return value.decode("iso-8859-1")
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)


def _typed(value: Any, schema: Schema, names: dict[str, Schema]) -> Any:  # noqa: ANN401
    """A plain value as fastavro takes it. Raises ValueError and the like for what does not fit."""
    schema = names.get(schema, schema) if isinstance(schema, str) else schema
    if isinstance(schema, list):
        if value is None:
            return None
        inner = [branch for branch in schema if branch != "null"]
        return _typed(value, inner[0], names) if len(inner) == 1 else value
    kind = schema["type"] if isinstance(schema, dict) else schema
    logical = schema.get("logicalType", "") if isinstance(schema, dict) else ""
    if kind == "record":
        fields = {field["name"]: field["type"] for field in schema["fields"]}
        return {name: _typed(inner, fields[name], names) for name, inner in value.items() if name in fields}
    if kind == "array":
        return [_typed(inner, schema["items"], names) for inner in value]
    if kind == "map":
        return {name: _typed(inner, schema["values"], names) for name, inner in value.items()}
    return _leaf_of(value, kind, logical)


def _leaf_of(value: Any, kind: str, logical: str) -> Any:  # noqa: ANN401
    if isinstance(value, str):
        if "timestamp" in logical:
            return dt.datetime.fromisoformat(value)
        if logical == "date":
            return dt.datetime.fromisoformat(value).date()
        if logical == "uuid":
            return uuid.UUID(value)
        if kind in ("bytes", "fixed") and logical != "decimal":
            return value.encode("iso-8859-1")
    if logical == "decimal" and not isinstance(value, bool):
        return decimal.Decimal(str(value))
    if kind in ("float", "double") and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
