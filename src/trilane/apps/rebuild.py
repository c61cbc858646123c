"""What a new or changed view makes the lanes do: how much they read, keep and take, and whom it concerns.

Laws: it is told before anything is changed, from the log, the archive and what earlier runs took; a time that nobody
measured is not told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from trilane.apps.control import boundaries
from trilane.apps.definitions import Definitions
from trilane.apps.project import Project
from trilane.errors import TrilaneError
from trilane.features.cost import ViewCost
from trilane.features.transform import INPUT
from trilane.features.view import View, entity_of
from trilane.features.window import LIFETIME
from trilane.lanes import builds
from trilane.lanes.progress import lane_key
from trilane.lanes.retained import shortfall
from trilane.lifecycle.metadata.protocol import SUCCEEDED
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import instant_sql, quoted, relation_sql

__all__ = ["Rebuild", "rebuilds"]

_RUNS = 8  # whose time is an estimate of the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """What building one version of a view takes.

    `events` are read from the log, `rows` lie in the archive or the table in reach of the longest window before a
    boundary, of which there are `boundaries`; `keys` as far as archived; `bytes`: of state, at most. `seconds`: by what
    earlier builds took, None where none was measured. `models` must be trained again; `endpoints` answer as before
    until they are, and until it is filled. `lacking`: what its windows reach of the log, and retention has taken.
    """

    view: str
    version: str
    spaces: tuple[str, ...]
    events: int
    rows: int
    boundaries: int
    keys: int
    bytes: int
    seconds: float | None
    models: tuple[str, ...]
    endpoints: tuple[str, ...]
    lacking: tuple[str, ...] = ()


def rebuilds(project: Project, working: Definitions, costs: Collection[ViewCost]) -> list[Rebuild]:
    """What the views of `costs` take, as `working` declares them."""
    return [_rebuild(project, working, working.views[cost.view], cost) for cost in costs]


def _rebuild(project: Project, working: Definitions, view: View, cost: ViewCost) -> Rebuild:
    source, now = view.source, project.clock.now()
    streamed = view.lane == "nearline" and isinstance(source, EventSource)
    lanes = range(source.partitions) if streamed and isinstance(source, EventSource) else ()
    events = sum(project.log.end(source.name, partition) for partition in lanes) if source else 0
    wanted = boundaries(view, now) if view.is_landed else []
    rows, keys = _archived(project, view, wanted[-1] if wanted else now)
    models = tuple(sorted(m.name for m in working.models.values() if view in (*m.plan.views, *m.plan.stand_ins)))
    return Rebuild(
        view=view.name,
        version=view.version,
        spaces=tuple(dict.fromkeys((view.space, *((view.landed_as,) if view.is_landed else ())))),
        events=events,
        rows=rows,
        boundaries=len(wanted),
        keys=keys,
        bytes=keys * (cost.bytes_per_key + cost.history_bytes_per_key),
        seconds=_seconds(project, view, events, len(wanted)),
        models=models,
        endpoints=tuple(sorted(e.name for e in working.endpoints.values() if e.model.name in models)),
        lacking=tuple(str(one) for p in lanes if (one := shortfall(project.log, view, p, now)) is not None),
    )


def _archived(project: Project, view: View, boundary: int) -> tuple[int, int]:
    """Rows of the transform in reach of the longest window at the boundary, and about how many keys; 0 of what the
    warehouse does not have yet.
    """
    reach = max(window.length for feature in view.features for window in feature.windows)
    source = view.source
    if source is None:
        return 0, 0
    time = quoted([source.event_time])
    left = 0 if reach == LIFETIME else max(boundary - reach, 0)
    keys = quoted(entity_of(view).key_names)
    try:
        relation = relation_sql(project.warehouse, source, project.config.root)
        with project.warehouse.connect() as connection:
            [(count, distinct)] = connection.query(
                f"WITH {INPUT} AS (SELECT * FROM {relation} WHERE {time} >= {instant_sql(left)} "
                f"AND {time} < {instant_sql(boundary)}) "
                f"SELECT count(*), approx_count_distinct(({keys},)) FROM ({view.sql})"
            ).fetchall()
    except TrilaneError:
        return 0, 0  # a table that is not there, or does not fit yet, is told when it is loaded
    return int(str(count)), int(str(distinct))


def _seconds(project: Project, view: View, events: int, landings: int) -> float | None:
    total = 0.0
    if view.lane == "nearline" and isinstance(view.source, EventSource):
        keys = [lane_key(view.source.name, partition) for partition in range(view.source.partitions)]
        rate = builds.measured(project.online, keys)
        if rate is None:
            return None
        total += events / rate
    if landings:
        runs = project.metadata.runs(kind="materialize", subject=view.name, status=SUCCEEDED, limit=_RUNS)
        times = [(run.ended_at - run.started_at) / 1e6 for run in runs if run.ended_at is not None]
        if not times:
            return None
        total += landings * sum(times) / len(times)
    return total
