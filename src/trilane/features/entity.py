"""Entities: what features are about, and the bytes by which a store knows one."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from trilane.clock import instant
from trilane.errors import DefinitionError
from trilane.types import Field, as_field

__all__ = ["Entity", "encode_key"]

_LONGEST_KEY = 256


@dataclass(frozen=True, init=False)
class Entity:
    """What features are about, and the columns that identify one.

    >>> from trilane.types import String
    >>> Entity("route", origin=String, dest=String).key_names
    ('origin', 'dest')
    """

    name: str
    keys: tuple[Field, ...]

    def __init__(self, name: str, **keys: object) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "keys", tuple(as_field(key, annotation) for key, annotation in keys.items()))
        if not self.keys:
            raise DefinitionError(
                "an entity needs at least one key column",
                where=f"entity {name!r}",
                remedy=f'Write tl.Entity("{name}", {name}_id=tl.String)',
            )
        for key in self.keys:
            if key.dtype.name == "float64":
                raise DefinitionError(
                    f"key {key.name!r} is a float, which cannot identify anything",
                    where=f"entity {name!r}",
                    remedy="Use tl.String or tl.Int64",
                )

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of the key columns, in order."""
        return tuple(key.name for key in self.keys)

    def spec(self) -> dict[str, object]:
        """The entity as plain facts."""
        return {"kind": "entity", "name": self.name, "keys": [key.spec() for key in self.keys]}


def encode_key(values: Sequence[object]) -> bytes | None:
    """The bytes under which a store keeps the entity with these key values; None if one of them is null.

    Injective: different tuples of one entity give different bytes. Long keys are replaced by their BLAKE2b digest.
    """
    if len(values) == 1 and type(values[0]) is str:
        key = values[0].encode()
    else:
        parts = []
        for value in values:
            if value is None:
                return None
            parts.append(_encode_value(value))
        key = b"".join(parts)
    if len(key) > _LONGEST_KEY:
        return b"\xff\xff" + hashlib.blake2b(key, digest_size=32).digest()
    return key or b"\xff\xfe"


def _encode_value(value: object) -> bytes:
    if isinstance(value, str):
        raw = value.encode()
        return (
            struct.pack(">H", len(raw) & 0xFFFF) + raw
            if len(raw) < 0xFFFF
            else struct.pack(">HI", 0xFFFF, len(raw)) + raw
        )
    if isinstance(value, bool | int):
        return struct.pack(">q", int(value))
    if isinstance(value, dt.datetime):
        return struct.pack(">q", instant(value))
    raise DefinitionError(f"{value!r} cannot be part of a key", remedy="Use a string, an integer or an instant")
