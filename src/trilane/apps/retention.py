"""Ending the retention of versions of views to which nobody shall return any more.

Law: what answers, or is applied and will, is never retired; rows of what is retired are removed by the lanes.
"""

from __future__ import annotations

from trilane.apps.project import Project
from trilane.errors import ConflictError, DefinitionError
from trilane.features.view import View

__all__ = ["retire"]


def retire(project: Project, view: str, version: str | None = None) -> list[View]:
    """Ends the retention of the versions of a view that answer no longer, or of one; what was retired.

    Raises DefinitionError if there is no such version, ConflictError if it answers or is about to.
    """
    inside = project.live_views()
    named = [one for one in inside.values() if one.name == view and one.version.startswith(version or "")]
    if not named:
        known = ", ".join(sorted({f"{one.name}@{one.version[:8]}" for one in inside.values()}))
        what = f"no version of the view {view!r} is kept" + (f" that begins with {version}" if version else "")
        raise DefinitionError(what, where=view, remedy=f"Those kept are {known}", file="")
    in_use = {*project.answering_views(), *(one.space for one in project.definitions.views.values())}
    old = [one for one in named if one.space not in in_use]
    if version and not old:
        raise ConflictError(
            f"{named[0].name}@{named[0].version[:8]} answers, or is applied and will",
            where=view,
            remedy="Apply other definitions first, and let their views be filled",
        )
    for one in old:
        project.registry.retire(one.name, one.version)
    return old
