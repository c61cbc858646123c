"""Which models the servers of one state shall have loaded anew or unloaded, noted so that all of their processes heed
it.

A command reaches one process of a server; the others learn of it here. Laws: to see that nothing changed costs the look
at one number, mapped from a file, so it can be looked at with every question; a wish outlives the processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trilane.errors import SetupError

__all__ = ["Wish", "Wishes"]


class Wish(msgspec.Struct, frozen=True):
    """How often a model was to be loaded, and whether it is to be left out until it is loaded again."""

    loads: int = 0
    off: bool = False


class Wishes:
    """The wishes noted in `folder`. Raises SetupError if it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._file, self._lock = folder / "wishes.json", folder / "wishes.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "wishes.count").open("ab+") as file:
                if os.fstat(file.fileno()).st_size < 8:
                    os.ftruncate(file.fileno(), 8)
                self._map = mmap.mmap(file.fileno(), 8)
            self._word = memoryview(self._map).cast("q")
        except (OSError, ValueError) as error:
            raise SetupError(f"the models' state cannot be kept: {error}", where=str(folder)) from error

    @property
    def count(self) -> int:
        """A number that changes with every wish."""
        return self._word[0]

    def all(self) -> dict[str, Wish]:
        """The wishes by model."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Wish])
        except (OSError, msgspec.DecodeError):
            return {}

    def load(self, model: str) -> Wish:
        """Wishes that the model be loaded, anew if it changed."""
        return self._change(model, off=False)

    def unload(self, model: str) -> Wish:
        """Wishes that the model be left out until `load`."""
        return self._change(model, off=True)

    def close(self) -> None:
        """Gives back the map."""
        self._word.release()
        self._map.close()

    def _change(self, model: str, *, off: bool) -> Wish:
        try:
            with self._locked():
                known = self.all()
                before = known.get(model, Wish())
                known[model] = wish = Wish(before.loads + (not off), off)
                draft = self._file.with_suffix(".draft")
                draft.write_bytes(msgspec.json.encode(known))
                draft.replace(self._file)
                (now,) = struct.unpack("q", self._map[:8])
                self._word[0] = now + 1  # one aligned word, so nobody reads half of it
            return wish
        except OSError as error:
            remedy = "Free space, or make the folder writable"
            raise SetupError(f"the wish cannot be noted: {error}", where=str(self._file), remedy=remedy) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
