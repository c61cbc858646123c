"""`trilane explain`: why a decision scored so, or why a feature had that value."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from trilane.apps.cli.look import explain_decision
from trilane.apps.cli.terminal import JsonOption, ProjectOption, Terminal, moment, open_project
from trilane.errors import DefinitionError

__all__ = ["explain"]

_SHOWN = 20  # tiles and events; with --json all


def explain(
    *,
    what: Annotated[str, typer.Argument(metavar="ID|VIEW.FEATURE", help="The `id` of a decision, or a feature.")],
    key: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Of a feature: the keys of its entity.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="INSTANT", help="Of a feature: when; default: now.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=VALUE", help="Of a feature: another input.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="NAME", help="Of a feature: by whose model to tell what is usual."),
    ] = None,
    project: ProjectOption = None,
    json: JsonOption = False,
) -> None:
    """Rebuild a decision from its id, or a feature's value from the events behind it."""
    terminal = Terminal(json=json)
    if "." not in what and not (key or input_ or at or endpoint):
        explain_decision(terminal, what, project)
        return
    from trilane.apps.provenance.value import explain_value

    with open_project(project) as opened:
        instant, inputs = moment(at, option="--at"), _inputs(input_ or [])
        facts = explain_value(opened, what, key or [], inputs, at=instant, endpoint=endpoint)
    terminal.answer(facts)
    if not json:
        _tell(terminal, facts)


def _inputs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or name in found:
            raise DefinitionError(f"{text!r} is no input", where="--input", remedy="Write --input name=value", file="")
        found[name] = value
    return found


def _tell(terminal: Terminal, facts: dict[str, Any]) -> None:
    from rich.markup import escape

    served, again = facts["served"], facts["recomputed"]
    named = escape(_event(facts["inputs"]))
    aged = "" if served["age_s"] is None else f", {served['age_s']:.1f} s old"
    terminal.tell(f"[bold]{facts['feature']}[/] of {named} at {facts['at']}: {_number(served['value'])}")
    recorded = "" if served["recorded"] else "; not recorded, so arrival and declared landing decide"
    terminal.tell(f"{served['status']}{aged}, told by {served['by']}{recorded}")
    if (of := facts.get("of")) is not None:
        terminal.tell(f"of {of['feature']}: {_number(of['value'])}, {of['status']}")
    if (usual := facts.get("usual")) is not None:
        others = "".join(f"; by --endpoint {name} it may be otherwise" for name in usual["other_endpoints"])
        terminal.tell(f"what is usual is as endpoint {usual['endpoint']} knows it{others}")
    for reason in served["why"]:
        terminal.tell(f"worse than promised: {escape(reason)}")
    same = "yes" if again["identical"] else "[red]no[/]"
    terminal.tell(f"computed again from the events: {_number(again['value'])}, identical: {same}")
    for cause in again["causes"]:
        terminal.tell(f"likely cause: {escape(cause)}")
    if "uses" in facts:
        rows = [[u["feature"], _number(u["value"]), u["status"], f"{u['age_s']:.1f}"] for u in facts["uses"]]
        terminal.table("Made of", ["feature", "value", "status", "age s"], rows)
        return
    _tell_stored(terminal, facts)


def _tell_stored(terminal: Terminal, facts: dict[str, Any]) -> None:
    for window in facts["windows"]:
        terminal.tell(f"window {window['length']}, hop {window['hop']}: from {window['from']} to {window['to']}")
    if (landed := facts["landed"]) is not None:
        terminal.tell(
            f"landed: boundary {landed['boundary']}, {landed['rows']:,} rows, landed at {landed['landed_at']}"
        )
    steps = [[s["step"], _seconds(s["age_s"]), _seconds(s["allowed_s"]), s["outcome"]] for s in facts["steps"]]
    terminal.table("Steps", ["step", "age s", "allowed s", ""], steps)
    if not facts["store"]["whole"]:
        terminal.tell("the store has dropped tiles of that time; the value is of the archive and the log alone")
    tiles = [[t["kind"], t["from"], t["to"] or "", _number(t["value"]), str(t["bytes"])] for t in facts["tiles"]]
    shown = _last("Tiles", tiles)
    terminal.table(shown[0], ["", "from", "to", "value alone", "bytes"], shown[1])
    lanes = [
        [
            str(one[name])
            for name in ("partition", "applied", "end", "caught_up_at", "watermark", "duplicates", "rejected")
        ]
        for one in facts["lanes"]
    ]
    headings = ["partition", "applied", "end", "caught up at", "watermark", "duplicates", "refused"]
    terminal.table("Lane", headings, lanes)
    events = facts["events"]
    rows = [
        [str(e.get("offset", "")), str(e.get("arrived_at", "")), "late" if e.get("late") else "", _event(e["event"])]
        for e in events["listed"]
    ]
    counts = f"Events: {events['total']} in reach, {events['late']} late, {events['unread']} not readable yet"
    shown = _last(counts, rows)
    terminal.table(shown[0], ["offset", "arrived at", "", "event"], shown[1])
    letters = [
        [str(one["id"]), one["code"], str(one["event_time"]), one["state"], one["reason"]] for one in facts["letters"]
    ]
    terminal.table("Refused events of this key", ["letter", "code", "event time", "state", "reason"], letters)


def _last(title: str, rows: list[list[str]]) -> tuple[str, list[list[str]]]:
    return (f"{title}, the last {_SHOWN}" if len(rows) > _SHOWN else title), rows[-_SHOWN:]


def _event(event: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in event.items())


def _number(value: float | None) -> str:
    return "none" if value is None else repr(value)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
