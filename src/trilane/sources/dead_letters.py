"""The dead letters: what was refused, as it came, with the reason.

A letter from the log counts once, by source, partition and offset, however often it is refused again. A
letter refused before the log took it has no offset, and is kept each time. Adding is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from trilane.plugins import make_folder
from trilane.sources.sqlite import SqliteFile

__all__ = ["DeadLetter", "DeadLetters"]

# NULLs are distinct under UNIQUE, so letters without an offset never conflict.
_SCHEMA = """
CREATE TABLE letter (
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    code TEXT NOT NULL,
    path TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    at INTEGER NOT NULL,
    "partition" INTEGER,
    "offset" INTEGER,
    UNIQUE (source, "partition", "offset")
);
CREATE INDEX letter_kind ON letter (source, code);
"""
_COLUMNS = 'source, code, path, reason, payload, at, "partition", "offset"'
_ADD = f"""
INSERT INTO letter ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, "partition", "offset") DO NOTHING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One refused payload of `source`.

    `code`, `path` and `reason` are those of the rejection; `at` is when it was refused, in microseconds since
    1970 UTC; `partition` and `offset` say where in the log it stands, if the log took it.
    """

    source: str
    code: str
    path: str
    reason: str
    payload: bytes
    at: int
    partition: int | None = None
    offset: int | None = None


class DeadLetters:
    """The letters in the file at `path`, which is made when the first one comes."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._file = SqliteFile(path, schema=_SCHEMA)

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Keeps all of `letters`, or none if it raises."""
        rows = [
            (one.source, one.code, one.path, one.reason, one.payload, one.at, one.partition, one.offset)
            for one in letters
        ]
        if rows:
            with self._file.transaction() as connection:
                connection.executemany(_ADD, rows)

    def count(self, source: str | None = None) -> dict[tuple[str, str], int]:
        """How many letters there are by (source, code); of one source if it is given."""
        rows = self._file.rows(
            "SELECT source, code, count(*) FROM letter WHERE ?1 IS NULL OR source = ?1 GROUP BY source, code",
            (source,),
        )
        return {(cast(str, name), cast(str, code)): cast(int, count) for name, code, count in rows}

    def read(self, source: str | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """The last `limit` letters, the newest first; of one source if it is given."""
        rows = self._file.rows(
            f"SELECT {_COLUMNS} FROM letter WHERE ?1 IS NULL OR source = ?1 ORDER BY id DESC LIMIT ?2",
            (source, limit),
        )
        names = ("source", "code", "path", "reason", "payload", "at", "partition", "offset")
        return [DeadLetter(**dict(zip(names, row, strict=True))) for row in rows]  # type: ignore[arg-type]

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
