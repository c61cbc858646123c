"""Whether an event source brings what is expected of it: an event at least so often, so many in a period.

Laws: an expectation stops no event; it is judged against the log and the clock, when somebody asks. A period is judged
when it is over. Arrivals in a log are taken to be in order, as they are unless a clock was set back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trilane.clock import format_duration, format_instant
from trilane.sources.event import EventSource
from trilane.sources.expectation import judge_volume
from trilane.sources.log.protocol import EventLog

__all__ = ["Finding", "look_at"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one expectation of a source is met; `text` says what was found."""

    source: str
    expectation: str
    met: bool
    text: str


def look_at(source: EventSource, log: EventLog, now: int) -> list[Finding]:
    """The findings for each expectation of an event source at instant `now`."""
    return [*_silence(source, log, now), *_volumes(source, log, now)]


def _silence(source: EventSource, log: EventLog, now: int) -> Iterator[Finding]:
    if not source.expect_every:
        return
    last = [at for p in range(source.partitions) if (at := _arrival(log, source.name, p, -1)) is not None]
    promise = f"an event every {format_duration(source.expect_every)}"
    if not last:
        yield Finding(source.name, "expect_every", False, f"{promise}; none ever came")
        return
    silent = now - max(last)
    text = f"{promise}; the last came at {format_instant(max(last))}, {max(silent, 0) / 1e6:,.0f} s ago"
    yield Finding(source.name, "expect_every", silent <= source.expect_every, text)


def _volumes(source: EventSource, log: EventLog, now: int) -> Iterator[Finding]:
    bounds = source.volume
    if bounds is None:
        return
    end = now // bounds.per * bounds.per
    marks = [
        sum(_before(log, source.name, p, end - n * bounds.per) for p in range(source.partitions)) for n in (0, 1, 2)
    ]
    # Before the first event there was no period that could have brought anything.
    begun = marks[2] > 0
    text = judge_volume(bounds, marks[0] - marks[1], marks[1] - marks[2] if begun else None)
    good = f"{marks[0] - marks[1]:,} rows in the {format_duration(bounds.per)} before {format_instant(end)}"
    yield Finding(
        source.name, "volume", text is None, good if text is None else f"{text}, before {format_instant(end)}"
    )


def _arrival(log: EventLog, source: str, partition: int, offset: int) -> int | None:
    end = log.end(source, partition)
    place = end + offset if offset < 0 else offset
    if not 0 <= place < end:
        return None
    rows = log.read(source, partition, place, 1)
    return int(rows.column("arrived_at")[0].as_py()) if rows.num_rows else None


def _before(log: EventLog, source: str, partition: int, at: int) -> int:
    """How many events of a partition arrived before `at`, by halving."""
    low, high = 0, log.end(source, partition)
    while low < high:
        middle = (low + high) // 2
        arrived = _arrival(log, source, partition, middle)
        if arrived is not None and arrived < at:
            low = middle + 1
        else:
            high = middle
    return low
