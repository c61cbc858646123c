"""`trilane compare`, `swap`, `retire` and `backfill`: what is built beside what answers, and its turn to answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from trilane.apps.cli.fill import boundaries_of
from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.clock import format_instant
from trilane.errors import ConflictError, DefinitionError, UnavailableError

if TYPE_CHECKING:
    from trilane.apps.comparison import Comparison
    from trilane.apps.project import Project
    from trilane.features.view import View

__all__ = ["backfill", "compare", "retire", "swap"]

_PAUSE = 0.2  # seconds between two looks at how far a worker is
_View = Annotated[str, typer.Argument(metavar="VIEW", help="A batch or nearline view.")]


def compare(
    *,
    view: _View,
    with_: Annotated[
        str | None, typer.Option("--with", metavar="VERSION", help="The other version; default: what answers.")
    ] = None,
    keys: Annotated[int, typer.Option(min=1, help="How many keys: a tenth the hottest, the others by hash.")] = 1_000,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="As of this instant; default: now.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Compare the values of the applied version of a view with those of the one that answers."""
    from trilane.apps import comparison

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        found = comparison.compare(opened, view, version=with_, keys=keys, at=moment(at, option="--at"))
    facts = msgspec.to_builtins(found)
    terminal.answer({**facts, "at": format_instant(found.at), "disagreement": found.disagreement})
    _tell_comparison(terminal, found)


def swap(
    *,
    within: Annotated[
        float | None,
        typer.Option(metavar="SHARE", min=0, help="Refuse if a feature disagrees by more, such as 0.01."),
    ] = None,
    keys: Annotated[int, typer.Option(min=1, help="How many keys are compared.")] = 1_000,
    at_once: Annotated[bool, typer.Option("--at-once", help="Do not wait until all is filled.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Let what was applied with `--hold`, and is filled, answer."""
    from trilane.apps import swap as swaps

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        waiting = swaps.pending(opened)
        held_up = [] if at_once else [one for one in waiting if one.waits]
        if held_up:
            what = "; ".join(f"{one.name}: {one.why}" for one in held_up)
            raise ConflictError(what, where="swap", remedy="Wait until it is filled, or insist with --at-once")
        if within is not None:
            _check(opened, {view.name for one in waiting for view in one.fresh}, within, keys)
        done = swaps.swap(opened, held=True, unfilled_too=at_once)
    terminal.answer({"switched": [{"name": one.name, "target": one.target} for one in done]})
    for one in done:
        terminal.tell(f"[bold]{one.name}[/] answers by {one.target[:16]} from now on.")
    if not done:
        terminal.tell("Nothing waits.")


def retire(
    *,
    view: _View,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="This one; default: all that answer no longer.")
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """End the retention of former versions of a view; their rows are removed."""
    from trilane.apps.retention import retire as retire_view

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = retire_view(opened, view, version)
    terminal.answer({"retired": [{"view": one.name, "version": one.version} for one in done]})
    for one in done:
        terminal.tell(f"{one.name}@{one.version[:8]} is retired.")
    if not done:
        terminal.tell("No former version is kept.")


def backfill(
    *,
    view: _View,
    since: Annotated[str | None, typer.Option(metavar="INSTANT", help="Boundaries from here on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="INSTANT", help="And before here.")] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Land what a view lacks, and wait until it is filled; goes on where it was interrupted."""
    from trilane.apps import backfill as fills

    terminal = Terminal(json=json)
    with open_project(project) as opened, terminal.progress(f"backfill {view}") as tick:
        declared = opened.definitions.views.get(view)
        if declared is None or declared.lane == "request":
            known = ", ".join(sorted(v.name for v in opened.definitions.views.values() if v.lane != "request"))
            raise DefinitionError(f"there is no stored view {view!r}", where=view, remedy=f"Views: {known}", file="")
        if declared.is_landed:
            number = 0
            for one in fills.backfill(opened, declared, _wanted(opened, declared, since, until), progress=tick):
                number += 1
                at = format_instant(one.boundary)
                terminal.answer({"view": view, "boundary": at, "keys": one.keys, "done": one.done, "whole": one.whole})
                terminal.tell(f"{one.done} of {one.whole}: {view} of {at} has landed with {one.keys or 0:,} keys.")
            if not number:
                terminal.tell(f"All of {view} has landed.")
        if declared.lane == "nearline":
            _await(opened, declared, terminal)


def _wanted(project: Project, view: View, since: str | None, until: str | None) -> list[int]:
    from trilane.apps.control import boundaries

    if since is None and until is None:
        return boundaries(view, project.clock.now())
    return list(boundaries_of(project, view, None, since, until))


def _await(project: Project, view: View, terminal: Terminal) -> None:
    """Tells how far the workers are with a nearline view until it is filled."""
    from trilane.apps.filling import unfilled
    from trilane.lanes.ownership import REGION

    with terminal.progress(f"build {view.name}") as tick:
        while waits := [one for one in unfilled(project, [view]) if one.lane == "nearline"]:
            if not project.online.holders(REGION):
                what = f"{view.name} is {waits[0].share:.0%} filled, and no worker runs"
                raise UnavailableError(what, where=view.name, remedy="Start one with `trilane up`")
            tick("events", waits[0].done, waits[0].whole)
            time.sleep(_PAUSE)
    terminal.answer({"view": view.name, "filled": True})
    terminal.tell(f"{view.name} is filled.")


def _check(project: Project, views: set[str], within: float, keys: int) -> None:
    """Raises ConflictError if a feature of a view disagrees with its former version by more than `within`."""
    from trilane.apps.comparison import compare as compare_versions
    from trilane.apps.comparison import versions_of

    for view in sorted(views):
        if len(versions_of(project, view)) < 2:
            continue  # it is new
        found = compare_versions(project, view, keys=keys)
        over = [one for one in found.differences if one.disagreement > within]
        if over:
            what = ", ".join(f"{view}.{one.feature} disagrees by {one.disagreement:.3g}" for one in over)
            remedy = f"Look at `trilane compare {view}`; if it is right, swap without --within"
            raise ConflictError(what, where=view, remedy=remedy)


def _tell_comparison(terminal: Terminal, found: Comparison) -> None:
    terminal.tell(
        f"[bold]{found.view}[/]: {found.old[:8]} (answers) and {found.new[:8]} (applied) "
        f"over {found.keys:,} keys at {format_instant(found.at)}"
    )
    rows = [
        [
            one.feature,
            f"{one.equal:.1%}",
            f"{one.mean:.4g} / {one.median:.4g} / {one.p99:.4g}",
            f"{one.relative_mean:.2%} / {one.relative_median:.2%} / {one.relative_p99:.2%}",
            f"{one.only_old:,} / {one.only_new:,}",
            f"{one.disagreement:.4g}",
        ]
        for one in found.differences
    ]
    headings = ["feature", "equal", "apart: mean / median / p99", "relative", "only old / new", "disagreement"]
    terminal.table("Features", headings, rows)
    worst = [[one.feature, key, f"{old:g}", f"{new:g}"] for one in found.differences for key, old, new in one.worst]
    terminal.table("Furthest apart", ["feature", "key", "old", "new"], worst)
    for names, which in ((found.only_old, "old"), (found.only_new, "new")):
        if names:
            terminal.tell(f"Only the {which} version has {', '.join(names)}.")
