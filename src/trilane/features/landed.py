"""Rows of batch versions to feature values, many rows and features at a time.

A batch row holds one record for each window, in their order, so a row is as long as every other: what features of one
kind need is a few strided columns of all rows laid end to end, and nothing has to be searched or summed.

Law: the values are those that the general way of `TileLayout` gives, bit for bit; what is laid out otherwise is left
to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trilane.features import operation
from trilane.features.algebra import Array, Floats
from trilane.features.answering import Read
from trilane.features.operation import Kept
from trilane.features.row import RowFormat

__all__ = ["Landed"]


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a feature's states: its type, and where it lies in a row."""

    dtype: str
    offset: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Alike features: `first` are the parts of the first, by state; those of each other lie by `steps` further."""

    read: Read
    columns: slice | list[int]
    width: int
    first: tuple[tuple[_Part, ...], ...]
    steps: tuple[int, ...]


class Landed:
    """Reads the rows of one batch view; `length`: the bytes of a row."""

    def __init__(self, groups: Sequence[_Group], length: int, features: int) -> None:
        self._groups, self.length, self._features = groups, length, features

    @staticmethod
    def of(kept: Sequence[Kept], reads: Sequence[Read], form: RowFormat, windows: int) -> Landed | None:
        """The way to read a view's rows; None if a state has no fixed size, or a value comes from others or ages."""
        if form.bags or any(read.over or read.op.startswith("time_") for read in reads):
            return None
        alike: dict[object, list[int]] = {}
        for column, read in enumerate(reads):
            states = tuple(kept[state].state for state in read.states)
            alike.setdefault((read.op, read.kind, states), []).append(column)
        groups = [group for columns in alike.values() for group in _groups(kept, reads, columns, form)]
        return Landed(groups, windows * form.record.itemsize, len(reads))

    def read(self, rows: Sequence[bytes]) -> Floats | None:
        """Values [rows, features] without defaults, NaN where there is none; None if a row has another length."""
        if set(map(len, rows)) != {self.length}:
            return None
        joined, size = b"".join(rows), len(rows)
        values = np.empty((size, self._features))
        instants = np.zeros(0, np.int64)  # nothing that is read here looks at them
        for group in self._groups:
            steps = iter(group.steps)
            states = [
                tuple([self._strided(part, next(steps), joined, size, group.width) for part in state])
                for state in group.first
            ]
            found = operation.finish(group.read.op, group.read.options, states, group.read.kind, instants)
            values[:, group.columns] = found.reshape(size, group.width)
        return values

    def _strided(self, part: _Part, step: int, joined: bytes, size: int, width: int) -> Array:
        """A part of all rows and features of a group, row after row."""
        found: Array = np.ndarray((size, width), part.dtype, joined, part.offset, (self.length, step))
        return found.reshape(-1)


def _groups(kept: Sequence[Kept], reads: Sequence[Read], columns: Sequence[int], form: RowFormat) -> Iterator[_Group]:
    """Alike features, cut where their parts stop lying in equal steps."""
    parts = [_parts(kept, reads[column], form) for column in columns]
    flat = [[part.offset for state in states for part in state] for states in parts]
    gaps = [tuple(b - a for a, b in zip(one, other, strict=True)) for one, other in itertools.pairwise(flat)]
    start = 0
    while start < len(columns):
        stop = start + 1
        while stop < len(columns) and gaps[stop - 1] == gaps[start]:
            stop += 1
        chosen = [*columns[start:stop]]
        in_a_row = chosen == [*range(chosen[0], chosen[0] + len(chosen))]
        yield _Group(
            reads[chosen[0]],
            slice(chosen[0], chosen[-1] + 1) if in_a_row else chosen,
            len(chosen),
            parts[start],
            gaps[start] if len(chosen) > 1 else (0,) * len(flat[start]),
        )
        start = stop


def _parts(kept: Sequence[Kept], read: Read, form: RowFormat) -> tuple[tuple[_Part, ...], ...]:
    record = form.record
    fields: Mapping[str, Any] = record.fields or {}
    start = read.window * record.itemsize
    states = []
    for position in read.states:
        kinds = [kind for _, kind in kept[position].state.parts] if kept[position].bag is None else []
        states.append(
            tuple(
                _Part(kind, start + fields[field][1] + max(place, 0) * np.dtype(kind).itemsize)
                for kind, (field, place) in zip(kinds, form.parts[position], strict=True)
            )
        )
    return tuple(states)
