"""What the windows of a stored view cost, from its definition alone: bytes of a key, tiles kept, tiles merged.

Law: every number is an upper bound, which no stream of events exceeds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from trilane.clock import duration, format_duration
from trilane.features import ragged
from trilane.features.history import HistoryLevels
from trilane.features.tile import TileLayout
from trilane.features.view import View
from trilane.features.window import LIFETIME, Window
from trilane.sources.event import EventSource

__all__ = ["ViewCost", "WindowCost", "bytes_of", "bytes_per_row", "bytes_per_tile", "cost_of", "tiles_per_row"]

_HINT_SCHEDULE, _HINT_TAIL = duration("1d"), duration("3d")  # what @tl.nearline makes of schedule="1d"
_WORTH = 2.0  # a hint must at least halve the tiles that a window keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCost:
    """One window of a view: `overhang` as a part of its length; bytes and tiles are of one key, at most.

    `tiles_kept` lie in the row of a key, where windows of one hop share them, `history_kept` in the row of its history;
    `tiles_read` are merged by one read; `hint`: how it would be cheaper, if it would.
    """

    window: str
    hop: str
    overhang: float
    bytes_per_tile: int
    tiles_kept: int
    history_kept: int
    bytes_per_key: int
    tiles_read: int
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCost:
    """The windows of one view, and the most bytes that one key takes: in its row in each of the partitions that hold
    it, and in the row of its history.
    """

    view: str
    lane: str
    partitions: int
    bytes_per_key: int
    history_bytes_per_key: int
    windows: tuple[WindowCost, ...]


def bytes_of(layout: TileLayout, windows: Collection[int], *, whole: bool) -> int:
    """The most bytes of a record that windows (positions) read: of a tile, or the state of a `whole` window."""
    total = layout.record.itemsize
    for position, bag in layout.format.bags.items():
        if not layout.readers[position].isdisjoint(windows):
            total += (bag.limit if whole else bag.limit_per_tile) * ragged.item_type(bag).itemsize
    return total


def bytes_per_tile(layout: TileLayout) -> int:
    """The most bytes that one tile takes, however many events it has; of a batch view, one window."""
    return bytes_of(layout, range(len(layout.windows)), whole=layout.is_batch)


def bytes_per_row(layout: TileLayout, slack: int = 0) -> int:
    """The most bytes that one entity's row takes."""
    if layout.is_batch:
        return sum(bytes_of(layout, [window], whole=True) for window in range(len(layout.windows)))
    return sum(
        max(_tiles_kept(layout, window, slack) for window in sharing) * bytes_of(layout, sharing, whole=False)
        for sharing in _sharing(layout)
    )


def tiles_per_row(layout: TileLayout, slack: int = 0) -> int:
    """The most tiles that one entity keeps; `slack` (microseconds): how long events may come out of order."""
    if layout.is_batch:
        return len(layout.windows)
    return sum(max(_tiles_kept(layout, window, slack) for window in sharing) for sharing in _sharing(layout))


def _tiles_kept(layout: TileLayout, window: int, slack: int) -> int:
    back, step = int(layout.backs[window, 0]), int(layout.steps[window, 0])
    return 1 if back == LIFETIME else -(-(back + slack) // step) + 2


def _sharing(layout: TileLayout) -> list[list[int]]:
    """The windows (positions) of each hop."""
    return [np.flatnonzero(layout.steps[:, 0] == hop).tolist() for hop in layout.hops]


def cost_of(view: View) -> ViewCost:
    """The cost of a batch or nearline view, in each of whose partitions one key has a row of its own."""
    layout = TileLayout(view)
    source = view.source
    slack = source.disorder + source.future if isinstance(source, EventSource) else 0
    history = 0
    if layout.history is not None:
        history = sum(
            _history_tiles(layout.history, place) * bytes_of(layout, level.windows, whole=not level.hop)
            for place, level in enumerate(layout.history.levels)
        )
    return ViewCost(
        view=view.name,
        lane=view.lane,
        partitions=source.partitions if view.lane == "nearline" and isinstance(source, EventSource) else 1,
        bytes_per_key=bytes_per_row(layout, slack),
        history_bytes_per_key=history,
        windows=tuple(_window_cost(layout, place, slack) for place in range(len(layout.windows))),
    )


def _history_tiles(history: HistoryLevels, place: int) -> int:
    level = history.levels[place]
    return len(level.windows) * history.tail // level.hop if level.hop else 1


def _window_cost(layout: TileLayout, place: int, slack: int) -> WindowCost:
    window, view = layout.windows[place], layout.view
    size = bytes_of(layout, [place], whole=layout.is_batch)
    kept = 1 if layout.is_batch else _tiles_kept(layout, place, slack)
    past, past_bytes, read = 0, 0, 1 if layout.is_batch else window.tiles
    if view.is_long(window):
        tails = 0 if window.is_lifetime else view.tail // window.hop
        past, past_bytes = tails + 1, tails * size + bytes_of(layout, [place], whole=True)
        read = 2 + (-(-view.tail // view.schedule) + 1 if window.is_lifetime else tails)
    return WindowCost(
        window=str(window),
        hop="none" if window.is_lifetime else format_duration(window.hop),
        overhang=0.0 if layout.is_batch else window.overhang,
        bytes_per_tile=size,
        tiles_kept=kept,
        history_kept=past,
        bytes_per_key=kept * size + past_bytes,
        tiles_read=read,
        hint=_hint(view, window, read, kept, slack),
    )


def _hint(view: View, window: Window, read: int, kept: int, slack: int) -> str:
    if view.lane != "nearline" or view.has_history or window.is_lifetime or _HINT_SCHEDULE % window.hop:
        return ""
    fewer = -(-(_HINT_TAIL + slack) // window.hop) + 2
    merged = _HINT_TAIL // window.hop + 2
    if window.length <= _HINT_TAIL or kept < _WORTH * fewer:
        return ""
    return f'schedule="1d" would keep {fewer} tiles and merge {merged}, instead of {kept} and {read}'
