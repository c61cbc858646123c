"""Builds training sets, and answers what any ask should have been served.

Law: the same definitions, rows and period give the same digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trilane import clock
from trilane.errors import ContractError, DefinitionError, SetupError
from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.plugins import make_folder
from trilane.sources.table import TableSource
from trilane.stores.offline.lake import pinned, pinned_plan, versions_of
from trilane.stores.offline.protocol import Connection, Warehouse, quoted
from trilane.training.point_in_time import Joined, Place, Progress, Served, join
from trilane.training.skew import Skew, skew_of
from trilane.training.spine import ROW, SPINE, number_asks, number_spine
from trilane.training.staleness import Lags, drawn, told
from trilane.training.training_set import (
    AS_SERVED,
    IDEAL,
    LABEL,
    MANIFEST,
    MATRIX,
    SAMPLED,
    TABLE,
    Manifest,
    Statistics,
    TrainingSet,
)

__all__ = ["build", "replayed_at", "skews_of", "values_at"]

_CHUNK = 65_536


def build(
    plan: FeaturePlan,
    spine: TableSource,
    *,
    label: str,
    warehouse: Warehouse,
    root: Path,
    out: Path,
    since: int | str | None = None,
    until: int | str | None = None,
    memory_limit: str = "2GiB",
    slice_rows: int = 400_000,
    training: str = IDEAL,
    lags: Mapping[str, Lags] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> TrainingSet:
    """Joins the labelled rows of `spine` from `since` to before `until`; freezes them in `out`/<digest>.

    `training`: "ideal" gives each row what had happened before, "as_served" what serving could read at that moment,
    "sampled" what it would answer with lanes behind by amounts that are drawn, with `seed`, from `lags`.
    `root`: where the paths of tables begin; `memory_limit` bounds the engine, `slice_rows` the events and asks
    that are joined at once; `progress` hears (stage, done, all). Raises ContractError for rows that do not fit.
    """
    plan, spine = pinned_plan(plan, root), pinned(spine, root)
    begin, end = (None if at is None else clock.instant(at) for at in (since, until))
    with (
        _building(make_folder(out)) as temporary,
        warehouse.connect(memory_limit=memory_limit, temp=Path(temporary)) as connection,
    ):
        rows = number_spine(
            connection, plan, spine, warehouse=warehouse, root=root, label=label, since=begin, until=end
        )
        if not rows:
            raise ContractError("no row is labelled", where=f"spine {spine.name!r}", remedy="Widen the period")
        place = Place(warehouse, root, Path(temporary), slice_rows)
        behind = drawn(plan, lags or {}, rows, seed=seed) if training == SAMPLED else {}
        served = Served(lags=behind) if training == SAMPLED else _served(training)
        joined = join(plan, connection, rows, place, served=served, progress=progress)
        unnamed = Manifest(
            digest="",
            rows=rows,
            columns=plan.names,
            label=label,
            event_time=spine.event_time,
            views=plan.versions,
            spine=spine.name,
            since=begin,
            until=end,
            statistics={},
            tables=versions_of(plan, spine),
            training=training,
            recorded={view: number / rows for view, number in joined.recorded.items()},
            statuses=_statuses(plan, joined),
            skew=_skews(plan, joined),
            priors=joined.priors,
            lags=told(lags or {}, behind),
        )
        folder = make_folder(Path(temporary) / "set")
        return _freeze(folder, out, _write(folder, unnamed, plan, spine, connection, joined.values, progress))


@contextlib.contextmanager
def _building(out: Path) -> Iterator[str]:
    """A folder to build in, gone afterwards; and so are those of builds that were killed, whose locks nobody holds."""
    for left in out.glob(".building-*/lock"):
        with contextlib.suppress(OSError), left.open("r+b") as lock:  # it is being built in, or was just removed
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as temporary:
        draft = Path(temporary) / "draft"
        with draft.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # first it is held, then it has its name: no other may take it between
            draft.rename(draft.with_name("lock"))
            yield temporary


def values_at(
    plan: FeaturePlan,
    asks: pa.Table,
    *,
    event_time: str,
    warehouse: Warehouse,
    root: Path,
    memory_limit: str = "2GiB",
    slice_rows: int = 400_000,
    training: str = IDEAL,
    priors: Mapping[str, float] | None = None,
    lags: Mapping[str, Ints] | None = None,
    progress: Progress | None = None,
) -> Floats:
    """The point-in-time values [rows of `asks`, `plan.names`], NaN where there is none.

    `asks` holds the plan's inputs and, in column `event_time`, the instant of each row; `training` as in `build`;
    `priors`: what is usual, by `view.feature`, where a cascade asks for it. With `lags` (microseconds, of each row, by
    view) the values of lanes that are so far behind, whatever a cascade would make of them.
    """
    plan = pinned_plan(plan, root)
    served = _served(training, priors or {}) if lags is None else Served(lags, decided=False)
    with (
        tempfile.TemporaryDirectory(prefix="trilane-") as temporary,
        warehouse.connect(memory_limit=memory_limit, temp=Path(temporary)) as connection,
    ):
        rows = number_asks(connection, plan, asks, event_time=event_time)
        place = Place(warehouse, root, Path(temporary), slice_rows)
        joined = join(plan, connection, rows, place, served=served, progress=progress)
        return np.array(joined.values[:, plan.places])


def replayed_at(
    plan: FeaturePlan,
    asks: pa.Table,
    *,
    event_time: str,
    warehouse: Warehouse,
    root: Path,
    priors: Mapping[str, float] | None = None,
) -> Joined:
    """What was served at the instants of `asks`, as far as it is recorded, and what would have been ideal.

    Its arrays are [rows of `asks`, features of all views of the plan, in its order, then its traits]. `priors`: what is
    usual (`tl.prior("mean")`), which is part of a model; without it nothing is.
    """
    plan = pinned_plan(plan, root)
    with (
        tempfile.TemporaryDirectory(prefix="trilane-") as temporary,
        warehouse.connect(temp=Path(temporary)) as connection,
    ):
        rows = number_asks(connection, plan, asks, event_time=event_time)
        place = Place(warehouse, root, Path(temporary))
        joined = join(plan, connection, rows, place, served=Served(priors=priors or {}))
        ideal = None if joined.ideal is None else np.array(joined.ideal)
        statuses = None if joined.statuses is None else np.array(joined.statuses)
        return Joined(np.array(joined.values), ideal, statuses, joined.recorded)


def skews_of(
    plan: FeaturePlan,
    spine: TableSource,
    *,
    label: str,
    warehouse: Warehouse,
    root: Path,
    since: int | None = None,
    until: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Skew]:
    """How each feature as served differs from the ideal one, over the rows that `build` would take; freezes nothing."""
    plan, spine = pinned_plan(plan, root), pinned(spine, root)
    with (
        tempfile.TemporaryDirectory(prefix="trilane-") as temporary,
        warehouse.connect(memory_limit="2GiB", temp=Path(temporary)) as connection,
    ):
        rows = number_spine(
            connection, plan, spine, warehouse=warehouse, root=root, label=label, since=since, until=until
        )
        place = Place(warehouse, root, Path(temporary))
        joined = join(plan, connection, rows, place, served=Served(), progress=progress)
        return _skews(plan, joined)


def _served(training: str, priors: Mapping[str, float] | None = None) -> Served | None:
    if training not in (IDEAL, AS_SERVED, SAMPLED):
        raise DefinitionError(
            f"{training!r} is no kind of training set",
            where="training",
            remedy="Write 'ideal', 'as_served' or 'sampled'",
        )
    return Served(priors=priors) if training == AS_SERVED else None


def _skews(plan: FeaturePlan, joined: Joined) -> dict[str, Skew]:
    if joined.ideal is None:
        return {}
    return {
        name: skew_of(np.array(joined.ideal[:, place]), np.array(joined.values[:, place]))
        for name, place in zip(plan.names, plan.places, strict=True)
    }


def _statuses(plan: FeaturePlan, joined: Joined) -> dict[str, dict[str, int]]:
    """In how many rows each feature has each status."""
    if joined.statuses is None:
        return {}
    counts = {
        name: np.bincount(joined.statuses[:, place], minlength=len(STATUSES)).tolist()
        for name, place in zip(plan.names, plan.places, strict=True)
    }
    return {name: dict(zip(STATUSES, found, strict=True)) for name, found in counts.items()}


def _write(
    folder: Path,
    manifest: Manifest,
    plan: FeaturePlan,
    spine: TableSource,
    connection: Connection,
    values: Floats,
    progress: Progress | None,
) -> Manifest:
    """Writes all files, chunk by chunk in row order; the manifest with digest and statistics."""
    rows, width = len(values), len(manifest.columns)
    matrix = np.lib.format.open_memmap(folder / MATRIX, "w+", np.float32, (rows, width))
    labels = np.lib.format.open_memmap(folder / LABEL, "w+", np.float64, (rows,))
    tally = _Tally(width)
    digest = hashlib.sha256(_identity(manifest, spine))
    writer = None
    for start, table in _chunks(connection, spine, rows):
        stop = start + table.num_rows
        features = np.array(values[start:stop, plan.places])
        label = table.column(manifest.label).cast(pa.float64()).to_numpy()
        matrix[start:stop], labels[start:stop] = features, label
        tally.add(features)
        _update(digest, table, features)
        columns = [*table.columns, *(pa.array(column) for column in np.ascontiguousarray(features.T))]
        whole = pa.table(columns, names=[*table.schema.names, *manifest.columns])
        writer = writer or pq.ParquetWriter(folder / TABLE, whole.schema, compression="zstd")
        writer.write_table(whole)
        if progress is not None:
            progress("write", stop, rows)
    if writer is not None:
        writer.close()
    matrix.flush()
    labels.flush()
    statistics = dict(zip(manifest.columns, tally.statistics(), strict=True))
    complete = msgspec.structs.replace(manifest, digest=digest.hexdigest(), statistics=statistics)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(complete), indent=2))
    return complete


def _chunks(connection: Connection, spine: TableSource, rows: int) -> Iterator[tuple[int, pa.Table]]:
    names = quoted([field.name for field in spine.fields])
    for start in range(0, rows, _CHUNK):
        yield (
            start,
            connection.query(
                f"SELECT {names} FROM {SPINE} WHERE {ROW} >= {start} AND {ROW} < {start + _CHUNK} ORDER BY {ROW}"
            ).to_arrow_table(),
        )


def _identity(manifest: Manifest, spine: TableSource) -> bytes:
    served = {"training": manifest.training} if manifest.training != IDEAL else {}
    facts = {
        **served,
        "columns": manifest.columns,
        "label": manifest.label,
        "views": manifest.views,
        "rows": manifest.rows,
    }
    return json.dumps({**facts, "fields": [f.spec() for f in spine.fields]}, sort_keys=True).encode()


def _update(digest: hashlib._Hash, table: pa.Table, features: Floats) -> None:
    """Adds a chunk by its values, for the bytes of files and of Arrow buffers change with the library."""
    for column in table.columns:
        flat = column.combine_chunks()
        digest.update(np.packbits(flat.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(flat.type):
            flat = pc.fill_null(flat, "")
            digest.update(pc.binary_length(flat).to_numpy().astype("<i8").tobytes())
            digest.update("".join(flat.to_pylist()).encode())
            continue
        number = flat.cast(pa.int64()) if pa.types.is_timestamp(flat.type) else flat
        blank = False if pa.types.is_boolean(number.type) else 0
        digest.update(pc.fill_null(number, blank).to_numpy(zero_copy_only=False).tobytes())
    # One pattern of bits for all NaN.
    digest.update(np.where(np.isnan(features), np.nan, features).tobytes())


class _Tally:
    """Running statistics of columns, merged chunk by chunk (Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        self._rows = 0
        self._count = np.zeros(width)
        self._mean = np.zeros(width)
        self._spread = np.zeros(width)
        self._low = np.full(width, np.inf)
        self._high = np.full(width, -np.inf)

    def add(self, values: Floats) -> None:
        there = np.isfinite(values)
        count = there.sum(axis=0).astype(np.float64)
        known = np.where(there, values, 0.0)
        mean = known.sum(axis=0) / np.maximum(count, 1)
        spread = (np.where(there, values - mean, 0.0) ** 2).sum(axis=0)
        total = np.maximum(self._count + count, 1)
        apart = mean - self._mean
        self._spread += spread + apart**2 * self._count * count / total
        self._mean += apart * count / total
        self._count += count
        self._rows += len(values)
        self._low = np.minimum(self._low, np.where(there, values, np.inf).min(axis=0))
        self._high = np.maximum(self._high, np.where(there, values, -np.inf).max(axis=0))

    def statistics(self) -> Iterator[Statistics]:
        for i, count in enumerate(self._count.astype(int).tolist()):
            yield Statistics(
                rows=self._rows,
                missing=self._rows - count,
                mean=float(self._mean[i]) if count else None,
                std=float(np.sqrt(self._spread[i] / count)) if count else None,
                low=float(self._low[i]) if count else None,
                high=float(self._high[i]) if count else None,
            )


def _freeze(folder: Path, out: Path, manifest: Manifest) -> TrainingSet:
    place = out / manifest.digest[:16]
    if not place.exists():
        try:
            folder.rename(place)
        except OSError as error:
            if not (place / MANIFEST).exists():  # else another process was faster, with the same contents
                raise SetupError(f"the training set cannot be kept: {error}", where=str(place)) from error
    return TrainingSet(place, manifest)
