"""The dead letters: what was refused, as it came, with the reason, and what became of it since.

A letter from the log counts once, by source, partition and offset, however often it is refused again. A
letter refused before the log took it has no offset, and is kept each time. Adding is durable when it returns. A
letter is never removed: what is settled stays, so that reading the log again does not open it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from trilane.plugins import make_folder
from trilane.sources.sqlite import SqliteFile

__all__ = ["DISCARDED", "OPEN", "QUARANTINED", "REFUSED", "REPLAYED", "DeadLetter", "DeadLetters"]

REFUSED, QUARANTINED, REPLAYED, DISCARDED = "refused", "quarantined", "replayed", "discarded"
OPEN = (REFUSED, QUARANTINED)
_STATES = (*OPEN, REPLAYED, DISCARDED)
_IS_OPEN = f"state IN ('{REFUSED}', '{QUARANTINED}')"

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
    state TEXT NOT NULL,
    fixed BLOB,
    settled_at INTEGER,
    UNIQUE (source, "partition", "offset")
);
CREATE INDEX letter_kind ON letter (source, code, state);
"""
_COLUMNS = 'source, code, path, reason, payload, at, "partition", "offset", state, fixed, settled_at'
_NAMES = tuple(name.strip(' "') for name in _COLUMNS.split(","))
_ADD = f"""
INSERT INTO letter ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, "partition", "offset") DO NOTHING
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One refused payload of `source`.

    `code`, `path` and `reason` are those of the rejection; `at` is when it was refused, in microseconds since
    1970 UTC; `partition` and `offset` say where in the log it stands, if the log took it. `state`: refused or
    quarantined while it is open, replayed or discarded since `settled_at`; `fixed`: the payload as somebody mended it;
    `id`: its number, once it is kept.
    """

    source: str
    code: str
    path: str
    reason: str
    payload: bytes
    at: int
    partition: int | None = None
    offset: int | None = None
    state: str = REFUSED
    fixed: bytes | None = None
    settled_at: int | None = None
    id: int | None = None

    @property
    def text(self) -> bytes:
        """What would be replayed: the mended payload, else the one that came."""
        return self.payload if self.fixed is None else self.fixed


class DeadLetters:
    """The letters in the file at `path`, which is made when the first one comes."""

    def __init__(self, path: Path) -> None:
        make_folder(path.parent)
        self._file = SqliteFile(path, schema=_SCHEMA)

    def add(self, letters: Iterable[DeadLetter]) -> None:
        """Keeps all of `letters`, or none if it raises."""
        rows = [tuple(getattr(one, name) for name in _NAMES) for one in letters]
        if rows:
            with self._file.transaction() as connection:
                connection.executemany(_ADD, rows)

    def count(self, source: str | None = None) -> dict[tuple[str, str], int]:
        """How many open letters there are by (source, code); of one source if it is given."""
        found: dict[tuple[str, str], int] = {}
        for (name, code, state), number in self.census(source).items():
            if state in OPEN:
                found[name, code] = found.get((name, code), 0) + number
        return found

    def census(self, source: str | None = None) -> dict[tuple[str, str, str], int]:
        """How many letters there are by (source, code, state); of one source if it is given."""
        rows = self._file.rows(
            "SELECT source, code, state, count(*) FROM letter WHERE ? IS NULL OR source = ? "
            "GROUP BY source, code, state",
            (source, source),
        )
        return {(str(name), str(code), str(state)): cast(int, number) for name, code, state, number in rows}

    def read(
        self,
        source: str | None = None,
        *,
        code: str | None = None,
        states: Sequence[str] = OPEN,
        limit: int = 100,
    ) -> list[DeadLetter]:
        """The last `limit` letters in one of `states`, the newest first; of one source or code if it is given."""
        wanted = ", ".join(f"'{state}'" for state in states if state in _STATES)
        rows = self._file.rows(
            f"SELECT {_COLUMNS}, id FROM letter WHERE (? IS NULL OR source = ?) AND (? IS NULL OR code = ?) "
            f"AND state IN ({wanted}) ORDER BY id DESC LIMIT ?",
            (source, source, code, code, limit),
        )
        return [_letter(row) for row in rows]

    def find(self, number: int) -> DeadLetter | None:
        """The letter with this number."""
        row = self._file.row(f"SELECT {_COLUMNS}, id FROM letter WHERE id = ?", (number,))
        return None if row is None else _letter(row)

    def mend(self, number: int, payload: bytes) -> bool:
        """Keeps `payload` as what an open letter should have been; whether there was one."""
        if not self._file.exists():
            return False
        with self._file.transaction() as connection:
            changed = connection.execute(f"UPDATE letter SET fixed = ? WHERE id = ? AND {_IS_OPEN}", (payload, number))
            return changed.rowcount > 0

    def settle(self, numbers: Sequence[int], state: str, at: int) -> int:
        """Marks open letters as replayed or discarded; how many were open."""
        with self._file.transaction() as connection:
            changed = connection.executemany(
                f"UPDATE letter SET state = ?, settled_at = ? WHERE id = ? AND {_IS_OPEN}",
                [(state, at, number) for number in numbers],
            )
            return max(changed.rowcount, 0)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _letter(row: Sequence[object]) -> DeadLetter:
    return DeadLetter(**dict(zip((*_NAMES, "id"), row, strict=True)))  # type: ignore[arg-type]
