"""`trilane slo`: how the objectives stand, what is left of their budgets, and how fast these burn."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.errors import DefinitionError

__all__ = ["slo"]

_BAR = 10


def slo(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="ENDPOINT", help="One endpoint; default: all that have objectives.")
    ] = None,
    *,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Show how the objectives stand: compliance, error budget left, burn rates, and the alerts that they call for."""
    from trilane.apps.slo import slo_facts

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        if endpoint is not None and endpoint not in opened.definitions.endpoints:
            known = ", ".join(sorted(opened.definitions.endpoints)) or "none"
            raise DefinitionError(
                f"there is no endpoint {endpoint!r}", where=endpoint, remedy=f"Endpoints: {known}", file=""
            )
        facts = slo_facts(opened, endpoint)
    terminal.answer({"endpoints": facts})
    if not facts:
        terminal.tell("no objective is declared: write tl.Endpoint(..., objectives=[tl.objective(...)])")
    for name, ones in facts.items():
        terminal.table(f"Endpoint {name}", _HEADINGS, [_row(one) for one in ones])


# Two lines a row, so that eighty columns hold it.
_HEADINGS = ["objective", "answers", "budget left", "burn", "", "alert"]


def _row(one: dict[str, Any]) -> list[str]:
    from trilane.clock import format_duration

    burn = [f"{window} {one['burn'][window]:.1f}" for window in ("5m", "1h", "6h", "3d") if window in one["burn"]]
    return [
        f"{one['objective']}\nover {format_duration(int(one['over_s'] * 1e6))}",
        f"{one['asked']:,}\n{one['compliance']:.2%} good",
        f"{_bar(one['budget_left'])}\n{one['budget_left']:.0%}",
        "\n".join(burn[:2]),
        "\n".join(burn[2:]),
        (one["alert"] or "").upper(),
    ]


def _bar(left: float) -> str:
    full = round(min(max(left, 0.0), 1.0) * _BAR)
    return "█" * full + "░" * (_BAR - full)
