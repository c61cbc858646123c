from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deltalake
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import FileScanTask
from pyroaring import BitMap64

import trilane as tl
from trilane.errors import ContractError, DefinitionError
from trilane.features.plan import FeaturePlan
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.offline.iceberg import part_of
from trilane.stores.offline.lake import pinned
from trilane.training import build

SCHEMA = {"at": tl.Timestamp, "who": tl.String, "x": tl.Int64 | None}
FORMATS = ["delta", "iceberg"]


@contextmanager
def iceberg(folder: Path) -> Iterator[Any]:
    folder.mkdir(exist_ok=True)
    uri = f"sqlite:///{folder}/catalog.db"
    with load_catalog("test", type="sql", uri=uri, warehouse=f"file://{folder}") as catalog:
        catalog.create_namespace_if_not_exists("n")
        yield catalog


def append(kind: str, folder: Path, rows: pa.Table) -> None:
    """Commits a version of the table that `source` reads."""
    if kind == "delta":
        deltalake.write_deltalake(folder / "n" / "t", rows, mode="append")
    else:
        with iceberg(folder) as catalog:
            catalog.create_table_if_not_exists("n.t", schema=rows.schema).append(rows)


def table(*rows: tuple[int, str, int | None]) -> pa.Table:
    at, who, x = zip(*rows, strict=True)
    instants = pa.array([second * 1_000_000 for second in at], pa.timestamp("us", "UTC"))
    return pa.table({"at": instants, "who": pa.array(who), "x": pa.array(x, pa.int32())})


def source(kind: str, **more: Any) -> tl.TableSource:
    options: dict[str, Any] = {"schema": SCHEMA, "path": "n/t", "event_time": "at", "format": kind, **more}
    return tl.TableSource("t", **options)


def read(folder: Path, what: tl.TableSource) -> list[tuple[object, ...]]:
    warehouse = DuckdbWarehouse(folder / "warehouse")
    with warehouse.connect(threads=1) as connection:
        names = ", ".join(f'"{f.name}"' if f.name != "at" else 'epoch("at")::INT' for f in what.fields)
        return sorted(connection.query(f"SELECT {names} FROM {warehouse.table_sql(what, folder)}").fetchall(), key=str)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_rows_of_all_commits_are_read(kind: str, tmp_path: Path) -> None:
    append(kind, tmp_path, table((1, "a", 1), (2, "b", None)))
    append(kind, tmp_path, table((3, "c", 3)))
    assert read(tmp_path, source(kind)) == [(1, "a", 1), (2, "b", None), (3, "c", 3)]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pinned_table_stays_as_it_is_whatever_is_committed(kind: str, tmp_path: Path) -> None:
    append(kind, tmp_path, table((1, "a", 1)))
    before = pinned(source(kind), tmp_path)
    append(kind, tmp_path, table((2, "b", 2)))
    assert read(tmp_path, before) == [(1, "a", 1)]
    assert before.version is not None
    assert read(tmp_path, source(kind, version=before.version)) == [(1, "a", 1)]
    assert len(read(tmp_path, source(kind))) == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_not_there_is_told(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=f"there is no {kind.capitalize()} table"):
        read(tmp_path, source(kind))
    append(kind, tmp_path, table((1, "a", 1)))
    with pytest.raises(ContractError, match="99"):
        read(tmp_path, source(kind, version=99))
    with pytest.raises(ContractError, match="column 'y' is missing"):
        read(tmp_path, source(kind, schema={**SCHEMA, "y": tl.Int64}))
    with pytest.raises(ContractError, match="column 'who' is VARCHAR, expected int64"):
        read(tmp_path, source(kind, schema={**SCHEMA, "who": tl.Int64}))
    for file in (tmp_path / "n" / "t").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(ContractError, match="cannot be read"):
        read(tmp_path, source(kind))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    with iceberg(tmp_path / "ice") as catalog:
        catalog.create_table("n.t", schema=table((1, "a", 1)).schema)
    assert read(tmp_path / "ice", pinned(source("iceberg"), tmp_path / "ice")) == []
    deltalake.write_deltalake(tmp_path / "n" / "t", table((1, "a", 1)).slice(0, 0))
    assert read(tmp_path, pinned(source("delta"), tmp_path)) == []


def test_columns_of_delta_partitions_come_from_the_log(tmp_path: Path) -> None:
    rows = table((1, "a b", 1), (2, "/ü%20", 2), (3, "it's", 3))
    deltalake.write_deltalake(tmp_path / "n" / "t", rows, partition_by=["who", "x"])
    assert read(tmp_path, source("delta")) == [(1, "a b", 1), (2, "/ü%20", 2), (3, "it's", 3)]


def test_a_column_that_came_later_is_null_in_older_files(tmp_path: Path) -> None:
    deltalake.write_deltalake(tmp_path / "n" / "t", table((1, "a", 1)).drop_columns(["x"]))
    deltalake.write_deltalake(tmp_path / "n" / "t", table((2, "b", 2)), mode="append", schema_mode="merge")
    assert read(tmp_path, source("delta")) == [(1, "a", None), (2, "b", 2)]


def test_a_renamed_column_of_iceberg_keeps_its_values(tmp_path: Path) -> None:
    append("iceberg", tmp_path, table((1, "a", 1)))
    with iceberg(tmp_path) as catalog, catalog.load_table("n.t").update_schema() as change:
        change.rename_column("x", "y")
    renamed = source("iceberg", schema={"at": tl.Timestamp, "who": tl.String, "y": tl.Int64 | None})
    append("iceberg", tmp_path, table((2, "b", 2)).rename_columns(["at", "who", "y"]))
    assert read(tmp_path, renamed) == [(1, "a", 1), (2, "b", 2)]


def test_rewritten_rows_are_read_once_and_deleted_ones_not(tmp_path: Path) -> None:
    append("delta", tmp_path, table((1, "a", 1), (2, "b", 2)))
    deltalake.DeltaTable(tmp_path / "n" / "t").delete("who = 'a'")
    assert read(tmp_path, source("delta")) == [(2, "b", 2)]
    assert len(read(tmp_path, source("delta", version=0))) == 2


def test_rows_deleted_beside_the_files_are_refused(tmp_path: Path) -> None:
    append("delta", tmp_path, table((1, "a", 1), (2, "b", 2)))
    [log] = (tmp_path / "n" / "t" / "_delta_log").glob("*.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    bitmap = struct.pack("<i", 1_681_511_377) + BitMap64([0]).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(bitmap), "sizeInBytes": len(bitmap), "cardinality": 1}
    for line in lines:
        if "protocol" in line:
            line["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
        if "add" in line:
            line["add"]["deletionVector"] = vector
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ContractError, match="rows are deleted by vectors"):
        read(tmp_path, source("delta"))


def z85(raw: bytes) -> str:
    """The text form of ZeroMQ's RFC 32, in which a Delta log holds small vectors."""
    letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    padded = raw + bytes(-len(raw) % 4)
    numbers = [int.from_bytes(padded[i : i + 4], "big") for i in range(0, len(padded), 4)]
    return "".join(letters[number // 85**place % 85] for number in numbers for place in (4, 3, 2, 1, 0))


def test_files_of_deletes_are_refused(tmp_path: Path) -> None:
    append("iceberg", tmp_path, table((1, "a", 1)))
    with iceberg(tmp_path) as catalog:
        [task] = catalog.load_table("n.t").scan().plan_files()
    deleting = FileScanTask(task.file, delete_files={task.file}, residual=task.residual)
    with pytest.raises(ContractError, match="rows are deleted by files"):
        part_of(deleting, {}, "table 't'", 1)


def test_a_commit_that_the_catalog_alone_can_judge_is_told(tmp_path: Path) -> None:
    append("iceberg", tmp_path, table((1, "a", 1)))
    [*_, last] = sorted((tmp_path / "n" / "t" / "metadata").glob("*.metadata.json"))
    (last.parent / f"{last.name[:5]}-00000000-0000-0000-0000-000000000000.metadata.json").write_bytes(last.read_bytes())
    with pytest.raises(ContractError, match="2 metadata files have the same number"):
        read(tmp_path, source("iceberg"))
    assert read(tmp_path, source("iceberg", path=f"n/t/metadata/{last.name}")) == [(1, "a", 1)]


def test_a_format_or_a_version_that_says_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="format 'hudi' is not known"):
        source("hudi")
    with pytest.raises(DefinitionError, match="files have no version"):
        tl.TableSource("t", schema=SCHEMA, path="t.parquet", event_time="at", version=3)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_training_set_names_the_versions_that_it_read(kind: str, tmp_path: Path) -> None:
    append(kind, tmp_path, table((1, "a", 1), (90_000, "a", 2)))

    @tl.batch(source(kind), tl.Entity("who", who=tl.String), features={"n": tl.count(window="2d")}, landing="1h")
    def daily(rows: ibis.Table) -> ibis.Table:
        return rows

    asked = {"at": pa.array([200_000_000_000], pa.timestamp("us", "UTC")), "who": ["a"], "won": [True]}
    pq.write_table(pa.table(asked), tmp_path / "asks.parquet")
    asks = tl.TableSource(
        "asks",
        schema={"at": tl.Timestamp, "who": tl.String, "won": tl.Bool},
        path="asks.parquet",
        event_time="at",
    )
    made = build(
        FeaturePlan.of([daily], where="test"),
        asks,
        label="won",
        warehouse=DuckdbWarehouse(tmp_path / "warehouse"),
        root=tmp_path,
        out=tmp_path / "out",
    )
    assert made.matrix.tolist() == [[2.0]]
    assert made.tables == {"t": pinned(source(kind), tmp_path).version}
    assert made.views == {"daily": daily.version}
