"""How a model on disk becomes one that answers: looked at, laid out or tried where that pays, opened, warmed up,
checked.

Laws: nothing of it runs on the loop; a model that does not give its golden answers, or for which there is no memory, is
refused before anybody asks it; what is learnt here of its time is where its batcher begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from trilane.errors import ModelError
from trilane.models.folder import Found
from trilane.models.golden import GoldenTensors, check_golden, read_golden
from trilane.models.memory import available_bytes, own_bytes
from trilane.models.runtime.opening import fit_answer, load_library, open_runtime
from trilane.models.runtime.protocol import Arrays, TensorRuntime
from trilane.models.runtime.supervised import Opening, Supervised
from trilane.models.stamps import Stamps
from trilane.models.tensor import TensorSpec
from trilane.serving.admission import Admission
from trilane.serving.door import Door
from trilane.serving.opened import Opened, counts_rows, sample
from trilane.serving.turns import Turns

__all__ = ["Opener"]

_SWEEP = (1, 8, 64)
_LONG = 0.02  # seconds of one row, from which on no more rows are tried
_MIB = 1 << 20


class Opener:
    """Opens models. `state`: the folder of what is kept of them; `loading` and `running`: threads for each;
    `admission`: lets questions in.
    """

    def __init__(
        self,
        state: Path,
        *,
        loop: asyncio.AbstractEventLoop,
        loading: Executor,
        running: Executor,
        admission: Admission | None = None,
    ) -> None:
        self._admission = admission or Admission()
        self._state, self._stamps = state, Stamps(state / "stamps")
        self._loop, self._loading, self._running, self._turns = loop, loading, running, Turns(loop)

    async def open(self, found: Found) -> Opened:
        """The model, ready to answer. Raises ModelError, or SetupError for what is not installed."""
        began = time.perf_counter()
        try:
            _check_room(found)
            golden = None if found.golden is None else await self._in_thread(read_golden, found.golden)
            if found.isolated:
                return await self._apart(found, golden, began)
            runtime, own, sweep = await self._in_thread(self._here, found, golden)
        except MemoryError:
            raise _no_memory(found) from None
        return self._opened(found, [runtime], own, began, sweep)

    async def _in_thread(self, call: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - what `call` gives
        return await self._loop.run_in_executor(self._loading, call, *arguments)

    def _opened(
        self,
        found: Found,
        runtimes: list[TensorRuntime] | list[Supervised],
        own: int,
        began: float,
        sweep: dict[int, float],
    ) -> Opened:
        took = time.perf_counter() - began
        door = Door(
            self._admission,
            tier=found.options.tier,
            where=f"model {found.name!r}",
            apart=found.isolated,
            executors=len(runtimes),
        )
        return Opened(
            found,
            runtimes,
            door=door,
            loop=self._loop,
            threads=self._running,
            own=own,
            load_s=took,
            sweep=sweep,
            turns=self._turns,
        )

    def _here(self, found: Found, golden: GoldenTensors | None) -> tuple[TensorRuntime, int, dict[int, float]]:
        load_library(found.runtime)  # which all models of a kind share, and no model gives back
        before = own_bytes()
        path, shared = self._prepared(found)
        inputs, outputs = found.options.specs()
        runtime = open_runtime(
            found.runtime, path, inputs=inputs, outputs=outputs, shared=shared, providers=found.options.providers
        )
        try:
            sweep = _warm_up(runtime, found, golden)
        except BaseException:
            runtime.close()
            raise
        # What others took meanwhile is counted along; files are a floor where they are read, not mapped.
        return runtime, max(own_bytes() - before, 0 if shared else found.size), sweep

    def _prepared(self, found: Found) -> tuple[Path, bool | None]:
        """The file to open, and whether its weights are mapped."""
        if found.runtime == "onnx":
            from trilane.models.runtime.session import SHARED_BYTES
            from trilane.models.runtime.sharing import laid_out

            if found.size >= SHARED_BYTES and found.options.share and not found.options.providers:
                return laid_out(found.path, self._state / "weights", self._stamps, sources=found.beside), True
            return found.path, False
        if found.runtime in ("lightgbm", "xgboost"):
            from trilane.models.runtime.trial import try_file

            digest = self._stamps.digest(found.path)
            try_file(found.runtime, found.path, digest, notes=self._state / "tried")
        return found.path, None

    async def _apart(self, found: Found, golden: GoldenTensors | None, began: float) -> Opened:
        inputs, outputs = found.options.specs()
        timeout, load_timeout = found.options.seconds()
        opening = Opening(
            runtime=found.runtime,
            path=str(found.path),
            inputs=inputs,
            outputs=outputs,
            processing=str(found.processing or ""),
            providers=found.options.providers,
            memory=found.options.memory_mib * _MIB,
            threads=found.options.threads,
            timeout=timeout,
            load_timeout=load_timeout,
        )
        started: list[Supervised] = []
        try:
            for _ in range(found.options.instances):
                started.append(await Supervised.start(found.name, opening, self._loading))  # noqa: PERF401 - see below
            sweep = await _warm_up_apart(started[0], found, golden)
        except BaseException:
            await asyncio.gather(*(one.close() for one in started))  # those that did start
            raise
        return self._opened(found, started, 0, began, sweep)


def _warm_up(runtime: TensorRuntime, found: Found, golden: GoldenTensors | None) -> dict[int, float]:
    """Asks it for golden rows, then for some of nothing but zeros; the seconds by number of rows."""
    if golden is not None:
        _check(found, golden, runtime.run(golden.arrays(runtime.inputs, str(found.golden))), runtime.outputs)
    sweep: dict[int, float] = {}
    for rows in _SWEEP if counts_rows((*runtime.inputs, *runtime.outputs)) else (1,):
        arrays = sample(runtime.inputs, rows)
        try:
            runtime.run(arrays)  # the first one of a size is slower
            sweep[rows] = _took(runtime, arrays)
            if sweep[rows] <= _LONG:  # without what may have come between
                sweep[rows] = min(sweep[rows], _took(runtime, arrays), _took(runtime, arrays))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - zeros need not be what it takes
            return sweep
        if sweep[rows] > _LONG:
            break
    return sweep


def _took(runtime: TensorRuntime, arrays: Arrays) -> float:
    began = time.perf_counter()
    runtime.run(arrays)
    return time.perf_counter() - began


async def _warm_up_apart(model: Supervised, found: Found, golden: GoldenTensors | None) -> dict[int, float]:
    """Asks it for golden rows alone: the code of others may do anything with zeros."""
    if golden is None:
        return {}
    arrays = golden.arrays(model.inputs, str(found.golden))
    began = time.perf_counter()
    answers = await model.run(arrays)
    rows = len(arrays[0]) if counts_rows((*model.inputs, *model.outputs)) else 1
    _check(found, golden, answers, model.outputs)
    return {max(rows, 1): time.perf_counter() - began}


def _check(found: Found, golden: GoldenTensors, answers: Arrays, specs: Sequence[TensorSpec]) -> None:
    where = str(found.golden)
    fit_answer(answers, specs, rows=None, nan=found.options.nan, where=where)
    check_golden(golden, answers, specs, tolerance=found.options.tolerance, where=where)


def _check_room(found: Found) -> None:
    left = available_bytes()
    if found.size > left:
        what = f"it needs {found.size // _MIB:,} MiB, and {left // _MIB:,} MiB of memory are left"
        raise ModelError(what, where=f"model {found.name!r}", remedy="Unload others, or lower `models_mib`")


def _no_memory(found: Found) -> ModelError:
    what = "there was no memory left to load it"
    return ModelError(what, where=f"model {found.name!r}", remedy="Unload others, or lower `models_mib`")
