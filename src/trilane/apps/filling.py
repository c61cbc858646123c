"""How far the rows of each stored view are: filled, or being built beside those that answer.

Laws: a nearline view is filled once every partition has applied to it what it applied to the others, a batch view once
the version that is due has landed; looking changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trilane.apps.project import Project
from trilane.errors import UnavailableError
from trilane.features.view import View
from trilane.lanes import builds
from trilane.lanes.progress import LANES, decode, lane_key
from trilane.lanes.visibility import pace
from trilane.sources.event import EventSource
from trilane.stores.online import versions

__all__ = ["Filling", "fillings", "unfilled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """One version of a stored view: `done` of `whole` events are applied, or boundaries landed (`unit`).

    `rate`: units a second while it is built, where that was measured; `fault`: what hinders it.
    """

    view: str
    version: str
    lane: str
    space: str
    filled: bool
    done: int
    whole: int
    unit: str
    rate: float | None = None
    fault: str = ""

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        return 1.0 if self.filled else min(self.done / self.whole, 1.0) if self.whole else 0.0

    @property
    def eta(self) -> float | None:
        """In how many seconds it should be filled; None where nothing was measured."""
        return (self.whole - self.done) / self.rate if self.rate else None


def fillings(project: Project, views: Iterable[View]) -> list[Filling]:
    """How far the stored ones among `views` are, in their order."""
    answering = frozenset(project.answering_views())
    return [found for view in views for found in _fillings(project, view, answering)]


def unfilled(project: Project, views: Iterable[View]) -> list[Filling]:
    """Those among the stored views that are not filled."""
    return [found for found in fillings(project, views) if not found.filled]


def _fillings(project: Project, view: View, answering: frozenset[str]) -> Iterator[Filling]:
    if view.lane == "nearline":
        yield _nearline(project, view, answering)
    if view.is_landed:
        yield _landed(project, view)


def _nearline(project: Project, view: View, answering: frozenset[str]) -> Filling:
    source, now = view.source, project.clock.now()
    partitions = range(source.partitions if isinstance(source, EventSource) else 0)
    keys = [lane_key(source.name if source else "", partition) for partition in partitions]
    own = [key + view.space.encode() for key in keys]
    [main, group, told] = project.online.read([(LANES, keys), (LANES, own), (builds.FAULTS, own)])
    done = whole = 0
    filled, times = True, []
    for partition, key in zip(partitions, own, strict=True):
        kept, building = decode(main[partition]), decode(group[partition])
        try:
            end = project.log.end(source.name if source else "", partition)
        except UnavailableError:
            end = max(kept.offset, building.offset)
        inside = view.space in kept.spaces
        # Of a lane by which something answers, no more than that is asked; a lane that is new must catch up first.
        level = kept.offset >= end or now - kept.caught_up_at <= view.freshness
        filled = filled and (end == 0 or (inside and (level or not answering.isdisjoint(kept.spaces))))
        done, whole = done + min(kept.offset if inside else building.offset, end), whole + end
        if not inside and (found := pace(project.online, key)) is not None:
            times.append(found)
    events, took = sum(one for one, _ in times), max((time for _, time in times), default=0)
    return Filling(
        view=view.name,
        version=view.version,
        lane="nearline",
        space=view.space,
        filled=filled,
        done=done,
        whole=whole,
        unit="events",
        rate=events / took * 1e6 if took else None,
        fault=next((row.decode() for row in told if row), ""),
    )


def _landed(project: Project, view: View) -> Filling:
    now = project.clock.now()
    due = max(view.boundary(now), 0)
    answers = versions.visible(versions.versions(project.online, view.landed_as), now)
    landed = answers is not None and answers.boundary >= due
    runs = project.metadata.runs(kind="materialize", subject=view.name, limit=1)
    failed = not landed and runs and runs[0].error and runs[0].facts.get("space") == view.landed_as
    return Filling(
        view=view.name,
        version=view.version,
        lane="batch",
        space=view.landed_as,
        filled=landed,
        done=int(landed),
        whole=1,
        unit="boundaries",
        fault=str((runs[0].error or {}).get("what", "")) if failed else "",
    )
