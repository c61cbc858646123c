"""The rounds of a server's workers: each reload begins one, and replaces those of the rounds before.

Law: a number never goes back while the server runs, whoever writes it late.
"""

from __future__ import annotations

import os
from pathlib import Path

from trilane.plugins import make_folder

__all__ = ["LONGEST", "ROUND", "Rounds"]

ROUND = "TRILANE_ROUND"  # the variable that tells a worker how often its server was reloaded before it
LONGEST = 30.0  # seconds that a worker waits for its successor


class Rounds:
    """How often the server at `port` was reloaded, and the latest round of which a worker listens."""

    def __init__(self, state: Path, port: int) -> None:
        folder = make_folder(state)
        self._begun, self._listens = folder / f"serve-{port}.round", folder / f"serve-{port}.listens"

    def begin(self, number: int) -> None:
        """Round `number` begins: the workers of earlier ones will be replaced."""
        _write(self._begun, number)

    @property
    def listening(self) -> int:
        """The latest round of which a worker listens; 0 if none does."""
        return _read(self._listens)

    def listen(self, number: int) -> None:
        """A worker of round `number` listens."""
        if number > self.listening:
            _write(self._listens, number)

    def clear(self) -> None:
        """Forgets the rounds of a server that was there before."""
        self._begun.unlink(missing_ok=True)
        self._listens.unlink(missing_ok=True)

    def has_successor(self, number: int) -> bool:
        """Whether the workers of round `number` are being replaced, rather than stopped."""
        return _read(self._begun) > number

    def successor_listens(self, number: int) -> bool:
        """Whether a worker of a later round listens."""
        return self.listening > number


def _read(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _write(path: Path, number: int) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(str(number))
    draft.replace(path)
