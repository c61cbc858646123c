"""Requests sent at the instants they are due, whether or not the ones before were answered: an open loop.

Laws: a latency counts from the instant a request was due, not from when it could be sent, so that a slow server cannot
hide behind a waiting client (coordinated omission). Runs in a process of its own: `python open_loop.py` reads the task
as JSON from its standard input, and writes what became of each request to the file that it names.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque

import msgspec
import numpy as np
import uvloop

__all__ = ["Task"]

_OPEN = 400  # connections kept open; more are opened while all wait
_MOST = 4_000


class Task(msgspec.Struct):
    """`requests`: head and body of a request, for each kind; `due` (seconds) and `kinds`: of each request in order."""

    host: str
    port: int
    requests: list[str]
    due: list[float]
    kinds: list[int]
    output: str


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self.load, self.number, self.buffer = load, -1, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.load.free(self)

    def send(self, number: int, text: bytes) -> None:
        self.number = number
        self.transport.write(text)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            self.buffer = buffer
            return
        low = buffer[:head].lower()
        at = low.find(b"content-length:")
        length = int(low[at + 15 :].split(b"\r\n", 1)[0])
        if len(buffer) < head + 4 + length:
            self.buffer = buffer
            return
        self.buffer = b""
        self.load.answered(self.number, int(buffer[9:12]))
        self.number = -1
        self.load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class _Load:
    def __init__(self, task: Task, loop: asyncio.AbstractEventLoop) -> None:
        self.task, self.loop = task, loop
        self.texts = [text.encode() for text in task.requests]
        self.status = np.zeros(len(task.due), np.int32)
        self.latency = np.full(len(task.due), np.inf)
        self.idle: deque[_Connection] = deque()
        self.opened = self.left = 0
        self.waiting: deque[int] = deque()
        self.begin = 0.0

    async def run(self) -> None:
        await asyncio.gather(*(self.open() for _ in range(_OPEN)))
        due, self.begin = self.task.due, time.perf_counter() + 0.05
        self.left, at = len(due), 0
        while at < len(due):
            now = time.perf_counter() - self.begin
            while at < len(due) and due[at] <= now:
                self.send(at)
                at += 1
            if at < len(due):
                await asyncio.sleep(max(due[at] - now, 0.0))
        for _ in range(500):
            if not self.left:
                break
            await asyncio.sleep(0.01)

    async def open(self) -> None:
        self.opened += 1
        await self.loop.create_connection(lambda: _Connection(self), self.task.host, self.task.port)

    def send(self, number: int) -> None:
        if self.idle:
            self.idle.pop().send(number, self.texts[self.task.kinds[number]])
            return
        self.waiting.append(number)
        if self.opened < _MOST:
            self.loop.create_task(self.open())

    def free(self, connection: _Connection) -> None:
        if self.waiting:
            number = self.waiting.popleft()
            connection.send(number, self.texts[self.task.kinds[number]])
        else:
            self.idle.append(connection)

    def answered(self, number: int, status: int) -> None:
        self.left -= 1
        self.status[number] = status
        self.latency[number] = time.perf_counter() - self.begin - self.task.due[number]

    def lost(self, connection: _Connection) -> None:
        self.opened -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.number >= 0:
            self.left -= 1
            self.status[connection.number] = -1


def main() -> None:
    """Reads the task, runs it, writes the outcome."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)

    async def run() -> _Load:
        load = _Load(task, asyncio.get_running_loop())
        await load.run()
        return load

    load = uvloop.run(run())
    np.savez(task.output, status=load.status, latency=load.latency)


if __name__ == "__main__":
    main()
