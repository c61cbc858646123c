"""What the online store holds of one key: how far its lane is, which versions there are, and the tiles behind a value.

Law: tiles are those that a read at the instant merges, no more and no fewer; each says what the feature would be of it
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trilane.apps.provenance.question import Question
from trilane.clock import format_instant
from trilane.features.history import LEVEL_BITS, Past
from trilane.features.row import Tiles
from trilane.features.tile import TileLayout
from trilane.features.view import View
from trilane.lanes import progress
from trilane.lanes.history import HistoryChoice
from trilane.lanes.progress import LANES, Progress, lane_key, lane_state
from trilane.lanes.rows import shards_of, unstamp
from trilane.sources.event import EventSource
from trilane.stores.online import versions
from trilane.stores.online.protocol import OnlineStore
from trilane.stores.online.versions import Version

__all__ = ["Held", "Tile", "held", "instant_text", "lanes_of"]

_POSITION = (1 << LEVEL_BITS) - 1


@dataclass(frozen=True, slots=True)
class Tile:
    """A partial aggregate of [`start`, `end`) (None: without end), of `size` bytes.

    `kind`: "tile", "history tile", "history state" or "version"; `value`: the feature of it alone.
    """

    kind: str
    partition: int | None
    start: int
    end: int | None
    value: float
    size: int

    def facts(self) -> dict[str, Any]:
        """As plain facts."""
        return {
            "kind": self.kind,
            "partition": self.partition,
            "from": instant_text(self.start),
            "to": instant_text(self.end),
            "value": None if np.isnan(self.value) else self.value,
            "bytes": self.size,
        }


@dataclass(frozen=True, slots=True)
class Held:
    """What the store holds for a question.

    `age`: of the view (None: it answers nothing); `whole`: whether no tile that the window needs was dropped;
    `version`: of a batch view or of a history; `lack`: why a history does not answer.
    """

    age: int | None
    lanes: tuple[Progress, ...] = ()
    whole: bool = True
    version: Version | None = None
    lack: str = ""
    tiles: tuple[Tile, ...] = field(default=())


def held(question: Question, store: OnlineStore) -> Held:
    """What the store holds of the key of a question about a stored view."""
    view, at = question.view, question.at
    landed = versions.versions(store, view.landed_as) if view.is_landed else ()
    if view.lane == "batch":
        version = versions.visible(landed, at)
        rows = () if version is None else store.read([(version.space, [question.stored_key])])[0]
        tiles = tuple(_version_tiles(question, version, rows)) if version else ()
        return Held(at - version.boundary if version else None, version=version, tiles=tiles)
    source = view.source
    partitions = source.partitions if isinstance(source, EventSource) else 1
    progress_rows = lanes_of(view, store)
    lanes = tuple(map(progress.decode, progress_rows))
    moment = lane_state(progress_rows, view.space)
    choice = HistoryChoice(view).at(at, landed, progress_rows) if view.has_history else None
    found = store.read([(view.space, shards_of([question.stored_key], partitions))])[0]
    rows = found if store.atomic else unstamp(found)
    past = None
    if choice is not None and choice.version is not None:
        [older] = store.read([(choice.version.space, [question.stored_key])])
        past = Past(choice.version.boundary, older)
    return Held(
        None if moment is None else max(at - moment, 0),
        lanes,
        _is_whole(view, at, lanes),
        choice.version if choice else None,
        choice.lack if choice else "",
        tuple(_tiles(question, rows, past)),
    )


def lanes_of(view: View, store: OnlineStore) -> Sequence[bytes | None]:
    """The stored progress of each partition of a nearline view's source."""
    source = view.source
    if not isinstance(source, EventSource) or view.lane != "nearline":
        return []
    return store.read([(LANES, [lane_key(source.name, p) for p in range(source.partitions)])])[0]


def instant_text(at: int | None) -> str | None:
    """An instant as text; None for none, and for one that no calendar has."""
    return None if at is None or not 0 <= at < 253_402_300_800_000_000 else format_instant(at)


def _is_whole(view: View, at: int, lanes: Sequence[Progress]) -> bool:
    """Whether tiles of before the instant were kept: they go when no question after the newest event may need them."""
    source = view.source
    slack = source.disorder + source.future if isinstance(source, EventSource) else 0
    return all(lane.newest is None or at >= lane.newest - slack for lane in lanes)


def _windows(question: Question, layout: TileLayout) -> list[int]:
    return [layout.windows.index(one) for one in question.windows]


def _single(layout: TileLayout, tiles: Tiles) -> Iterator[tuple[int, bytes]]:
    """The slot of each tile, and a row that holds it alone."""
    for number, slot in enumerate(tiles.records["slot"].tolist()):
        chosen = np.arange(len(tiles.records)) == number
        alone = Tiles(tiles.records[chosen], {p: bag.chosen(chosen) for p, bag in tiles.bags.items()})
        [row] = layout.format.encode(alone, np.array([0, 1]))
        yield slot, row


def _tiles(question: Question, rows: Sequence[bytes | None], past: Past | None) -> Iterator[Tile]:
    layout, at, column = TileLayout(question.view), question.at, question.column
    if past is not None:
        yield from _history_tiles(question, layout, past)
    wanted: list[tuple[int, int]] = []
    for window in _windows(question, layout):
        step, length = int(layout.steps[window, 0]), layout.windows[window].length
        low, high = max((at - length) // step, 0), -(-at // step)
        if past is not None and question.view.is_long(layout.windows[window]):
            low = max(low, past.boundary // step)
        level = layout.hops.index(step) << LEVEL_BITS
        wanted.append((low | level, high | level))
    blank = None if past is None else Past(past.boundary, [None])
    for partition, row in enumerate(rows):
        _, tiles = layout.format.decode([row])
        for slot, alone in _single(layout, tiles):
            if not any(low <= slot < high for low, high in wanted):
                continue
            step, position = layout.hops[slot >> LEVEL_BITS], slot & _POSITION
            value = float(layout.read([alone], np.array([at]), past=blank)[0, column])
            yield Tile("tile", partition, position * step, (position + 1) * step, value, len(alone))


def _history_tiles(question: Question, layout: TileLayout, past: Past) -> Iterator[Tile]:
    history, view = layout.history, question.view
    if history is None:
        return
    instants = np.array([question.at])
    low, high = history.ranges(instants, past.boundary)
    _, tiles = layout.format.decode(past.rows)
    for slot, alone in _single(layout, tiles):
        reads = [w for w in _windows(question, layout) if ((low[:, w, 0] <= slot) & (slot < high[:, w, 0])).any()]
        if not reads:
            continue
        level, position = history.levels[slot >> LEVEL_BITS], slot & _POSITION
        value = layout.read([None], instants, past=Past(past.boundary, [alone]))[0, question.column]
        if level.hop:
            start, end = position * level.hop, (position + 1) * level.hop
        else:
            window = layout.windows[reads[0]]
            start = 0 if window.is_lifetime else max(past.boundary - window.length + view.tail, 0)
            end = past.boundary
        yield Tile("history tile" if level.hop else "history state", None, start, end, float(value), len(alone))


def _version_tiles(question: Question, version: Version, rows: Sequence[bytes | None]) -> Iterator[Tile]:
    layout = TileLayout(question.view)
    _, tiles = layout.format.decode(rows)
    for slot, alone in _single(layout, tiles):
        number = slot >> LEVEL_BITS
        if number not in _windows(question, layout):
            continue
        value = layout.read([alone], np.array([question.at]))[0, question.column]
        start = layout.windows[number].left(version.boundary)
        yield Tile("version", None, start, version.boundary, float(value), len(alone))
