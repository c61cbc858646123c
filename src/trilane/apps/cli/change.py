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

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        found = deploy.plan(opened, model or (), breaking or ())
        priced = deploy.costs(opened, None if costs else found.changes)
    terminal.answer({**_facts(found), "costs": [dataclasses.asdict(cost) for cost in priced]})
    _tell(terminal, found)
    _tell_costs(terminal, priced)
    if found.refusals:
        for refusal in found.refusals:
            terminal.tell(f"[red]refused[/] event source [bold]{refusal.source}[/]: {refusal.what}. {refusal.remedy}.")
        raise typer.Exit(ConflictError.exit_code)
    terminal.tell("Nothing to do." if found.does_nothing else "Run [bold]trilane apply[/] to do this.")


def apply(
    *, model: _Models = None, breaking: _Breaking = None, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Make the definitions what runs, and deploy the models that fit them."""
    from trilane.apps import deploy

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = deploy.apply(opened, model or (), breaking or ())
        waits = not json and _deployed_first(opened, done) and not server_answers(opened.config)
    terminal.answer(_facts(done))
    _tell(terminal, done)
    terminal.tell(f"Applied: definitions {done.definitions[:16]}.")
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


def _tell(terminal: Terminal, found: Plan) -> None:
    for change in found.changes:
        details = f": {', '.join(change.details)}" if change.details else ""
        terminal.tell(f"{_SIGNS[change.what]} {change.kind.replace('_', ' ')} [bold]{change.name}[/]{details}")
    for effect in found.effects:
        terminal.tell(f"  {effect.kind} [bold]{effect.name}[/] {effect.text}")
