"""The bytes before a value that name its schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import pyarrow as pa

from trilane.errors import ContractError, SetupError
from trilane.sources.formats.cursor import Cursor, Fault, Ints
from trilane.sources.formats.declaration import Format
from trilane.sources.formats.protocol import Registered, Schemas, Unfit

__all__ = ["UNFRAMED", "newest", "numbers", "of_one", "registered"]

Name = TypeVar("Name")
Found = TypeVar("Found")

UNFRAMED = "the value names no schema: it does not begin as its framing says"


def numbers(cursor: Cursor, head: bytes, kind: str) -> Ints:
    """Moves beyond `head` and the number (of NumPy's type `kind`) behind it, and gives the numbers."""
    width = np.dtype(kind).itemsize
    short = cursor.end - cursor.at < len(head) + width
    found = cursor.words(len(head) + width)
    bad = short | (found[:, : len(head)] != np.frombuffer(head, np.uint8)).any(axis=1)
    if bad.any():
        # First of all: a short value has been called broken by the move.
        places = cursor.rows[bad]
        cursor.texts.faulty[places] = -1
        cursor.texts.refuse(places, Fault(cursor.broken.code, "$", UNFRAMED))
    return np.ascontiguousarray(found[:, len(head) :]).view(kind)[:, 0].astype(np.int64)


def of_one(
    value: bytes, broken: Fault, strip: Callable[[Cursor], Iterable[Name]], find: Callable[[Name], Found]
) -> tuple[Found, int]:
    """The schema that one value names, and where its frame ends. Raises ContractError if none is known by that name."""
    cursor = Cursor.over(pa.array([value], pa.binary()), broken)
    [name] = strip(cursor)
    if cursor.texts.faulty[0] >= 0:
        raise ContractError(UNFRAMED, where="$", remedy="Give the whole event with --payload FILE")
    try:
        return find(name), int(cursor.at[0])
    except Unfit as error:
        raise ContractError(error.reason, where=error.path, remedy="Register the schema") from None


def registered(schemas: Schemas | None, number: int) -> Registered | None:
    """The schema with this id, of the registry that is configured. Raises SetupError if none is."""
    if schemas is None:
        remedy = 'Set schema_registry = "http://..." in trilane.toml'
        raise SetupError("no schema registry is configured", where="schema_registry", remedy=remedy)
    return schemas.find(number)


def newest(schemas: Schemas | None, format_: Format) -> Registered:
    """The schema in which values are written. Raises SetupError or UnavailableError."""
    if schemas is None or not format_.subject:
        remedy = f'Write tl.{format_.kind}(subject="...-value"), and set schema_registry in trilane.toml'
        raise SetupError("it is not known which schema to write in", where="subject", remedy=remedy)
    return schemas.latest(format_.subject)
