"""`trilane ingest` and `materialize`: fill the log and the batch lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import format_instant
from trilane.errors import DefinitionError

if TYPE_CHECKING:
    from trilane.apps.project import Project
    from trilane.features.view import View

__all__ = ["boundaries_of", "ingest", "materialize"]

_PATIENCE = 600.0  # seconds to wait for another load, such as control's
_Since = Annotated[str | None, typer.Option(metavar="INSTANT", help="From here on, such as 2013-01-01.")]
_Until = Annotated[str | None, typer.Option(metavar="INSTANT", help="Before here.")]


def ingest(
    *,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The event source.")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A .ndjson, .csv, .parquet, .arrow or .avro file, or - for NDJSON from standard input."
        ),
    ],
    history: Annotated[
        bool, typer.Option("--history", help="The past: each event arrives when it happened, in order of event time.")
    ] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Check the events of a file against their contract, and append them to the log."""
    from trilane.apps import event_file

    terminal = Terminal(json=json)
    with open_project(project) as opened, terminal.progress(f"ingest {source}") as tick:
        declared = event_file.source_named(opened.definitions.sources, source)
        done = event_file.ingest(opened, declared, file, history=history, progress=lambda n: tick("events", n, 0))
    reasons = [
        {"code": code, "path": path, "reason": reason, "events": number}
        for (code, path, reason), number in done.reasons.most_common()
    ]
    terminal.answer({"source": source, "accepted": done.accepted, "rejected": done.rejected, "reasons": reasons})
    terminal.tell(f"{done.accepted:,} events of {source} accepted, {done.rejected:,} kept as dead letters.")
    rows = [[str(r["events"]), str(r["code"]), str(r["path"]), str(r["reason"])] for r in reasons[:10]]
    terminal.table("Rejected", ["events", "code", "path", "reason"], rows)


def materialize(
    *,
    views: Annotated[list[str], typer.Argument(metavar="VIEW", help="Batch views and views with a history, or `all`.")],
    at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="The latest boundary due here; default: now.")
    ] = None,
    since: _Since = None,
    until: _Until = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Compute and land versions of batch views and of histories."""
    from trilane.apps.batch_job import land_version

    terminal = Terminal(json=json)
    landed: list[dict[str, object]] = []
    ahead: list[dict[str, object]] = []  # of these, what does not answer yet
    with open_project(project) as opened, terminal.progress("materialize") as tick:
        chosen = _batch_views(opened, views)
        now = opened.clock.now()
        for view in chosen:
            for boundary in boundaries_of(opened, view, at, since, until):
                version = land_version(opened, view, boundary, progress=tick, patience=_PATIENCE)
                landed.append(
                    {
                        "view": view.name,
                        "boundary": format_instant(boundary),
                        "visible_from": format_instant(boundary + view.landing),
                        "keys": version.rows if version else None,
                    }
                )
                if version is not None and version.visible_from > now:
                    ahead.append(landed[-1])
    terminal.answer({"landed": landed})
    headings = ["view", "boundary", "visible_from", "keys"]
    rows = [["" if one[name] is None else str(one[name]) for name in headings] for one in landed]
    terminal.table("Landed", headings, rows)
    for one in ahead:
        terminal.tell(
            f"[bold]{one['view']}[/] of {one['boundary']} is visible from {one['visible_from']}; "
            "until then the version before it answers."
        )


def _batch_views(project: Project, names: list[str]) -> list[View]:
    batch = {view.name: view for view in project.definitions.views.values() if view.is_landed}
    if names == ["all"]:
        return list(batch.values())
    for name in names:
        if name not in batch:
            known = f"Views with a schedule: {', '.join(sorted(batch)) or 'none'}"
            view = project.definitions.views.get(name)
            what = f"{name!r} is a {view.lane} view" if view else f"there is no view {name!r}"
            raise DefinitionError(what, where=name, remedy=known, file="")
    return [batch[name] for name in names]


def boundaries_of(project: Project, view: View, at: str | None, since: str | None, until: str | None) -> range:
    """The boundaries that the options name, of the view's own schedule."""
    from trilane.lanes.batch.materialize import due

    if at is not None and (since or until):
        raise DefinitionError(
            "--at names one boundary, --since and --until many", where="--at", remedy="Give one or the other", file=""
        )
    if since is None:
        if until is not None:
            raise DefinitionError("--until needs --since", where="--until", remedy="Give both", file="")
        now = moment(at, option="--at")
        last = due(view, project.clock.now()) if now is None else now // view.schedule * view.schedule
        return range(last, last + 1)
    first = -(-(moment(since, option="--since") or 0) // view.schedule) * view.schedule
    end = moment(until, option="--until")
    return range(first, due(view, project.clock.now()) + 1 if end is None else end, view.schedule)
