"""The boundaries of a view that have not landed yet, one after another, going on where it stopped.

Laws: a boundary has landed for good before the next begins, so a kill at any instruction costs the one that was being
computed at most; one that has landed is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trilane.apps.batch_job import land_version
from trilane.apps.project import Project
from trilane.features.view import View
from trilane.stores.online.versions import KEPT, versions

__all__ = ["Landed", "backfill", "missing"]

_PATIENCE = 600.0  # seconds to wait for another load, such as control's


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One boundary that landed now, as number `done` of `whole`; `keys`: None if later ones had driven it out."""

    view: str
    boundary: int
    keys: int | None
    done: int
    whole: int


def missing(project: Project, view: View, boundaries: Iterable[int]) -> list[int]:
    """Those of `boundaries` that have not landed, ascending. Of many the store keeps the last few: what those would
    drive out is left out.
    """
    listed = {version.boundary for version in versions(project.online, view.landed_as)}
    kept = sorted({*listed, *boundaries})[-KEPT:]
    return [boundary for boundary in kept if boundary not in listed]


def backfill(
    project: Project,
    view: View,
    boundaries: Iterable[int],
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Landed]:
    """Lands what is `missing` of `boundaries`, the earliest first. Raises what a load raises."""
    left = missing(project, view, boundaries)
    for number, boundary in enumerate(left, start=1):
        version = land_version(project, view, boundary, progress=progress, patience=_PATIENCE)
        yield Landed(
            view=view.name,
            boundary=boundary,
            keys=version.rows if version else None,
            done=number,
            whole=len(left),
        )
