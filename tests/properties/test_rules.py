"""The lanes agree on which events count, whatever the rules, the events, their repetitions and the cuts."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SECOND, SimulatedClock, format_instant
from trilane.lanes.batch.archive import archive
from trilane.lanes.nearline import Consumer, Tools
from trilane.sources.dead_letters import QUARANTINED, DeadLetters
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.online.lmdb import LmdbStore
from trilane.stores.online.protocol import Writer

START = 1_380_585_600 * SECOND
ENGINE = DuckdbMicroBatch()
RULES = (
    tl.rule("x at least 0", lambda t: t.x >= 0),
    tl.rule("x below k", lambda t: t.x < t.k.cast("int64"), action="quarantine"),
    tl.rule("k is short", lambda t: t.k.length() < 2, action="quarantine"),
    tl.rule("x is whole", lambda t: t.x == t.x.floor(), action="warn"),
)


def _source(rules: list[int]) -> tl.EventSource:
    schema = {"id": tl.Int64, "at": tl.Timestamp, "k": tl.String, "x": tl.Float64 | None}
    chosen = [RULES[number] for number in rules]
    return tl.EventSource("facts", schema=schema, event_time="at", event_id="id", disorder="20s", rules=chosen)


def _counts(event: dict[str, Any], rules: list[int]) -> str:
    """The oracle: what the rules say of an event, in plain Python."""
    x, k, free = event["x"], event["k"], event.get("_released") is True
    number = int(k) if k.isdigit() else None
    broken = {
        0: x is not None and x < 0,
        1: x is not None and number is not None and x >= number and not free,
        2: len(k) >= 2 and not free,
    }
    return next((f"rule:{RULES[rule].name}" for rule in rules if broken.get(rule)), "counts")


def _tools(log: SqliteLog, writer: Writer, letters: DeadLetters, clock: SimulatedClock, limit: int) -> Tools:
    return Tools(log=log, writer=writer, engine=ENGINE, dead_letters=letters, clock=clock, limit=limit)


EVENTS = st.fixed_dictionaries(
    {
        "id": st.integers(0, 12),
        "k": st.sampled_from(["1", "3", "22", "a", "bb"]),
        "x": st.none() | st.sampled_from([-1.0, 0.0, 0.5, 2.0, 5.0]),
    },
    optional={"_released": st.booleans()},
)


@settings(max_examples=15)
@given(
    events=st.lists(EVENTS, max_size=20),
    moments=st.lists(st.integers(0, 8), min_size=13, max_size=13),
    rules=st.lists(st.integers(0, 3), unique=True, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_an_event_counts_in_one_lane_if_and_only_if_it_counts_in_the_other(
    events: list[dict[str, Any]], moments: list[int], rules: list[int], seed: int
) -> None:
    source, chance = _source(rules), random.Random(seed)
    # An event that comes again says the same time: the nearline lane forgets an id once its own time is late, and so
    # counts the same id at a later time again, which the archive, with all times at hand, may find near the first.
    events = [{**event, "at": 6 * event["id"] + moments[event["id"]]} for event in events]
    texts = [json.dumps({**event, "at": format_instant(START + event["at"] * SECOND)}).encode() for event in events]

    @tl.nearline(source, tl.Entity("k", k=tl.String), freshness="1s", features={"n": tl.count(window="1h")})
    def view(facts: Any) -> Any:
        return facts

    with TemporaryDirectory() as folder:
        place = Path(folder)
        log, warehouse = SqliteLog(place / "log"), DuckdbWarehouse(place / "warehouse")
        store, letters = LmdbStore(place / "online", map_size=1 << 24), DeadLetters(place / "letters.db")
        writer = store.writer("nearline")
        if texts:
            log.append("facts", 0, texts, START + 3_600 * SECOND)
        clock = SimulatedClock(START + 7_200 * SECOND)
        consumer = Consumer(source, 0, [view], _tools(log, writer, letters, clock, 1))
        while consumer.progress.offset < len(texts):
            consumer = Consumer(source, 0, [view], _tools(log, writer, letters, clock, chance.choice([1, 2, 3, 100])))
            consumer.step()
        archive(log, warehouse, source, limit=chance.choice([1, 3, 100]))
        with warehouse.connect(threads=1) as connection:
            sql = f"SELECT _offset FROM {warehouse.events_sql(source)} WHERE NOT _late ORDER BY _offset"
            archived = [int(str(row[0])) for row in connection.query(sql).fetchall()]
        kept = letters.read(limit=1_000)
        writer.close()
        store.close()
        log.close()
        letters.close()
    refused = {letter.offset: letter for letter in kept}
    assert all(
        letter.code == _counts(events[at or 0], rules) for at, letter in refused.items() if letter.code != "late"
    )
    assert all(_counts(events[at], rules) == "counts" for at in archived)
    progress = consumer.progress
    assert progress.applied == len(archived)
    assert progress.applied + progress.duplicates + progress.rejected == len(texts)
    codes = Counter(letter.code for letter in kept)
    assert {k: v for k, v in progress.verdicts.items() if not k.startswith("warn:")} == dict(codes)
    aside = {f"rule:{RULES[n].name}" for n in rules if RULES[n].action == "quarantine"}
    assert all((letter.state == QUARANTINED) == (letter.code in aside) for letter in kept)
    whole = sum(events[at]["x"] is not None and events[at]["x"] % 1 != 0 for at in archived) if 3 in rules else 0
    assert progress.verdicts.get("warn:x is whole", 0) == whole
