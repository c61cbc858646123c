"""A training set: the spine and its features, frozen in a folder.

Laws: equal contents have equal digests, whatever the library versions, and the folder is named by the digest; a folder
is there whole or not at all, and is never changed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from trilane.errors import SetupError
from trilane.training.skew import Skew
from trilane.training.staleness import Drawn

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Statistics", "TrainingSet"]

IDEAL, AS_SERVED, SAMPLED = "ideal", "as_served", "sampled"
MANIFEST, TABLE, MATRIX, LABEL = "manifest.json", "table.parquet", "matrix.npy", "label.npy"


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """One feature over the training rows; `mean`, `std`, `low` and `high` are of the values that are there."""

    rows: int
    missing: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a training set is, besides its rows.

    As served also: of each stored view, the share of the rows at which it was recorded what could be read (at the
    others arrival and declared landing are replayed); of each feature, rows by status, and the skew beside the ideal.
    `priors`: what is usual, by `view.feature`, where a cascade asks for it. `lags`: of a sampled set, how far the lane
    of each view was taken to be behind.
    """

    digest: str
    rows: int
    columns: tuple[str, ...]
    label: str
    event_time: str
    views: dict[str, str]
    spine: str
    since: int | None
    until: int | None
    statistics: dict[str, Statistics]
    tables: dict[str, int] = {}
    training: str = IDEAL
    recorded: dict[str, float] = {}
    statuses: dict[str, dict[str, int]] = {}
    skew: dict[str, Skew] = {}
    priors: dict[str, float] = {}
    lags: dict[str, Drawn] = {}


@dataclass(frozen=True)
class TrainingSet:
    """A frozen training set; its arrays are read from the folder when they are first used."""

    folder: Path
    manifest: Manifest

    @staticmethod
    def load(folder: Path) -> TrainingSet:
        """The training set in `folder`. Raises SetupError if there is none."""
        try:
            manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise SetupError(
                f"there is no readable training set: {error}", where=str(folder), remedy="Build it again"
            ) from error
        return TrainingSet(folder, manifest)

    @property
    def digest(self) -> str:
        """SHA-256 of the contents."""
        return self.manifest.digest

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, `view.feature`, of the columns of `matrix`."""
        return self.manifest.columns

    @property
    def views(self) -> dict[str, str]:
        """The version of each view that was joined."""
        return self.manifest.views

    @property
    def tables(self) -> dict[str, int]:
        """The version that was read of each table that has versions."""
        return self.manifest.tables

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Of each feature."""
        return self.manifest.statistics

    @property
    def skew(self) -> dict[str, Skew]:
        """Of each feature, how the served values differ from the ideal ones; empty in an ideal set."""
        return self.manifest.skew

    @property
    def path(self) -> Path:
        """The Parquet file of the spine's columns and the features (float64, NaN where missing)."""
        return self.folder / TABLE

    def __len__(self) -> int:
        return self.manifest.rows

    @functools.cached_property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The features [rows, columns], NaN where missing; mapped from the file, not to be written."""
        return np.asanyarray(np.load(self.folder / MATRIX, mmap_mode="r"), np.float32)

    @functools.cached_property
    def label(self) -> npt.NDArray[np.float64]:
        """The label [rows]."""
        return np.asanyarray(np.load(self.folder / LABEL, mmap_mode="r"), np.float64)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All columns, or the named ones, of the spine and the features, in row order."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path, columns=columns)
