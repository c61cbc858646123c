"""Recorded traffic: a file of instants, or the decisions that an endpoint has on record.

Law: what a file does not say is not made up but for its defaults: one row a request.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from trilane.errors import ContractError
from trilane.feedback.record import Records
from trilane.serving.simulation import Request
from trilane.serving.traffic import replayed

__all__ = ["read_trace", "recorded"]

_APART = 50_000  # microseconds before a block within which its requests came, at most


def read_trace(path: Path, *, patience: float) -> list[Request]:
    """The requests of a `.csv` or `.parquet` file: column `at` (seconds, or instants), and `rows` if it is there.

    Raises ContractError for a file that is none.
    """
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        remedy = "Give a .csv or .parquet file with a column `at`"
        raise ContractError(f"the trace cannot be read: {error}", where=str(path), remedy=remedy) from None
    if "at" not in table.column_names:
        what = f"the trace has no column `at`, but {', '.join(table.column_names) or 'none'}"
        raise ContractError(what, where=str(path), remedy="Name the instants `at`: seconds, or instants with an offset")
    rows = None
    if "rows" in table.column_names:
        if not pa.types.is_integer(table["rows"].type):
            raise ContractError(
                f"the rows are {table['rows'].type}", where=f"{path}: rows", remedy="Write whole numbers"
            )
        rows = table["rows"].to_numpy()
    return replayed(_seconds(table["at"], path).tolist(), rows, patience=patience)


def _seconds(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        micros = pc.cast(pc.cast(column, pa.timestamp("us", tz=column.type.tz), safe=False), pa.int64())
        return np.asarray(micros.to_numpy(), float) / 1e6
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        what = f"the instants are {column.type}"
        raise ContractError(what, where=f"{path}: at", remedy="Write seconds, or instants such as 2013-10-01T06:30:00Z")
    return np.asarray(column.to_numpy(), float)


def recorded(
    records: Records, endpoint: str, *, since: int, until: int, patience: float, seed: int = 0
) -> list[Request]:
    """A request for each row on record. Rows that were decided together came, at random, after those before, and no
    more than 50 ms sooner.
    """
    blocks = [(at, rows) for at, rows in records.instants(endpoint) if since <= at < until]
    if not blocks:
        remedy = "Give a trace, or a --rate; or let the endpoint decide first"
        raise ContractError("there is no decision on record", where=f"endpoint {endpoint!r}", remedy=remedy)
    random = np.random.default_rng(seed)
    found, before = [], blocks[0][0]
    for at, rows in blocks:
        found.append(random.uniform(max(before, at - _APART), at, rows) / 1e6)
        before = at
    return replayed(np.concatenate(found).tolist(), patience=patience)
