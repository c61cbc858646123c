"""Features of past rows, joined as training joins them, for an engine that reads them like any others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa

from trilane.features.algebra import Floats
from trilane.features.fallback import MISSING
from trilane.features.plan import FeaturePlan
from trilane.models.artifact import Artifact
from trilane.models.model import Model
from trilane.serving.reading import Asked, Reading
from trilane.stores.offline.protocol import Warehouse
from trilane.training.build import values_at
from trilane.training.training_set import AS_SERVED, IDEAL

__all__ = ["PastReader"]

_PLACE = "_place"  # the column that says which of the joined rows one is; no input can be called so


class PastReader:
    """Stands where a FeatureReader would: `prepare` joins the rows of a part, and `read` gives those it is asked for.

    It joins in the way of the model's training set; where that drew how late the lanes were, as it was served.
    """

    def __init__(self, model: Model, artifact: Artifact, *, event_time: str, warehouse: Warehouse, root: Path) -> None:
        self.plan: FeaturePlan = model.plan
        self._training = IDEAL if model.training == IDEAL else AS_SERVED
        self._priors, self._event_time = artifact.manifest.priors, event_time
        self._warehouse, self._root = warehouse, root
        self._values: Floats = np.empty((0, len(self.plan.columns)))

    def prepare(self, table: pa.Table, asked: Asked) -> Asked:
        """Joins the rows of `table`, and gives `asked`, which are the same rows, to read them by."""
        names = dict.fromkeys([*(field.name for field in self.plan.inputs), self._event_time])
        self._values = values_at(
            self.plan,
            table.select([name for name in names if name in table.schema.names]),
            event_time=self._event_time,
            warehouse=self._warehouse,
            root=self._root,
            training=self._training,
            priors=self._priors,
        )
        return Asked({**asked.columns, _PLACE: range(len(asked))}, len(asked))

    def read(self, rows: Asked, _now: int, *, within: float = math.inf, patience: float = math.inf) -> Reading:
        """The joined values of `rows`; `within` and `patience` bound what a store may take, and there is none."""
        values = self._values[np.asarray(rows.columns[_PLACE])]
        statuses = np.isnan(values).astype(np.uint8) * np.uint8(MISSING)
        return Reading(values, statuses, np.zeros(values.shape, np.int64), ())
