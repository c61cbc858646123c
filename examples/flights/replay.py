"""Replays a week of flights through the HTTP API, in the order in which it happened, and asks for every decision in it.

At each instant at which somebody asks: move the clock there, send the events that happened before, wait until the
lanes have caught up, ask. In mid-replay the nearline worker is killed, and for a while nobody waits for it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.flights.client import Connection, request
from examples.flights.running import Up, caught_up
from trilane import format_instant, instant

__all__ = ["Outage", "Replayed", "SOURCES", "Script", "Span", "between", "read_script", "replay"]

Ints = npt.NDArray[np.int64]

SOURCES = {"departures": "departed_at", "arrivals": "arrived_at", "weather": "published_at"}
ENDPOINT = "/v1/decide/flight_delay"
WATCHED = "airport_pressure.delay_mean_60m"  # whose statuses tell the outage
_INPUTS = ("scheduled_at", "origin", "dest", "carrier", "tailnum", "distance")


@dataclass(frozen=True)
class Feed:
    """The events of one source: their times, ascending, and their JSON texts."""

    times: Ints
    texts: list[bytes]


@dataclass(frozen=True)
class Script:
    """What is asked and what happens: `instants` at which asks[first[i]:first[i + 1]] are asked, and the feeds."""

    asks: pa.Table
    rows: list[bytes]
    instants: Ints
    first: Ints
    feeds: dict[str, Feed]
    end: int

    def requests(self) -> list[bytes]:
        """One request for each ask, as a caller who has one flight would send it."""
        return [request("POST", ENDPOINT, row) for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Decisions in a row whose watched feature had one status; `since` and `until` are their first and last instant."""

    status: str
    since: int
    until: int
    decisions: int


@dataclass(kw_only=True)
class Outage:
    """The time without a nearline worker; `recovered_in` is wall seconds from the kill to all lanes caught up."""

    at: int
    until: int
    spans: list[Span] = field(default_factory=list)
    killed: int = 0
    recovered_in: float = 0.0


@dataclass
class Replayed:
    """What came of a replay, decision by decision in the order of the asks.

    `watched` is the status of the watched feature; `waited` says whether all lanes had caught up when it was asked.
    `latencies` are of requests, `servable_after` of events from their POST on, both in wall seconds.
    """

    ids: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    degraded: list[bool] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    waited: list[bool] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    servable_after: list[float] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))


def between(table: pa.Table, column: str, start: str | None, end: str | None) -> pa.Table:
    """The rows of `table` whose `column` is in [start, end)."""
    if start is not None:
        table = table.filter(pc.greater_equal(table[column].cast(pa.int64()), instant(start)))
    if end is not None:
        table = table.filter(pc.less(table[column].cast(pa.int64()), instant(end)))
    return table


def read_script(folder: Path, start: str, end: str) -> Script:
    """What happens in [start, end), from the files that `prepare` wrote to `folder`."""
    asks = between(pq.read_table(folder / "asks.parquet"), "asked_at", start, end)
    times = asks["asked_at"].cast(pa.int64()).to_numpy()
    instants, first = np.unique(times, return_index=True)
    feeds = {}
    for source, column in SOURCES.items():
        events = between(pq.read_table(folder / f"{source}.parquet"), column, start, end)
        texts = [msgspec.json.encode(event) for event in events.to_pylist()]
        feeds[source] = Feed(events[column].cast(pa.int64()).to_numpy(), texts)
    rows = [msgspec.json.encode(row) for row in asks.select(_INPUTS).to_pylist()]
    return Script(asks, rows, instants, np.append(first, len(asks)), feeds, instant(end))


def replay(up: Up, script: Script, outage: Outage, *, tick: Callable[[int], None]) -> Replayed:
    """Plays `script`; fills in what happened during `outage`, and tells `tick` how many asks are answered."""
    sender = _Sender([Connection(up.port) for _ in SOURCES], script)
    done = Replayed()
    down_since: float | None = None
    for number, moment in enumerate(script.instants.tolist()):
        if outage.at <= moment and not outage.killed:
            outage.killed, down_since = up.kill("worker"), time.perf_counter()
        waits = down_since is None or moment >= outage.until
        spent = sender.advance(moment, done, wait=waits)
        if waits and down_since is not None:
            outage.recovered_in, down_since = time.perf_counter() - down_since, None
        elif waits and spent is not None:
            done.servable_after.append(spent)
        _ask(sender.connection, script, number, done)
        done.waited += [waits] * (len(done.ids) - len(done.waited))
        tick(int(script.first[number + 1]))
    sender.advance(script.end, done, wait=True)
    outage.spans += _spans(script, done, outage)
    sender.close()
    return done


class _Sender:
    """Moves the clock and sends what happened before; each source has a connection, so that they go side by side."""

    def __init__(self, connections: Sequence[Connection], script: Script) -> None:
        self.connection = connections[0]
        self._connections = dict(zip(SOURCES, connections, strict=True))
        self._feeds = script.feeds
        self._sent = dict.fromkeys(SOURCES, 0)

    def advance(self, moment: int, done: Replayed, *, wait: bool) -> float | None:
        """Plays until `moment`; wall seconds from sending the events to their being servable, None without events."""
        now = format_instant(moment)
        self.connection.ask("POST", "/v1/clock", msgspec.json.encode({"now": now}))
        began = time.perf_counter()
        sent = list(self._send_events(moment))
        for source in sent:
            answer = self._connections[source].receive()
            done.accepted[source] += answer["accepted"]
        if wait:
            caught_up(self.connection, now)
        return time.perf_counter() - began if sent else None

    def _send_events(self, moment: int) -> Iterator[str]:
        for source, feed in self._feeds.items():
            first, last = self._sent[source], int(np.searchsorted(feed.times, moment))
            if first < last:
                body = b"[" + b",".join(feed.texts[first:last]) + b"]"
                self._connections[source].send("POST", f"/v1/events/{source}", body)
                self._sent[source] = last
                yield source

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def _ask(connection: Connection, script: Script, number: int, done: Replayed) -> None:
    rows = script.rows[script.first[number] : script.first[number + 1]]
    body = b'{"rows":[' + b",".join(rows) + b"]}"
    began = time.perf_counter()
    connection.send("POST", ENDPOINT, body)
    answer = connection.receive()
    done.latencies.append(time.perf_counter() - began)
    for decision in answer["decisions"]:
        done.ids.append(decision["id"])
        done.scores.append(decision["score"])
        done.degraded.append(decision["degraded"])
        done.watched.append(_watched_status(decision))


def _watched_status(decision: dict[str, Any]) -> str:
    return next((status for status, names in decision["statuses"].items() if WATCHED in names), "fresh")


def _spans(script: Script, done: Replayed, outage: Outage) -> list[Span]:
    """The statuses from the last hour before the kill to the first hour after the recovery, in runs."""
    hour = 3_600_000_000
    times = script.asks["asked_at"].cast(pa.int64()).to_pylist()
    near = [(s, t) for s, t in zip(done.watched, times, strict=True) if outage.at - hour <= t < outage.until + hour]
    spans = []
    for status, run in itertools.groupby(near, key=lambda pair: pair[0]):
        moments = [moment for _, moment in run]
        spans.append(Span(status=status, since=moments[0], until=moments[-1], decisions=len(moments)))
    return spans
