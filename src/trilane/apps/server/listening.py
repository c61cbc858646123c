"""The process that listens: granian, with a project's settings, keeping its workers.

Laws: SIGHUP replaces the workers one by one, each going on until its successor listens; SIGTERM ends them, none before
it has answered what is under way; a worker that dies comes back.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server as Listener

from trilane.apps.config import Config, load_config
from trilane.apps.logs import log_to_stderr
from trilane.apps.processes import PROJECT, SERVER, die_with_parent
from trilane.apps.rounds import LONGEST, ROUND, Rounds

if TYPE_CHECKING:
    from trilane.apps.server.app import Server

__all__ = ["create", "listen"]

_BACKLOG = 2048


def listen(config: Config) -> None:
    """Serves until SIGTERM or SIGINT."""
    rounds, number = Rounds(config.state, config.port), 1
    rounds.clear()
    os.environ[ROUND] = str(number)
    server = Listener(
        # By file: granian takes a bare module name for a path below the working directory if that is a package.
        f"{Path(__file__)}:create",
        factory=True,
        address=config.host,
        port=config.port,
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        workers=config.workers,
        backlog=_BACKLOG,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        workers_kill_timeout=round(config.drain / 1e6 + LONGEST) + 10,
        log_level=LogLevels.warning,
    )

    @server.on_reload
    def begin_round() -> None:
        nonlocal number
        number += 1
        os.environ[ROUND] = str(number)  # the new workers inherit it
        rounds.begin(number)

    server.serve()


def create() -> Server:
    """The application of one worker, for granian."""
    # A worker inherits the handlers by which its parent takes note; until its own are set, it has nothing to finish.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(int(os.environ.get(SERVER, "0")))
    config = load_config(Path(os.environ[PROJECT]))
    log_to_stderr(config.log_level, config.log_format)
    from trilane.apps.project import Project
    from trilane.apps.server.app import Server

    return Server(Project(config))


if __name__ == "__main__":
    listen(load_config(Path(os.environ[PROJECT])))
