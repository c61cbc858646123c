"""The process that listens, and keeps the workers that answer: as many as a project's settings say.

Laws: all workers take connections from one socket, which stays open however they come and go; SIGHUP replaces them,
each going on until a successor listens; SIGTERM and SIGINT end them, none before it has answered what is under way,
while who comes after that is refused; a worker that dies comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import struct
import sys
from asyncio.subprocess import Process
from pathlib import Path

from trilane.apps.config import Config, load_config
from trilane.apps.logs import log_to_stderr
from trilane.apps.processes import PROJECT
from trilane.apps.rounds import LONGEST, ROUND, Rounds
from trilane.apps.server.balance import Places

__all__ = ["listen"]

_log = logging.getLogger(__name__)
_PAUSE = 0.5  # seconds before a worker that died is started again
_LOOK, _LOOKS = 0.001, 80  # seconds between two looks whether anybody waits at the port, and how many
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER, which `socket` does not name
# In the words of the Berkeley Packet Filter, which see TCP's header: load its flags; with SYN, drop; else take.
_NO_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_ROUNDS = 4  # workers of so many rounds may be there at a time
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
        self._keeping: list[asyncio.Task[None]] = []
        self._places = Places(_ROUNDS * config.workers) if config.workers > 1 else None
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
        await asyncio.gather(*self._keeping)
        if self._places is not None:
            self._places.close()

    def _fill(self) -> None:
        self._keeping += [asyncio.create_task(self._place(self._round)) for _ in range(self._config.workers)]

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
        asyncio.get_running_loop().call_later(notice, self._shut)

    def _shut(self) -> None:
        """Closes the port once nobody waits at it: soon no worker takes connections, and who waited then would do so in
        vain, and be cut off. Where the kernel cannot keep others out meanwhile, those few who come just then are.
        """
        with contextlib.suppress(OSError):
            _let_nobody_in(self._listener)
        self._shut_if_empty(_LOOKS)

    def _shut_if_empty(self, looks: int) -> None:
        if looks and select.select([self._listener], [], [], 0)[0]:
            asyncio.get_running_loop().call_later(_LOOK, self._shut_if_empty, looks - 1)
            return
        with contextlib.suppress(OSError):  # it is done already, or this system cannot
            self._listener.shutdown(socket.SHUT_RD)

    async def _place(self, own: int) -> None:
        """Keeps a worker of round `own` until another round begins, or the end."""
        environment = {**os.environ, ROUND: str(own)}
        while not self._stop.is_set() and own == self._round:
            descriptors, place = [self._listener.fileno()], self._places.take() if self._places else -1
            numbers = []
            if self._places is not None and place >= 0:
                descriptors.append(self._places.fileno())
                numbers = [self._places.number, place]
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "trilane.apps.server.working", *map(str, (*descriptors, *numbers))),
                pass_fds=descriptors,
                env=environment,
            )
            self._living.add(worker)
            if self._stop.is_set() or own != self._round:  # while it was started
                self._terminate([worker])
            code = await worker.wait()
            self._living.discard(worker)
            if self._places is not None:
                self._places.free(place)
            if not self._stop.is_set() and own == self._round:
                _log.error("worker %d ended with status %d; another one is started", worker.pid, code)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _PAUSE)

    def _terminate(self, workers: list[Process]) -> None:
        for worker in workers:
            _signal(worker, signal.SIGTERM)
            asyncio.get_running_loop().call_later(self._patience, _signal, worker, signal.SIGKILL)


def _let_nobody_in(listener: socket.socket) -> None:
    """Has the kernel drop each SYN from now on (Linux): those who send one again hear that the port is closed."""
    if sys.platform != "linux":
        return
    steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(steps)))


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
