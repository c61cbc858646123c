"""`trilane plan` and `trilane apply`: what would change, and changing it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project

if TYPE_CHECKING:
    from trilane.apps.deploy import Plan

__all__ = ["apply", "plan"]

_SIGNS = {"added": "[green]+[/]", "changed": "[yellow]~[/]", "removed": "[red]-[/]"}


def plan(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show what `apply` would change, and what each change rebuilds."""
    from trilane.apps import deploy

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        found = deploy.plan(opened)
    terminal.answer(_facts(found))
    _tell(terminal, found)
    terminal.tell("Nothing to do." if found.does_nothing else "Run [bold]trilane apply[/] to do this.")


def apply(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Make the definitions what runs, and deploy the models that fit them."""
    from trilane.apps import deploy

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        done = deploy.apply(opened)
    terminal.answer(_facts(done))
    _tell(terminal, done)
    terminal.tell(f"Applied: definitions {done.definitions[:16]}.")


def _facts(found: Plan) -> dict[str, object]:
    return {
        "definitions": found.definitions,
        "applied": found.applied,
        "changes": [dataclasses.asdict(change) for change in found.changes],
        "effects": [dataclasses.asdict(effect) for effect in found.effects],
        "does_nothing": found.does_nothing,
    }


def _tell(terminal: Terminal, found: Plan) -> None:
    for change in found.changes:
        details = f": {', '.join(change.details)}" if change.details else ""
        terminal.tell(f"{_SIGNS[change.what]} {change.kind.replace('_', ' ')} [bold]{change.name}[/]{details}")
    for effect in found.effects:
        terminal.tell(f"  {effect.kind} [bold]{effect.name}[/] {effect.text}")
