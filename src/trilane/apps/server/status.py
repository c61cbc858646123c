"""What this machine runs and how far it is: the lanes, the batch versions, the bundles, the dead letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trilane.apps.project import Project
from trilane.apps.server.deployments import Deployments
from trilane.clock import format_instant
from trilane.errors import UnavailableError
from trilane.features.view import View
from trilane.lanes import ownership
from trilane.lanes.ownership import REGION
from trilane.lanes.progress import LANES, Progress, counted, decode, lane_key
from trilane.serving.batcher import Batcher
from trilane.sources.event import EventSource
from trilane.sources.hot_keys import splits_of
from trilane.sources.log.assignment import Place
from trilane.stores.online import versions
from trilane.stores.online.sharing import part_of

__all__ = ["behind", "lanes", "shares", "status"]


def lanes(project: Project, views: Sequence[View]) -> dict[str, dict[int, Progress]]:
    """The progress of each partition of each source that a nearline view reads."""
    sources = _streamed(views)
    requests = [(LANES, [lane_key(s.name, p) for p in range(s.partitions)]) for s in sources]
    found = project.online.read(requests)
    return {s.name: {p: decode(row) for p, row in enumerate(rows)} for s, rows in zip(sources, found, strict=True)}


def shares(project: Project, found: Mapping[str, Mapping[int, Progress]], now: int) -> list[dict[str, Any]]:
    """Each partition: who has it, how far it lags, and what hinders it, as of instant `now`."""
    places = [(source, partition) for source, partitions in found.items() for partition in partitions]
    rows = project.online.read([(ownership.OWNERS, [lane_key(*place) for place in places])])[0]
    holders, ends = project.online.holders(REGION), _ends(project, places)
    told = []
    for (source, partition), row in zip(places, rows, strict=True):
        progress, noted = found[source][partition], ownership.decode(row)
        holder = holders.get(part_of((source, partition)))
        told.append(
            {
                "source": source,
                "partition": partition,
                "owner": (holder.name or holder.process) if holder else None,
                "process": holder.process if holder else None,
                "lag": max(ends[source, partition] - progress.offset, 0) if ends else None,
                "age_s": (now - progress.caught_up_at) / 1e6 if progress.caught_up_at else None,
                "moves": noted.moves,
                "faults": noted.faults,
                "fault": noted.fault or None,
            }
        )
    return told


def _ends(project: Project, places: Sequence[Place]) -> dict[Place, int]:
    """Where the log ends; nothing if it does not answer."""
    try:
        return {place: project.log.end(*place) for place in places}
    except UnavailableError:
        return {}


def behind(project: Project, views: Sequence[View], now: int, *, patience: int = 0) -> list[str]:
    """What a healthy system would have done by instant `now`, and this one has not yet.

    A lane without events to apply may have caught up `patience` microseconds ago.
    """
    waiting = []
    for source, partitions in lanes(project, views).items():
        wanted = {
            view.space for view in views if view.lane == "nearline" and view.source and view.source.name == source
        }
        for partition, progress in partitions.items():
            end = project.log.end(source, partition)
            if progress.offset < end:
                waiting.append(f"nearline {source}/{partition}: {end - progress.offset} events")
            elif progress.early is not None and progress.early < now - patience:
                waiting.append(f"nearline {source}/{partition}: an event that was early is due")
            elif progress.caught_up_at < now - patience or not wanted <= set(progress.spaces):
                waiting.append(f"nearline {source}/{partition}: not caught up at {format_instant(now - patience)}")
    for view in views:
        if view.is_landed:
            version = versions.visible(versions.versions(project.online, view.landed_as), now)
            if version is None or version.boundary < view.boundary(now):
                waiting.append(f"batch {view.name}: version of {format_instant(view.boundary(now))}")
    return waiting


def status(project: Project, deployments: Deployments, records: dict[str, int]) -> dict[str, Any]:
    """The facts of `GET /v1/status`."""
    now, views = project.clock.now(), deployments.views
    found = lanes(project, views)
    deployed = {
        name: {
            "bundle": one.bundle.digest[:16],
            "model": one.bundle.model,
            "model_digest": one.bundle.model_digest[:16],
            "views": {view: version[:16] for view, version in one.bundle.views.items()},
            "definitions": one.bundle.definitions[:16],
            "batching": _learnt(one.batcher),
        }
        for name, one in deployments.all().items()
    }
    applied = project.applied_digest()
    return {
        "now": format_instant(now),
        "replay": project.config.replay,
        "definitions": applied[:16] if applied else None,
        "endpoints": deployed,
        "errors": deployments.errors,
        "lanes": {name: _lane(project, views, name, partitions, now) for name, partitions in found.items()},
        "partitions": shares(project, found, now),
        "batch": {view.name: _batch(project, view, now) for view in views if view.is_landed},
        "dead_letters": {f"{source}/{code}": number for (source, code), number in project.dead_letters.count().items()},
        "breakers": deployments.breakers.facts(),
        "records": records,
    }


def _learnt(batcher: Batcher[Any, Any]) -> dict[str, Any]:
    """What one worker learnt of an endpoint's batches and requests; microseconds by rows: typical, and rarely more."""
    latency, arrivals = batcher.latency, batcher.arrivals
    return {
        "alpha_us": latency.alpha * 1e6,
        "beta_us": latency.beta * 1e6,
        "latency_us": {str(rows): [low * 1e6, high * 1e6] for rows, (low, high) in latency.table().items()},
        "requests_per_s": arrivals.rate,
        "rows_per_request": arrivals.rows,
    }


def _lane(
    project: Project, views: Sequence[View], source: str, partitions: dict[int, Progress], now: int
) -> dict[str, Any]:
    caught_up = min(progress.caught_up_at for progress in partitions.values())
    newest = [p.newest for p in partitions.values() if p.newest is not None]
    disorder = next(s.disorder for s in _streamed(views) if s.name == source)
    return {
        "applied": {str(number): progress.offset for number, progress in partitions.items()},
        "end": {str(number): end for (_, number), end in _ends(project, [(source, p) for p in partitions]).items()},
        "events": sum(progress.applied for progress in partitions.values()),
        "duplicates": sum(progress.duplicates for progress in partitions.values()),
        "rejected": sum(progress.rejected for progress in partitions.values()),
        "verdicts": _verdicts(partitions),
        "caught_up_at": format_instant(caught_up) if caught_up else None,
        "age_s": (now - caught_up) / 1e6 if caught_up else None,
        "watermark": format_instant(min(newest) - disorder) if newest else None,
        "hot_keys": dict(splits_of(project.log, source)) if len(partitions) > 1 else {},
    }


def _verdicts(partitions: dict[int, Progress]) -> dict[str, int]:
    total: dict[str, int] = {}
    for progress in partitions.values():
        total = counted(total, progress.verdicts)
    return total


def _batch(project: Project, view: View, now: int) -> dict[str, Any]:
    landed = versions.versions(project.online, view.landed_as)
    version = versions.visible(landed, now)
    return {
        "boundary": format_instant(version.boundary) if version else None,
        "visible_from": format_instant(version.visible_from) if version else None,
        "rows": version.rows if version else 0,
        "newest_landed": format_instant(landed[-1].boundary) if landed else None,
        "due": format_instant(view.boundary(now)),
    }


def _streamed(views: Sequence[View]) -> list[EventSource]:
    found = {v.source.name: v.source for v in views if isinstance(v.source, EventSource) and v.lane == "nearline"}
    return list(found.values())
