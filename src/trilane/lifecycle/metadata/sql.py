"""The metadata store in a SQL database, by SQLAlchemy Core: SQLite embedded, PostgreSQL by another URL.

Laws: on SQLite a writer takes the write lock when it begins (BEGIN IMMEDIATE), so that no transaction fails
half-way for one that came first; WAL lets readers go on meanwhile; every commit is synced. No connection
outlives its transaction, so processes may fork.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from trilane.clock import duration
from trilane.errors import ConflictError, SetupError, TrilaneError, UnavailableError
from trilane.lifecycle.metadata.protocol import (
    RUNNING,
    ArtifactRecord,
    DefinitionsRecord,
    DeploymentRecord,
    EdgeRecord,
    RunRecord,
)
from trilane.plugins import local_path, make_folder, options, scheme

__all__ = ["SqlMetadata", "open_metadata"]

SCHEMA_VERSION = 1
_Record = TypeVar("_Record", bound=msgspec.Struct)


class _DriverConnection(Protocol):
    """What is used of SQLite's driver, which only its own adapters import."""

    isolation_level: str | None

    def execute(self, sql: str, /) -> object: ...


class _Json(sa.types.TypeDecorator[Any]):
    """Plain facts as canonical JSON text, so that equal facts are equal text in every database."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str | None:
        return None if value is None else msgspec.json.encode(value, order="sorted").decode()

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> object:
        return None if value is None else msgspec.json.decode(value)


def _seq() -> sa.Column[int]:
    # SQLite counts up by itself only in a column of exactly this type.
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("seq", big, primary_key=True, autoincrement=True)


def _text(name: str, *, null: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=null)


def _instant(name: str, *, null: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=null)


def _json(name: str, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _Json, nullable=null)


_META = sa.MetaData()
_SCHEMA = sa.Table("trilane_schema", _META, sa.Column("version", sa.Integer, primary_key=True))
_DEFINITIONS = sa.Table(
    "definitions", _META, _seq(), _text("digest"), _instant("applied_at"), _text("path"), _json("specs")
)
_ARTIFACTS = sa.Table(
    "artifacts",
    _META,
    _seq(),
    *(_text(name) for name in ("kind", "name", "digest", "path")),
    _json("facts"),
    _instant("created_at"),
    sa.UniqueConstraint("kind", "name", "digest"),
)
_DEPLOYMENTS = sa.Table(
    "deployments", _META, _seq(), _text("endpoint"), _text("bundle"), _json("facts"), _instant("at")
)
_RUNS = sa.Table(
    "runs",
    _META,
    _seq(),
    sa.Column("id", sa.Text, unique=True, nullable=False),
    *(_text(name) for name in ("kind", "subject", "status")),
    _json("facts"),
    _json("error", null=True),
    _instant("started_at"),
    _instant("ended_at", null=True),
    sa.Index("runs_by_status", "status", "started_at"),
)
_EDGES = sa.Table(
    "edges",
    _META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("source", "target", "relation")),
    _text("run", null=True),
    _instant("first_seen"),
    _instant("last_seen"),
)


_MARKS = sa.select(
    *(
        sa.select(sa.func.coalesce(sa.func.max(table.c.seq), 0)).scalar_subquery()
        for table in (_DEFINITIONS, _DEPLOYMENTS)
    )
)
_NEWEST_DEFINITIONS = sa.select(_DEFINITIONS.c.digest).order_by(_DEFINITIONS.c.seq.desc()).limit(1)


def _overtaken(digest: str) -> ConflictError:
    return ConflictError(
        f"other definitions were applied meanwhile ({digest[:16]})",
        where="apply",
        remedy="Look at `trilane plan` again, and apply if it still says what you want",
    )


def open_metadata(url: str) -> SqlMetadata:
    """Opens, and makes where absent, the store at `sqlite://relative/path` or `sqlite:///absolute/path`.

    `?busy_timeout=10s` is how long a writer waits for another. Any other URL is SQLAlchemy's.

    Raises SetupError for a URL or file that cannot be used, or was written by a newer Trilane.
    """
    return SqlMetadata(url)


class SqlMetadata:
    """A MetadataStore over one SQLAlchemy engine."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._where = self._engine.url.render_as_string(hide_password=True)
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        self._insert = dialect.insert
        with self._transaction(write=True) as connection:
            _META.create_all(connection)
            _check_version(connection, self._where)

    def add_definitions(self, record: DefinitionsRecord, *, after: str | None = None) -> bool:
        with self._transaction(write=True) as connection:
            newest = connection.scalar(_NEWEST_DEFINITIONS)
            if newest == record.digest:
                return False
            if None not in (newest, after) and newest != after:
                raise _overtaken(str(newest))
            connection.execute(_DEFINITIONS.insert().values(_row(record)))
            return True

    def definitions(self, *, limit: int | None = None) -> list[DefinitionsRecord]:
        return self._newest(DefinitionsRecord, _DEFINITIONS, (), limit)

    def add_artifact(self, record: ArtifactRecord) -> bool:
        statement = self._insert(_ARTIFACTS).values(_row(record))
        with self._transaction(write=True) as connection:
            done = connection.execute(statement.on_conflict_do_nothing().returning(_ARTIFACTS.c.seq))
            return done.first() is not None

    def artifacts(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        digest: str | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRecord]:
        where = _equal(_ARTIFACTS, kind=kind, name=name, digest=digest)
        return self._newest(ArtifactRecord, _ARTIFACTS, where, limit)

    def add_deployment(self, record: DeploymentRecord, *, of: str | None = None) -> bool:
        own = _DEPLOYMENTS.c.endpoint == record.endpoint
        facts = sa.select(_DEPLOYMENTS.c.bundle, _DEPLOYMENTS.c.facts)
        newest = facts.where(own).order_by(_DEPLOYMENTS.c.seq.desc()).limit(1)
        with self._transaction(write=True) as connection:
            applied = None if of is None else connection.scalar(_NEWEST_DEFINITIONS)
            if applied != of:
                raise _overtaken(str(applied))
            before = None if of is None else connection.execute(newest).first()
            if before is not None and (before.bundle, before.facts) == (record.bundle, record.facts):
                return False
            connection.execute(_DEPLOYMENTS.insert().values(_row(record)))
            return True

    def deployments(self, *, endpoint: str | None = None, limit: int | None = None) -> list[DeploymentRecord]:
        return self._newest(DeploymentRecord, _DEPLOYMENTS, _equal(_DEPLOYMENTS, endpoint=endpoint), limit)

    def marks(self) -> tuple[int, ...]:
        with self._transaction(write=False) as connection:
            return tuple(connection.execute(_MARKS).one())

    def start_run(self, record: RunRecord) -> None:
        with self._transaction(write=True) as connection:
            connection.execute(_RUNS.insert().values(_row(record)))

    def end_run(
        self,
        run: str,
        *,
        status: str,
        ended_at: int,
        facts: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
        edges: Sequence[EdgeRecord] = (),
    ) -> None:
        ending = (
            _RUNS.update()
            .where(_RUNS.c.id == run, _RUNS.c.status == RUNNING)
            .values(status=status, ended_at=ended_at, facts=dict(facts), error=error)
        )
        with self._transaction(write=True) as connection:
            if connection.execute(ending).rowcount != 1:
                raise ConflictError(
                    "this run does not run: it ended before, or never began",
                    where=f"run {run}",
                    remedy="Read its record again; somebody may have abandoned it",
                )
            self._see(connection, edges)

    def runs(
        self,
        *,
        id: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
        status: str | None = None,
        started_before: int | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        where = _equal(_RUNS, id=id, kind=kind, subject=subject, status=status)
        if started_before is not None:
            where.append(_RUNS.c.started_at < started_before)
        return self._newest(RunRecord, _RUNS, where, limit)

    def see_edges(self, edges: Sequence[EdgeRecord]) -> None:
        with self._transaction(write=True) as connection:
            self._see(connection, edges)

    def edges(self) -> list[EdgeRecord]:
        order = (_EDGES.c.source, _EDGES.c.target, _EDGES.c.relation)
        return self._read(EdgeRecord, sa.select(_EDGES).order_by(*order))

    def close(self) -> None:
        self._engine.dispose()

    def _see(self, connection: sa.Connection, edges: Sequence[EdgeRecord]) -> None:
        if not edges:
            return
        insert = self._insert(_EDGES)
        later = insert.excluded.last_seen >= _EDGES.c.last_seen
        upsert = insert.on_conflict_do_update(
            index_elements=["source", "target", "relation"],
            set_={"last_seen": insert.excluded.last_seen, "run": insert.excluded.run},
            where=later,
        )
        connection.execute(upsert, [_row(edge) for edge in edges])

    def _newest(
        self, kind: type[_Record], table: sa.Table, where: Sequence[sa.ColumnElement[bool]], limit: int | None
    ) -> list[_Record]:
        return self._read(kind, sa.select(table).where(*where).order_by(table.c.seq.desc()).limit(limit))

    def _read(self, kind: type[_Record], statement: sa.Select[Any]) -> list[_Record]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(statement).mappings().all()
        return [msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind) for row in rows]

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(trilane_write=write)
                with connection.begin():
                    yield connection
        except sa.exc.DBAPIError as error:
            raise _meaning(error, self._where) from error


def _engine(url: str) -> sa.Engine:
    if scheme(url) == "sqlite":
        path = local_path(url)
        make_folder(path.parent)
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=NullPool)
        busy = duration(options(url, known={"busy_timeout"}).get("busy_timeout", "10s"))
        _tune_sqlite(engine, busy // 1_000)
        return engine
    try:
        return sa.create_engine(url, poolclass=NullPool)
    except (sa.exc.ArgumentError, ImportError) as error:
        remedy = "Write sqlite://path/to/file.db, or install the driver of that database"
        raise SetupError(f"the metadata store cannot be opened: {error}", where=url, remedy=remedy) from error


def _tune_sqlite(engine: sa.Engine, busy_ms: int) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: _DriverConnection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; the hook below does
        connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("trilane_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _check_version(connection: sa.Connection, where: str) -> None:
    version = connection.scalar(sa.select(sa.func.max(_SCHEMA.c.version)))
    if version is None:
        connection.execute(_SCHEMA.insert().values(version=SCHEMA_VERSION))
    elif version > SCHEMA_VERSION:
        raise SetupError(
            f"it was written by a newer Trilane (schema {version}, this one knows {SCHEMA_VERSION})",
            where=where,
            remedy="Upgrade with `pip install -U trilane`",
        )


def _equal(table: sa.Table, **facts: str | None) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in facts.items() if value is not None]


def _row(record: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def _meaning(error: sa.exc.DBAPIError, where: str) -> TrilaneError:
    """Who must act on what the driver said."""
    said = str(error.orig)
    if isinstance(error, sa.exc.IntegrityError):
        return ConflictError(f"this record is there already: {said}", where=where, remedy="Read it, then decide again")
    if "locked" in said or "busy" in said or error.connection_invalidated:
        return UnavailableError(f"the metadata store is busy: {said}", where=where, remedy="Try again")
    return SetupError(
        f"the metadata store cannot be used: {said}",
        where=where,
        remedy="Check that the file is a Trilane database, its folder writable and the disk not full",
    )
