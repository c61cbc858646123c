"""A SQLite file that many processes and threads append to: what the event log and the dead letters share.

A file appears whole, with its tables, or not at all. A transaction is durable when its block ends, and leaves
nothing behind when the block raises. What SQLite reports comes out as a SetupError or an UnavailableError
with the path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

from trilane.errors import SetupError, TrilaneError, UnavailableError

__all__ = ["Row", "SqliteFile"]

Row = tuple[object, ...]

_WAIT = 30.0  # seconds to wait for another process's transaction; ours take milliseconds
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class SqliteFile:
    """The file at `path` with the tables of `schema`, made at the first write.

    `full_sync`: whether a transaction that ended survives a power cut, not only the death of the process; `page`: the
    bytes of a page, of a file that is made now.
    """

    def __init__(self, path: Path, *, schema: str, full_sync: bool = True, page: int = 4_096) -> None:
        self.path = path
        self._schema, self._page = schema, page
        self._full_sync = full_sync
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return hasattr(self._local, "connection") or self.path.exists()

    def rows(self, sql: str, values: Row = ()) -> Generator[Row, None, None]:
        """The rows that `sql` selects, from one snapshot; none before the first write."""
        if not self.exists():
            return
        with self._translated():
            yield from self._connection().execute(sql, values)

    def row(self, sql: str, values: Row = ()) -> Row | None:
        """The first row that `sql` selects."""
        with contextlib.closing(self.rows(sql, values)) as found:
            return next(found, None)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A block in which this process alone writes; commits at its end, rolls back if it raises."""
        with self._translated():
            if not self.exists():
                self._create()
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Closes the connections of all threads."""
        while self._opened:
            self._opened.pop().close()
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Each thread uses its own; close() may be called by another.
            connection = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
            self._opened.append(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
            self._local.connection = connection
        return connection

    def _create(self) -> None:
        # Changing to WAL does not wait for others, so it happens under a name that only we know.
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}-{threading.get_ident()}.draft")
        try:
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA page_size = {self._page}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(self._schema)
            with contextlib.suppress(FileExistsError):
                os.link(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(self.path.parent)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translate(error, self.path) from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _translate(error: sqlite3.Error | OSError, path: Path) -> TrilaneError:
    # The low byte is the primary code; the rest says which system call it was.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        remedy = f"Free space on the disk that holds {path.parent}, then try again"
        return UnavailableError(f"the disk does not take the write: {error}", where=str(path), remedy=remedy)
    if code in _BUSY:
        what = f"another process has been writing for {_WAIT:.0f} s: {error}"
        remedy = "Look for a process that hangs with the file open"
        return UnavailableError(what, where=str(path), remedy=remedy)
    if code in _CORRUPT:
        remedy = "Restore the file from a backup, or move it away to start anew"
        return SetupError(f"the file is not a sound SQLite database: {error}", where=str(path), remedy=remedy)
    remedy = f"Make sure that {path.parent} exists and this user may read and write it"
    return SetupError(f"the file cannot be used: {error}", where=str(path), remedy=remedy)
