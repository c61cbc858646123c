"""`trilane plan` and `trilane apply`: what would change, and changing it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from trilane.apps.cli.look import server_answers
from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.errors import ConflictError

if TYPE_CHECKING:
    from trilane.apps.deploy import Plan
    from trilane.apps.project import Project

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
    *, model: _Models = None, breaking: _Breaking = None, project: ProjectOption = None, json: JsonOption = False
) -> None:
    """Show what `apply` would change, and what each change rebuilds."""
    from trilane.apps import deploy

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        found = deploy.plan(opened, model or (), breaking or ())
    terminal.answer(_facts(found))
    _tell(terminal, found)
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


def _tell(terminal: Terminal, found: Plan) -> None:
    for change in found.changes:
        details = f": {', '.join(change.details)}" if change.details else ""
        terminal.tell(f"{_SIGNS[change.what]} {change.kind.replace('_', ' ')} [bold]{change.name}[/]{details}")
    for effect in found.effects:
        terminal.tell(f"  {effect.kind} [bold]{effect.name}[/] {effect.text}")
