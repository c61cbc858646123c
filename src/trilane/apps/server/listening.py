"""The process that listens, and keeps the workers that answer: as many as a project's settings say.

Laws: all workers take connections from one socket, which stays open however they come and go; SIGHUP replaces them,
each going on until a successor listens; SIGTERM and SIGINT end them, none before it has answered what is under way,
while who comes after that is refused; a worker that dies comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from pathlib import Path

from trilane.apps.config import Config, load_config
from trilane.apps.logs import log_to_stderr
from trilane.apps.processes import PROJECT
from trilane.apps.rounds import LONGEST, ROUND, Rounds

__all__ = ["listen"]

_log = logging.getLogger(__name__)
_PAUSE = 0.5  # seconds before a worker that died is started again
_GRACE = 10.0  # seconds more than a worker takes for its end at most


def listen(config: Config) -> None:
    """Serves until SIGTERM or SIGINT."""
    with _socket(config) as listener:
        asyncio.run(_Workers(config, listener).keep())


def _socket(config: Config) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)  # it is a worker's to listen: until one is there, clients had better hear so
    return listener


class _Workers:
    """The workers of one server: in each place one that answers, and those that it replaces."""

    def __init__(self, config: Config, listener: socket.socket) -> None:
        self._config, self._listener = config, listener
        self._rounds, self._round = Rounds(config.state, config.port), 1
        self._patience = config.drain / 1e6 + 2 * LONGEST + _GRACE
        self._places: list[asyncio.Task[None]] = []
        self._living: set[Process] = set()
        self._stop = asyncio.Event()

    async def keep(self) -> None:
        """Keeps them until it is told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._replace)
        self._rounds.clear()
        self._fill()
        await self._stop.wait()
        await asyncio.gather(*self._places)

    def _fill(self) -> None:
        self._places += [asyncio.create_task(self._place(self._round)) for _ in range(self._config.workers)]

    def _replace(self) -> None:
        if self._stop.is_set():
            return
        former = [*self._living]
        self._round += 1
        with contextlib.suppress(OSError):  # a full disk: then they end without waiting for their successors
            self._rounds.begin(self._round)
        self._fill()
        self._terminate(former)

    def _end(self) -> None:
        notice = 0.0 if self._stop.is_set() else self._config.drain / 1e6
        self._stop.set()
        self._terminate([*self._living])
        asyncio.get_running_loop().call_later(notice, self._deafen)

    def _deafen(self) -> None:
        """Has whoever comes now refused at once: no worker takes connections any more, and they would wait in vain."""
        with contextlib.suppress(OSError):  # it is done already, or this system cannot
            self._listener.shutdown(socket.SHUT_RD)

    async def _place(self, own: int) -> None:
        """Keeps a worker of round `own` until another round begins, or the end."""
        environment = {**os.environ, ROUND: str(own)}
        descriptor = self._listener.fileno()
        while not self._stop.is_set() and own == self._round:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trilane.apps.server.working", str(descriptor)),
                pass_fds=(descriptor,),
                env=environment,
            )
            self._living.add(worker)
            if self._stop.is_set() or own != self._round:  # while it was started
                self._terminate([worker])
            code = await worker.wait()
            self._living.discard(worker)
            if not self._stop.is_set() and own == self._round:
                _log.error("worker %d ended with status %d; another one is started", worker.pid, code)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _PAUSE)

    def _terminate(self, workers: list[Process]) -> None:
        for worker in workers:
            _signal(worker, signal.SIGTERM)
            asyncio.get_running_loop().call_later(self._patience, _signal, worker, signal.SIGKILL)


def _signal(worker: Process, number: signal.Signals) -> None:
    if worker.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(number)


def main() -> None:
    """Listens for the project that the environment names."""
    config = load_config(Path(os.environ[PROJECT]))
    log_to_stderr(config.log_level, config.log_format)
    listen(config)


if __name__ == "__main__":
    main()
