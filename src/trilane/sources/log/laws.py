"""The laws of an event log, to be run against any adapter.

Each law takes `open`, which opens the same log, empty at first, as often as it is called:

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_our_log_keeps_the_law(law, tmp_path):
        law(lambda: open_log(f"ours://{tmp_path}"))

A broken law raises AssertionError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from trilane.sources.log.protocol import EventLog

__all__ = ["LAWS", "Law", "Open"]

Open = Callable[[], EventLog]
Law = Callable[[Open], None]
_Rows = list[tuple[int, int, bytes]]

_AWKWARD = [b"", b"\n", b'{"a": 1}\n', b"two\nlines", b"\x00\xff", "Zürich".encode(), b"x" * 100_000]


def _rows(log: EventLog, source: str, partition: int = 0, offset: int = 0, limit: int = 1_000_000) -> _Rows:
    batch = log.read(source, partition, offset, limit)
    columns = [batch.column(name).to_pylist() for name in ("offset", "arrived_at", "value")]
    return list(zip(*columns, strict=True))


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def an_unwritten_source_is_empty(open: Open) -> None:
    with contextlib.closing(open()) as log:
        _expect(log.end("departures", 0), 0, "end")
        _expect(_rows(log, "departures"), [], "rows")
        _expect(log.sources(), (), "sources")
        names = log.read("departures", 0, 0, 10).schema.names
        _expect(names, ["offset", "arrived_at", "value"], "columns of an empty read")


def what_is_appended_is_read_back_as_it_was(open: Open) -> None:
    with contextlib.closing(open()) as log:
        _expect(log.append("departures", 0, _AWKWARD, 7), 0, "first offset")
        _expect(_rows(log, "departures"), [(i, 7, v) for i, v in enumerate(_AWKWARD)], "rows")
        _expect(log.end("departures", 0), len(_AWKWARD), "end")


def each_value_may_have_its_own_arrival(open: Open) -> None:
    with contextlib.closing(open()) as log:
        log.append("departures", 0, [b"a", b"b", b"c"], [30, 10, 20])
        expected = [(0, 30, b"a"), (1, 10, b"b"), (2, 20, b"c")]
        _expect(_rows(log, "departures"), expected, "rows")
        _expect(_rows(log, "departures", offset=1, limit=1), expected[1:2], "one row")


def appending_nothing_changes_nothing(open: Open) -> None:
    with contextlib.closing(open()) as log:
        log.append("departures", 0, [b"a"], 1)
        _expect(log.append("departures", 0, [], 2), 1, "offset")
        _expect(log.end("departures", 0), 1, "end")


def any_offset_and_limit_is_a_slice_of_the_whole(open: Open) -> None:
    with contextlib.closing(open()) as log:
        for size in (1, 4, 1, 3):
            start = log.end("departures", 0)
            log.append("departures", 0, [b"%d" % i for i in range(start, start + size)], start)
        whole = _rows(log, "departures")
        _expect([row[0] for row in whole], list(range(9)), "offsets")
        for offset in range(12):
            for limit in (0, 1, 2, 5, 9, 20):
                found = _rows(log, "departures", offset=offset, limit=limit)
                _expect(found, whole[offset : offset + limit], f"read({offset}, {limit})")


def reading_on_from_the_last_row_reads_everything(open: Open) -> None:
    values = [b"%d" % i * (i % 7) for i in range(30_000)]
    with contextlib.closing(open()) as log:
        log.append("departures", 0, values, list(range(len(values))))
        found: _Rows = []
        while rows := _rows(log, "departures", offset=len(found), limit=4_321):
            found += rows
        _expect(found == [(i, i, v) for i, v in enumerate(values)], True, "all rows in order")


def sources_and_partitions_are_apart(open: Open) -> None:
    names: Sequence[str] = ("a", "A b", "a/b", "a.b", "ü%2F", "..")
    with contextlib.closing(open()) as log:
        for name in names:
            for partition in (0, 1, 7):
                log.append(name, partition, [f"{name}:{partition}".encode()], 1)
        _expect(log.sources(), tuple(sorted(names)), "sources")
        for name in names:
            for partition in (0, 1, 7):
                _expect(
                    _rows(log, name, partition),
                    [(0, 1, f"{name}:{partition}".encode())],
                    f"{name}:{partition}",
                )
            _expect(log.end(name, 2), 0, "end of an unwritten partition")
            _expect(_rows(log, name, 2), [], "rows of an unwritten partition")


def an_append_is_there_for_others_at_once_and_after_reopening(open: Open) -> None:
    with contextlib.closing(open()) as reader:
        _expect(reader.end("departures", 0), 0, "end before")
        with contextlib.closing(open()) as writer:
            writer.append("departures", 0, [b"a"], 1)
            _expect(_rows(reader, "departures"), [(0, 1, b"a")], "rows in another reader")
            writer.append("departures", 0, [b"b"], 2)
        _expect(reader.end("departures", 0), 2, "end in another reader")
    with contextlib.closing(open()) as log:
        _expect(_rows(log, "departures"), [(0, 1, b"a"), (1, 2, b"b")], "rows after reopening")


def appends_at_the_same_time_never_interleave(open: Open) -> None:
    def write(name: int) -> None:
        with contextlib.closing(open()) as log:
            for chunk in range(20):
                log.append("departures", 0, [b"%d/%d" % (name, chunk)] * 5, name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with contextlib.closing(open()) as log:
        rows = _rows(log, "departures")
    _expect([row[0] for row in rows], list(range(400)), "offsets")
    chunks = [{row[2] for row in rows[i : i + 5]} for i in range(0, 400, 5)]
    _expect(max(map(len, chunks)), 1, "different appends within one chunk")
    _expect(len(set().union(*chunks)), 80, "chunks")


LAWS: tuple[Law, ...] = (
    an_append_is_there_for_others_at_once_and_after_reopening,
    an_unwritten_source_is_empty,
    any_offset_and_limit_is_a_slice_of_the_whole,
    appending_nothing_changes_nothing,
    appends_at_the_same_time_never_interleave,
    each_value_may_have_its_own_arrival,
    reading_on_from_the_last_row_reads_everything,
    sources_and_partitions_are_apart,
    what_is_appended_is_read_back_as_it_was,
)
