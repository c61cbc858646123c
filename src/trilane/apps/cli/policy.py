"""`trilane policy`: who is let in when too much is asked, as it is declared and as it holds now."""

from __future__ import annotations

from typing import Any

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.clock import format_duration
from trilane.errors import UnavailableError
from trilane.serving.policy import TIERS, Policy

__all__ = ["policy"]


def policy(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show the policy: tiers, floors and quotas, whether it is applied, and what a running server does by it."""
    from trilane.apps.cli.look import ask_server

    terminal = Terminal(json=json)
    with open_project(project) as opened:
        declared = opened.working.policy
        applied = opened.definitions.policy if opened.applied_digest() else None
        try:
            server: dict[str, Any] | None = ask_server(opened.config, "/v1/policy")
        except UnavailableError:
            server = None
    facts = {
        "declared": _facts(declared),
        "applied": _facts(applied),
        "is_applied": declared == applied,
        "server": server,
    }
    terminal.answer(facts)
    _tell(terminal, declared, applied, server)


def _facts(found: Policy | None) -> dict[str, Any] | None:
    return None if found is None else {"version": found.version, **found.spec()}


def _tell(terminal: Terminal, declared: Policy | None, applied: Policy | None, server: dict[str, Any] | None) -> None:
    if declared is None:
        terminal.tell("no policy is declared: nobody is limited, and the tiers are in strict order")
    else:
        state = "" if declared == applied else ", [yellow]not applied yet[/]: run `trilane apply`"
        terminal.tell(f"policy [bold]{declared.version[:16]}[/], limit {declared.limit}{state}")
        _tell_declared(terminal, declared)
    if server is None:
        terminal.tell("no server answers")
        return
    limit = "none" if server["limit"] is None else f"{server['limit']:,}"
    terminal.tell(
        f"server: policy [bold]{server['version'][:16]}[/], limit {limit}, {server['in_flight']:,} in, "
        f"one of {server['processes']} processes"
    )
    rows = [_tier_row(name, found) for name, found in server["tiers"].items()]
    terminal.table("Now", ["tier", "in", "waiting", "let in", "refused", "late by"], rows)


def _tell_declared(terminal: Terminal, declared: Policy) -> None:
    known = {tier.name: tier for tier in declared.tiers}
    tiers = [
        [
            name,
            f"{known[name].floor:.0%}" if name in known and known[name].floor else "",
            format_duration(aging) if name in known and (aging := known[name].aging) else "",
        ]
        for name in TIERS
    ]
    terminal.table("Tiers", ["tier", "floor", "goes ahead after"], tiers)
    callers = [
        [
            caller.name or "any other",
            caller.up_to or "the endpoint's",
            "" if caller.rate is None else f"{caller.rate:g}",
            "" if caller.burst is None else f"{caller.burst:g}",
        ]
        for caller in (*declared.callers, declared.others)
    ]
    terminal.table("Callers", ["caller", "highest tier", "rows a second", "burst"], callers)


def _tier_row(name: str, found: dict[str, Any]) -> list[str]:
    refused = "\n".join(f"{number:,} {reason}" for reason, number in found["refused"].items())
    late = f"{found['late_ms']:.1f} ms"
    return [name, f"{found['in_flight']:,}", f"{found['waiting']:,}", f"{found['admitted']:,}", refused, late]
