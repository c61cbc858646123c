"""From the archive and the landed tables to a version (windows that end at a boundary, or a history), loaded at once.

Laws: what a version holds depends on the source's rows before its boundary alone; a load that fails leaves the old
version serving. Late events count in no lane, so a version sees what a training set built long after it sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from trilane.clock import Clock
from trilane.errors import DefinitionError
from trilane.features.columns import entity_codes, event_times, state_columns
from trilane.features.remaining import Remaining
from trilane.features.tile import Events, TileLayout
from trilane.features.transform import INPUT, carrying
from trilane.features.view import View, bare, entity_of
from trilane.sources.change import CHANGED_AT, SIGN
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.stores.offline.lake import pinned_view
from trilane.stores.offline.moments import events_of, portions
from trilane.stores.offline.protocol import Cluster, Connection, Warehouse, instant_sql, quoted, relation_sql
from trilane.stores.offline.quality import check_table
from trilane.stores.online.protocol import Writer
from trilane.stores.online.versions import Version, land

__all__ = ["Noted", "Progress", "due", "fold_moments", "is_settled", "materialize"]

Progress: TypeAlias = Callable[[str, int, int], None]
Noted: TypeAlias = Callable[[str, int], None]

_log = logging.getLogger(__name__)


def due(view: View, now: int) -> int:
    """The boundary whose version should have been computed by `now`: the last one after which events had settled."""
    _check(view)
    settle = min(view.source.disorder, view.landing) if isinstance(view.source, EventSource) else 0
    return (now - settle) // view.schedule * view.schedule


def materialize(
    view: View,
    boundary: int,
    *,
    warehouse: Warehouse,
    root: Path,
    writer: Writer,
    memory_limit: str = "2GiB",
    slice_events: int = 400_000,
    progress: Progress | None = None,
    clock: Clock | None = None,
    noted: Noted | None = None,
) -> Version | None:
    """Computes and lands the version of `view`, or of its history, at `boundary`.

    None if later versions have driven it out already. `root`: where the paths of tables begin. Rows are sliced by key
    into portions of about `slice_events`, so memory stays bounded; `progress` hears ("rows", done, all); `clock` tells
    when it lands; `noted` hears each rule of a table that rows break without stopping the load, with their number.
    Raises ContractError if the source does not fit.
    """
    _check(view)
    view = pinned_view(view, root)
    _check_quality(view, boundary, warehouse, root, noted, memory_limit)
    final = is_settled(view, boundary, warehouse)  # before it is read, as events may come meanwhile
    ends, relation = _archived(view, warehouse, root)
    # Rows that may be taken back are looked at in one place, also where there is a cluster.
    cluster = None if view.has_changes else warehouse.cluster()
    with contextlib.ExitStack() as stack:
        if cluster is not None:
            rows = _gathered(view, boundary, cluster, root, ends, slice_events, progress)
        else:
            connection = stack.enter_context(warehouse.connect(memory_limit=memory_limit))
            count = _load(view, boundary, connection, relation)
            rows = _rows(view, boundary, connection, max(1, -(-count // slice_events)), count, progress)
        return land(
            writer,
            view.landed_as,
            boundary=boundary,
            visible_from=boundary + view.landing,
            final=final,
            rows=rows,
            clock=clock,
            ends=ends,
        )


def _archived(view: View, warehouse: Warehouse, root: Path) -> tuple[tuple[int, ...], str]:
    """What to read, and where the archive ends of which it is; another process may be archiving at the moment."""
    partitions = range(view.source.partitions) if isinstance(view.source, EventSource) else ()
    while True:
        ends = [tuple(warehouse.archived(view.source, p) for p in partitions)]  # type: ignore[arg-type]
        relation = relation_sql(warehouse, view.source, root)  # type: ignore[arg-type]
        ends.append(tuple(warehouse.archived(view.source, p) for p in partitions))  # type: ignore[arg-type]
        if ends[0] == ends[1]:
            return ends[0], relation


def is_settled(view: View, boundary: int, warehouse: Warehouse) -> bool:
    """Whether the archive holds all events from before the boundary that can still count; true of tables."""
    source = view.source
    if not isinstance(source, EventSource):
        return True
    newest = [warehouse.newest(source, partition) for partition in range(source.partitions)]
    return all(moment is not None and moment - source.disorder >= boundary for moment in newest)


def _check(view: View) -> None:
    if not view.is_landed:
        raise DefinitionError(
            f"{view.name!r} is a {view.lane} view without a schedule",
            where="materialize",
            remedy="Materialize batch views, and nearline views with schedule=",
        )


def _gathered(
    view: View,
    boundary: int,
    cluster: Cluster,
    root: Path,
    ends: tuple[int, ...],
    slice_events: int,
    progress: Progress | None,
) -> Iterator[tuple[bytes, bytes]]:
    schema = pa.schema([("key", pa.binary()), ("row", pa.binary())])
    fold = functools.partial(fold_moments, bare(view), boundary, slice_events)
    left, done = _left(TileLayout(view), boundary), 0
    for batch in cluster.gather(view, root, since=left, until=boundary, ends=ends, fold=fold, schema=schema):
        yield from zip(batch.column("key").to_pylist(), batch.column("row").to_pylist(), strict=True)
        done += batch.num_rows
        if progress is not None:
            progress("keys", done, done)


def fold_moments(
    view: View, boundary: int, slice_events: int, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The rows (key, row) of the version at `boundary`, from moments that come key after key."""
    layout = TileLayout(view)
    for table in portions(view, batches, slice_events):
        events, keys = events_of(view, layout, table)
        yield pa.record_batch({"key": pa.array(keys), "row": pa.array(_packed(layout, events, len(keys), boundary))})


def _left(layout: TileLayout, boundary: int) -> int:
    return min(window.left(boundary) for window in layout.windows if not layout.history or layout.view.is_long(window))


def _packed(layout: TileLayout, events: Events, entities: int, boundary: int) -> list[bytes]:
    packed = layout.history_rows if layout.history else layout.boundary_rows
    return packed(events, entities, boundary)


def _check_quality(
    view: View, boundary: int, warehouse: Warehouse, root: Path, noted: Noted | None, memory_limit: str
) -> None:
    """Raises ContractError if the view reads a table that breaks its promises."""
    source = view.source
    if not isinstance(source, TableSource):
        return
    relation = warehouse.table_sql(source, root, all_rows=True)
    with warehouse.connect(memory_limit=memory_limit) as connection:
        found = check_table(connection, relation, source, before=boundary)
    for rule, rows in found.items():
        _log.warning("table %s: %d rows break the rule %r", source.name, rows, rule)
        if noted is not None:
            noted(rule, rows)


def _load(view: View, boundary: int, connection: Connection, relation: str) -> int:
    """Runs the transform over the rows that some window sees; how many rows it gave."""
    layout = TileLayout(view)
    time, left = quoted([_time(view)]), _left(layout, boundary)
    on_time = " AND NOT _late" if isinstance(view.source, EventSource) else ""
    keys = entity_of(view).key_names
    wanted = tuple(dict.fromkeys((*keys, _time(view), *layout.columns)))
    sql = view.sql
    if view.has_changes:
        on_time += f" AND {CHANGED_AT} < {boundary}"
        sql, wanted = carrying(sql, (SIGN,)), (*wanted, SIGN)
    connection.run(
        f"CREATE TABLE moments AS WITH {INPUT} AS NOT MATERIALIZED (SELECT * FROM {relation} "
        f"WHERE {time} >= {instant_sql(left)} AND {time} < {instant_sql(boundary)}{on_time}) "
        f"SELECT {quoted(wanted)} FROM ({sql}) WHERE {' AND '.join(f'{quoted([k])} IS NOT NULL' for k in keys)}"
    )
    [(count,)] = connection.query("SELECT count(*) FROM moments").fetchall()
    return int(str(count))


def _time(view: View) -> str:
    return view.source.event_time if view.source else ""


def _rows(
    view: View, boundary: int, connection: Connection, slices: int, count: int, progress: Progress | None
) -> Iterator[tuple[bytes, bytes]]:
    layout, entity = TileLayout(view), entity_of(view)
    done = 0
    for number in range(slices):
        where = f" WHERE hash({quoted(entity.key_names)}) % {slices} = {number}" if slices > 1 else ""
        table = connection.query(f"SELECT * FROM moments{where}").to_arrow_table()
        codes, keys = entity_codes(table, entity)
        events = Events(codes, event_times(table, _time(view)), state_columns(table, layout.columns))
        if view.has_changes:
            signed = dataclasses.replace(events, signs=table.column(SIGN).to_numpy())
            events = Remaining(signed).rows(np.ones(len(codes), bool))
        yield from zip(keys, _packed(layout, events, len(keys), boundary), strict=True)
        done += table.num_rows
        if progress is not None:
            progress("rows", done, count)
