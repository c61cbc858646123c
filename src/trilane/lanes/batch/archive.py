"""From the event log to the archive: what the contract, the future rule and the ids admit, in files of offset ranges.

Laws: what a file holds depends on the log alone, so archiving again, or after a kill at any instruction, changes
nothing; an event that is delivered again is archived once. Late events are kept and marked: serving never saw them,
but they happened. They use up no id: one that comes again with a time that is accepted counts, as in the nearline lane.
What is refused is told by that lane, which keeps it as dead letters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.errors import SetupError
from trilane.features.algebra import Ints
from trilane.lanes.changes import due_times, with_ids
from trilane.lanes.judgement import judge
from trilane.sources.change import CHANGE_ID, CHANGED_AT
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.protocol import Decoder, Schemas
from trilane.sources.log.protocol import EventLog
from trilane.sources.rule import RELEASED
from trilane.sources.watermark import Watermark
from trilane.stores.offline.protocol import Connection, MicroBatch, Warehouse, instant_sql, quoted

__all__ = ["archive"]

Bools = npt.NDArray[np.bool_]


def archive(
    log: EventLog,
    warehouse: Warehouse,
    source: EventSource,
    *,
    limit: int = 200_000,
    schemas: Schemas | None = None,
) -> int:
    """Archives all that the log has beyond the archive; how many events were kept.

    A file holds at most `limit` offsets, which bounds the memory. `schemas`: the registry of the values' schemas.
    """
    kept, decoder, engine = 0, decoder_of(source, schemas), warehouse.micro_batch()
    with warehouse.archiving(source):
        for partition in range(source.partitions):
            _check_log(warehouse.archived(source, partition), log.end(source.name, partition), source, partition)
            while (offset := warehouse.archived(source, partition)) < log.end(source.name, partition):
                batch = log.read(source.name, partition, offset, limit)
                kept += _archive_batch(batch, decoder, engine, warehouse, source, partition)
    return kept


def _check_log(archived: int, end: int, source: EventSource, partition: int) -> None:
    if archived > end:  # events that took the places of lost ones would never be archived
        raise SetupError(
            f"the log ends at {end}, and {archived} events of it are archived: it lost events",
            where=f"{source.name}/{partition}",
            remedy="Restore the log; or move the online store and the archive away, to fill them from what is left",
        )


def _archive_batch(
    batch: pa.RecordBatch,
    decoder: Decoder,
    engine: MicroBatch,
    warehouse: Warehouse,
    source: EventSource,
    partition: int,
) -> int:
    offsets = batch.column("offset").to_numpy()
    values = batch.column("value")
    decoded = decoder.decode(values)
    table, indexes = decoded.table, decoded.indexes
    judged = judge(source, table, lambda row: values[indexes[row]].as_py(), engine)
    times = due_times(table, source)
    arrived = batch.column("arrived_at").to_numpy()[indexes]
    newest = warehouse.newest(source, partition)
    mark = Watermark(disorder=source.disorder, future=source.future)
    verdicts = (mark if newest is None else replace(mark, latest=newest)).judge(times, arrived)
    table = (
        table.append_column("_arrived_at", pa.array(arrived))
        .append_column("_offset", pa.array(offsets[indexes]))
        .append_column("_late", pa.array(verdicts.late))
    )
    table = with_ids(table, source)
    if source.rules:
        table = table.append_column(RELEASED, pa.array(judged.released))
    table, broken = table.filter(pa.array(~verdicts.from_future)), judged.broken[~verdicts.from_future]
    # What breaks a rule is kept, and left out whenever it is read, so that the rules of that moment decide. It uses up
    # no id, so that the same event may come again, mended.
    repeated = np.zeros(table.num_rows, bool)
    sound = table.filter(pa.array(~broken)) if broken.any() else table
    repeated[~broken] = _repeated(sound, warehouse, source, partition)
    table = table.filter(pa.array(~repeated))
    after = verdicts.after
    warehouse.append_events(
        source,
        table,
        partition=partition,
        first=int(offsets[0]),
        last=int(offsets[-1]),
        newest=None if after.complete_until is None else after.latest,
    )
    return int(table.num_rows)


def _repeated(table: pa.Table, warehouse: Warehouse, source: EventSource, partition: int) -> Bools:
    """Rows whose id occurred before, in the archive or in the table, at an event time within the disorder.

    What was late is known to late rows alone: serving never saw it, so its id is still free.
    """
    times, late = due_times(table, source), table.column("_late").to_numpy()
    repeated = np.zeros(table.num_rows, bool)
    if table.num_rows:
        with warehouse.connect() as connection:
            repeated[_known(connection, table, times, warehouse.events_sql(source), source, partition)] = True
    # A row that the archive knows is not kept, and so hides no later one: it is the same wherever the files are cut.
    codes, rows = _codes(table.column(_id_of(source))), np.flatnonzero(~repeated)
    order = rows[np.argsort(codes[rows], kind="stable")]
    if (codes[order][1:] == codes[order][:-1]).any():
        repeated[order] = _near_an_earlier(codes, times, late, order, source.disorder)
    return repeated


def _codes(ids: pa.ChunkedArray) -> Ints:
    encoded = ids.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)


def _near_an_earlier(codes: Ints, times: Ints, late: Bools, order: Ints, disorder: int) -> Bools:
    """In the given order: whether a kept earlier row with the same id, if late only for a late one, lies within it."""
    found = np.zeros(len(order), bool)
    kept: list[tuple[int, bool]] = []
    previous = -1
    for place, row in enumerate(order.tolist()):
        if codes[row] != previous:
            kept, previous = [], int(codes[row])
        if any(abs(int(times[row]) - time) <= disorder and late[row] >= of_late for time, of_late in kept):
            found[place] = True
        else:
            kept.append((int(times[row]), bool(late[row])))
    return found


def _known(
    connection: Connection, table: pa.Table, times: Ints, events: str, source: EventSource, partition: int
) -> Ints:
    """Positions of the rows that are archived already; only files that reach into their time span are read."""
    event_id, moment = quoted([_id_of(source)]), f"epoch_us({quoted([source.event_time])})"
    if source.changes is not None:
        moment = CHANGED_AT
    place, late = np.arange(len(times)), table.column("_late")
    fresh = pa.table({"place": place, "id": table.column(_id_of(source)), "moment": times, "late": late})
    connection.register("fresh", fresh)
    low, high = int(times.min()) - source.disorder, int(times.max()) + source.disorder
    found = connection.query(
        f"SELECT DISTINCT fresh.place FROM fresh JOIN (SELECT {event_id} AS id, {moment} AS moment, _late "
        f"FROM {events} WHERE _partition = {partition} AND {_between(source, low, high)}) AS old "
        f"ON old.id = fresh.id AND abs(old.moment - fresh.moment) <= {source.disorder} AND fresh.late >= old._late"
    ).to_arrow_table()
    return np.asarray(pc.cast(found.column("place"), pa.int64()).to_numpy(), np.int64)


def _id_of(source: EventSource) -> str:
    return source.event_id if source.changes is None else CHANGE_ID


def _between(source: EventSource, low: int, high: int) -> str:
    if source.changes is not None:
        return f"{CHANGED_AT} BETWEEN {low} AND {high}"
    return f"{quoted([source.event_time])} BETWEEN {instant_sql(low)} AND {instant_sql(high)}"
