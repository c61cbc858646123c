"""How the tiles of one entity lie in a row of the store: fixed records, and a heap of what has no fixed size.

A view without bags has rows of packed records and nothing else. With bags a row is: the number of records (4 bytes),
the records, each with the number of its items for each bag, and a heap: for each bag the items of all records in order.
Law: equal states give equal bytes, and decoding loses nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.features import ragged
from trilane.features.algebra import Columns, Ints
from trilane.features.operation import Kept
from trilane.features.ragged import Bag, Ragged

__all__ = ["RowFormat", "Tiles"]

_WORD, _LIMB, _LENGTH = "<i8", "<u4", 4


@dataclass(frozen=True, slots=True)
class Tiles:
    """Packed records, and by position of the state the bags that belong to them, a row for each record."""

    records: npt.NDArray[np.void]
    bags: Mapping[int, Ragged]


class RowFormat:
    """The format of the rows of one view."""

    def __init__(self, kept: Sequence[Kept]) -> None:
        self._kept = tuple(kept)
        self.bags: dict[int, Bag] = {
            position: entry.bag for position, entry in enumerate(kept) if entry.bag is not None
        }
        self.parts = [self._places(position) for position in range(len(self._kept))]

    def _places(self, position: int) -> list[tuple[str, int]]:
        """For each part of a state: the field of the record that holds it, and the place within the field."""
        entry = self._kept[position]
        if position in self.bags:
            return []
        if not entry.is_added:
            return [(f"{position}.{name}", -1) for name, _ in entry.state.parts]
        before = [kind for k in self._kept[:position] if k.is_added for _, kind in k.state.parts]
        places = []
        for _, kind in entry.state.parts:
            places.append(("words" if kind == _WORD else "limbs", before.count(kind)))
            before.append(kind)
        return places

    @functools.cached_property
    def record(self) -> np.dtype[np.void]:
        """The packed record of one tile. What is added up lies together, so that a read sums it in one go."""
        added = [kind for entry in self._kept if entry.is_added for _, kind in entry.state.parts]
        others = [
            (f"{position}.{name}", kind)
            for position, entry in enumerate(self._kept)
            if not entry.is_added and position not in self.bags
            for name, kind in entry.state.parts
        ]
        packed = [("words", _WORD, (added.count(_WORD),)), ("limbs", _LIMB, (added.count(_LIMB),))]
        lengths = [(_length_of(position), "<u4") for position in self.bags]
        return np.dtype([("slot", "<i8"), *packed, *others, *lengths])

    @functools.cached_property
    def block_order(self) -> Ints:
        """Where each added part, in the order of the states, lies in the stack of all words, then all limbs."""
        words = sum(field == "words" for parts in self.parts for field, _ in parts)
        flat = [
            place + (words if field == "limbs" else 0) for parts in self.parts for field, place in parts if place >= 0
        ]
        return np.array(flat, np.int64)

    def store(
        self, records: npt.NDArray[np.void], position: int, state: Columns, at: Ints | slice = slice(None)
    ) -> None:
        """Writes a state of fixed size into the records `at` these places."""
        entry = self._kept[position].fixed
        for (field, place), part in zip(self.parts[position], entry.pack(state), strict=True):
            (records[field] if place < 0 else records[field][:, place])[at] = part

    def join(self, first: Tiles, second: Tiles) -> Tiles:
        """The tiles of both, one after the other."""
        bags = {position: ragged.join([first.bags[position], second.bags[position]]) for position in self.bags}
        return Tiles(np.concatenate([first.records, second.records]), bags)

    def unpack(self, tiles: Tiles) -> list[Columns | Ragged]:
        """The states of tiles."""
        records = tiles.records
        return [
            tiles.bags[position]
            if position in self.bags
            else tuple(
                records[field] if place < 0 else records[field][:, place].astype(np.int64) for field, place in places
            )
            for position, places in enumerate(self.parts)
        ]

    def encode(self, tiles: Tiles, ends: Ints) -> list[bytes]:
        """The bytes of each row; row i has the records from ends[i] to before ends[i + 1]."""
        size = self.record.itemsize
        if not self.bags:
            raw, cuts = tiles.records.tobytes(), (ends * size).tolist()
            return [raw[cuts[i] : cuts[i + 1]] for i in range(len(cuts) - 1)]
        records = tiles.records.copy()
        heaps = []
        for position, bag in self.bags.items():
            starts = tiles.bags[position].starts()
            records[_length_of(position)] = np.diff(starts)
            width = ragged.item_type(bag).itemsize
            heaps.append((ragged.encode(bag, tiles.bags[position]), (starts[ends] * width).tolist()))
        raw, cuts = records.tobytes(), ends.tolist()
        rows = []
        for i, (low, high) in enumerate(itertools.pairwise(cuts)):
            number = (high - low).to_bytes(_LENGTH, "little")
            items = [heap[places[i] : places[i + 1]] for heap, places in heaps]
            rows.append(b"".join([number, raw[low * size : high * size], *items]))
        return rows

    def decode(self, rows: Sequence[bytes | None]) -> tuple[Ints, Tiles]:
        """The number of the row of each tile, and the tiles. Raises ValueError for bytes that are no row."""
        size = self.record.itemsize
        if not self.bags:
            found = [row for row in rows if row]
            sizes = np.array([len(row) if row else 0 for row in rows], np.int64) // size
            return np.repeat(np.arange(len(rows)), sizes), Tiles(np.frombuffer(b"".join(found), self.record), {})
        counts = [int.from_bytes(row[:_LENGTH], "little") if row else 0 for row in rows]
        fixed = b"".join([row[_LENGTH : _LENGTH + n * size] for row, n in zip(rows, counts, strict=True) if row])
        records = np.frombuffer(fixed, self.record)
        ends = np.cumsum([0, *counts])
        if len(records) != ends[-1]:
            raise ValueError("a row is shorter than its records")
        offsets = [_LENGTH + n * size for n in counts]
        bags = {}
        for position, bag in self.bags.items():
            lengths = records[_length_of(position)].astype(np.int64)
            total = np.zeros(len(lengths) + 1, np.int64)
            np.cumsum(lengths, out=total[1:])
            widths = (np.diff(total[ends]) * ragged.item_type(bag).itemsize).tolist()
            items = [row[o : o + w] for row, o, w in zip(rows, offsets, widths, strict=True) if row]
            bags[position] = ragged.decode(bag, b"".join(items), lengths)
            offsets = [o + w for o, w in zip(offsets, widths, strict=True)]
        return np.repeat(np.arange(len(rows)), counts), Tiles(records, bags)


def _length_of(position: int) -> str:
    return f"{position}.items"
