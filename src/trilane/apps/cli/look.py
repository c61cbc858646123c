"""`trilane status`, and what the server says of a decision: what runs, and why it answered so."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, open_project
from trilane.clock import format_instant
from trilane.errors import ContractError, UnavailableError

if TYPE_CHECKING:
    from trilane.apps.config import Config
    from trilane.apps.project import Project
    from trilane.lifecycle.metadata.protocol import RunRecord

__all__ = ["ask_server", "explain_decision", "server_answers", "status"]

_RUNS = 8
_BATCH = ("boundary", "visible_from", "newest_landed", "due")


def status(*, project: ProjectOption = None, json: JsonOption = False) -> None:
    """Show exactly what is running: bundles, models, view versions, lanes, batch versions, dead letters, runs."""
    terminal = Terminal(json=json)
    with open_project(project) as opened:
        try:
            server: dict[str, Any] | None = ask_server(opened.config, "/v1/status")
        except UnavailableError:
            server = None
        facts = {**_registered(opened), "server": server}
    terminal.answer(facts)
    _tell_status(terminal, facts)


def explain_decision(terminal: Terminal, decision: str, project: Path | None) -> None:
    """Rebuilds a decision from its id: its features, their statuses, its score."""
    with open_project(project) as opened:
        try:
            facts = ask_server(opened.config, f"/v1/explain/{decision}")
        except UnavailableError:
            facts = _recorded(opened, decision)
    terminal.answer(facts)
    _tell_decision(terminal, facts)


def server_answers(config: Config) -> bool:
    """Whether a server of this project runs here."""
    try:
        ask_server(config, "/health/live")
    except (UnavailableError, ContractError):
        return False
    return True


def ask_server(config: Config, path: str) -> dict[str, Any]:
    """The answer of the running server. Raises UnavailableError if none runs, ContractError for what it refuses."""
    from trilane.apps.server import address

    told = address.read(config.state)
    if told is not None and told != config.url:
        # A server that was killed leaves its address; then what the configuration says is all there is.
        with contextlib.suppress(UnavailableError):
            return _ask(told, path)
    return _ask(config.url, path)


def _ask(url: str, path: str) -> dict[str, Any]:
    import httpx

    try:
        answer = httpx.get(f"{url}{path}", timeout=30.0)
        found: dict[str, Any] = answer.json()
    except (httpx.TransportError, ValueError) as error:
        raise UnavailableError(f"no server answers: {error}", where=url, remedy="Start one with `trilane up`") from None
    if answer.is_error:
        facts = found.get("error", {})
        raise ContractError(
            str(facts.get("what", answer.text)),
            where=str(facts.get("where", path)),
            remedy=str(facts.get("remedy", "")),
        )
    return found


def _recorded(project: Project, decision: str) -> dict[str, Any]:
    """The decision as it was recorded, without a server that could rebuild it."""
    from trilane.feedback.record import Records

    records = Records(project.config.state / "records.db")
    try:
        found = records.find(decision)
    finally:
        records.close()
    if found is None:
        raise ContractError(
            f"there is no record of decision {decision!r}", where="id", remedy="Check the id, or start the server"
        )
    facts: dict[str, Any] = msgspec.to_builtins(found)
    return {**facts, "at": format_instant(found.at), "rebuilt": None, "identical": None}


def _registered(project: Project) -> dict[str, Any]:
    """What the registry knows, whether or not anything runs."""
    from trilane.apps.expectations import findings

    applied = project.registry.applied()
    deployments = {name: project.registry.deployed(name) for name in project.definitions.endpoints} if applied else {}
    return {
        "project": project.config.name,
        "definitions": applied.digest if applied else None,
        "applied_at": format_instant(applied.applied_at) if applied else None,
        "endpoints": {
            name: {"bundle": found.bundle, "since": format_instant(found.at), **found.facts} if found else None
            for name, found in deployments.items()
        },
        **_building(project, applied is not None),
        "processes": _processes(project),
        "dead_letters": {f"{source}/{code}": n for (source, code), n in project.dead_letters.count().items()},
        "expectations": [dataclasses.asdict(one) for one in findings(project)],
        "runs": [_run_facts(run) for run in project.metadata.runs(limit=_RUNS)],
    }


def _building(project: Project, applied: bool) -> dict[str, Any]:
    """What is being built, and what waits for it."""
    from trilane.apps.filling import unfilled
    from trilane.apps.swap import pending

    try:
        found = unfilled(project, project.live_views().values()) if applied else []
        waiting = pending(project) if applied else []
    except UnavailableError:
        return {"building": [], "pending": []}  # the store is away, which the server tells
    building = [{**dataclasses.asdict(one), "share": one.share, "eta_s": one.eta} for one in found]
    return {"building": building, "pending": [{"name": one.name, "waits_for": one.why} for one in waiting]}


def _processes(project: Project) -> dict[str, int]:
    from trilane.apps.supervisor import PIDS_FILE

    try:
        return msgspec.json.decode((project.config.state / PIDS_FILE).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.DecodeError):
        return {}


def _run_facts(run: RunRecord) -> dict[str, Any]:
    return {
        "id": run.id,
        "kind": run.kind,
        "subject": run.subject,
        "status": run.status,
        "started_at": format_instant(run.started_at),
        "ended_at": None if run.ended_at is None else format_instant(run.ended_at),
        "error": run.error,
    }


def _tell_status(terminal: Terminal, facts: dict[str, Any]) -> None:
    applied = str(facts["definitions"] or "none applied yet")[:16]
    running = "running" if facts["server"] else "no server answers"
    terminal.tell(f"[bold]{facts['project']}[/]: definitions {applied}, {running}")
    for name, found in facts["endpoints"].items():
        made = f"bundle {found['bundle'][:16]}, model {found['model_digest'][:16]}" if found else "not deployed"
        terminal.tell(f"endpoint [bold]{name}[/]: {made}")
    _tell_building(terminal, facts)
    server = facts["server"] or {}
    lanes = [_lane_row(name, found) for name, found in server.get("lanes", {}).items()]
    terminal.table("Lanes", ["source", "events", "behind", "age", "watermark", "hot keys"], lanes)
    parts = [_share_row(found) for found in server.get("partitions", [])]
    terminal.table("Partitions", ["partition", "owner", "lag", "age", "moves", "stands because of"], parts)
    batch = [
        [name, f"{found['rows']:,}", *(found[key] or "none" for key in _BATCH)]
        for name, found in server.get("batch", {}).items()
    ]
    terminal.table("Batch", ["view", "rows", *(key.replace("_", " ") for key in _BATCH)], batch)
    expected = [
        [one["source"], one["expectation"], "met" if one["met"] else "NOT MET", one["text"]]
        for one in facts["expectations"]
    ]
    terminal.table("Expectations", ["source", "expectation", "", "found"], expected)
    letters = [[name, str(number)] for name, number in facts["dead_letters"].items()]
    terminal.table("Dead letters", ["source/code", "events"], letters)
    runs = [
        [r["started_at"], r["kind"], r["subject"], r["status"], (r["error"] or {}).get("what", "")]
        for r in facts["runs"]
    ]
    terminal.table("Last runs", ["started", "kind", "subject", "status", "error"], runs)


def _tell_building(terminal: Terminal, facts: dict[str, Any]) -> None:
    rows = [
        [
            f"{one['view']}@{one['version'][:8]}",
            f"{one['share']:.1%}",
            f"{one['done']:,} of {one['whole']:,} {one['unit']}",
            "" if one["rate"] is None else f"{one['rate']:,.0f}",
            "" if one["eta_s"] is None else f"{one['eta_s']:,.0f} s",
            one["fault"],
        ]
        for one in facts["building"]
    ]
    terminal.table("Building", ["view", "filled", "done", "a second", "ready in", "stands because of"], rows)
    for one in facts["pending"]:
        terminal.tell(f"[bold]{one['name']}[/] answers as before; waits: {one['waits_for'] or 'control'}.")


def _lane_row(name: str, found: dict[str, Any]) -> list[str]:
    waiting = sum(end - found["applied"].get(partition, 0) for partition, end in found["end"].items())
    behind = f"{waiting:,}" if found["end"] else "unknown"
    age = "never caught up" if found["age_s"] is None else f"{found['age_s']:.1f} s"
    hot = ", ".join(found.get("hot_keys", ())) or "none"
    return [name, f"{found['events']:,}", behind, age, found["watermark"] or "none", hot]


def _share_row(found: dict[str, Any]) -> list[str]:
    name = f"{found['source']}/{found['partition']}"
    owner = found["owner"] or "nobody"
    age = "never caught up" if found["age_s"] is None else f"{found['age_s']:.1f} s"
    lag = "unknown" if found["lag"] is None else f"{found['lag']:,}"
    return [name, owner, lag, age, str(found["moves"]), found["fault"] or ""]


def _tell_decision(terminal: Terminal, facts: dict[str, Any]) -> None:
    same = {True: ", rebuilt bit for bit", False: ", [red]rebuilt otherwise[/]", None: ""}[facts.get("identical")]
    terminal.tell(f"[bold]{facts['id']}[/]: {facts['score']!r} at {facts['at']}{same}")
    terminal.tell(f"endpoint {facts['endpoint']}, bundle {str(facts['bundle'])[:16]}")
    if facts.get("rung") not in (None, "fresh"):
        origin = f", made for {facts['origin']}" if facts.get("origin") else ""
        terminal.tell(f"rung: {facts['rung']}{origin}")
    if facts.get("degraded"):
        terminal.tell(f"degraded: {', '.join(facts.get('why', ()))}")
    statuses, ages = facts.get("statuses", {}), facts.get("ages", {})
    rows = [
        [name, "" if value is None else f"{value:g}", str(statuses.get(name, "")), _seconds(ages.get(name))]
        for name, value in facts.get("features", {}).items()
    ]
    terminal.table("Features", ["feature", "value", "status", "age s"], rows)


def _seconds(age: int | None) -> str:
    return "" if age is None else f"{age / 1e6:,.3f}"
