"""Models as the author declares them: which features, learnt by which function, from which rows, for which label."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trilane.clock import duration
from trilane.errors import DefinitionError
from trilane.features.plan import FeaturePlan, Selection
from trilane.models.own_process import ONNX, PYTHON, OwnProcess, runtime_of
from trilane.sources.table import TableSource

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Examples", "Model"]


class Examples(Protocol):
    """What a `train` function gets: the training set, as far as learning needs it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, `view.feature`, of the columns of `matrix`."""
        ...

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The features [rows, columns]; NaN where missing."""
        ...

    @property
    def label(self) -> npt.NDArray[np.float64]:
        """The label [rows]."""
        ...


@dataclass(frozen=True, eq=False, init=False)
class Model:
    """A declared model.

    `features`: views, or single features by `view["name"]`, in the order of the model's input columns (float32);
    `spine`: the table whose rows (entity keys, request inputs, event time, label) ask for training examples;
    `label`: its column to learn; rows where it is null are left out;
    `train`: gets the training set (`Examples`), returns what was learnt, as far as `runtime` can keep it;
    `training`: "ideal", of what had happened before each row, "as_served", of what could be read at that moment, or
    "sampled", of what serving would answer with lanes as far behind as they are in production.
    `staleness`: for "sampled", by view, the weights of lags where nothing was measured: `{"v": {"0s": 9, "10m": 1}}`;
    `runtime`: "onnx", to which scikit-learn and LightGBM estimators are exported; "lightgbm" or "xgboost", in the
    library's own format; "python" or `tl.python(...)`: any object, in a process of its own.
    """

    name: str
    plan: FeaturePlan
    spine: TableSource
    label: str
    train: Callable[[Examples], Any]
    training: str
    staleness: Mapping[str, Mapping[str, float]]
    runtime: str
    process: OwnProcess

    def __init__(
        self,
        name: str,
        *,
        features: Sequence[Selection],
        spine: TableSource,
        label: str,
        train: Callable[[Examples], Any],
        training: str = "ideal",
        staleness: Mapping[str, Mapping[str, float]] | None = None,
        runtime: str | OwnProcess = ONNX,
    ) -> None:
        put = object.__setattr__
        where = f"model {name!r}"
        put(self, "name", name)
        put(self, "plan", FeaturePlan.of(features, where=where))
        put(self, "spine", spine)
        put(self, "label", label)
        put(self, "train", train)
        put(self, "training", training)
        put(self, "staleness", {view: dict(lags) for view, lags in (staleness or {}).items()})
        kind, process = runtime_of(runtime, where=where)
        put(self, "runtime", kind)
        put(self, "process", process)
        if training not in ("ideal", "as_served", "sampled"):
            raise DefinitionError(
                f"{training!r} is no kind of training set",
                where=where,
                remedy="Write 'ideal', 'as_served' or 'sampled'",
            )
        self._check_staleness(where)
        if not name.isidentifier():
            raise DefinitionError(f"{name!r} is not a name", where=where, remedy="Use letters, digits and _")
        target = spine.field(label)
        if target is None or target.dtype.name not in ("bool", "int64", "float64"):
            raise DefinitionError(
                f"the label {label!r} is no number of the spine {spine.name!r}",
                where=where,
                remedy=f"Choose one of {', '.join(f.name for f in spine.fields)}",
            )
        for field in self.plan.inputs:
            column = spine.field(field.name)
            if column is None or column.dtype != field.dtype:
                found = f"a {column.dtype.name}" if column else "missing"
                raise DefinitionError(
                    f"the spine {spine.name!r} must have {field.name!r} as {field.dtype.name}; it is {found}",
                    where=where,
                    remedy=f"Add the column {field.name!r} to the spine's schema",
                )

    def _check_staleness(self, where: str) -> None:
        stored = [view.name for view in (*self.plan.views, *self.plan.stand_ins) if view.lane != "request"]
        for view, lags in self.staleness.items():
            if view not in stored:
                raise DefinitionError(
                    f"{view!r} is no stored view of this model", where=where, remedy=f"Name {', '.join(stored)}"
                )
            weights = [weight for lag, weight in lags.items() if duration(lag) >= 0]
            if not weights or min(weights) < 0 or sum(weights) <= 0:
                raise DefinitionError(
                    f"the staleness of {view!r} has no weights", where=where, remedy='Write {"0s": 9, "10m": 1}'
                )

    @functools.cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The model's input columns, `view.feature`, in order."""
        return self.plan.names

    def spec(self) -> dict[str, object]:
        """The model as plain facts."""
        served: dict[str, object] = {"training": self.training} if self.training != "ideal" else {}
        served |= {"staleness": self.staleness} if self.staleness else {}
        # Left out where it is as ever, so that what was frozen before there was a choice reads the same.
        served |= {"runtime": self.runtime} if self.runtime != ONNX else {}
        served |= {"process": self.process.spec()} if self.runtime == PYTHON else {}
        return {
            **served,
            "kind": "model",
            "name": self.name,
            "features": list(self.feature_names),
            "views": self.plan.versions,
            "spine": self.spine.name,
            "label": self.label,
        }
