"""One version of a model in memory, wherever it runs: in this process, in a thread of it, or in processes of its own.

Laws: a batch that is expected to be short runs on the loop, a longer one in a thread, so that no model holds up the
answers of another; an answer that is not what the model promises is a ModelError; one in processes of its own that
fails again and again, or hangs, is left alone for a while, but for one question now and then; an opened model is closed
only once nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from concurrent.futures import Executor
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from trilane.errors import ContractError, ModelError, TrilaneError, UnavailableError
from trilane.models.folder import Found
from trilane.models.memory import own_bytes
from trilane.models.runtime.opening import fit_answer
from trilane.models.runtime.protocol import TensorRuntime
from trilane.models.runtime.supervised import Supervised
from trilane.models.tensor import Tensor, TensorSpec, checked
from trilane.serving.batcher import Batcher
from trilane.serving.breaker import Breaker, admitted, refusal
from trilane.serving.door import Door
from trilane.serving.inference import About, Inference, Question, chosen
from trilane.serving.latency import LatencyModel
from trilane.serving.share import Share
from trilane.serving.stacking import Answered, Group, Portion, grouped, joined
from trilane.serving.turns import Turns

__all__ = ["Opened"]

_SHORT = 1e-3  # seconds that a batch may hold up the loop; handing it to a thread costs a tenth of that
_EVERY = 8  # one of so many batches that are far from long is learnt from
_LEAST = 64 << 10  # what any model takes


class Opened:
    """A model that answers. `own`: what it took of this process' memory; `sweep`: seconds by number of rows; `door`:
    lets questions in; `turns`: of all models on this loop.
    """

    def __init__(
        self,
        found: Found,
        runtimes: Sequence[TensorRuntime] | Sequence[Supervised],
        *,
        door: Door,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        own: int,
        load_s: float,
        sweep: dict[int, float],
        turns: Turns | None = None,
    ) -> None:
        self.door = door
        self.found, self.load_s, self._own, self._loop, self._threads = found, load_s, own, loop, threads
        first = runtimes[0]
        self.platform, self.inputs, self.outputs = first.platform, first.inputs, first.outputs
        self._here = [one for one in runtimes if not isinstance(one, Supervised)]
        self._apart = [one for one in runtimes if isinstance(one, Supervised)]
        self._free = deque(self._apart)
        # What fails in this process costs next to nothing; a process that hangs or dies is ended and started anew.
        hang = 0.9 * found.options.seconds()[0]
        self.breaker = Breaker(hang=hang) if self._apart else None
        self.rows = found.options.batching and counts_rows((*self.inputs, *self.outputs))
        self._where = f"model {found.name!r}"
        self.batcher: Batcher[Portion, Answered] = Batcher(
            self._run_apart if self._apart else self._run_here,
            self._too_late,
            loop=loop,
            latency=LatencyModel.of(sweep) if sweep else None,
            executors=len(self._apart) or 1,
            max_rows=found.options.max_rows if self.rows else 1,
            admission=door,
            turns=turns,
        )
        # What the model alone takes of a processor, or, of another device, of the time: the batcher's estimate has the
        # delivery in it, and in a thread the waiting for the interpreter.
        self._model_time = LatencyModel.of(sweep) if sweep else LatencyModel()
        self._thread_time = time.perf_counter if found.options.providers else time.thread_time
        self._runs = 0
        self._names = [spec.name for spec in self.outputs]
        self._waiting = 0
        self._left: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that are its own, here and in its processes."""
        apart = sum(own_bytes(one.pid) for one in self._apart if one.pid is not None)
        return max(self._own + apart, _LEAST)

    @property
    def processes(self) -> list[int]:
        """The ids of its processes."""
        return [one.pid for one in self._apart if one.pid is not None]

    def about(self, versions: tuple[str, ...]) -> About:
        """What it takes and gives."""
        most = self.found.options.max_rows if self.rows else 0
        return About(self.found.name, self.found.version, versions, self.platform, self.inputs, self.outputs, most)

    def unhurried(self) -> None:
        """From now on nobody waits but a job, which tries each row: there is no breaker, and no pause before a process
        is started anew.
        """
        self.breaker = None
        for one in self._apart:
            one.unhurried()

    async def infer(self, question: Question, *, paid: bool = False) -> tuple[Inference, Share[Answered]]:
        """The answer, and how it came about. `paid`: as `Door.enter` has it."""
        if self.breaker is not None and not self.breaker.would_enter(now := time.perf_counter()):
            raise refusal(self.breaker, now, where=self._where)
        entry, answered = self.door.enter(self.batcher, question, paid=paid), None
        self._waiting += 1
        try:
            tensors = checked(question.inputs, self.inputs, where=self._where)
            wanted = chosen(question.outputs, self.outputs, self.found.name)
            portion = [tensor.array for tensor in tensors]
            rows = self._count(portion)
            if rows > 1:  # the first is paid by whoever is let in
                self.door.charge(question, rows, entry)
            share = await self.batcher.submit(portion, rows=rows, deadline=question.deadline, tier=entry.tier)
            answered = time.perf_counter()
        finally:
            self.door.leave(entry, answered)
            self._waiting -= 1
            if not self._waiting and self._left is not None and not self._left.done():
                self._left.set_result(None)
        arrays = share.result.part(share.start, share.stop)
        outputs = [Tensor(self._names[at], self.outputs[at].datatype, arrays[at]) for at in wanted]
        told = {f"batch_{name}": value for name, value in share.explained().items()} if question.explain else {}
        return Inference(self.found.name, self.found.version, outputs, told, share), share

    def foresee(self, question: Question) -> None:
        """Raises UnavailableError (429) for a question that will be refused whatever its inputs are."""
        self.door.foresee(self.batcher, question)

    def _count(self, portion: Portion) -> int:
        if not self.rows:
            return 1
        rows, most = len(portion[0]), self.found.options.max_rows
        for place, array in enumerate(portion):
            if len(array) != rows:
                what = f"the inputs have {rows} and {len(array)} rows"
                raise ContractError(what, where=f"inputs[{place}].shape", remedy="Send as many rows in each")
        if rows > most:
            what, remedy = f"{self._where} takes {most} rows at a time, not {rows}", f"Send at most {most}"
            raise ContractError(what, where="inputs[0].shape", remedy=remedy, status=413)
        return rows

    def _run_here(self, portions: list[Portion]) -> Answered | Awaitable[Answered]:
        rows = sum([len(portion[0]) for portion in portions]) if self.rows else 1
        if self._model_time.expected(rows) > _SHORT:
            return self._loop.run_in_executor(self._threads, self._timed, portions, rows)
        began = time.perf_counter()
        answered = self._answered(portions)
        took = time.perf_counter() - began
        self._runs += 1
        if took > _SHORT / 2 or not self._runs % _EVERY:
            self._model_time.observe(rows, took)
        return answered

    def _timed(self, portions: list[Portion], rows: int) -> Answered:
        """In a thread; no other batch of this model runs meanwhile."""
        began = self._thread_time()
        answered = self._answered(portions)
        self._model_time.observe(rows, self._thread_time() - began)
        return answered

    def _answered(self, portions: list[Portion]) -> Answered:
        if self.rows and len(portions) == 1:  # as most are where traffic is spread over many models
            return Answered(self._outputs(*grouped(portions)), {})
        groups = grouped(portions)
        return joined(portions, groups, [self._outputs(group) for group in groups], rows=self.rows)

    def _outputs(self, group: Group) -> list[npt.NDArray[Any]]:
        try:
            answers = self._here[0].run(group.inputs)
        except TrilaneError as error:
            raise self._blamed(error, group.inputs) from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            fault = ModelError(what, where=self._where, remedy="Mend the model and load it again")
            raise self._blamed(fault, group.inputs) from error
        return self._fit(answers, group)

    async def _run_apart(self, portions: list[Portion]) -> Answered:
        breaker, start, failed = self.breaker or Breaker(), time.perf_counter(), True
        ticket = admitted(breaker, start, where=self._where)
        one = self._free.popleft()
        try:
            groups = grouped(portions)
            answers = [self._fit(await self._asked(one, group), group) for group in groups]
            failed = False
        except ContractError:
            failed = False  # it is who asked that is wrong
            raise
        finally:
            self._free.append(one)
            breaker.leave(ticket, end := time.perf_counter(), end - start, failed=failed)
        return joined(portions, groups, answers, rows=self.rows)

    async def _asked(self, one: Supervised, group: Group) -> list[npt.NDArray[Any]]:
        try:
            return await one.run(group.inputs)
        except ModelError as error:
            if one.pid is None:  # what it answers, or whether at all, must not hang on who asked
                raise
            raise self._blamed(error, group.inputs) from error

    def _blamed(self, error: TrilaneError, inputs: Sequence[npt.NDArray[Any]]) -> TrilaneError:
        """The error, or that of whoever sent no finite numbers to a model that fails then, and was not said to take
        them: they must not have others find its breaker open.
        """
        if not isinstance(error, ModelError) or self.found.options.nan or _are_finite(inputs):
            return error
        return _not_finite(f"fails: {error.what}")

    def _fit(self, answers: list[npt.NDArray[Any]], group: Group) -> list[npt.NDArray[Any]]:
        rows = len(group.inputs[0]) if self.rows else None
        nan = self.found.options.nan
        try:
            fit_answer(answers, self.outputs, rows=rows, nan=nan, where=self._where)
        except ModelError:
            if nan or _are_finite(group.inputs):
                raise
            fit_answer(answers, self.outputs, rows=rows, nan=True, where=self._where)  # else it is the model's fault
            raise _not_finite("answers NaN to it") from None
        return answers

    def _too_late(self, _: list[Portion], reason: str) -> NoReturn:
        raise UnavailableError(
            f"no answer: {reason}",
            where=self._where,
            remedy="Give more time, or ask when less is asked",
            deadline=True,
            overload=True,
        )

    async def leave(self) -> None:
        """Closes it once those who asked are answered; nobody may ask any more."""
        while self._waiting:
            self._left = self._loop.create_future()
            await self._left
        for one in self._here:
            one.close()
        await asyncio.gather(*(one.close() for one in self._apart))

    def kill(self) -> None:
        """Ends its processes at once, when the server ends."""
        for one in self._apart:
            one.kill()


def _not_finite(what: str) -> ContractError:
    return ContractError(
        f"the inputs hold what is no finite number, and the model {what}",
        where="inputs",
        remedy="Send finite numbers; `nan = true` in its model.toml lets NaN pass",
    )


def _are_finite(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays if array.dtype.kind == "f")


def counts_rows(specs: Sequence[TensorSpec]) -> bool:
    """Whether the first axis of each is free, and so counts rows."""
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


def sample(specs: Sequence[TensorSpec], rows: int) -> list[npt.NDArray[Any]]:
    """Inputs of nothing but zeros, or empty texts, to warm a model up with."""
    from trilane.models.tensor import DATATYPES

    found = []
    for spec in specs:
        shape = tuple((rows if place == 0 else 1) if n == -1 else n for place, n in enumerate(spec.shape))
        if spec.datatype == "BYTES":
            found.append(np.full(shape, b"", object))
        else:
            found.append(np.zeros(shape, DATATYPES[spec.datatype]))
    return found
