"""The promise of a warehouse: archived events and landed tables, as relations that one SQL engine reads.

Events lie in immutable files, one for a range of offsets of a partition. A file is there whole or not at all, ranges
follow one another without gap, and what was archived is never changed. The SQL is DuckDB's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from trilane.features.view import View
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Cluster",
    "Connection",
    "Fold",
    "MicroBatch",
    "Relation",
    "Warehouse",
    "instant_sql",
    "quoted",
    "relation_sql",
]

Fold: TypeAlias = "Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]"


class Relation(Protocol):
    """The rows of a query, not yet computed."""

    def to_arrow_table(self) -> pa.Table:
        """All rows."""
        ...

    def to_arrow_reader(self, batch_size: int) -> pa.RecordBatchReader:
        """The rows in portions, in order."""
        ...

    def fetchall(self) -> list[tuple[object, ...]]:
        """All rows, as Python values."""
        ...


class Connection(Protocol):
    """A working place of the engine: it sees the warehouse's relations and keeps tables of its own on disk."""

    def run(self, sql: str) -> None:
        """Runs a statement that gives no rows. Raises ContractError for rows that it cannot compute."""
        ...

    def query(self, sql: str) -> Relation:
        """The rows of a SELECT; what the engine refuses while they are read comes as it does from `run`."""
        ...

    def register(self, name: str, table: pa.Table) -> None:
        """Lets SQL see `table` under `name`."""
        ...


class MicroBatch(Protocol):
    """Runs compiled transforms on tables in memory, fast; for one thread."""

    def run(self, sql: str, table: pa.Table) -> pa.Table:
        """The rows of `sql` over a relation `events` made of `table`, in its order. Raises ContractError."""
        ...


class Cluster(Protocol):
    """Brings the rows of each key together, on as many machines as there are."""

    def gather(
        self,
        view: View,
        root: Path,
        *,
        since: int,
        until: int,
        fold: Fold,
        schema: pa.Schema,
        ends: Sequence[int] | None = None,
        beside: pa.RecordBatchReader | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `fold` gives, in the columns of `schema` and in any order.

        It gets the moments (`trilane.stores.offline.moments`) from `since` to before `until` that were not late, and
        the rows `beside` them, which have the columns of a moment's key, `_time` and `_row`; moments of keys that have
        no row beside them may then be left out. It is called for disjoint
        sets of keys with all rows of these, sorted by key and time; it is sent to other machines, so it must pickle.
        `ends`: before which offset of each partition events are seen (of partitions not named: all that is archived).
        Raises ContractError for rows that the transform cannot compute.
        """
        ...


class Warehouse(Protocol):
    """Events by source and partition, and tables by their files."""

    def append_events(
        self, source: EventSource, table: pa.Table, *, partition: int, first: int, last: int, newest: int | None
    ) -> None:
        """Archives what was kept of offsets `first` to `last`, both included; durable when it returns.

        `table`: the source's fields, `_arrived_at`, `_offset` (int64) and `_late` (bool), and `_released` (bool) if the
        source has rules; `newest`: the latest event time seen in the partition so far. Archiving the same range again
        changes nothing; a range that does not begin where the archive ends raises ConflictError.
        """
        ...

    def archived(self, source: EventSource, partition: int) -> int:
        """The first offset that is not archived yet."""
        ...

    def newest(self, source: EventSource, partition: int) -> int | None:
        """The latest event time (microseconds) seen in the archived offsets, also of events not kept."""
        ...

    def archiving(self, source: EventSource) -> AbstractContextManager[None]:
        """Excludes other processes from archiving `source`; waits for them."""
        ...

    def connect(
        self, *, memory_limit: str = "2GiB", threads: int | None = None, temp: Path | None = None
    ) -> AbstractContextManager[Connection]:
        """A connection; what does not fit `memory_limit` goes to a folder below `temp` that is removed at the end."""
        ...

    def cluster(self) -> Cluster | None:
        """What computes views by key on other machines; None if a connection does it here."""
        ...

    def micro_batch(self) -> MicroBatch:
        """An engine for the transforms of a stream."""
        ...

    def events_sql(self, source: EventSource) -> str:
        """What to write after FROM: the fields, `_arrived_at`, `_partition`, `_offset` (int64), `_late` (bool).

        It names the files of this moment, so what is archived later changes no result. Events that break a rule of
        `source` which rejects, or which puts aside while they were not released, are left out.
        """
        ...

    def table_sql(self, source: TableSource, root: Path, *, all_rows: bool = False) -> str:
        """What to write after FROM: the table's fields, typed as declared; without files no rows.

        Rows that break a rule which puts aside are left out, unless `all_rows`.
        Raises ContractError naming the file and the column that does not fit.
        """
        ...

    def keep(self, name: str, rows: pa.Table) -> None:
        """Adds rows to the notes called `name`, all of one schema; durable, and whole or not at all, when it returns.

        Notes are small facts about what ran, such as when a micro-batch became readable.
        """
        ...

    def kept(self, name: str, *, latest: bool = False) -> pa.Table | None:
        """The notes called `name` in the order in which they were added, or only a number of the `latest`; None if
        there are none.
        """
        ...


def relation_sql(warehouse: Warehouse, source: EventSource | TableSource, root: Path) -> str:
    """What to write after FROM to read a source of either kind."""
    return warehouse.events_sql(source) if isinstance(source, EventSource) else warehouse.table_sql(source, root)


def quoted(names: Sequence[str]) -> str:
    """Column names as SQL.

    >>> quoted(["a", 'b"c'])
    '"a", "b""c"'
    """
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def instant_sql(microseconds: int) -> str:
    """An instant as SQL, without a detour over floats or text.

    >>> instant_sql(1_000_000)
    'make_timestamptz(1000000)'
    """
    return f"make_timestamptz({microseconds})"
