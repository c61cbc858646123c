"""Checks what the demo claims: what was served is what training sees, nothing was lost, and the scores are worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from examples.flights.replay import SOURCES, Replayed, Script
from trilane import instant
from trilane.apps.batch_job import archive_sources
from trilane.apps.project import Project
from trilane.features.view import View
from trilane.feedback.measurement import auc
from trilane.feedback.outcome import join
from trilane.feedback.record import Records
from trilane.models.artifact import load
from trilane.models.runtime.onnx import open_onnx
from trilane.training import build, values_at

__all__ = ["Parity", "archive", "auc_of_the_served", "auc_of_the_unseen", "lost_events", "parity"]

Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]
ENDPOINT = "flight_delay"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Served feature values against what the training set holds for the same asks.

    `checked` are the values that were served as promised, `mismatched` those of them with other bits; `degraded` are
    those served while the lane was behind, which differ by design; `missing_records` are decisions without a record,
    `without_model` those that ran out of time and got the endpoint's constant.
    """

    checked: int
    mismatched: int
    degraded: int
    missing_records: int
    without_model: int
    worst: tuple[str, ...]


def archive(project: Project) -> None:
    """Brings the archive up to date with the log."""
    archive_sources(project, list(project.definitions.views.values()))


def parity(project: Project, script: Script, done: Replayed) -> Parity:
    """Compares every served value of the replay with the point-in-time join of the same ask, bit for bit.

    What an ask got that did not wait for the nearline lane may lag by what its view promises, and counts as degraded.
    """
    plan = project.definitions.models["late_arrival"].plan
    table, found = _recorded(project, script, done)
    expected = values_at(
        plan, script.asks, event_time="asked_at", warehouse=project.warehouse, root=project.config.root
    )
    whole = ~np.asarray(table["degraded"])
    waited = np.asarray(done.waited)[found]
    checked = mismatched = 0
    wrong: list[str] = []
    for column, (name, (view, *_)) in enumerate(zip(plan.names, plan.columns, strict=True)):
        served, wanted = np.asarray(table[name], np.float64), expected[found, column]
        # Without degradation all is as promised, also what is missing: then there was nothing to know.
        promised = whole | np.asarray(pc.equal(table[f"status:{name}"], "fresh"))
        promised &= waited | (not _is_live(view))
        same = (served.view(np.int64) == wanted.view(np.int64)) | (np.isnan(served) & np.isnan(wanted))
        bad = np.flatnonzero(promised & ~same)
        checked, mismatched = checked + int(promised.sum()), mismatched + len(bad)
        if len(bad):
            wrong.append(f"{name}: {len(bad)}, such as {served[bad[0]]!r} for {wanted[bad[0]]!r}")
    return Parity(
        checked=checked,
        mismatched=mismatched,
        degraded=len(table) * len(plan.names) - checked,
        missing_records=int((~found).sum()),
        without_model=int((~np.asarray(table["by_model"])).sum()),
        worst=tuple(wrong),
    )


def _recorded(project: Project, script: Script, done: Replayed) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """The records of the replay's decisions, in the order of the asks, and which asks have one."""
    records = Records(project.config.state / "records.db")
    table = pa.concat_tables([pa.table(b) for b in records.read(ENDPOINT, since=int(script.instants[0]))])
    records.close()
    places = pc.index_in(pa.array(done.ids), table["id"])
    return table.take(places.drop_null()), np.asarray(places.is_valid())


def _is_live(view: View) -> bool:
    return view.lane == "nearline" or any(_is_live(used) for used in view.uses)


def lost_events(project: Project, lanes: dict[str, Any], accepted: dict[str, int]) -> int:
    """Accepted events that were neither applied nor refused for a reason that was kept, or are not in the archive.

    `lanes`: the lanes of `GET /v1/status` once all is caught up.
    """
    lost = 0
    with project.warehouse.connect() as connection:
        for source in SOURCES:
            lane = lanes[source]
            in_log = sum(lane["end"].values())
            accounted = lane["events"] + lane["duplicates"] + lane["rejected"]
            relation = project.warehouse.events_sql(project.definitions.sources[source])
            offsets = ", ".join(str(end) for end in lane["end"].values())
            [(archived,)] = connection.query(
                f"SELECT count(*) FROM {relation} WHERE NOT _late AND _offset < [{offsets}][_partition + 1]"
            ).fetchall()
            lost += abs(accepted[source] - in_log) + abs(in_log - accounted) + abs(lane["events"] - int(str(archived)))
    return lost


def auc_of_the_served(script: Script, done: Replayed) -> float:
    """How well the scores that callers got ranked the flights, now that the outcomes are known."""
    flights = script.asks["flight_id"].combine_chunks()
    decisions = pa.table({"id": done.ids, "flight_id": flights, "score": done.scores})
    outcomes = script.asks.select(["flight_id", "late"])
    told = join(decisions, outcomes, on="flight_id", outcome="late")
    return auc(told["score"].to_numpy(), told["late"].cast(pa.float64()).to_numpy())


def auc_of_the_unseen(
    project: Project, models: Sequence[str], *, since: str, until: str, out: Path, progress: Progress
) -> dict[str, float]:
    """The AUC of each model on the asks of a time it was not trained on, joined as known then.

    The features of the first model must include those of the others, so that one join serves all.
    """
    declared = [project.definitions.models[name] for name in models]
    rows = build(
        declared[0].plan,
        declared[0].spine,
        label=declared[0].label,
        warehouse=project.warehouse,
        root=project.config.root,
        out=out,
        since=instant(since),
        until=instant(until),
        progress=progress,
    )
    places = {name: place for place, name in enumerate(rows.columns)}
    return {
        model.name: auc(
            _scores(project, model.name, rows.matrix[:, [places[n] for n in model.feature_names]]), rows.label
        )
        for model in declared
    }


def _scores(project: Project, name: str, matrix: npt.NDArray[np.float32]) -> Floats:
    record = project.registry.artifact("model", name)
    if record is None:
        raise LookupError(name)
    runtime = open_onnx(load(project.models_folder / name / record.digest[:16]))
    return runtime.predict(np.ascontiguousarray(matrix, np.float32))
