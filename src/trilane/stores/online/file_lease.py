"""Leases as locks of files, which the kernel gives back when their process dies.

Laws: one process has a name at a time; a process that is stopped, but not dead, keeps what it has. A file that is no
longer under its name is no lock, so that one may be removed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from trilane.errors import SetupError
from trilane.stores.online.protocol import Holder

__all__ = ["FileLease", "holders"]

_SUFFIX = ".lease"
_WHOLE = "writer.lock"
_TRIES, _PAUSE = 5, 0.002  # who only looks holds a lock for an instant


class FileLease:
    """Keeps the promise of Lease; `name` is empty for all of `group`. `passing`: its file goes with it."""

    lost = None

    def __init__(self, folder: Path, group: str, name: str, *, holder: str, passing: bool) -> None:
        self._path = folder / (f"{quote(name, safe='')}{_SUFFIX}" if name else _WHOLE)
        self._what = f"part {name!r} of region {group!r}" if name else f"region {group!r}"
        self._passing = passing
        self._lock: int | None = self._take(holder)

    @property
    def closed(self) -> bool:
        return self._lock is None

    def close(self) -> None:
        if self._lock is not None:
            if self._passing:
                self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _take(self, holder: str) -> int:
        for lock in self._opened():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(lock, self._path):
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, f"{os.getpid()} {holder}".encode(), 0)
                    return lock
            except BlockingIOError:
                time.sleep(_PAUSE)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
        raise self._held()

    def _opened(self) -> Iterator[int]:
        for _ in range(_TRIES):
            yield os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def _held(self) -> SetupError:
        pid, name = _content(self._path)
        who = f"process {pid}, worker {name!r}," if name else f"process {pid}"
        remedy = f"Let it, or stop it with `kill {pid}`; a region, or a part of it, has one writer"
        what = f"{who} is already writing {self._what}"
        return SetupError(what, where=str(self._path), remedy=remedy, pid=pid, held_by=who)


def holders(folder: Path) -> dict[str, Holder]:
    """Who holds the names of the group in `folder`."""
    found = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, name = _content(path)
            found[unquote(path.name.removesuffix(_SUFFIX))] = Holder(name, f"process {pid}")
        finally:
            os.close(lock)
    return found


def _content(path: Path) -> tuple[str, str]:
    """The process and the name that a lock file tells."""
    try:
        pid, _, name = path.read_text(errors="replace").partition(" ")
    except OSError:
        return "unknown", ""
    return pid or "unknown", name


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
