"""A warehouse whose views are computed by Apache Spark: the same files and the same arithmetic, on many machines.

Events lie in Parquet files as in the DuckDB warehouse, in a folder that all machines see, and small queries run on
DuckDB here. What grows, the rows of a view, is read, transformed, and brought together by key by Spark; in its Python
workers the very SQL of the transform runs on DuckDB over Arrow batches, and the very algebra of the tiles folds a key.
Laws: nothing is said twice in another SQL, so both engines give the same bits; no row passes through this process but
those of results and of tables that Spark does not read itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from trilane.errors import ContractError, SetupError, TrilaneError
from trilane.features.view import View, bare
from trilane.plugins import local_path, make_folder, options
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.stores.offline import moments
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.offline.lake import plain_files
from trilane.stores.offline.protocol import Connection, Fold, MicroBatch, quoted
from trilane.stores.offline.tables import table_files
from trilane.types import arrow_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkCluster", "SparkWarehouse", "open_warehouse"]

# A file means the same everywhere only if neither the machine's time zone nor the case of a name counts.
_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
}
_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "STRING",
    pa.binary(): "BINARY",
    pa.timestamp("us", "UTC"): "TIMESTAMP",
}
_FAULT = re.compile(r"^trilane\.errors\.(\w+): (.*)$", re.MULTILINE)
_BATCH = 65_536


def open_warehouse(url: str) -> SparkWarehouse:
    """The warehouse in the folder of `url`, computed by the Spark that its options name.

    `master`: as Spark calls it (default: `local[*]`, all cores of this machine). Options with a dot are Spark's own.
    """
    found = options(url)
    own = {name: value for name, value in found.items() if "." in name}
    options(url, known=("master", *own))
    folder = local_path(url)
    return SparkWarehouse(folder, SparkCluster(folder, found.get("master", "local[*]"), own))


class SparkWarehouse:
    """Keeps the promise of Warehouse in `folder`, which is the folder of a DuckDB warehouse as well."""

    def __init__(self, folder: Path, cluster: SparkCluster) -> None:
        self._files = DuckdbWarehouse(folder)
        self._cluster = cluster

    def append_events(
        self, source: EventSource, table: pa.Table, *, partition: int, first: int, last: int, newest: int | None
    ) -> None:
        self._files.append_events(source, table, partition=partition, first=first, last=last, newest=newest)

    def archived(self, source: EventSource, partition: int) -> int:
        return self._files.archived(source, partition)

    def newest(self, source: EventSource, partition: int) -> int | None:
        return self._files.newest(source, partition)

    def archiving(self, source: EventSource) -> AbstractContextManager[None]:
        return self._files.archiving(source)

    def keep(self, name: str, rows: pa.Table) -> None:
        self._files.keep(name, rows)

    def kept(self, name: str, *, latest: bool = False) -> pa.Table | None:
        return self._files.kept(name, latest=latest)

    def connect(
        self, *, memory_limit: str = "2GiB", threads: int | None = None, temp: Path | None = None
    ) -> AbstractContextManager[Connection]:
        return self._files.connect(memory_limit=memory_limit, threads=threads, temp=temp)

    def cluster(self) -> SparkCluster:
        return self._cluster

    def micro_batch(self) -> MicroBatch:
        return self._files.micro_batch()

    def events_sql(self, source: EventSource) -> str:
        return self._files.events_sql(source)

    def table_sql(self, source: TableSource, root: Path, *, all_rows: bool = False) -> str:
        return self._files.table_sql(source, root, all_rows=all_rows)


class SparkCluster:
    """Keeps the promise of Cluster. Spark starts with the first view and lives as long as the process."""

    def __init__(self, folder: Path, master: str, own: Mapping[str, str]) -> None:
        self._folder = folder
        self._files = DuckdbWarehouse(folder)
        self._master = master
        self._own = dict(own)

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
        with tempfile.TemporaryDirectory(prefix=".gathering-", dir=make_folder(self._folder)) as name:
            scratch = Path(name)
            _check_installed(self._master)
            with _translated(), warnings.catch_warnings():
                # Arrow goes in and out; pandas has no part in this, whatever its version.
                warnings.filterwarnings("ignore", ".*pandas", FutureWarning)
                session = _session(self._master, self._own, self._folder)
                rows = self._read(session, view, root, scratch, ends)
                rows = _moments(view, rows, since, until)
                keys = [field.name for field in moments.key_fields(view)]
                if beside is not None:
                    rows = _with_asks(
                        session, rows, keys, _written(beside, scratch / "asks.parquet", _asks_schema(view))
                    )
                placed = rows.repartition(*keys).sortWithinPartitions(*keys, moments.TIME)
                placed.mapInArrow(fold, _ddl(schema)).write.parquet(str(scratch / "found"))
            for path in sorted((scratch / "found").glob("*.parquet")):
                for batch in pq.ParquetFile(path).iter_batches(_BATCH):
                    yield batch.cast(schema)

    def _read(
        self, session: SparkSession, view: View, root: Path, scratch: Path, ends: Sequence[int] | None
    ) -> DataFrame:
        """The fields of the source that the transform looks at."""
        source, schema = view.source, _read_schema(view)
        if isinstance(source, EventSource):
            relation = self._files.events_sql(source)
            files: list[Path] | None = self._files.event_files(source, ends)
            bounds = [f"(_partition = {number} AND _offset < {end})" for number, end in enumerate(ends or ())]
            relation += f" WHERE _partition >= {len(bounds)}{''.join(f' OR {bound}' for bound in bounds)}"
        else:
            relation, files = self._files.table_sql(source, root), _table_files(source, root)  # type: ignore[arg-type]
        # The rules of a source are DuckDB's SQL, as the transform is, so what they leave out is left out here.
        ruled = source is not None and bool(source.rules)
        if ruled or files is None or not _plain(files, schema, may_lack=isinstance(source, EventSource)):
            with self._files.connect(temp=scratch) as connection:
                rows = connection.query(f"SELECT {quoted(schema.names)} FROM {relation}").to_arrow_reader(_BATCH)
                files = [_written(rows, scratch / "table.parquet", schema)]
        if not files:
            return session.createDataFrame([], _ddl(schema))
        return session.read.schema(_ddl(schema)).parquet(*(_literal(file) for file in files))


def _table_files(source: TableSource, root: Path) -> list[Path] | None:
    return plain_files(source, root) if source.format else table_files(source, root)


def _read_schema(view: View) -> pa.Schema:
    wanted = moments.wanted_fields(view)
    fields = [pa.field(f.name, arrow_type(f)) for f in view.source.fields if f.name in wanted] if view.source else []
    return pa.schema([*fields, *([pa.field("_late", pa.bool_())] if isinstance(view.source, EventSource) else [])])


def _moments(view: View, rows: DataFrame, since: int, until: int) -> DataFrame:
    schema, sql = _read_schema(view), moments.select_sql(view)
    # The transform of no rows shows which columns it gives, and here rather than far away if it gives none.
    with contextlib.closing(DuckdbMicroBatch()) as engine:
        given = moments.moments_of(view, engine.run(sql, schema.empty_table())).schema
    given = given.append(pa.field(moments.ROW, pa.int64()))
    time = "`" + (view.source.event_time if view.source else "").replace("`", "``") + "`"
    rows = rows.where(f"{time} >= timestamp_micros({since}L) AND {time} < timestamp_micros({until}L)")
    rows = rows.where("NOT _late") if "_late" in schema.names else rows
    return rows.mapInArrow(functools.partial(_transform, bare(view), sql, given), _ddl(given))


def _with_asks(session: SparkSession, rows: DataFrame, keys: list[str], path: Path) -> DataFrame:
    asked = session.read.parquet(_literal(path))
    seen = rows.join(asked.select(*keys).distinct(), keys, "left_semi")
    return seen.unionByName(asked, allowMissingColumns=True)


def _transform(view: View, sql: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Runs in a worker of Spark."""
    with contextlib.closing(DuckdbMicroBatch()) as engine:
        for batch in batches:
            found = moments.moments_of(view, engine.run(sql, pa.Table.from_batches([batch])))
            found = found.append_column(moments.ROW, pa.nulls(found.num_rows, pa.int64()))
            yield from found.cast(schema).to_batches()


def _check_installed(master: str) -> None:
    if importlib.util.find_spec("pyspark") is None:
        raise SetupError(
            "Spark needs the package pyspark", where=master, remedy="Install it: `pip install 'trilane[spark]'`"
        )


def _session(master: str, own: Mapping[str, str], folder: Path) -> SparkSession:
    """The session of this process: one that is there already is used as it is."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    found = SparkSession.getActiveSession()
    if found is not None:
        running = found.sparkContext.master
        if running != master:
            remedy = f"Write `master={running}`, or use another process"
            raise SetupError(f"this process runs Spark on {running!r} already", where=master, remedy=remedy)
        session = found
    else:
        builder = SparkSession.builder.appName("trilane").master(master)
        for name, value in _settings(master, own, folder).items():
            builder = builder.config(name, value)
        try:
            session = builder.getOrCreate()
        except (PySparkException, OSError) as error:
            raise SetupError(
                f"Spark does not start: {str(error).splitlines()[0]}",
                where=master,
                remedy="Install Java 17 or later, set JAVA_HOME, and check the master",
            ) from error
    for name, value in _ALWAYS.items():
        session.conf.set(name, value)
    # Spark heeds `spark.pyspark.python` only when it is started by its own script; by itself it takes any `python3`.
    if "spark.pyspark.python" in own or master.startswith("local"):
        session.sparkContext.pythonExec = own.get("spark.pyspark.python", sys.executable)
    return session


def _settings(master: str, own: Mapping[str, str], folder: Path) -> dict[str, str]:
    # Only what goes wrong is said; Spark knows how to be silent only through a file.
    quiet = Path(__file__).with_name("spark_log4j2.properties").as_uri()
    settings = {
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": str(folder / ".spark" / "tables"),
    }
    if master.startswith("local"):
        settings["spark.local.dir"] = str(make_folder(folder / ".spark"))
        settings.update(dict.fromkeys(("spark.driver.host", "spark.driver.bindAddress"), "127.0.0.1"))
        settings["spark.ui.enabled"] = "false"
    java = f"-Dlog4j2.configurationFile={quiet} {own.get('spark.driver.extraJavaOptions', '')}"
    return {**settings, **own, "spark.driver.extraJavaOptions": java.strip()}


def _ddl(schema: pa.Schema) -> str:
    return ", ".join("`" + field.name.replace("`", "``") + f"` {_TYPES[field.type]}" for field in schema)


def _asks_schema(view: View) -> pa.Schema:
    own = [pa.field(name, pa.int64()) for name in (moments.TIME, moments.ROW)]
    return pa.schema([*moments.key_fields(view), *own])


def _plain(files: Sequence[Path], schema: pa.Schema, *, may_lack: bool) -> bool:
    """Whether Spark reads the very values: Parquet whose columns have the declared types already."""
    for file in files:
        if file.suffix != ".parquet":
            return False
        kinds = {field.name: field.type for field in pq.read_schema(file)}
        if any(kinds.get(f.name, f.type if may_lack else None) != f.type for f in schema):
            return False
    return True


def _written(rows: pa.RecordBatchReader, path: Path, schema: pa.Schema) -> Path:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in rows:
            table = pa.Table.from_batches([batch]).rename_columns(schema.names)
            writer.write_table(table.cast(schema))
    return path


def _literal(path: Path) -> str:
    """A path whose characters mean themselves, for Spark takes paths for patterns."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", str(path.absolute()))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except TrilaneError:
        raise
    except (PySparkException, Py4JError) as error:
        raise _translate(str(error)) from error


def _translate(text: str) -> TrilaneError:
    """What went wrong in a worker comes as the text of its traceback."""
    fault = _FAULT.search(text)
    if fault and fault[1] == "ContractError":
        return ContractError(
            fault[2], where="Spark worker", remedy="Check the transform against the rows of its source"
        )
    lines = [line for line in text.splitlines() if line.strip()]
    what = fault[2] if fault else next((line for line in lines if "Error" in line or "Exception" in line), lines[0])
    return SetupError(
        f"Spark failed: {what.strip()}",
        where="warehouse",
        remedy="Read Spark's log; all machines need the folder of the warehouse, this release of trilane, and space",
    )
