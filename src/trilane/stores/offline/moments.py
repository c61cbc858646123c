"""Moments: what a view's transform gave, in plain columns that travel from machine to machine.

A moment has the parts of its key as `k0`, `k1` ..., its event time as `_time`, and what the view aggregates as `v0`,
`v1` ...: integers or floats, for whatever else a value was (an instant, a text), its state is made of one of these.
Law: states made of moments have the bits of those made of the transform's own rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from trilane.errors import ContractError
from trilane.features.columns import entity_codes, event_times, state_columns
from trilane.features.tile import Events, TileLayout
from trilane.features.view import View, entity_of
from trilane.stores.offline.protocol import quoted
from trilane.types import arrow_type

__all__ = ["ROW", "TIME", "events_of", "key_fields", "moments_of", "portions", "select_sql", "wanted_fields"]

TIME, ROW = "_time", "_row"


def key_fields(view: View) -> list[pa.Field]:
    """The columns of the key."""
    return [pa.field(f"k{i}", arrow_type(key)) for i, key in enumerate(entity_of(view).keys)]


def select_sql(view: View) -> str:
    """The transform as a query over `events`: the columns that a view needs, of rows that have a key."""
    keys = entity_of(view).key_names
    wanted = tuple(dict.fromkeys((*keys, _time(view), *TileLayout(view).columns)))
    return f"SELECT {quoted(wanted)} FROM ({view.sql}) WHERE {' AND '.join(f'{quoted([k])} IS NOT NULL' for k in keys)}"


def wanted_fields(view: View) -> list[str]:
    """The source's fields that the transform can look at; Ibis quotes each one that it names."""
    sql = select_sql(view)
    return [field.name for field in view.source.fields if quoted([field.name]) in sql] if view.source else []


def moments_of(view: View, rows: pa.Table) -> pa.Table:
    """Moments of the rows of `select_sql`. Raises ContractError for a column of a kind that was not declared."""
    columns: list[pa.Array | pa.ChunkedArray] = []
    for name, field in zip(entity_of(view).key_names, key_fields(view), strict=True):
        try:
            columns.append(rows.column(name).cast(field.type))
        except pa.ArrowInvalid as error:
            raise ContractError(str(error), where=f"view {view.name!r}, key {name!r}", column=name) from error
    columns.append(pa.array(event_times(rows, _time(view))))
    states = state_columns(rows, TileLayout(view).columns)
    columns += [pa.array(values, mask=~valid) for values, valid in states.values()]
    names = [*(f.name for f in key_fields(view)), TIME, *(f"v{i}" for i in range(len(states)))]
    return pa.table(columns, names=names)


def events_of(view: View, layout: TileLayout, moments: pa.Table) -> tuple[Events, list[bytes]]:
    """The moments as the tiles' arithmetic wants them, and the encoded key of each code."""
    entity = entity_of(view)
    keys = moments.select([f"k{i}" for i in range(len(entity.keys))]).rename_columns(list(entity.key_names))
    codes, encoded = entity_codes(keys, entity)
    states = state_columns(moments, [f"v{i}" for i in range(len(layout.columns))])
    columns = dict(zip(layout.columns, states.values(), strict=True))
    return Events(codes, moments.column(TIME).to_numpy(), columns), encoded


def portions(view: View, batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Rows that come key after key, in tables of about `size` rows that tear no key apart."""
    names = [field.name for field in key_fields(view)]
    held: list[pa.RecordBatch] = []
    wanted = size
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) < wanted:
            continue
        table = pa.Table.from_batches(held).combine_chunks()
        cut = _last_change(table.select(names))
        if cut:
            yield table.slice(0, cut)
        held = table.slice(cut).to_batches()
        # A key that is larger than a portion is looked at again only after it has doubled.
        wanted = max(size, 2 * (table.num_rows - cut))
    if any(part.num_rows for part in held):
        yield pa.Table.from_batches(held).combine_chunks()


def _last_change(keys: pa.Table) -> int:
    """The first row of the last key."""
    last = keys.slice(keys.num_rows - 1)
    cut = 0
    for name in keys.schema.names:
        same = pc.equal(keys.column(name), last.column(name)[0])
        others = pc.indices_nonzero(pc.invert(pc.fill_null(same, False)))
        cut = max(cut, others[-1].as_py() + 1 if len(others) else 0)
    return cut


def _time(view: View) -> str:
    return view.source.event_time if view.source else ""
