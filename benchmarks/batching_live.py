"""A server of one model on one core, and on another a caller that keeps to its own clock: `bench_batching`, live.

The model is busy for `alpha + beta rows` on the server's own loop, as an endpoint's is. Requests and answers are frames
of eight bytes over a socket, so that little but the batching is measured; all policies get the same server,
and each request has a future whose result is a share of its batch's. The caller
sends each request when it is due, whatever was answered (open loop), and counts its latency from when it was due.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from batching_peers import Cork, Greedy, Window

from trilane.serving.batcher import Batcher
from trilane.serving.dispatch import Batch, Job, Late, Wait
from trilane.serving.latency import LatencyModel
from trilane.serving.share import Share

__all__ = ["Setting", "Shown", "ask", "live_server"]

_SERVER_CORE, _CALLER_CORE = 0, 1
_FRAME = struct.Struct("<II")  # of a request: number, patience in microseconds; of an answer: number, whether in time
_NO_ANSWER = 0.3  # seconds after the last deadline in which answers are waited for


@dataclass(frozen=True)
class Setting:
    """A policy by name, the model's times in seconds, the largest batch and the patience of a request."""

    policy: str
    alpha: float
    beta: float
    max_rows: int
    patience: float


@dataclass(frozen=True)
class Shown:
    """What the caller saw: latencies in seconds, those not answered in time as their patience; the part in time."""

    latencies: npt.NDArray[np.float64]
    in_time: npt.NDArray[np.bool_]
    seconds: float

    @property
    def p99(self) -> float:
        """Of all requests, in seconds."""
        return float(np.quantile(self.latencies, 0.99, method="higher"))

    @property
    def goodput(self) -> float:
        """Requests that were answered in time, a second."""
        return float(self.in_time.sum()) / self.seconds


def peer(setting: Setting) -> Any:
    """The policy of a name: `none`, `greedy`, `cork`, or `1x8`: a window of 1 ms and 8 rows."""
    if setting.policy == "none":
        return Greedy(1)
    if setting.policy == "greedy":
        return Greedy(setting.max_rows)
    if setting.policy == "cork":
        return Cork(setting.max_rows, setting.patience)
    window, rows = setting.policy.split("x")
    return Window(float(window) * 1e-3, int(rows))


class _Peer:
    """Runs a peer's policy on the loop, as the batcher runs Trilane's."""

    def __init__(self, policy: Any, run: Callable[[int], None], tell: Callable[[int, bool], None]) -> None:
        self._policy, self._run, self._told = policy, run, tell
        self._loop = asyncio.get_running_loop()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, number: int, deadline: float) -> None:
        now = time.perf_counter()
        future: asyncio.Future[Share[bool]] = self._loop.create_future()
        future.add_done_callback(lambda done: self._told(number, done.result().result))
        self._policy.add(Job(1, now, deadline, future), now)
        self._soon()

    def _tell(self, future: asyncio.Future[Share[bool]], answered: bool) -> None:
        future.set_result(Share(answered, 0, 1))

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.perf_counter()
        while isinstance(decision := self._policy.next(now), Late):
            for job in decision.jobs:
                self._tell(job.payload, False)
        if isinstance(decision, Batch):
            self._run(decision.rows)
            self._policy.done(decision.rows, time.perf_counter() - now)
            for job in decision.jobs:
                self._tell(job.payload, True)
            self._loop.call_soon(self._soon)  # a round of the loop later, so that what came meanwhile goes along
        elif isinstance(decision, Wait):
            self._timer = self._loop.call_later(max(decision.until - now, 0.0), self._pump)


class _Ours:
    """Trilane's batcher."""

    def __init__(self, setting: Setting, run: Callable[[int], None], tell: Callable[[int, bool], None]) -> None:
        self._tell = tell

        def answer(portions: list[int]) -> bool:
            run(len(portions))
            return True

        known = LatencyModel.of({rows: setting.alpha + setting.beta * rows for rows in (1, 8, 64)})
        self._batcher: Batcher[int, bool] = Batcher(
            answer,
            lambda _portions, _reason: False,
            loop=asyncio.get_running_loop(),
            latency=known,
            max_rows=setting.max_rows,
            queue_rows=1 << 30,
        )

    def submit(self, number: int, deadline: float) -> None:
        future = self._batcher.submit(number, rows=1, deadline=deadline)
        future.add_done_callback(lambda done: self._answered(number, done))

    def _answered(self, number: int, done: asyncio.Future[Share[bool]]) -> None:
        self._tell(number, done.result().result)


class _Connection(asyncio.Protocol):
    """One caller: its first line is the setting, and then come frames."""

    def __init__(self) -> None:
        self._rest, self._answers, self._flushes = b"", bytearray(), False
        self._policy: _Ours | _Peer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if self._policy is None:
            line, _, data = data.partition(b"\n")
            self._begin(Setting(*(kind(text) for kind, text in zip(_KINDS, line.decode().split(), strict=True))))
        whole = len(data) // 8 * 8
        self._rest = data[whole:]
        now = time.perf_counter()
        for number, patience in _FRAME.iter_unpack(data[:whole]):
            self._policy.submit(number, now + patience * 1e-6)  # type: ignore[union-attr]

    def _begin(self, setting: Setting) -> None:
        def run(rows: int) -> None:
            end = time.perf_counter() + setting.alpha + setting.beta * rows
            while time.perf_counter() < end:
                pass

        self._policy = (
            _Ours(setting, run, self._tell) if setting.policy == "ours" else _Peer(peer(setting), run, self._tell)
        )

    def _tell(self, number: int, answered: bool) -> None:
        self._answers += _FRAME.pack(number, answered)
        if not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        self._transport.write(bytes(self._answers))  # type: ignore[attr-defined]
        self._answers.clear()


_KINDS: tuple[Callable[[str], Any], ...] = (str, float, float, int, float)


async def _serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Connection, path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


@contextmanager
def live_server(folder: Path) -> Iterator[str]:
    """A server pinned to its core; the value is its socket. The caller, which is this process, goes to the other."""
    path, before = str(folder / "batching.sock"), os.sched_getaffinity(0)
    process = subprocess.Popen(
        ["taskset", "-c", str(_SERVER_CORE), sys.executable, __file__, path], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        if _CALLER_CORE in before:
            os.sched_setaffinity(0, {_CALLER_CORE})
        yield path
    finally:
        os.sched_setaffinity(0, before)
        process.terminate()
        process.wait()


def ask(path: str, setting: Setting, due: npt.NDArray[np.float64]) -> Shown:
    """Sends a request at each of `due` (seconds from the start) and waits for the answers."""
    frames = b"".join(_FRAME.pack(number, round(setting.patience * 1e6)) for number in range(len(due)))
    answered, told = np.full(len(due), math.inf), np.zeros(len(due), bool)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    words = setting.policy, repr(setting.alpha), repr(setting.beta), str(setting.max_rows), repr(setting.patience)
    connection.sendall(" ".join(words).encode() + b"\n")
    connection.setblocking(False)
    sent, heard, rest, start = 0, 0, b"", time.perf_counter()
    end = start + float(due[-1]) + setting.patience + _NO_ANSWER
    while heard < len(due) and (now := time.perf_counter()) < end:
        ready = int(np.searchsorted(due, now - start, side="right"))
        if ready > sent:
            try:
                taken = connection.send(frames[8 * sent : 8 * ready])
                frames_taken, part = divmod(taken, 8)
                if part:  # the rest of a frame must follow at once
                    connection.setblocking(True)
                    connection.sendall(frames[8 * sent + taken : 8 * (sent + frames_taken + 1)])
                    connection.setblocking(False)
                    frames_taken += 1
                sent += frames_taken
            except BlockingIOError:
                pass
        try:
            data = rest + connection.recv(1 << 16)
        except BlockingIOError:
            continue
        came = time.perf_counter() - start
        whole = len(data) // 8 * 8
        rest = data[whole:]
        found = np.frombuffer(data[:whole], "<u4").reshape(-1, 2)
        answered[found[:, 0]], told[found[:, 0]] = came, found[:, 1] == 1
        heard += len(found)
    connection.close()
    latencies = answered - due
    in_time = told & (latencies <= setting.patience)
    return Shown(np.where(in_time, latencies, setting.patience), in_time, float(due[-1]))


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
