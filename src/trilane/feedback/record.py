"""The record of every decision: written beside the answer's way, never in it.

A block holds the decisions that one batch made, request after request; a decision's id is the id of its block and its
row. Laws: recording never blocks or fails an answer; what cannot be kept is counted; a block appears whole or not at
all. The writer's thread is a guest in the server's process: it has the interpreter for one block at a time, and SQLite
works without it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from trilane.errors import ContractError
from trilane.features.fallback import STATUSES
from trilane.serving.degradation import CONSTANT, FRESH, RUNGS, STALE
from trilane.serving.engine import Answers
from trilane.sources.sqlite import SqliteFile

__all__ = ["Decision", "Recorder", "Records"]

_log = logging.getLogger(__name__)
_LONGEST_NUMBER = 9  # digits of a row's number
_FLOAT64, _INT64 = np.dtype("<f8"), np.dtype("<i8")
_SOME = (
    16  # blocks that are written at once: of more, a request that comes meanwhile would wait longer than for another
)
_PAGE = 16_384  # bytes of SQLite's pages: a block fills few of them, where each costs some calls of the system

_SCHEMA = """
CREATE TABLE block (
    id TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    bundle TEXT NOT NULL,
    at INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    payload BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX block_time ON block (endpoint, at);
"""


class _Payload(msgspec.Struct, array_like=True, frozen=True):
    """What a block keeps: columns as raw little-endian arrays, row by row in the order of `names`.

    `statuses` is empty if all are fresh; `ages` are those of one row if all rows have the same.
    """

    names: tuple[str, ...]
    rows: tuple[msgspec.Raw, ...]
    values: bytes
    statuses: bytes
    ages: bytes
    scores: bytes
    faults: tuple[tuple[str, tuple[int, ...] | None], ...]
    by_model: bytes
    rungs: bytes = b""  # blocks of earlier releases have none
    origins: dict[int, str] = {}
    sizes: tuple[int, ...] = ()

    def rung(self, row: int) -> str:
        """What made the answer to `row`."""
        if self.rungs:
            return RUNGS[self.rungs[row]]
        return RUNGS[CONSTANT] if not self.by_model[row] else RUNGS[STALE if self.why(row) else FRESH]

    def why(self, row: int) -> tuple[str, ...]:
        """Why the answer to `row` is worse than promised."""
        return tuple(reason for reason, rows in self.faults if rows is None or row in rows)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Payload).decode
_SIZES = _Payload.__struct_fields__.index("sizes")
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_sizes = msgspec.msgpack.Decoder(tuple[int, ...]).decode


@dataclass(frozen=True, slots=True)
class Decision:
    """One recorded decision. `inputs` is what the caller sent; `at` the instant of the answer, microseconds UTC;
    `rung` what of the ladder made it; `origin` the decision that a cached score was made for.
    """

    id: str
    endpoint: str
    bundle: str
    at: int
    inputs: dict[str, Any]
    score: float
    features: dict[str, float]
    statuses: dict[str, str]
    ages: dict[str, int]
    degraded: bool
    why: tuple[str, ...]
    by_model: bool
    rung: str
    origin: str | None = None


class Recorder:
    """Writes blocks from a thread of its own.

    `capacity`: blocks that may wait; beyond it the newest is dropped and counted. `period`: seconds between writes;
    `told` hears how many decisions were "written" or "dropped".
    """

    def __init__(
        self,
        path: Path,
        *,
        capacity: int = 10_000,
        period: float = 0.05,
        told: Callable[[str, int], None] | None = None,
    ) -> None:
        self._file = SqliteFile(path, schema=_SCHEMA, full_sync=False, page=_PAGE)
        self._waiting: deque[tuple[str, tuple[str, ...], Answers, tuple[int, ...]]] = deque()
        self._capacity, self._period, self._told = capacity, period, told
        self._wake, self._closing = threading.Event(), False
        self.written = self.dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="decision-recorder", daemon=True)
        self._thread.start()

    def put(self, endpoint: str, names: tuple[str, ...], answers: Answers, sizes: tuple[int, ...] = ()) -> None:
        """Takes a block to be written soon. Never blocks, never raises.

        `sizes`: the rows of each request that is in it, in order; nothing if each has one.
        """
        if len(self._waiting) >= self._capacity:
            self._drop(len(answers.scores))
        else:
            self._waiting.append((endpoint, names, answers, sizes))
            if len(self._waiting) == _SOME:
                self._wake.set()

    def close(self) -> None:
        """Writes what waits, and stops."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=10)
        self._file.close()

    def _write_all(self) -> None:
        while not self._closing:
            self._wake.wait(self._period)
            self._wake.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        blocks = deque(self._waiting.popleft() for _ in range(len(self._waiting)))
        if not blocks:
            return
        size = sum(len(answers.scores) for _, _, answers, _ in blocks)
        try:
            with self._file.transaction() as connection:
                # One at a time, and gone when it is written: between two, others have the interpreter.
                rows = (_row(*blocks.popleft()) for _ in range(len(blocks)))
                connection.executemany("INSERT INTO block VALUES (?, ?, ?, ?, ?, ?)", rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, the blocks after these can still be kept
            self._drop(size)
            _log.error("%d decisions could not be recorded: %s", size, error)
        else:
            self.written += size
            if self._told is not None:
                self._told("written", size)

    def _drop(self, size: int) -> None:
        self.dropped += size
        if self._told is not None:
            self._told("dropped", size)


def _row(endpoint: str, names: tuple[str, ...], answers: Answers, sizes: tuple[int, ...]) -> tuple[object, ...]:
    reading, size = answers.reading, len(answers.scores)
    statuses, ages = reading.statuses.tobytes(), reading.ages.astype(_INT64, copy=False).tobytes()
    first = ages[: 8 * len(names)]
    payload = (  # as _Payload has it, in one call: to encode each row by itself costs twice as much
        names,
        answers.rows,
        reading.values.astype(_FLOAT64, copy=False).tobytes(),
        statuses.lstrip(b"\0") and statuses,
        first if ages == first * size else ages,
        answers.scores.astype(_FLOAT64, copy=False).tobytes(),
        [(fault.reason, None if fault.rows is None else sorted(fault.rows)) for fault in answers.faults],
        answers.by_model.tobytes(),
        answers.rungs.tobytes(),
        answers.origins,
        sizes,
    )
    return answers.id, endpoint, answers.bundle, answers.at, size, _encode(payload)


class Records:
    """Reads what was recorded, also while it is being written."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, schema=_SCHEMA, full_sync=False)

    def find(self, decision: str) -> Decision | None:
        """The decision with this id; None if it is not, or not yet, recorded. Raises ContractError for no id."""
        block, _, number = decision.rpartition("-")
        if not block or not number.isdecimal() or len(number) > _LONGEST_NUMBER:
            raise ContractError(f"{decision!r} is no decision id", where="id", remedy="Take the `id` of an answer")
        found = self._file.row("SELECT endpoint, bundle, at, rows, payload FROM block WHERE id = ?", (block,))
        if found is None or int(number) >= int(str(found[3])):
            return None
        endpoint, bundle, at, size, payload = found
        return _decision(decision, str(endpoint), str(bundle), int(str(at)), int(str(size)), payload, int(number))

    def read(self, endpoint: str, *, since: int = 0, until: int = 2**62) -> Iterator[pa.RecordBatch]:
        """The decisions of an endpoint in [since, until), a batch a block: id, bundle, at, score, degraded, by_model,
        rung, one float64 column a feature (`view.feature`), and `status:view.feature` and `age:view.feature` (µs) each.
        """
        sql = (
            "SELECT id, bundle, at, rows, payload FROM block WHERE endpoint = ? AND at >= ? AND at < ? ORDER BY at, id"
        )
        for block, bundle, at, size, payload in self._file.rows(sql, (endpoint, since, until)):
            yield _batch(str(block), str(bundle), int(str(at)), int(str(size)), payload)

    def instants(self, endpoint: str) -> list[tuple[int, int]]:
        """When the endpoint decided, and on how many rows, in order of time."""
        found = self._file.rows("SELECT at, rows FROM block WHERE endpoint = ? ORDER BY at, id", (endpoint,))
        return [(int(str(at)), int(str(rows))) for at, rows in found]

    def requests(self, endpoint: str, *, since: int = 0, until: int = 2**62) -> Iterator[tuple[int, tuple[int, ...]]]:
        """When the endpoint decided in [since, until), in order of time, and on which requests: the rows of each.

        Blocks of earlier releases do not say it: there each row counts as a request.
        """
        sql = "SELECT at, rows, payload FROM block WHERE endpoint = ? AND at >= ? AND at < ? ORDER BY at, id"
        for at, rows, packed in self._file.rows(sql, (endpoint, since, until)):
            parts = _raw(packed)  # type: ignore[arg-type]
            sizes = _sizes(parts[_SIZES]) if len(parts) > _SIZES else ()
            yield int(str(at)), sizes or (1,) * int(str(rows))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _columns(payload: _Payload, size: int) -> tuple[Any, Any, Any]:
    shape = (size, len(payload.names))
    statuses = np.frombuffer(payload.statuses or bytes(size * shape[1]), np.uint8).reshape(shape)
    ages = np.frombuffer(payload.ages, "<i8")
    return (
        np.frombuffer(payload.values, "<f8").reshape(shape),
        statuses,
        ages.reshape(shape) if ages.size == size * shape[1] else np.broadcast_to(ages, shape),
    )


def _decision(decision: str, endpoint: str, bundle: str, at: int, size: int, packed: object, number: int) -> Decision:
    payload = _decode(packed)  # type: ignore[arg-type]
    values, statuses, ages = (column[number].tolist() for column in _columns(payload, size))
    return Decision(
        decision,
        endpoint,
        bundle,
        at,
        msgspec.msgpack.decode(payload.rows[number]),
        float(np.frombuffer(payload.scores, "<f8")[number]),
        dict(zip(payload.names, values, strict=True)),
        {name: STATUSES[code] for name, code in zip(payload.names, statuses, strict=True)},
        dict(zip(payload.names, ages, strict=True)),
        bool(payload.why(number)),
        payload.why(number),
        bool(payload.by_model[number]),
        payload.rung(number),
        payload.origins.get(number),
    )


def _batch(block: str, bundle: str, at: int, size: int, packed: object) -> pa.RecordBatch:
    payload = _decode(packed)  # type: ignore[arg-type]
    values, statuses, ages = _columns(payload, size)
    columns: dict[str, Any] = {
        "id": [f"{block}-{row}" for row in range(size)],
        "bundle": [bundle] * size,
        "at": pa.array([at] * size, pa.int64()),
        "score": np.frombuffer(payload.scores, "<f8"),
        "degraded": [bool(payload.why(row)) for row in range(size)],
        "by_model": np.frombuffer(payload.by_model, bool),
        "rung": [payload.rung(row) for row in range(size)],
    }
    for position, name in enumerate(payload.names):
        columns[name] = np.ascontiguousarray(values[:, position])
        columns[f"status:{name}"] = [STATUSES[code] for code in statuses[:, position].tolist()]
        columns[f"age:{name}"] = np.ascontiguousarray(ages[:, position])
    return pa.record_batch(columns)
