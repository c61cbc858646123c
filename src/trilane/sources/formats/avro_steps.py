"""From a writer's Avro schema to the steps that read the wanted fields of many values at once, by Avro's resolution.

Laws: a schema that a source cannot be read from is refused with the path to the reason; a step reads each value within
its own bytes, in time that grows with them, however deep or long they claim to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from trilane.sources.formats.avro_leaves import WIDTHS, Schema, Step, leaf
from trilane.sources.formats.columns import Columns
from trilane.sources.formats.cursor import Cursor, Fault
from trilane.sources.formats.protocol import Unfit
from trilane.types import Field

__all__ = ["Plan", "plan", "skip_one"]

_Wanted: TypeAlias = Mapping[str, "Field | _Wanted"]

_MOST_STEPS, _DEEPEST = 10_000, 64
_OF_NOTHING = 8  # items that take no byte: a reader would make as many as it is told


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one writer's schema; `constants`: fields that the writer lacks and the reader has a default for."""

    step: Step
    constants: tuple[tuple[Field, Any], ...]

    def read(self, cursor: Cursor, columns: Columns) -> None:
        """Reads one value of each place of `cursor`."""
        self.step(cursor, columns)
        for field, constant in self.constants:
            if isinstance(constant, str):
                columns.put_text(field.name, cursor.rows, constant)
            else:
                columns.put(field.name, cursor.rows, np.full(len(cursor.rows), constant))


def plan(
    writer: Schema,
    fields: Sequence[Field],
    paths: Mapping[str, str],
    *,
    names: Mapping[str, Schema],
    reader: Schema | None = None,
) -> Plan:
    """The plan for values of `writer` (parsed by fastavro), which may refer to `names`.

    `paths`: where a field lies, if not under its own name; `reader`: a schema whose aliases and defaults count. Raises
    Unfit.
    """
    known = {field["name"]: field for field in reader["fields"]} if reader and _is_record(reader) else {}
    if not _is_record(writer):
        raise Unfit("$", "the schema is no record")
    there = {field["name"] for field in writer["fields"]}
    wanted: dict[str, Any] = {}
    constants = []
    for field in fields:
        way = paths.get(field.name, field.name).split(".")
        promised = known.get(way[0], {})
        way[0] = next((name for name in (way[0], *promised.get("aliases", ())) if name in there), way[0])
        if way[0] in there:
            place = wanted
            for name in way[:-1]:
                place = place.setdefault(name, {})
                if isinstance(place, Field):
                    raise Unfit(f"$.{field.name}", "a path leads through another field")
            place[way[-1]] = field
        elif "default" in promised and len(way) == 1:
            constants += [(field, value) for value in _default(field, promised)]
        elif not field.nullable:
            raise Unfit(f"$.{field.name}", f"the schema has no field {'.'.join(way)!r}, which may not be null")
    return Plan(_Maker(names).record(writer, wanted, "$"), tuple(constants))


def _is_record(schema: Schema) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "record"


def _default(field: Field, promised: Mapping[str, Any]) -> Iterator[Any]:
    value, kind = promised["default"], field.dtype.name
    kinds: dict[str, tuple[type, ...]] = {"string": (str,), "float64": (int, float), "int64": (int,), "bool": (bool,)}
    fitting = kinds.get(kind, ())
    if value is None and field.nullable:
        return
    if not isinstance(value, fitting) or (isinstance(value, bool) and kind != "bool"):
        raise Unfit(f"$.{field.name}", f"the reader's default {value!r} is no {kind}")
    yield float(value) if kind == "float64" else value  # type: ignore[arg-type]


class _Maker:
    """Makes the steps of one schema; `names`: its named types; `within`: those around the place at hand."""

    def __init__(self, names: Mapping[str, Schema]) -> None:
        self._names: dict[str, Schema] = dict(names)
        self._within: list[str] = []
        self._weights: dict[str, int] = {}
        self._steps = 0

    def record(self, schema: Schema, wanted: _Wanted, path: str) -> Step:
        """Reads the wanted fields of a record, and passes over the others."""
        self._names[schema["name"]] = schema
        if schema["name"] in self._within:
            if wanted:
                raise Unfit(path, f"the record {schema['name']!r} holds itself")
            self._weight(schema)
            return self._one_by_one(schema)
        self._within.append(schema["name"])
        steps = []
        missing = set(wanted) - {field["name"] for field in schema["fields"]}
        for field in (one for name in missing for one in _leaves(wanted[name])):
            if not field.nullable:
                raise Unfit(f"$.{field.name}", f"the schema has no such field in {path}")
        for field in schema["fields"]:
            target = wanted.get(field["name"])
            steps.append(self._any(field["type"], target, f"{path}.{field['name']}"))
        self._within.pop()

        def read(cursor: Cursor, columns: Columns) -> None:
            for step in steps:
                step(cursor, columns)

        return read

    def _any(self, schema: Schema, target: Field | _Wanted | None, path: str) -> Step:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise Unfit(path, "the schema is too large")
        if isinstance(schema, list):
            return self._union(schema, target, path)
        if isinstance(schema, str) and schema in self._names:
            schema = self._names[schema]
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(kind, dict | list):
            return self._any(kind, target, path)
        if isinstance(schema, dict) and kind in ("enum", "fixed"):
            self._names[schema["name"]] = schema
        if kind == "record":
            if isinstance(target, Field):
                remedy = f"name one of its fields in paths: {{{target.name!r}: '{path[2:]}.<field>'}}"
                raise Unfit(f"$.{target.name}", f"it is a record in the schema; {remedy}")
            return self.record(schema, target or {}, path)
        if isinstance(target, Mapping):
            raise Unfit(path, f"it is of type {kind} in the schema, no record")
        if target is not None:
            return leaf(schema, kind, target)
        return self._skip(schema, kind)

    def _union(self, branches: Sequence[Schema], target: Field | _Wanted | None, path: str) -> Step:
        readers: list[Step] = []
        unfit: list[Unfit] = []
        for branch in branches:
            try:
                readers.append(self._any(branch, None if branch == "null" else target, path))
            except Unfit as error:
                unfit.append(error)
                readers.append(_refusing(Fault("type", error.path, error.reason), self._any(branch, None, path)))
        if unfit and len(unfit) >= sum(branch != "null" for branch in branches):
            raise unfit[0]

        def read(cursor: Cursor, columns: Columns) -> None:
            branch = cursor.zigzag()
            cursor.refuse((branch < 0) | (branch >= len(readers)))
            if len(branch) and (branch == branch[0]).all():
                if 0 <= branch[0] < len(readers):
                    readers[branch[0]](cursor, columns)
                return
            for number, reader in enumerate(readers):
                places = np.flatnonzero(branch == number)
                if len(places):
                    part = cursor.only(places)
                    reader(part, columns)
                    cursor.join(places, part)

        return read

    def _skip(self, schema: Schema, kind: str) -> Step:
        if kind in ("array", "map"):
            self._weight(schema)
            return self._one_by_one(schema)
        if kind in ("int", "long", "enum"):
            return lambda cursor, _: _drop(cursor.zigzag())
        if kind in ("bytes", "string"):
            return lambda cursor, _: _drop(cursor.span(cursor.zigzag()))
        width = schema["size"] if kind == "fixed" else WIDTHS[kind]
        return lambda cursor, _: cursor.skip(width)

    def _weight(self, schema: Schema, within: tuple[str, ...] = ()) -> int:
        """How many parts a value has at least, if none of its arrays has more than one item; learns the named types."""
        if isinstance(schema, list):
            return 1 + max((self._weight(branch, within) for branch in schema), default=0)
        if isinstance(schema, str):
            return 1 if schema in within or schema not in self._names else self._named(schema, within)
        inner = [
            schema[part] for part in ("items", "values", "type") if isinstance(schema.get(part), dict | list | str)
        ]
        if schema.get("type") in ("record", "enum", "fixed"):
            self._names[schema["name"]] = schema
            return self._named(schema["name"], within)
        return 1 + sum(self._weight(part, within) for part in inner if part != schema)

    def _named(self, name: str, within: tuple[str, ...]) -> int:
        if name not in self._weights:
            parts = self._names[name].get("fields", ())
            self._weights[name] = 1 + sum(self._weight(part["type"], (*within, name)) for part in parts)
        if self._weights[name] > _MOST_STEPS:
            raise Unfit("$", f"the schema is too large: {name!r} has too many parts")
        return self._weights[name]

    def _one_by_one(self, schema: Schema) -> Step:
        names = self._names

        def read(cursor: Cursor, _: Columns) -> None:
            plain, ends = cursor.texts.plain, cursor.end.tolist()
            bad = np.zeros(len(ends), bool)
            for place, at in enumerate(cursor.at.tolist()):
                try:
                    cursor.at[place] = skip_one(plain, at, ends[place], schema, names)
                except ValueError:
                    bad[place] = True
                    cursor.at[place] = ends[place]
            cursor.refuse(bad)

        return read


def _leaves(wanted: Field | _Wanted) -> Iterator[Field]:
    if isinstance(wanted, Field):
        yield wanted
    else:
        for inner in wanted.values():
            yield from _leaves(inner)


def _drop(_: object) -> None:
    """What was read is not wanted."""


def _refusing(fault: Fault, skip: Step) -> Step:
    def read(cursor: Cursor, columns: Columns) -> None:
        cursor.refuse(np.ones(len(cursor.rows), bool), fault)
        skip(cursor, columns)

    return read


def skip_one(
    plain: bytes, at: int, end: int, schema: Schema, names: Mapping[str, Schema], depth: int = 0, *, made: bool = False
) -> int:
    """Where one value of `schema` that begins at `at` ends. Raises ValueError if it does not end by `end`.

    `made`: it will be given to a reader that believes what lengths say, and so may not claim more than its bytes hold.
    """
    if depth > _DEEPEST:
        raise ValueError("too deep")
    if isinstance(schema, str) and schema in names:
        schema = names[schema]
    if isinstance(schema, list):
        branch, at = _long(plain, at, end)
        if not 0 <= branch < len(schema):
            raise ValueError("no such branch")
        return skip_one(plain, at, end, schema[branch], names, depth + 1, made=made)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(kind, dict | list):
        return skip_one(plain, at, end, kind, names, depth + 1, made=made)
    if kind == "record":
        for field in schema["fields"]:
            at = skip_one(plain, at, end, field["type"], names, depth + 1, made=made)
        return at
    if kind in ("array", "map"):
        return _skip_blocks(plain, at, end, schema, names, depth, made=made)
    if kind in ("int", "long", "enum"):
        return _long(plain, at, end)[1]
    if kind in ("bytes", "string"):
        length, at = _long(plain, at, end)
    else:
        length = schema["size"] if kind == "fixed" else WIDTHS[kind]
    if not 0 <= length <= end - at:
        raise ValueError("too long")
    return at + length


def _skip_blocks(
    plain: bytes, at: int, end: int, schema: Schema, names: Mapping[str, Schema], depth: int, *, made: bool
) -> int:
    items = schema["items"] if schema["type"] == "array" else ["string", schema["values"]]
    parts = [items] if schema["type"] == "array" else items
    while True:
        count, at = _long(plain, at, end)
        if count == 0:
            return at
        said = None
        if count < 0:
            size, at = _long(plain, at, end)
            if not 0 <= size <= end - at:
                raise ValueError("too long")
            # Looked at all the same, though it is only skipped: of a size that lies some readers would not know.
            said, count = at + size, -count
        for done in range(count):
            began = at
            for part in parts:
                at = skip_one(plain, at, end, part, names, depth + 1, made=made)
            if at == began and not done:
                if made and count > _OF_NOTHING:
                    raise ValueError("too many items without a byte")
                break  # items without bytes: as many as it likes
        if said not in (None, at):
            raise ValueError("the items have another size")


def _long(plain: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = plain[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise ValueError("no end")
