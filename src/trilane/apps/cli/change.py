"""`trilane plan` and `trilane apply`: what would change, and changing it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.look import server_answers
from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trilane.apps.deploy import Plan
    from trilane.apps.project import Project
    from trilane.apps.rebuild import Rebuild
    from trilane.features.cost import ViewCost

__all__ = ["apply", "plan"]

_Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME@DIGEST", help="Deploy this artifact of a model, not the newest; repeatable."),
]
_Breaking = Annotated[
    list[str] | None,
    typer.Option("--breaking", metavar="SOURCE", help="Change this event source though events break it; repeatable."),
]
_SIGNS = {"added": "[green]+[/]", "changed": "[yellow]~[/]", "removed": "[red]-[/]"}


def plan(
    *,
    model: _Models = None,
    breaking: _Breaking = None,
    costs: Annotated[bool, typer.Option("--costs", help="The costs of all stored views, not of changed ones.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show what `apply` would change, what each change rebuilds, and what its windows cost."""
    from trilane.apps import deploy
    from trilane.apps.rebuild import rebuilds

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        found = deploy.plan(opened, model or (), breaking or ())
        priced = deploy.costs(opened, None if costs else found.changes)
        changed = priced if not costs else deploy.costs(opened, found.changes)
        built = rebuilds(opened, opened.working, changed) if not found.refusals else []
    facts = {"costs": [dataclasses.asdict(cost) for cost in priced], "rebuilds": [dataclasses.asdict(b) for b in built]}
    terminal.answer({**_facts(found), **facts})
    _tell(terminal, found)
    _tell_costs(terminal, priced)
    _tell_rebuilds(terminal, built)
    if found.refusals:
        for refusal in found.refusals:
            terminal.tell(f"[red]refused[/] event source [bold]{refusal.source}[/]: {refusal.what}. {refusal.remedy}.")
        raise typer.Exit(ConflictError.exit_code)
    terminal.tell("Nothing to do." if found.does_nothing else "Run [bold]trilane apply[/] to do this.")


def apply(
    *,
    model: _Models = None,
    breaking: _Breaking = None,
    hold: Annotated[bool, typer.Option("--hold", help="Let `trilane swap` say when what is built answers.")] = False,
    at_once: Annotated[bool, typer.Option("--at-once", help="Do not wait until what is read is filled.")] = False,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Make the definitions what runs, and deploy the models that fit them."""
    from trilane.apps import deploy
    from trilane.apps.swap import pending

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = deploy.apply(opened, model or (), breaking or (), hold=hold, at_once=at_once)
        waiting = pending(opened)
        waits = not json and _deployed_first(opened, done) and not server_answers(opened.config)
    terminal.answer({**_facts(done), "pending": [{"name": one.name, "waits_for": one.why} for one in waiting]})
    _tell(terminal, done)
    terminal.tell(f"Applied: definitions {done.definitions[:16]}.")
    for one in waiting:
        terminal.tell(f"[bold]{one.name}[/] answers as before; waits: {one.why}.")
    if waits:
        terminal.tell("Run [bold]trilane up[/] to answer.")


def _deployed_first(project: Project, done: Plan) -> bool:
    """Whether an endpoint was deployed that never was before."""
    from trilane.apps.deploy import DEPLOY

    deployed = [effect.name for effect in done.effects if effect.action == DEPLOY]
    return any(len(project.registry.deployments(name)) == 1 for name in deployed)


def _facts(found: Plan) -> dict[str, object]:
    return {
        "definitions": found.definitions,
        "applied": found.applied,
        "changes": [dataclasses.asdict(change) for change in found.changes],
        "effects": [dataclasses.asdict(effect) for effect in found.effects],
        "refusals": [dataclasses.asdict(refusal) for refusal in found.refusals],
        "does_nothing": found.does_nothing,
    }


def _tell_costs(terminal: Terminal, priced: Sequence[ViewCost]) -> None:
    headings = ["window", "hop", "overhang", "tile, bytes", "tiles kept", "key, bytes", "tiles read"]
    for cost in priced:
        rows = [
            [
                *(window.window, window.hop, f"{window.overhang:.1%}", f"{window.bytes_per_tile:,}"),
                f"{window.tiles_kept:,}" + (f" + {window.history_kept:,}" if window.history_kept else ""),
                *(f"{window.bytes_per_key:,}", f"{window.tiles_read:,}"),
            ]
            for window in cost.windows
        ]
        shards = f" in each of {cost.partitions} partitions" if cost.partitions > 1 else ""
        past = f" + {cost.history_bytes_per_key:,} in its history" if cost.history_bytes_per_key else ""
        terminal.table(f"{cost.view}: at most {cost.bytes_per_key:,} bytes a key{shards}{past}", headings, rows)
        for window in cost.windows:
            if window.hint:
                terminal.tell(f"  [yellow]{window.window}[/] {window.hint}")


def _tell_rebuilds(terminal: Terminal, built: Sequence[Rebuild]) -> None:
    rows = [
        [
            one.view,
            f"{one.events:,}",
            f"{one.rows:,}",
            str(one.boundaries),
            f"{one.keys:,}",
            f"{one.bytes / 1e6:,.1f}",
            "not measured yet" if one.seconds is None else f"{one.seconds:,.1f}",
            ", ".join(one.models) or "none",
        ]
        for one in built
    ]
    headings = ["view", "events", "rows", "boundaries", "keys", "at most MB", "seconds", "models to train"]
    terminal.table("To build", headings, rows)
    for one in built:
        for lack in one.lacking:
            terminal.tell(f"  [yellow]{one.view}[/] is built from less than its windows reach: {lack}.")


def _tell(terminal: Terminal, found: Plan) -> None:
    for change in found.changes:
        details = f": {', '.join(change.details)}" if change.details else ""
        terminal.tell(f"{_SIGNS[change.what]} {change.kind.replace('_', ' ')} [bold]{change.name}[/]{details}")
    for effect in found.effects:
        terminal.tell(f"  {effect.kind} [bold]{effect.name}[/] {effect.text}")
