"""Recorded traffic: a file of instants, or the decisions that an endpoint has on record.

Laws: what a file does not say is not made up but for its defaults: one row a request, of the endpoint's tier, of nobody
named. A file that is no trace is refused with the place at which it is none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from trilane.apps.server.limits import DECISIONS
from trilane.errors import ContractError
from trilane.feedback.record import Records
from trilane.serving.policy import TIERS
from trilane.serving.simulation import Request
from trilane.serving.traffic import replayed

__all__ = ["read_trace", "recorded"]

_APART = 50_000  # microseconds before a block within which its requests came, at most
_READ = ("at", "rows", "tier", "caller")
_REMEDY = "Give a .csv or .parquet file with a column `at`"


def read_trace(path: Path, *, patience: float, tier: int = 0) -> list[Request]:
    """The requests of a `.csv` or `.parquet` file: column `at` (seconds, or instants), in order of time, and `rows`,
    `tier` (else, and where it is empty, the number `tier`) and `caller` if they are there.

    Raises ContractError for a file that is none.
    """
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise ContractError(f"the trace cannot be read: {error}", where=str(path), remedy=_REMEDY) from None
    names = _names(table, path)
    if "at" not in names:
        what = f"the trace has no column `at`, but {', '.join(names) or 'none'}"
        raise ContractError(what, where=str(path), remedy="Name the instants `at`: seconds, or instants with an offset")
    if not table.num_rows:
        raise ContractError("the trace is empty", where=str(path), remedy="Give a trace of one request or more")
    at = _seconds(table["at"], path)
    _check_order(at, path)
    rows = _rows(table, path) if "rows" in names else None
    tiers = _tiers(_texts(table, "tier", path), tier, path) if "tier" in names else [tier] * len(at)
    callers = [text or "" for text in _texts(table, "caller", path)] if "caller" in names else None
    try:
        return replayed(at.tolist(), rows, patience=patience, tiers=tiers, callers=callers)
    except ContractError as error:
        raise ContractError(error.what, where=f"{path}: {error.where}", remedy=error.remedy) from None


def _names(table: pa.Table, path: Path) -> list[str]:
    try:
        names: list[str] = table.column_names
    except UnicodeDecodeError as error:
        raise ContractError(f"the trace is no text: {error}", where=str(path), remedy=_REMEDY) from None
    twice = next((name for name in _READ if names.count(name) > 1), None)
    if twice is not None:
        what = f"the trace has {names.count(twice)} columns `{twice}`"
        raise ContractError(what, where=f"{path}: {twice}", remedy="Leave one of them")
    return names


def _check_order(at: np.ndarray, path: Path) -> None:
    """Refuses instants that go back: they may be times of day, or of several clocks, and no sorting mends that."""
    back = np.flatnonzero(np.diff(at) < 0)
    if len(back):
        place = int(back[0]) + 1
        what = f"the trace goes back by {at[place - 1] - at[place]:g} s"
        remedy = "Sort the requests by `at`, if all of them are of one clock"
        raise ContractError(what, where=f"{path}: at[{place}]", remedy=remedy)


def _rows(table: pa.Table, path: Path) -> list[int]:
    column = table["rows"]
    if not pa.types.is_integer(column.type):
        raise ContractError(f"the rows are {column.type}", where=f"{path}: rows", remedy="Write whole numbers")
    found = np.asarray(column.to_numpy())
    many = np.flatnonzero(found > DECISIONS)
    if len(many):
        what, remedy = f"a request of {found[many[0]]:,.0f} rows", f"A server takes {DECISIONS:,} at most"
        raise ContractError(what, where=f"{path}: rows[{many[0]}]", remedy=remedy)
    return list(found.tolist())


def _texts(table: pa.Table, name: str, path: Path) -> list[str | None]:
    column = table[name]
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        remedy = f"Write the {name}s as text, or leave them out"
        raise ContractError(f"the {name}s are {column.type}", where=f"{path}: {name}", remedy=remedy)
    return list(column.to_pylist())


def _tiers(names: list[str | None], default: int, path: Path) -> list[int]:
    wrong = next((number for number, name in enumerate(names) if name and name not in TIERS), None)
    if wrong is not None:
        what, remedy = f"{names[wrong]!r} is no tier", f"Use {', '.join(TIERS)}, or leave it empty"
        raise ContractError(what, where=f"{path}: tier[{wrong}]", remedy=remedy)
    return [TIERS.index(name) if name else default for name in names]


def _seconds(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    if pa.types.is_timestamp(column.type):
        micros = pc.cast(pc.cast(column, pa.timestamp("us", tz=column.type.tz), safe=False), pa.int64())
        return np.asarray(micros.to_numpy(), float) / 1e6
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        what = f"the instants are {column.type}"
        raise ContractError(what, where=f"{path}: at", remedy="Write seconds, or instants such as 2013-10-01T06:30:00Z")
    return np.asarray(column.to_numpy(), float)


def recorded(
    records: Records, endpoint: str, *, since: int, until: int, patience: float, tier: int = 0, seed: int = 0
) -> list[Request]:
    """The requests on record, each with its rows, as requests of `tier`. Those that were decided together came, at
    random, after those before, and no more than 50 ms sooner.
    """
    random = np.random.default_rng(seed)
    found, rows, before = [], list[int](), None
    for at, sizes in records.requests(endpoint, since=since, until=until):
        found.append(random.uniform(max(at if before is None else before, at - _APART), at, len(sizes)) / 1e6)
        rows += sizes
        before = at
    if not rows:
        remedy = "Give a trace, or a --rate; or let the endpoint decide first"
        raise ContractError("there is no decision on record", where=f"endpoint {endpoint!r}", remedy=remedy)
    return replayed(np.concatenate(found).tolist(), rows, patience=patience, tiers=[tier] * len(rows))
