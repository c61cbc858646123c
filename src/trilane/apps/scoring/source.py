"""Where the rows of a scoring job come from: a Parquet file, a folder of them, or a declared table.

Law: files are read where they lie; only a table that is no plain Parquet, or whose rules put rows aside, is first
written out, and then it is read as of that moment, however often the job is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trilane.apps.project import Project
from trilane.apps.scoring.job import input_files
from trilane.apps.scoring.output import Output, drafting
from trilane.errors import ContractError, DefinitionError, SetupError
from trilane.sources.table import TableSource
from trilane.stores.offline.lake import pinned
from trilane.stores.offline.tables import table_files

__all__ = ["Source", "find_source", "write_out"]

_BATCH = 65_536
_GROUP = 262_144


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input: `name` as it was named, `table` if it is a declared one, and where its files lie."""

    name: str
    table: TableSource | None
    root: Path
    files: tuple[Path, ...]

    @property
    def is_written_out(self) -> bool:
        """Whether its rows must be written out first."""
        return self.table is not None and not self.files


def find_source(project: Project, text: str, output: Path) -> Source:
    """What `text` names: a path if there is one, else a table. Raises DefinitionError, SetupError or ContractError."""
    path = Path(text)
    if not path.exists():
        return _table(project, text)
    path = path.resolve()
    for one, other in ((path, output.resolve()), (output.resolve(), path)):
        if one.is_relative_to(other) and (path.is_dir() or one == path):
            what = "the input and the output lie in one another"
            raise DefinitionError(what, where="--output", remedy="Name a folder beside the input", file="")
    return Source(name=str(path), table=None, root=path, files=tuple(input_files(path)))


def _table(project: Project, name: str) -> Source:
    tables = project.definitions.tables if project.applied_digest() is not None else {}
    found = tables.get(name)
    if found is None:
        known = ", ".join(sorted(tables)) or "none"
        what = f"there is no file, no folder and no table {name!r}"
        raise SetupError(what, where="--input", remedy=f"Declared tables: {known}")
    root = project.config.root
    files = [] if found.format or found.rules else table_files(found, root)
    plain = all(file.name.endswith(".parquet") for file in files)
    if not files and not (found.format or found.rules) and not table_files(found, root):
        raise ContractError("the table has no file", where=f"table {name!r}", remedy=f"Land one at {found.path}")
    return Source(name=name, table=found, root=root, files=tuple(files) if plain else ())


def write_out(project: Project, source: TableSource, output: Output) -> Source:
    """The rows of a table as Parquet in the output's folder."""
    path = output.input / f"{source.name}.parquet"
    read = pinned(source, project.config.root)
    with project.warehouse.connect(temp=None) as connection:
        sql = project.warehouse.table_sql(read, project.config.root)
        reader = connection.query(f"SELECT * FROM {sql}").to_arrow_reader(_BATCH)
        with drafting(path) as draft, pq.ParquetWriter(draft, reader.schema, compression="zstd") as writer:
            held: list[pa.RecordBatch] = []
            for batch in reader:
                held.append(batch)
                if sum(map(len, held)) >= _GROUP:
                    writer.write_table(pa.Table.from_batches(held))
                    held = []
            if held:
                writer.write_table(pa.Table.from_batches(held, reader.schema))
    return Source(name=source.name, table=source, root=output.input, files=(path,))
