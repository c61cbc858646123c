"""Digests of files, each computed once for as long as the file stays as it is.

Hashing a gigabyte takes longer than mapping it, so what was computed is noted in a folder under the file's inode, with
its size and the instants of its last changes. Laws: a file that was written to, replaced or moved in is read again; one
that was changed a moment ago is not noted, since a later change might bear the same instant; a folder that cannot be
written costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from trilane.clock import Clock, WallClock

__all__ = ["Stamps"]

# How far apart two changes must be to bear different instants; some file systems note whole seconds, or every other.
_TICK_NS, _COARSE_NS = 100_000_000, 2_000_000_000


class Stamps:
    """What is known of files; `folder` keeps it, nothing is kept without one."""

    def __init__(self, folder: Path | None, *, clock: Clock | None = None) -> None:
        self._folder, self._clock = folder, clock or WallClock()

    def digest(self, path: Path) -> str:
        """The SHA-256 of the file, in hexadecimal. Raises OSError if it cannot be read."""
        with path.open("rb") as file:
            before = _facts(os.fstat(file.fileno()))
            noted = self._noted(before)
            if noted is not None:
                return noted
            found = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        changed = max(after.st_mtime_ns, after.st_ctime_ns)
        tick = _TICK_NS if changed % 1_000_000_000 else _COARSE_NS
        if _facts(after) == before and changed < self._clock.now() * 1_000 - tick:
            self._note(before, found)
        return found

    def _noted(self, facts: str) -> str | None:
        place = self._place(facts)
        try:
            words = place.read_text().split() if place else []
        except (OSError, UnicodeDecodeError):
            return None
        return words[-1] if len(words) == 6 and " ".join(words[:-1]) == facts else None

    def _note(self, facts: str, digest: str) -> None:
        place = self._place(facts)
        if place is None:
            return
        draft = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                draft.write_text(f"{facts} {digest}\n")
                draft.replace(place)
            finally:
                draft.unlink(missing_ok=True)

    def _place(self, facts: str) -> Path | None:
        device, inode, *_ = facts.split()
        return self._folder / f"{device}-{inode}" if self._folder else None


def _facts(found: os.stat_result) -> str:
    return f"{found.st_dev:x} {found.st_ino:x} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
