"""The point-in-time join on a cluster: asks and moments come together by key and time, and are joined as they pass.

Laws: the answers have the bits of the join in one place; memory does not grow with a key, for of what has passed only
the moments are kept that a later ask can still see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trilane.features.algebra import Floats, Ints
from trilane.features.event_windows import windows_of
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View, bare, entity_of
from trilane.stores.offline.moments import ROW, TIME, events_of
from trilane.stores.offline.protocol import Cluster, Connection, quoted
from trilane.training.spine import SPINE

__all__ = ["fill_gathered", "fold_asks", "instants_of", "left_of"]

Progress: TypeAlias = Callable[[str, int, int], None]

_BATCH = 65_536


def instants_of(view: View, times: Ints) -> Ints:
    """Where the windows end that answer asks at `times`: of a batch view, at the boundary of the visible version."""
    if view.lane == "nearline":
        return times
    return (times - view.landing) // view.schedule * view.schedule


def left_of(layout: TileLayout, instant: int) -> int:
    """The first instant that some window sees that ends at `instant`."""
    return min(window.left(instant) for window in layout.windows)


def fill_gathered(
    values: Floats,
    view: View,
    connection: Connection,
    cluster: Cluster,
    root: Path,
    slice_rows: int,
    progress: Progress | None = None,
) -> None:
    """Writes the values of `view` for all rows of the spine."""
    keys = entity_of(view).key_names
    asks = f"FROM {SPINE} WHERE {' AND '.join(f'{quoted([key])} IS NOT NULL' for key in keys)}"
    values[:] = TileLayout(view).read([None], np.zeros(1, np.int64))  # what a row without a key is answered
    [(low, high, count)] = connection.query(f"SELECT min({TIME}), max({TIME}), count(*) {asks}").fetchall()
    if not count:
        return
    first, last = instants_of(view, np.array([int(str(low)), int(str(high))])).tolist()
    places = [f"v{i}" for i in range(values.shape[1])]
    done = 0
    for batch in cluster.gather(
        view,
        root,
        since=left_of(TileLayout(view), first),
        until=last,
        fold=functools.partial(fold_asks, bare(view), slice_rows),
        schema=pa.schema([pa.field(ROW, pa.int64()), *(pa.field(name, pa.float64()) for name in places)]),
        beside=connection.query(f"SELECT {quoted(keys)}, {TIME}, {ROW} {asks}").to_arrow_reader(_BATCH),
    ):
        values[batch.column(ROW).to_numpy()] = np.stack([batch.column(name).to_numpy() for name in places], axis=1)
        done += batch.num_rows
        if progress is not None:
            progress(view.name, done, int(str(count)))


def fold_asks(view: View, slice_rows: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The answers of asks (`_row` is not null) that come with the moments of their keys, sorted by key and time."""
    layout = TileLayout(view)
    held: list[pa.RecordBatch] = []
    wanted = slice_rows
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) < wanted:
            continue
        table = pa.Table.from_batches(held)
        events, _ = events_of(view, layout, table)
        yield from _answered(view, layout, table, events)
        rest = _still_seen(view, layout, table, events)
        held = rest.to_batches()
        wanted = max(slice_rows, 2 * rest.num_rows)
    if held:
        table = pa.Table.from_batches(held)
        yield from _answered(view, layout, table, events_of(view, layout, table)[0])


def _still_seen(view: View, layout: TileLayout, table: pa.Table, events: Events) -> pa.Table:
    """The moments that an ask after the last row, of the same key, can see."""
    left = left_of(layout, int(instants_of(view, events.times[-1:])[0]))
    seen = (events.codes == events.codes[-1]) & (events.times >= left)
    return table.filter(pa.array(seen & pc.is_null(table.column(ROW)).to_numpy()))


def _answered(view: View, layout: TileLayout, table: pa.Table, events: Events) -> Iterator[pa.RecordBatch]:
    asks = pc.is_valid(table.column(ROW)).to_numpy()
    if not asks.any():
        return
    codes, instants = events.codes[asks], instants_of(view, events.times[asks])
    fresh = np.ones(len(codes), bool)  # rows with one answer are asked once
    fresh[1:] = (codes[1:] != codes[:-1]) | (instants[1:] != instants[:-1])
    columns = {name: (values[~asks], valid[~asks]) for name, (values, valid) in events.columns.items()}
    moments = Events(events.codes[~asks], events.times[~asks], columns)
    answers = windows_of(layout, moments, codes[fresh], instants[fresh])[np.cumsum(fresh) - 1]
    rows = table.column(ROW).filter(pa.array(asks)).combine_chunks()
    named = {f"v{i}": pa.array(column) for i, column in enumerate(np.ascontiguousarray(answers.T))}
    yield pa.record_batch({ROW: rows, **named})
