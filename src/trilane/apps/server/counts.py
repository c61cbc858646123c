"""What all workers of one server did with models, told by any of them.

Laws: each worker writes what it counted once a second if it changed, and a last time when it ends, and reads what the
others wrote when it is asked; what one counted that is gone counts on, until the server is started anew; what cannot be
written or read is left out, and stops nobody; of hundreds of models some are looked at at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from trilane.errors import SetupError
from trilane.plugins import make_folder
from trilane.serving.inference import Statistics
from trilane.serving.tally import Tally

__all__ = ["Counts", "forget_counts"]

_EVERY = 1.0  # seconds from the end of a round to the next
_PAUSE, _PIECE = 0.01, 25  # seconds between two pieces of a round, and the models of one
_decode = msgspec.json.Decoder(list[Statistics]).decode


class Counts:
    """The counts of this process and those of its siblings at `port`; none are shared if it is `alone`."""

    def __init__(self, state: Path, port: int, *, alone: bool) -> None:
        self._alone, self._folder = alone, _folder(state, port)
        # Named by chance, too: a process may have the id of one that is gone, whose counts stay.
        self._mine = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.json"
        self._read: dict[str, tuple[int, list[Statistics]]] = {}
        self._encoded: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._is_written = True
        self._timer: asyncio.TimerHandle | None = None
        self._tallies: Callable[[], Iterable[Tally]] = tuple

    def begin(self, tallies: Callable[[], Iterable[Tally]], loop: asyncio.AbstractEventLoop) -> None:
        """Writes what `tallies` count from now on."""
        self._tallies = tallies
        if not self._alone:
            with contextlib.suppress(SetupError):  # a full disk: models answer without it
                make_folder(self._folder)
            self._piece(self._writing(), loop)

    def others(self) -> Sequence[Statistics]:
        """What the siblings counted, those that are gone as well."""
        if self._alone:
            return ()
        found = dict[str, tuple[int, list[Statistics]]]()
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".json") and entry.name != self._mine.name:
                    with contextlib.suppress(OSError, msgspec.DecodeError):
                        changed, known = entry.stat().st_mtime_ns, self._read.get(entry.name)
                        same = known is not None and known[0] == changed
                        found[entry.name] = known if same and known else (changed, _decode(_bytes(entry.path)))
        self._read = found
        return [one for _, counted in found.values() for one in counted]

    def close(self) -> None:
        """Writes a last time."""
        if self._timer is not None:
            self._timer.cancel()
            for _ in self._writing():
                pass

    def _piece(self, pieces: Iterator[None], loop: asyncio.AbstractEventLoop) -> None:
        for _ in pieces:
            self._timer = loop.call_later(_PAUSE, self._piece, pieces, loop)
            return
        self._timer = loop.call_later(_EVERY, lambda: self._piece(self._writing(), loop))

    def _writing(self) -> Iterator[None]:
        """Writes what was counted, in pieces between which others may have their turn."""
        found = list[bytes]()
        for place, tally in enumerate(tuple(self._tallies()), 1):
            if not place % _PIECE:
                yield
            questions, key = tally.questions, (tally.name, tally.version)
            known = self._encoded.get(key, (0, b""))
            if known[0] != questions:
                known = self._encoded[key] = questions, msgspec.json.encode(tally.statistics())
                self._is_written = False
            if questions:
                found.append(known[1])
        if not self._is_written:
            with contextlib.suppress(OSError):
                draft = self._mine.with_suffix(".draft")
                draft.write_bytes(b"[%b]" % b",".join(found))
                draft.replace(self._mine)
                self._is_written = True


def forget_counts(state: Path, port: int) -> None:
    """Removes what the processes of a server counted that is gone."""
    shutil.rmtree(_folder(state, port), ignore_errors=True)


def _folder(state: Path, port: int) -> Path:
    return state / "statistics" / str(port)


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()
