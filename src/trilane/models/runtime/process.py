"""One life of a model's process, seen from the event loop: it is started, asked one thing at a time, and ended.

Laws: nothing here blocks the loop but the start itself, which is done in a thread; who asks is answered, or told that
the process died and of what; what the model prints is logged under its name, and no more of it than can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from trilane.errors import ContractError, ModelError, SetupError
from trilane.models.runtime.protocol import Arrays
from trilane.models.runtime.wire import PREFIX, Frame, Head, lengths, pack, unpack
from trilane.models.tensor import TensorSpec

__all__ = ["Died", "Process"]

_log = logging.getLogger(__name__)
_ERRORS = {"ContractError": ContractError, "SetupError": SetupError, "ModelError": ModelError}
_LINE, _LINES = 2_000, 100  # characters of a line, and lines of a second, that are logged
_READ_AHEAD = 1 << 20


class Died(Exception):  # noqa: N818 - it is what happened, and never leaves this package as an error
    """The process ended; the text says of what."""


class Process:
    """A child that has a model open. Make it with `start`."""

    def __init__(
        self,
        name: str,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pipe: asyncio.ReadTransport,
        lines: _Lines,
        executor: Executor,
    ) -> None:
        self._pipe, self._lines = pipe, lines
        self.name, self._process, self._writer, self._executor = name, process, writer, executor
        self.on_death: Callable[[Process], None] | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))
        self._waiting: asyncio.Future[Frame] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.last_words = ""
        self.ended = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @staticmethod
    async def start(name: str, *, threads: int, executor: Executor) -> Process:
        """Starts a child; `open` comes next. Raises SetupError if no process can be made."""
        loop = asyncio.get_running_loop()
        try:
            spawned = loop.run_in_executor(executor, _spawn, threads)
            try:
                process, connection = await asyncio.shield(spawned)
            except asyncio.CancelledError:  # nobody wants it any more, but it comes all the same
                await asyncio.wait([spawned])
                if spawned.exception() is None:
                    await loop.run_in_executor(executor, _undo, *spawned.result())
                raise
        except OSError as error:
            raise SetupError(f"no process can be started: {error}", where=f"model {name!r}") from error
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_READ_AHEAD)
        errors: Any = process.stderr
        pipe, lines = await loop.connect_read_pipe(lambda: _Lines(name), errors)
        return Process(name, process, reader, writer, pipe, lines, executor)

    async def open(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Opens the model; the facts of it. Raises Died, or what the model's file is refused with."""
        return (await self._exchange(pack(Head("open", facts=facts)))).head.facts

    async def run(self, arrays: Arrays, specs: Sequence[TensorSpec]) -> list[Any]:
        """The outputs for the inputs. Raises Died or ModelError."""
        return (await self._exchange(pack(Head("run"), arrays, specs))).arrays

    async def _exchange(self, pieces: list[bytes | memoryview]) -> Frame:
        async with self._one_at_a_time:
            if self.ended:
                raise Died(self.last_words)
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                for piece in pieces:
                    self._writer.write(piece)
                frame = await self._waiting
            except asyncio.CancelledError:
                self.kill("a call took longer than it may")  # else the next one would get this answer
                raise
            finally:
                self._waiting = None
        head = frame.head
        if head.kind == "dead":
            raise Died(head.what)
        if head.kind == "failed":
            kind = _ERRORS.get(head.error, ModelError)
            raise kind(head.what, where=f"model {self.name!r}", remedy=head.remedy or "Its log has the traceback")
        return frame

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                head, body = lengths(await reader.readexactly(PREFIX.size))
                text = await reader.readexactly(head)
                frame = unpack(text, await reader.readexactly(body) if body else b"")
                if self._waiting is not None and not self._waiting.done():
                    self._waiting.set_result(frame)
                if frame.head.kind == "dead":
                    self.last_words = frame.head.what
                    break
        await self._bury()

    async def _bury(self) -> None:
        """Makes sure that it is gone, and tells whoever waits."""
        try:
            await self._mourn()
        finally:  # also where the loop ends before that
            self._writer.close()
            self._pipe.close()
        await asyncio.sleep(0)  # both ends are given back in the next round of the loop

    async def _mourn(self) -> None:
        code = await asyncio.get_running_loop().run_in_executor(self._executor, _end, self._process)
        self.ended = True
        self.last_words = self.last_words or _cause(code)
        self._writer.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Died(self.last_words))
        if self.on_death is not None:
            self.on_death(self)
        await asyncio.wait([self._lines.ended], timeout=1.0)  # what it started may hold the pipe

    @property
    def buried(self) -> bool:
        """Whether nothing is left of it. Refer to it until then: the loop alone does not."""
        return self._reading.done()

    def kill(self, why: str) -> None:
        """Ends it at once."""
        self.last_words = self.last_words or why
        _kill_group(self._process)

    async def close(self) -> None:
        """Ends it, and returns when it is gone."""
        self.on_death = None
        self.kill("it was closed")
        await asyncio.shield(self._reading)


def _spawn(threads: int) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    # By `env`, for only apps reads the environment: libraries must not start a thread per core in each process.
    words = [f"{name}_NUM_THREADS={threads}" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")]
    command = ["env", *words, "PYTHONUNBUFFERED=1", sys.executable, "-P", "-m", "trilane.models.runtime.child"]
    with theirs:
        try:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,  # so that what it starts ends with it
            )
        except OSError:
            ours.close()
            raise
    ours.setblocking(False)
    return process, ours


def _end(process: subprocess.Popen[bytes]) -> int:
    """Ends it and what it started; its status. One that is about to end by itself gets a moment to say how."""
    for _ in range(20):
        # It is looked at and not reaped: until then nobody else can get the id of its group.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            break
        time.sleep(0.01)
    _kill_group(process)
    return process.wait()


def _undo(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    with process, connection:
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # else the id may be another's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _cause(code: int) -> str:
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


class _Lines(asyncio.Protocol):
    """What a child writes to standard error, line by line."""

    def __init__(self, name: str) -> None:
        self._name, self._rest, self._told, self._left_out = name, b"", 0, 0
        self._second = 0.0
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LINE]
        for line in lines:
            self._tell(line)

    def connection_lost(self, error: Exception | None) -> None:
        if self._rest:
            self._tell(self._rest)
        self._tell_left_out()
        self.ended.set_result(None)

    def _tell(self, line: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1.0:
            self._second, self._told = now, 0
        self._told += 1
        if self._told > _LINES:
            self._left_out += 1
            if self._left_out == 1:
                asyncio.get_running_loop().call_later(1.0, self._tell_left_out)
        elif line.strip():
            _log.warning("model %s: %s", self._name, line[:_LINE].decode(errors="replace"))

    def _tell_left_out(self) -> None:
        if self._left_out:
            _log.warning("model %s: it wrote %d more lines, which are left out", self._name, self._left_out)
            self._left_out = 0
