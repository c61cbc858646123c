"""One worker of a server, as a process: takes connections from the socket that it was given, and answers them.

Law: it ends with the process that started it, and not before everybody who asked is answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import uvloop

from trilane.apps.config import Config, load_config
from trilane.apps.logs import log_to_stderr
from trilane.apps.processes import PROJECT, SERVER, die_with_parent
from trilane.apps.project import Project
from trilane.apps.rounds import LONGEST, ROUND, Rounds
from trilane.apps.server.app import Server
from trilane.apps.server.balance import Balance
from trilane.apps.server.connections import Connections
from trilane.apps.server.drain import Drain

__all__ = ["work"]

_TURN = 5e-4  # seconds that a thread beside the loop may keep the interpreter while the loop waits for it
_LINGER = 1.0  # seconds in which clients that know of no successor yet may still ask
_SENT = 0.1  # and those for whom there is none, as what they sent may not have been read yet


def work(config: Config, listener: socket.socket, balance: Balance | None = None) -> None:
    """Answers what comes to `listener`, until SIGTERM. `balance`: with the other workers, if there are any."""
    sys.setswitchinterval(_TURN)  # Python's own, ten times as long, is ten times what a request takes
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    server = Server(Project(config))
    server.open(loop)
    try:
        loop.run_until_complete(_serve(server, config, listener, balance, loop))
    finally:
        server.close()
        loop.close()


async def _serve(
    server: Server,
    config: Config,
    listener: socket.socket,
    balance: Balance | None,
    loop: asyncio.AbstractEventLoop,
) -> None:
    connections = Connections(server.answer, listener, loop=loop, balance=balance)

    def part() -> None:
        connections.parting = True
        server.parting = not drain.replaced  # else who looks elsewhere would leave a server that goes on

    notice = config.drain / 1e6
    drain = Drain(
        Rounds(config.state, config.port),
        own=int(os.environ.get(ROUND, "0")),
        notice=notice,
        longest=max(notice, LONGEST),
        loop=loop,
        part=part,
    )
    connections.open()
    await drain.wait()
    await server.finish()
    linger = _LINGER if drain.replaced else _SENT
    await connections.close(longest=LONGEST, linger=linger, replaced=drain.replaced)


def main() -> None:
    """Works with the descriptors that the command line names: the socket, and what the workers share, if they do."""
    # Ctrl-C in a terminal reaches all its processes; the one that started this one says when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(int(os.environ.get(SERVER, "0")))
    config = load_config(Path(os.environ[PROJECT]))
    log_to_stderr(config.log_level, config.log_format)
    listener, *shared = map(int, sys.argv[1:])
    work(config, socket.socket(fileno=listener), Balance(*shared, timer=time.monotonic) if shared else None)


if __name__ == "__main__":
    main()
