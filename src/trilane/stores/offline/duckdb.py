"""A warehouse in a folder: Parquet files, read by DuckDB.

Events lie in `events/<source>/<partition>-<first offset>-<last offset>.parquet`; a file gets its name when it is whole
and on disk. Notes lie in `notes/<name>/<number>.parquet`; the last file is written anew until it is full. A
connection keeps its tables in a temporary file, so that what does not fit memory spills.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from trilane.errors import ConflictError, ContractError, SetupError, TrilaneError
from trilane.features.transform import INPUT
from trilane.plugins import local_path, make_folder, options
from trilane.sources.change import CHANGE_ID, CHANGED_AT, SIGN
from trilane.sources.event import EventSource
from trilane.sources.rule import RELEASED, kept_sql
from trilane.sources.table import TableSource
from trilane.stores.offline import tables
from trilane.stores.offline.protocol import Relation, quoted
from trilane.stores.offline.sql import text
from trilane.types import arrow_type

__all__ = ["DuckdbConnection", "DuckdbMicroBatch", "DuckdbWarehouse", "open_warehouse"]

_NAME = re.compile(r"(\d{5})-(\d{20})-(\d{20})\.parquet")
_NEWEST = b"trilane.newest"
_NOTES_IN_A_FILE = 50_000
# The SQL of transforms that give their rows as they are; the table itself is the answer.
_EVERYTHING = f'SELECT * FROM "{INPUT}"'
_FROM = f' FROM "{INPUT}" AS "t0"'
_COLUMN = re.compile(r'"t0"\."((?:[^"]|"")+)"(?: AS "((?:[^"]|"")+)")?')
_CHOICE = re.compile(rf"SELECT {_COLUMN.pattern}(?:, {_COLUMN.pattern})*{_FROM}")
_OWN = (("_arrived_at", pa.int64()), ("_offset", pa.int64()), ("_late", pa.bool_()))
_OF_CHANGES = ((CHANGED_AT, pa.int64()), (SIGN, pa.int64()), (CHANGE_ID, pa.string()))


def open_warehouse(url: str) -> DuckdbWarehouse:
    """The warehouse in the folder of `url`."""
    options(url, known=())
    return DuckdbWarehouse(local_path(url))


@dataclass(frozen=True, slots=True)
class _File:
    """An archived range: offsets `first` to `last` of `partition`."""

    path: Path
    partition: int
    first: int
    last: int


class DuckdbWarehouse:
    """Keeps the promise of Warehouse in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._schemas: dict[Path, frozenset[str]] = {}

    # -- the archive --------------------------------------------------------------------------------------------

    def append_events(
        self, source: EventSource, table: pa.Table, *, partition: int, first: int, last: int, newest: int | None
    ) -> None:
        files = self._files(source, partition)
        if any((file.first, file.last) == (first, last) for file in files):
            return
        following = files[-1].last + 1 if files else 0
        if first != following or last < first:
            raise ConflictError(
                f"offsets {first} to {last} do not follow {following - 1}, the last one archived",
                where=f"archive of {source.name!r}, partition {partition}",
                remedy="Archive from where the archive ends",
            )
        path = make_folder(self._events(source)) / f"{partition:05d}-{first:020d}-{last:020d}.parquet"
        fields = [pa.field(f.name, arrow_type(f), f.nullable) for f in source.fields]
        # Most sources put nothing aside, and then no event was ever released.
        own = (*_OWN, (RELEASED, pa.bool_())) if RELEASED in table.column_names and source.refusing else _OWN
        own = own if source.changes is None else (*own, *_OF_CHANGES)
        schema = pa.schema([*fields, *(pa.field(name, kind, nullable=False) for name, kind in own)])
        facts = {} if newest is None else {_NEWEST: str(newest).encode()}
        _write(table.select(schema.names).cast(schema).replace_schema_metadata(facts), path)

    def archived(self, source: EventSource, partition: int) -> int:
        files = self._files(source, partition)
        return files[-1].last + 1 if files else 0

    def newest(self, source: EventSource, partition: int) -> int | None:
        files = self._files(source, partition)
        if not files:
            return None
        with _readable(files[-1].path):
            found = (pq.read_metadata(files[-1].path).metadata or {}).get(_NEWEST)
        return None if found is None else int(found)

    @contextlib.contextmanager
    def archiving(self, source: EventSource) -> Iterator[None]:
        with _locked(make_folder(self._events(source))):
            yield

    def event_files(self, source: EventSource, ends: Sequence[int] | None = None) -> list[Path]:
        """The files of all partitions; of those that `ends` names, those of offsets before theirs."""
        bounds = dict(enumerate(ends or ()))
        return [f.path for f in self._files(source) if f.last < bounds.get(f.partition, f.last + 1)]

    def _events(self, source: EventSource) -> Path:
        return self._folder / "events" / quote(source.name, safe="")

    def _files(self, source: EventSource, partition: int | None = None) -> list[_File]:
        found = []
        for path in sorted(self._events(source).glob("*.parquet")):
            named = _NAME.fullmatch(path.name)
            if named and partition in (None, int(named[1])):
                found.append(_File(path, int(named[1]), int(named[2]), int(named[3])))
        return found

    # -- notes --------------------------------------------------------------------------------------------------

    def keep(self, name: str, rows: pa.Table) -> None:
        folder = make_folder(self._notes(name))
        with _locked(folder):
            files = sorted(folder.glob("*.parquet"))
            last = _table(files[-1]) if files else None
            if last is not None and last.num_rows < _NOTES_IN_A_FILE:
                _write(_joined([last, rows]), files[-1])
            else:
                _write(rows, folder / f"{len(files):010d}.parquet")

    def kept(self, name: str, *, latest: bool = False) -> pa.Table | None:
        files = sorted(self._notes(name).glob("*.parquet"))
        tables = [_table(file) for file in (files[-1:] if latest else files)]
        return _joined(tables) if tables else None

    def _notes(self, name: str) -> Path:
        return self._folder / "notes" / quote(name, safe="")

    # -- the engine ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connect(
        self, *, memory_limit: str = "2GiB", threads: int | None = None, temp: Path | None = None
    ) -> Iterator[DuckdbConnection]:
        with tempfile.TemporaryDirectory(prefix="trilane-", dir=temp, ignore_cleanup_errors=True) as folder:
            connection = _connect(str(Path(folder) / "work.duckdb"), threads)
            try:
                connection.execute(f"SET memory_limit = '{memory_limit}'")
                connection.execute(f"SET temp_directory = {text(str(Path(folder) / 'spill'))}")
                yield DuckdbConnection(connection)
            finally:
                connection.close()

    def cluster(self) -> None:
        return None

    def micro_batch(self) -> DuckdbMicroBatch:
        return DuckdbMicroBatch()

    def events_sql(self, source: EventSource) -> str:
        files = self._files(source)
        own = (("_arrived_at", "BIGINT"), ("_partition", "BIGINT"), ("_offset", "BIGINT"), ("_late", "BOOLEAN"))
        if source.changes is not None:
            own = (*own, (CHANGED_AT, "BIGINT"), (SIGN, "BIGINT"), (CHANGE_ID, "VARCHAR"))  # type: ignore[assignment]
        if not files:
            return tables.empty_sql((*tables.columns_of(source), *own))
        present = {name for file in files for name in self._names(file.path)}
        # A field that was declared after the last event came is in no file yet.
        fields = [
            f"CAST({quoted([name]) if name in present else 'NULL'} AS {kind}) AS {quoted([name])}"
            for name, kind in tables.columns_of(source)
        ]
        partition = "CAST(regexp_extract(filename, '([0-9]{5})-[0-9]{20}-[0-9]{20}[.]parquet$', 1) AS BIGINT)"
        columns = [*fields, "_arrived_at", f"{partition} AS _partition", "_offset", "_late", *_changed(source, present)]
        paths = ", ".join(text(str(file.path)) for file in files)
        read = f"read_parquet([{paths}], union_by_name = true, filename = true, hive_partitioning = false)"
        if not source.refusing:
            return f"(SELECT {', '.join(columns)} FROM {read})"
        columns.append(f"{RELEASED if RELEASED in present else 'false'} AS {RELEASED}")
        kept = kept_sql(source.refusing, released=RELEASED)
        return f"(SELECT * EXCLUDE ({RELEASED}) FROM (SELECT {', '.join(columns)} FROM {read}) WHERE {kept})"

    def _names(self, path: Path) -> frozenset[str]:
        if path not in self._schemas:
            with _readable(path):
                self._schemas[path] = frozenset(pq.read_schema(path).names)
        return self._schemas[path]

    def table_sql(self, source: TableSource, root: Path, *, all_rows: bool = False) -> str:
        with contextlib.closing(_connect(":memory:", 1)) as connection:
            relation = tables.table_sql(source, root, DuckdbConnection(connection))
        aside = [rule for rule in source.rules if rule.action == "quarantine"]
        return relation if all_rows or not aside else f"(SELECT * FROM {relation} WHERE {kept_sql(aside)})"


class DuckdbConnection:
    """Keeps the promise of Connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str) -> None:
        with _translated():
            self._connection.execute(sql)

    def query(self, sql: str) -> Relation:
        with _translated():
            return _Rows(self._connection.sql(sql))

    def register(self, name: str, table: pa.Table) -> None:
        self._connection.register(name, table)


class _Rows:
    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self._relation = relation

    def to_arrow_table(self) -> pa.Table:
        with _translated():
            return self._relation.to_arrow_table()

    def to_arrow_reader(self, batch_size: int) -> pa.RecordBatchReader:
        with _translated():
            return self._relation.to_arrow_reader(batch_size)

    def fetchall(self) -> list[tuple[object, ...]]:
        with _translated():
            return cast(list[tuple[object, ...]], self._relation.fetchall())


class _Input:
    """What the relation `events` shows at the moment; known to DuckDB once, so that plans over it stay prepared."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self.table.schema.__arrow_c_schema__()


class DuckdbMicroBatch:
    """Keeps the promise of MicroBatch with a database in memory for each transform and schema of its input.

    One thread keeps the order and costs least; a prepared plan halves what a small batch takes.
    """

    def __init__(self) -> None:
        self._prepared: dict[tuple[str, pa.Schema], tuple[duckdb.DuckDBPyConnection, _Input]] = {}

    def run(self, sql: str, table: pa.Table) -> pa.Table:
        columns = _projection(sql)
        if columns is not None:
            return table.select([source for source, _ in columns]).rename_columns([name for _, name in columns])
        if sql == _EVERYTHING:
            return table
        with _translated():
            connection, shown = self._prepare(sql, table)
            shown.table = table
            try:
                return connection.sql("EXECUTE transform").to_arrow_table()
            finally:
                shown.table = table.slice(0, 0)

    def _prepare(self, sql: str, table: pa.Table) -> tuple[duckdb.DuckDBPyConnection, _Input]:
        found = self._prepared.get((sql, table.schema))
        if found is None:
            found = self._prepared[sql, table.schema] = (_connect(":memory:", 1), _Input(table.slice(0, 0)))
            found[0].register(INPUT, found[1])
            found[0].execute(f"PREPARE transform AS {sql}")
        return found

    def close(self) -> None:
        """Gives back its memory."""
        for connection, _ in self._prepared.values():
            connection.close()
        self._prepared.clear()


@functools.lru_cache(maxsize=1024)
def _projection(sql: str) -> tuple[tuple[str, str], ...] | None:
    """The columns and their new names, of a transform that only chooses columns; None of any other."""
    if not _CHOICE.fullmatch(sql):
        return None
    found = _COLUMN.findall(sql[: -len(_FROM)])
    return tuple((source.replace('""', '"'), (name or source).replace('""', '"')) for source, name in found)


def _joined(notes: list[pa.Table]) -> pa.Table:
    """Notes of which older ones lack what is noted today: there it is null."""
    return pa.concat_tables(notes, promote_options="default")


def _changed(source: EventSource, present: Collection[str]) -> list[str]:
    """How changes are read; a file from before there were any has rows that were added when they happened."""
    if source.changes is None:
        return []
    if SIGN not in present:
        return [f"epoch_us({quoted([source.event_time])}) AS {CHANGED_AT}", f"1 AS {SIGN}", f"'' AS {CHANGE_ID}"]
    at = f"coalesce({CHANGED_AT}, epoch_us({quoted([source.event_time])})) AS {CHANGED_AT}"
    return [at, f"coalesce({SIGN}, 1) AS {SIGN}", f"coalesce({CHANGE_ID}, '') AS {CHANGE_ID}"]


def _connect(database: str, threads: int | None) -> duckdb.DuckDBPyConnection:
    # No variable of a caller may be taken for a table, and nothing is fetched from the network.
    config: dict[str, str | bool | int | float | list[str]] = {
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        **({"threads": threads} if threads else {}),
    }
    try:
        connection = duckdb.connect(database, config=config)
        connection.execute("LOAD icu; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    except duckdb.Error as error:
        raise SetupError(f"DuckDB does not start: {error}", where=database) from error
    return connection


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise _translate(error) from error


def _translate(error: duckdb.Error) -> TrilaneError:
    what = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        return SetupError(what, where="warehouse", remedy="Raise memory_limit, or free space for temporary files")
    if isinstance(error, duckdb.IOException | duckdb.FatalException | duckdb.InternalException):
        return SetupError(what, where="warehouse", remedy="Check the disk and the files named")
    return ContractError(what, where="warehouse", remedy="Check the transform against the rows of its source")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The operating system gives a dead process's lock back, so a kill leaves nothing locked.
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _table(path: Path) -> pa.Table:
    with _readable(path), pq.ParquetFile(path) as file:  # `read_table` would bring in pandas for it
        return file.read()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        remedy = "Restore the file; or move it away with all that follow it of its partition: the log gives them again"
        what = f"a file of the archive is damaged: {str(error).splitlines()[0]}"
        raise SetupError(what, where=str(path), remedy=remedy) from error


def _write(table: pa.Table, path: Path) -> None:
    """Writes a file that is there whole or not at all, and survives a power cut when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=65_536)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        remedy = "Free space on the disk, and make the folder writable"
        raise SetupError(f"the archive cannot be written: {error}", where=str(path), remedy=remedy) from error
