"""One job of the batch lane: bring the archive up to date, then land one version of one view, on record.

Law: a job that fails leaves the version that serves; what it read and wrote, or why it failed, is recorded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.errors import SetupError, UnavailableError
from trilane.features.view import View
from trilane.lifecycle.graph import uri
from trilane.lifecycle.run import run
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.stores.online.protocol import Writer
from trilane.stores.online.versions import Version

__all__ = ["archive_sources", "is_settled", "land_version", "withdraw_views"]

logger = logging.getLogger(__name__)

_REGION = "batch"
_LOOK = 0.1  # seconds between two looks whether another load has ended


def archive_sources(project: Project, views: list[View]) -> int:
    """Archives what the log has gained of the event sources of `views`, with when it became readable, and when versions
    landed; how many events were kept.
    """
    from trilane.lanes.batch.archive import archive
    from trilane.lanes.batch.landings import keep_landings
    from trilane.lanes.visibility import keep_visibility

    sources = {v.source.name: v.source for v in views if isinstance(v.source, EventSource)}
    kept = sum(archive(project.log, project.warehouse, source, schemas=project.schemas) for source in sources.values())
    try:
        for source in sources.values():
            keep_visibility(project.online, project.warehouse, source)
        for view in views:
            if view.is_landed:
                keep_landings(project.online, project.warehouse, view)
    except UnavailableError as error:  # both wait in the store until it is back
        logger.warning("what was readable when is not archived yet: %s", error)
    return kept


def land_version(
    project: Project,
    view: View,
    boundary: int,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    patience: float = 0.0,
) -> Version | None:
    """Computes and lands the version of `view` at `boundary`; None if later ones have driven it out already.

    While another process loads, it waits for up to `patience` seconds, and tells `progress` for whom.
    """
    from trilane.lanes.batch.landings import keep_landings
    from trilane.lanes.batch.materialize import materialize
    from trilane.stores.offline.lake import pinned_view

    project.registry.abandon_dead()
    with run(project.metadata, "materialize", view.name, clock=project.clock) as present:
        present.note(boundary=format_instant(boundary), space=view.landed_as)
        archive_sources(project, [view])
        violations: dict[str, int] = {}
        read = pinned_view(view, project.config.root)
        if isinstance(read.source, TableSource) and read.source.version is not None:
            present.note(tables={read.source.name: read.source.version})
        with _writing(project, patience, progress) as writer:
            version = materialize(
                read,
                boundary,
                warehouse=project.warehouse,
                root=project.config.root,
                writer=writer,
                progress=progress,
                clock=project.clock,
                noted=violations.__setitem__,
            )
        keep_landings(project.online, project.warehouse, view)
        if view.source is not None:
            present.reads(uri("source", view.source.name))
        present.writes(uri("batch_version", view.name, f"{view.version[:16]}/{format_instant(boundary)}"))
        present.note(rows=version.rows if version else None, landed=version is not None, violations=violations)
    return version


def withdraw_views(project: Project, names: list[str]) -> list[str]:
    """Takes a step towards removing what was landed under each of `names`; those that need another."""
    from trilane.stores.online.versions import withdraw

    with _writing(project, 0.0, None) as writer:
        return [name for name in names if withdraw(writer, name)]


def is_settled(project: Project, view: View, boundary: int) -> bool:
    """Whether the archive holds all events from before the boundary that can still count."""
    from trilane.lanes.batch.materialize import is_settled as is_settled_in

    return is_settled_in(view, boundary, project.warehouse)


@contextmanager
def _writing(project: Project, patience: float, progress: Callable[[str, int, int], None] | None) -> Iterator[Writer]:
    """The writer of the batch region, held no longer than a load takes, so that others may load between two."""
    writer = _awaited(project, patience, progress)
    try:
        yield writer
    finally:
        writer.close()


def _awaited(project: Project, patience: float, progress: Callable[[str, int, int], None] | None) -> Writer:
    until = time.monotonic() + patience
    while True:
        try:
            return project.online.writer(_REGION)
        except SetupError as error:
            holder, left = error.facts.get("held_by"), until - time.monotonic()
            if holder is None or left <= 0:
                raise
        if progress is not None:
            progress(f"wait for {holder}", 0, 0)
        time.sleep(min(_LOOK, left))
