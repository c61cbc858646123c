"""Replacing the workers of the running server of this machine, without an answer that is missing.

Law: nothing is stopped before what replaces it listens; if nothing does, what is there goes on for a while.
"""

from __future__ import annotations

import os
import signal
import time

from trilane.apps.config import Config
from trilane.apps.processes import holder_of
from trilane.apps.rounds import LONGEST, Rounds
from trilane.errors import ConflictError, UnavailableError

__all__ = ["reload"]

_LOOK = 0.05


def reload(config: Config, *, longest: float = LONGEST) -> int:
    """Has the server begin another round of workers, and waits until one of them listens: the number of the round.

    Raises ConflictError if no server of this project runs here, UnavailableError if no new worker came within `longest`
    seconds.
    """
    rounds = Rounds(config.state, config.port)
    process = holder_of(config.state, config.port)
    if process is None:
        remedy = "Start one with `trilane up` or `trilane serve`; a new one needs no reload"
        raise ConflictError(f"no server of this project has port {config.port}", where=str(config.state), remedy=remedy)
    before = rounds.listening
    os.kill(process, signal.SIGHUP)
    end = time.monotonic() + longest
    while rounds.listening <= before:
        if time.monotonic() > end:
            raise UnavailableError(
                f"no new worker listens after {longest:g} s; the former ones go on for as long again",
                where=f"process {process}",
                remedy="Read the log of the server: the new workers say there why they do not start",
            )
        time.sleep(_LOOK)
    return rounds.listening
