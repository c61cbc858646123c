"""A model in a process of its own that is kept alive: what it breaks costs its own answers.

Laws: a call that takes longer than it may ends the process, whatever it does; one that dies is started anew at once the
first time, then after ever longer pauses, until it has lived for a while; meanwhile questions wait for a start that is
near, and are refused with the instant of one that is not.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from trilane.errors import ModelError, TrilaneError, UnavailableError
from trilane.models.runtime.process import Died, Process
from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import TensorSpec

__all__ = ["LONGEST_PAUSE", "Opening", "Supervised"]

_log = logging.getLogger(__name__)
LONGEST_PAUSE = 30.0
"""Seconds between two starts at most: of a model that dies each time, few are to be at the cost of all others."""

_FIRST_PAUSE = 0.25  # seconds, doubled each time; the first start anew has no pause
_SETTLED = 10.0  # seconds of life after which a death counts as the first again


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a process shall open. `memory`: bytes of private memory that it may take (0: any); times in seconds;
    `row_wise`: of a pickled model, whether it is asked for many rows at once; `declared`: where its owner says
    all this.
    """

    runtime: str
    path: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    processing: str = ""
    providers: tuple[Any, ...] = ()
    memory: int = 0
    threads: int = 1
    timeout: float = 10.0
    load_timeout: float = 60.0
    row_wise: bool = False
    declared: str = "its model.toml"

    def facts(self) -> dict[str, Any]:
        """As the process is told."""
        sides = {
            name: [(one.name, one.datatype, one.shape) for one in side]
            for name, side in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        return {
            "runtime": self.runtime,
            "path": self.path,
            "processing": self.processing,
            "providers": self.providers,
            "memory": self.memory,
            "row_wise": self.row_wise,
            **sides,
        }


class Supervised:
    """A model's process and those that follow it. Make it with `start`; its promise is that of a `TensorRuntime`,
    awaited. `longest_pause`: seconds between two starts at most.
    """

    def __init__(self, name: str, opening: Opening, executor: Executor) -> None:
        self.name, self.opening, self._executor = name, opening, executor
        self.platform, self.inputs, self.outputs = "", opening.inputs, opening.outputs
        self._process: Process | None = None
        self._former: list[Process] = []  # which may not be buried yet
        self._starting: asyncio.Task[None] | None = None
        self._due = self._born = 0.0
        self.deaths, self.longest_pause = 0, LONGEST_PAUSE
        self._reason, self._closed = "", False

    @staticmethod
    async def start(name: str, opening: Opening, executor: Executor) -> Supervised:
        """Starts a process with the model open in it. Raises ModelError, or SetupError if there can be none."""
        one = Supervised(name, opening, executor)
        await one._begin()
        return one

    @property
    def pid(self) -> int | None:
        """The process id, while there is one."""
        return self._process.pid if self._process is not None else None

    async def run(self, inputs: Arrays, *, timeout: float | None = None, wait: bool = True) -> list[Any]:
        """The outputs. Raises ModelError if the model fails, dies or hangs, UnavailableError while it starts anew.

        `timeout`: seconds in place of those of the opening; `wait`: for a start that is near.
        """
        process, timeout = await self._alive(wait=wait), timeout or self.opening.timeout
        try:
            async with asyncio.timeout(timeout):
                return await process.run(inputs, self.inputs)
        except TimeoutError:
            self._died(process)
            what = f"it did not answer within {timeout:g} s, so its process was ended"
            raise self._failed(what, f"Make it faster, or raise `timeout` in {self.opening.declared}") from None
        except Died as death:
            self._died(process)
            raise self._failed(f"its process died: {death}", "Its log lines say more; it is started anew") from None

    def kill(self) -> None:
        """Ends the process at once, without waiting for it; nothing follows it."""
        self._closed = True
        if self._process is not None:
            self._process.kill("it was closed")

    def unhurried(self) -> None:
        """Nobody waits but a job, which needs this model and has nothing else to do: it is started anew at once."""
        self.longest_pause = 0.0

    async def close(self) -> None:
        """Ends the process; nothing follows it."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._process is not None:
            await self._process.close()
            self._process = None
        await asyncio.gather(*(one.close() for one in self._former))

    async def _begin(self) -> None:
        opening = self.opening
        process = await Process.start(self.name, threads=opening.threads, executor=self._executor)
        try:
            facts = await self._opened(process)
        except BaseException:
            await process.close()
            raise
        specs = [tuple(TensorSpec(n, d, tuple(s)) for n, d, s in facts[side]) for side in ("inputs", "outputs")]
        self.platform, (self.inputs, self.outputs) = facts["platform"], specs
        self._born, self._process, self._reason = asyncio.get_running_loop().time(), process, ""
        process.on_death = self._died
        if process.ended:
            self._died(process)

    async def _opened(self, process: Process) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.opening.load_timeout):
                return await process.open(self.opening.facts())
        except TimeoutError:
            what = f"it was not loaded within {self.opening.load_timeout:g} s"
            raise self._failed(what, f"Load less, or raise `load_timeout` in {self.opening.declared}") from None
        except Died as death:
            raise self._failed(f"its process died while it was loaded: {death}", "Its log lines say more") from None

    async def _alive(self, *, wait: bool) -> Process:
        if self._closed:
            raise ModelError("the runtime is closed", where=f"model {self.name!r}", remedy="Load the model again")
        if self._process is not None and not self._process.ended:
            return self._process
        pause = self._due - asyncio.get_running_loop().time()
        if wait and self._starting is not None and not self._starting.done() and pause < 1.0:
            await asyncio.wait([self._starting], timeout=self.opening.load_timeout)
        if self._process is None or self._process.ended:
            pause = max(self._due - asyncio.get_running_loop().time(), 0.1)
            raise UnavailableError(
                f"its process {self._reason}; it is started anew in {pause:.1f} s",
                where=f"model {self.name!r}",
                remedy="Ask again then",
                retry_after_s=round(pause, 4),
            )
        return self._process

    def _died(self, process: Process) -> None:
        """Its process is gone: another one follows."""
        if self._closed or process is not self._process:
            return
        loop = asyncio.get_running_loop()
        self._former = [one for one in (*self._former, process) if not one.buried]
        self._process, self._reason = None, f"died ({process.last_words})"
        if loop.time() - self._born > _SETTLED:
            self.deaths = 0
        self._again()
        _log.error("model %s: its process %s", self.name, self._reason)

    def _again(self) -> None:
        loop = asyncio.get_running_loop()
        pause = min(_FIRST_PAUSE * 2 ** (self.deaths - 1), self.longest_pause) if self.deaths else 0.0
        self.deaths += 1
        self._due = loop.time() + pause
        self._starting = loop.create_task(self._start_after(pause))

    async def _start_after(self, pause: float) -> None:
        await asyncio.sleep(pause)
        try:
            await self._begin()
        except TrilaneError as error:
            self._reason = f"cannot be started: {error.what}"
            _log.error("model %s: its process %s", self.name, self._reason)
            self._again()

    def _failed(self, what: str, remedy: str) -> ModelError:
        return ModelError(what, where=f"model {self.name!r}", remedy=remedy)
