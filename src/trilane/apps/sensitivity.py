"""How much worse a trained model decides when one of its views is late, and the cheapest lane of each that will do.

Laws: a view that lags by L gives exactly what its lane would serve L behind; all else is level; nothing is kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.apps.batch_job import archive_sources
from trilane.apps.deploy import fitting_artifact
from trilane.apps.prices import Load, Prices, cost_per_million
from trilane.apps.project import Project
from trilane.apps.training_job import model_named
from trilane.clock import SECOND, duration, format_duration
from trilane.errors import ConflictError, ContractError
from trilane.features.columns import request_column
from trilane.features.plan import Column, FeaturePlan, Selection
from trilane.features.request import compute
from trilane.features.view import Trait, View, entity_of
from trilane.feedback.sensitivity import Loss, is_binary, losses, slope
from trilane.models.artifact import load
from trilane.models.model import Model
from trilane.models.runtime.trained import open_trained
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import instant_sql, quoted, relation_sql
from trilane.training.build import build, values_at

__all__ = ["LANES", "Choice", "Sensitivity", "sensitivity"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Progress: TypeAlias = Callable[[str, int, int], None]

# What stands for a lane of each kind: the schedule and how long a load takes to land.
_BATCHES = {"hourly batch": (duration("1h"), duration("10m")), "daily batch": (duration("1d"), duration("2h"))}
LANES = ("nearline", *_BATCHES, "drop")
_AT = "_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A lane in which a view could be: what it loses, and what a million reads cost (None: that is not known)."""

    lane: str
    loss: Loss
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One view, or one of its features alone: what each lag (microseconds) loses, and a minute; where it could be.

    `recommended` is empty for a single feature.
    """

    view: str
    feature: str
    lane: str
    lags: dict[int, Loss]
    per_minute: tuple[float, float, float]
    choices: tuple[Choice, ...] = ()
    recommended: str = ""


def sensitivity(
    project: Project,
    name: str,
    *,
    lags: Sequence[int],
    tolerance: float,
    rows: int,
    since: int | None = None,
    until: int | None = None,
    prices: Prices | None = None,
    features: bool = False,
    progress: Progress | None = None,
) -> tuple[str, float, list[Sensitivity]]:
    """The figure's name, its value with level lanes, and what each stored view of model `name` loses by lag.

    Judged on at most `rows` rows, evenly spread over the labelled ones; with `features` also of each feature alone.
    Raises ConflictError if no artifact fits the definitions.
    """
    model = model_named(project.definitions, name)
    record = fitting_artifact(project, model)
    if record is None:
        raise ConflictError("it is not trained", where=f"model {name!r}", remedy=f"Run `trilane train {name}`")
    archive_sources(project, [*model.plan.views, *model.plan.stand_ins])
    asks, label = _asked(project, model, rows, since, until)
    artifact = load(project.models_folder / name / record.digest[:16])
    with contextlib.closing(open_trained(artifact, process=model.process)) as runtime:
        judge = _Judge(project, model, asks, label, runtime.predict)
        stored = [view for view in model.plan.views if view.lane != "request"]
        found = []
        for number, view in enumerate(stored):
            if progress is not None:
                progress(view.name, number, len(stored))
            found += judge.view(view, lags, tolerance, prices, features=features)
    return ("AUC" if is_binary(label) else "RMSE"), judge.figure, found


def _asked(project: Project, model: Model, rows: int, since: int | None, until: int | None) -> tuple[pa.Table, Floats]:
    """The inputs, instants and labels of the rows that are judged."""
    inputs = [f.name for f in model.plan.inputs]
    with tempfile.TemporaryDirectory(prefix="trilane-") as folder:
        probe = FeaturePlan.of([model.plan.columns[0].view], where=f"model {model.name!r}")
        found = build(
            probe,
            model.spine,
            label=model.label,
            warehouse=project.warehouse,
            root=project.config.root,
            out=Path(folder),
            since=since,
            until=until,
        )
        table, label = found.table([*dict.fromkeys([*inputs, model.spine.event_time])]), np.array(found.label)
    chosen = np.unique(np.linspace(0, len(label) - 1, min(rows, len(label))).astype(np.int64))
    if len(np.unique(label[chosen])) < 2:
        raise ContractError("all labels are equal", where=f"model {model.name!r}", remedy="Widen the period")
    table = table.take(pa.array(chosen))
    return table.append_column(_AT, table.column(model.spine.event_time)), label[chosen]


class _Judge:
    """Scores the rows with one view otherwise than it should be."""

    def __init__(
        self, project: Project, model: Model, asks: pa.Table, label: Floats, predict: Callable[[Any], Floats]
    ) -> None:
        self._project, self._model, self._asks, self._label, self._predict = project, model, asks, label, predict
        traits = [_selected(column) for column in model.plan.traits]
        self._plan = FeaturePlan.of([*model.plan.views, *traits], where=f"model {model.name!r}")
        self._times: Ints = asks.column(_AT).cast(pa.int64()).to_numpy()
        self._names = list(self._plan.names)
        self._level = self._joined(self._plan, asks, None)
        self._scores = self._scored(self._level)
        self.figure = losses(label, self._scores, [])[0]

    def view(
        self, view: View, lags: Sequence[int], tolerance: float, prices: Prices | None, *, features: bool
    ) -> list[Sensitivity]:
        """The view as a whole, then each of its features that the model has."""
        lanes = {} if view.lane != "nearline" else _BATCHES
        ways = self._ways(view, lags, lanes)
        own = [name for name in self._names if name.startswith(f"{view.name}.")]
        found = [self._judged(view, "", own, ways, lags, list(lanes), tolerance, prices)]
        used = [name for name in own if name in self._model.feature_names]
        alone = used if features and len(used) > 1 else []
        return found + [self._judged(view, name, [name], ways, lags, [], tolerance, None) for name in alone]

    def _judged(
        self,
        view: View,
        feature: str,
        names: Sequence[str],
        ways: Sequence[Mapping[str, Floats]],
        lags: Sequence[int],
        lanes: Sequence[str],
        tolerance: float,
        prices: Prices | None,
    ) -> Sensitivity:
        gone = {name: np.full(len(self._label), _usual(self._column(name))) for name in names}
        late = [self._scored(self._with({n: way[n] for n in names})) for way in [*ways, gone]]
        _, found = losses(self._label, self._scores, late)
        minutes = [lag / (60 * SECOND) for lag in lags]
        by_lag = dict(zip(lags, found, strict=False))
        level = Loss(value=self.figure, loss=0.0, low=0.0, high=0.0)
        now = "nearline" if view.lane == "nearline" else f"batch every {format_duration(view.schedule)}"
        one = Sensitivity(
            view=view.name,
            feature=feature,
            lane=now,
            lags=by_lag,
            per_minute=slope(minutes, found[: len(lags)]),
        )
        if feature:
            return one
        load = self._load(view, prices)
        costs = {now: None if view.lane == "nearline" else view.schedule, **{n: _BATCHES[n][0] for n in lanes}}
        judged = {now: level, **dict(zip(lanes, found[len(lags) :], strict=False)), "drop": found[-1]}
        choices = tuple(
            Choice(lane=n, loss=loss, cost=_cost(view, n, costs, load, prices)) for n, loss in judged.items()
        )
        # Without prices the later lane is taken for the cheaper one.
        fit = [(i, c) for i, c in enumerate(choices) if c.lane == now or c.loss.loss <= tolerance]
        good = [(-i if c.cost is None else c.cost, c.lane) for i, c in fit]
        return Sensitivity(
            view=view.name,
            feature="",
            lane=now,
            lags=by_lag,
            per_minute=one.per_minute,
            choices=choices,
            recommended=min(good)[1],
        )

    def _ways(
        self, view: View, lags: Sequence[int], lanes: Mapping[str, tuple[int, int]]
    ) -> list[Mapping[str, Floats]]:
        """The view's columns by name, with each lag and in each of the other lanes, in one join."""
        rows = len(self._times)
        own = [_selected(column) for column in self._plan.traits if column.view is view]
        plan = FeaturePlan.of([view, *own], where=f"view {view.name!r}")
        ends = [(self._times - landing) // schedule * schedule for schedule, landing in lanes.values()]
        moments = np.concatenate([*([self._times] * len(lags)), *ends])
        behind = np.concatenate([np.repeat(np.array(lags, np.int64), rows), np.zeros(rows * len(lanes), np.int64)])
        asks = pa.concat_tables([self._asks.drop_columns([_AT])] * (len(lags) + len(lanes)))
        asks = asks.append_column(_AT, pa.array(moments, pa.timestamp("us", "UTC")))
        values = self._joined(plan, asks, {view.name: behind})
        for place, name in enumerate(plan.names):
            if name.endswith(".age_s"):  # of a load: since its boundary
                values[:, place] += (np.tile(self._times, len(lags) + len(lanes)) - moments) / 1e6
        return [dict(zip(plan.names, part.T, strict=True)) for part in np.split(values, len(lags) + len(lanes))]

    def _joined(self, plan: FeaturePlan, asks: pa.Table, lags: Mapping[str, Ints] | None) -> Floats:
        project = self._project
        return values_at(plan, asks, event_time=_AT, warehouse=project.warehouse, root=project.config.root, lags=lags)

    def _column(self, name: str) -> Floats:
        return self._level[:, self._names.index(name)]

    def _with(self, columns: Mapping[str, Floats]) -> Floats:
        """All features with some of them otherwise, and those request views computed anew that use them."""
        values, changed = self._level.copy(), {name.partition(".")[0] for name in columns}
        for name, column in columns.items():
            values[:, self._names.index(name)] = column
        for view in self._plan.views:
            if view.lane != "request" or changed.isdisjoint(used.name for used in view.uses):
                continue
            inputs: dict[str, Any] = {
                f.name: request_column(f, self._asks.column(f.name).combine_chunks()) for f in view.inputs
            }
            for name in (name for used in view.uses for name in used.output_names):
                inputs[name] = values[:, self._names.index(name)].copy()
            computed = compute(view, inputs, len(values))
            for place, name in enumerate(view.output_names):
                values[:, self._names.index(name)] = computed[:, place]
            changed.add(view.name)
        return values

    def _scored(self, values: Floats) -> Floats:
        places = [self._names.index(name) for name in self._model.feature_names]
        with np.errstate(over="ignore"):
            return np.asarray(self._predict(np.ascontiguousarray(values[:, places], np.float32)), np.float64)

    def _load(self, view: View, prices: Prices | None) -> Load | None:
        """Keys among the rows, events of their days, and reads as many as rows unless the file says."""
        if prices is None or view.source is None:
            return None
        keys = len(self._asks.group_by(list(entity_of(view).key_names)).aggregate([]))
        days = max((int(self._times.max()) - int(self._times.min())) / duration("1d"), 1 / 24)
        low, high = int(self._times.min()), int(self._times.max())
        moment = quoted([view.source.event_time])
        with self._project.warehouse.connect(memory_limit="1GiB", temp=Path(tempfile.gettempdir())) as connection:
            relation = relation_sql(self._project.warehouse, view.source, self._project.config.root)
            between = f"{moment} >= {instant_sql(low)} AND {moment} < {instant_sql(high)}"
            [(events,)] = connection.query(f"SELECT count(*) FROM {relation} WHERE {between}").fetchall()
        return Load(
            keys=keys,
            events_per_day=int(str(events)) / days,
            reads_per_day=prices.reads_per_day or len(self._times) / days,
        )


def _selected(column: Column) -> Selection:
    feature = None if column.position is None else column.view.feature_names[column.position]
    return Trait(column.view, feature, column.trait)


def _usual(column: Floats) -> float:
    """What a model gets instead of a feature that is dropped, without being trained anew."""
    known = column[np.isfinite(column)]
    return float(known.mean()) if len(known) else float("nan")


def _cost(
    view: View, lane: str, schedules: Mapping[str, int | None], load: Load | None, prices: Prices | None
) -> float | None:
    if prices is None or load is None:
        return None
    if lane == "drop":
        return 0.0
    return cost_per_million(view, schedules[lane], load, prices) if isinstance(view.source, EventSource) else None
