"""The rows of a request as a read takes them, and the keys by which the store knows their entities.

Law: rows of one entity have one key, which is encoded and asked for once, in however many rows it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import numpy as np

from trilane.features.algebra import Ints
from trilane.features.entity import Entity, encode_key

__all__ = ["Asked", "Keys", "Rows"]

Rows: TypeAlias = Sequence[msgspec.Struct]

_KNOWN = 100_000  # encoded keys that are remembered, of each entity


@dataclass(frozen=True, slots=True)
class Asked:
    """`size` checked rows as the columns of their inputs, of equal length: lists, or but for keys NumPy columns."""

    columns: Mapping[str, Sequence[Any]]
    size: int

    def __len__(self) -> int:
        return self.size

    def cut(self, start: int, stop: int) -> Asked:
        """Rows `start` up to `stop`."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        return Asked(columns, min(stop, self.size) - start)


class Keys:
    """Distinct keys of one entity among the rows, and which of them each row has."""

    def __init__(self, entity: Entity) -> None:
        self._names = entity.key_names
        self._get = attrgetter(*entity.key_names)
        self._known: dict[object, bytes] = {}

    def of(self, rows: Rows | Asked) -> tuple[list[bytes], Ints | None]:
        """Distinct encoded keys, and the position of each row's key among them; None if each row has its own."""
        if isinstance(rows, Asked):
            columns = [rows.columns[name] for name in self._names]
            values: list[Any] = list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))
        else:
            values = list(map(self._get, rows))
        places, known = dict.fromkeys(values), self._known
        try:
            keys = [known[value] for value in places]
        except KeyError:
            if len(known) > _KNOWN:
                known.clear()
            keys = [known.setdefault(value, self._encoded(value)) for value in places]
        if len(places) == len(values):
            return keys, None
        numbers = dict(zip(places, range(len(places)), strict=True))
        return keys, np.fromiter(map(numbers.__getitem__, values), np.int64, len(values))

    def _encoded(self, value: object) -> bytes:
        # No stored key is empty, so the key of a row whose entity is null finds nothing.
        return encode_key(value if isinstance(value, tuple) else (value,)) or b""
