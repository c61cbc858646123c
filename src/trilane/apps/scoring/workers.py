"""The processes of a scoring job, if there are several: each with a runtime of its own, each given a part at a time.

Laws: a worker that is killed costs only its part, which another scores; the part at which two have died fails the job.
When the parent is gone its workers end by themselves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import pyarrow as pa

from trilane.apps.config import Config
from trilane.apps.logs import log_to_stderr
from trilane.apps.project import Project
from trilane.apps.scoring.job import Done, Job, Part
from trilane.apps.scoring.opening import open_scorer
from trilane.apps.scoring.output import Output
from trilane.apps.scoring.waiting import Waiting
from trilane.errors import SetupError, TrilaneError, WorkflowError

__all__ = ["score_parts"]

_PATIENCE = 10.0  # seconds that a worker which was told to end may take
_Told = int | Done | TrilaneError


def score_parts(
    config: Config, job: Job, output: Output, parts: Sequence[Part], *, workers: int, progress: Callable[[int], None]
) -> Iterator[Done]:
    """What became of each of `parts`, as they end; `progress` hears of rows. Raises what a worker raised.

    One worker is this process itself.
    """
    if workers == 1 or len(parts) < 2:
        yield from _alone(config, job, output, parts, progress)
        return
    waiting, died = Waiting(parts), set[int]()
    crew = [_Worker(config, job, output) for _ in range(min(workers, len(parts)))]
    try:
        for worker in crew:
            worker.give(waiting.next())
        while busy := {worker.connection: worker for worker in crew if worker.part is not None}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                told = worker.hear()
                if isinstance(told, int):
                    progress(told)
                elif isinstance(told, Done):
                    last, worker.part = worker.part, None
                    yield told
                    worker.give(waiting.next(last))
                elif isinstance(told, TrilaneError):
                    raise told
                else:
                    crew[crew.index(worker)] = _replaced(worker, died, _Worker(config, job, output))
    finally:
        for worker in crew:
            worker.dismiss()
        for worker in crew:
            worker.join()


def _alone(
    config: Config, job: Job, output: Output, parts: Sequence[Part], progress: Callable[[int], None]
) -> Iterator[Done]:
    if parts:
        with (
            Project(config) as project,
            contextlib.closing(open_scorer(project, job, output, progress=progress)) as scorer,
        ):
            for part in parts:
                try:
                    yield scorer.score(part)
                except TrilaneError:
                    raise
                except Exception as error:
                    raise _failed(error) from error


class _Worker:
    """The parent's side of one process; `part` is what it is at."""

    def __init__(self, config: Config, job: Job, output: Output) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.part: Part | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, config, job, output), daemon=True)
        with _uninterrupted():
            self.process.start()
        theirs.close()  # or its death would not show

    def give(self, part: Part | None) -> None:
        self.part = part
        if part is None:
            return
        with contextlib.suppress(OSError):  # it has died already, which is heard next
            self.connection.send(part)

    def hear(self) -> _Told | None:
        try:
            told: _Told = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return None
        return told

    def dismiss(self) -> None:
        self.connection.close()  # at which it ends by itself, unless it is in the middle of a part
        if self.part is not None:
            self.process.terminate()

    def join(self) -> None:
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started here is not told of Ctrl-C, which would end it with a traceback before it can say otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _replaced(worker: _Worker, died: set[int], another: _Worker) -> _Worker:
    """`another` in the place of one that died, at the same part."""
    part = worker.part
    worker.dismiss()
    worker.join()
    if part is None or part.number in died:
        another.dismiss()
        another.join()
        number, code = -1 if part is None else part.number, worker.process.exitcode
        raise SetupError(
            f"two workers died at part {number}, the last with status {code}",
            where="score",
            remedy="If memory ran out, give fewer --workers; then run the same command: what is done stays done",
        )
    died.add(part.number)
    another.give(part)
    return another


def _work(connection: Connection, config: Config, job: Job, output: Output) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells the parent too, which ends us
    log_to_stderr()
    pa.set_cpu_count(1)  # the processes are the parallelism
    pa.set_io_thread_count(1)
    try:
        with (
            Project(config) as project,
            contextlib.closing(open_scorer(project, job, output, progress=connection.send)) as scorer,
        ):
            while True:
                connection.send(scorer.score(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # There is no more to do, or nobody to do it for. All is closed and on disk; what Python would still take apart,
        # library by library, takes longer than a part of a small job.
        os._exit(0)
    except TrilaneError as error:
        _tell(connection, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        _tell(connection, _failed(error))


def _failed(error: Exception) -> WorkflowError:
    what = f"a worker failed: {type(error).__name__}: {error}"
    return WorkflowError(what, where="score", remedy="Run it with --workers 1 --debug, and report the defect")


def _tell(connection: Connection, error: TrilaneError) -> None:
    with contextlib.suppress(OSError):
        connection.send(error)
