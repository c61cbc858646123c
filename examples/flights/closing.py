"""The figures of a demo: as `summary.json` for machines, and as the closing table for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from examples.flights.client import Load
from examples.flights.proof import Parity
from examples.flights.replay import WATCHED, Outage, Replayed
from examples.flights.show import Show
from trilane import format_instant

__all__ = ["Live", "Proved", "Results", "tell"]

ASK = (
    '{"scheduled_at": "2014-01-01T00:30:00Z", "origin": "JFK", "dest": "LAX", "carrier": "DL", "tailnum": null, '
    '"distance": 2475}'
)


@dataclass(frozen=True, kw_only=True)
class Live:
    """What the running processes gave: the replay, the load after it, and their status in between."""

    done: Replayed
    outage: Outage
    load: Load
    events_per_s: float
    status: dict[str, Any]
    explained: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What the checks found. The AUCs of both models are of flights that neither has seen."""

    parity: Parity
    lost: int
    three_lanes: float
    baseline: float
    served: float


@dataclass(frozen=True, kw_only=True)
class Results:
    """The figures, by the names that they have in `summary.json`."""

    auc_batch_request: float
    auc_three_lanes: float
    auc_served_week: float
    decisions: int
    decisions_per_s: float
    p50_ms: float
    p99_ms: float
    events: int
    events_per_s: float
    freshness_p99_s: float
    values_checked: int
    values_mismatched: int
    lost_events: int
    seconds: float
    live: Live = field(repr=False)
    proved: Proved = field(repr=False)

    @staticmethod
    def of(live: Live, proved: Proved, *, events: int, seconds: float) -> Results:
        """The figures of what was run and proved; `events` were accepted in all, `seconds` it all took."""
        p50, p99 = _milliseconds(live.load.latencies)
        return Results(
            auc_batch_request=proved.baseline,
            auc_three_lanes=proved.three_lanes,
            auc_served_week=proved.served,
            decisions=len(live.done.ids),
            decisions_per_s=live.load.answers / live.load.seconds,
            p50_ms=p50,
            p99_ms=p99,
            events=events,
            events_per_s=live.events_per_s,
            freshness_p99_s=float(np.percentile(live.done.servable_after, 99)),
            values_checked=proved.parity.checked,
            values_mismatched=proved.parity.mismatched,
            lost_events=proved.lost,
            seconds=seconds,
            live=live,
            proved=proved,
        )

    @property
    def holds(self) -> bool:
        """Whether all that was promised is true."""
        complete = self.values_checked > 0 and not self.proved.parity.missing_records
        same = not self.values_mismatched and self.live.explained["identical"] is True
        return complete and same and not self.lost_events and not self.live.load.errors

    def write(self, path: Path) -> None:
        """Writes the figures as JSON."""
        figures = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}
        rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in figures.items()}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=2) + b"\n")


def tell(show: Show, results: Results, *, folder: Path, until: str) -> None:
    """Prints the closing table and what to try next, when the log reaches to `until`."""
    show.say()
    show.table(list(_rows(results)))
    _tell_outage(show, results.live.outage)
    for line in results.proved.parity.worst:
        show.say(f"[red]differs:[/] {line}")
    verdict = "[bold green]All of it holds.[/]" if results.holds else "[bold red]Not all of it holds.[/]"
    show.say(f"\n{verdict} The figures are in {_short(folder / 'summary.json')}. To try next:\n")
    script = Path(sys.executable).with_name("trilane")
    trilane = _short(script) if script.exists() else "trilane"
    project = f"--project {_short(folder)}"
    for command, comment in (
        (f"{trilane} explain {results.live.done.ids[-1]} {project}", "why that decision"),
        (f"{trilane} status {project}", "what is deployed, made of what"),
        (f"{trilane} up --replay --replay-start {until} {project}", "all of it again, where the log ends"),
        (f"curl -d '{ASK}' localhost:8321/v1/decide/flight_delay", "and ask it"),
        ("less examples/flights/definitions.py", "all that was declared"),
    ):
        show.say(f"  {command}  [dim]# {comment}[/]")


def _rows(results: Results) -> Iterator[tuple[str, str, str]]:
    live, parity = results.live, results.proved.parity
    p50, p99 = _milliseconds(np.array(live.done.latencies))
    replayed = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {parity.without_model} too late"
    loaded = f"p50 {results.p50_ms:.2f} ms, p99 {results.p99_ms:.2f} ms"
    yield "AUC, batch and request", f"{results.auc_batch_request:.3f}", "on flights after training"
    yield "AUC, all three lanes", f"{results.auc_three_lanes:.3f}", "on the same flights"
    yield "AUC of what was served", f"{results.auc_served_week:.3f}", "in the replay, outage and all"
    yield "", "", ""
    yield "decisions in the replay", f"{results.decisions:,}", replayed
    yield "decisions/s, 8 callers", f"{results.decisions_per_s:,.0f}", loaded
    yield "events", f"{results.events:,}", f"{results.events_per_s:,.0f} a second from log to servable"
    yield "an event is servable in", f"{results.freshness_p99_s * 1e3:.0f} ms", "p99, from its POST"
    yield "", "", ""
    yield "served values compared", f"{results.values_checked:,}", f"{parity.degraded:,} more while the worker was down"
    yield "unlike in training", f"{results.values_mismatched:,}", "compared bit for bit"
    yield "events lost", f"{results.lost_events:,}", f"kept as dead letters: {_letters(live.status['dead_letters'])}"
    yield "seconds", f"{results.seconds:.0f}", ""


def _tell_outage(show: Show, outage: Outage) -> None:
    show.say(f"[bold]The nearline worker was killed[/] at {format_instant(outage.at)}, and answers went on.")
    show.say(f"This is how {WATCHED} was served around it:\n")
    colours = {"fresh": "green", "stale": "yellow", "batch": "magenta"}
    for span in outage.spans:
        hours = f"{format_instant(span.since)[11:16]} to {format_instant(span.until)[11:16]}"
        show.say(f"  [{colours.get(span.status, 'red')}]{span.status:<8}[/] {hours}  {span.decisions:4} decisions")
    show.say(f"\nOn the wall's clock, its successor had caught up {outage.recovered_in:.1f} s after the kill.")


def _milliseconds(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return float(p50), float(p99)


def _letters(found: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in found.items()) or "none"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
