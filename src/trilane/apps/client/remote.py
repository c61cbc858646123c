"""The client over HTTP: a pool of kept connections, deadlines, retries, and large reads as concurrent portions.

Laws: a call ends by its deadline, with its whole answer or an error; what is asked again is what `Question` allows.
`Client` is `AsyncClient` on a loop of its own, so that the two cannot differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import threading
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy.typing as npt

from trilane.apps.client import answers, questions
from trilane.apps.client.answers import Answered, Decided, Features, Readiness, Refused, Sent
from trilane.apps.client.patience import AGAIN, Patience, seconds_of
from trilane.apps.client.questions import Inputs, Question, Shaped
from trilane.apps.client.tensors import HEADER, Arrays, inferring, outputs_of
from trilane.apps.server.limits import DEADLINE, DECISIONS, FEATURE_ROWS, LARGEST_BODY
from trilane.errors import ConflictError, SetupError, TrilaneError, UnavailableError

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")
_URL = "http://127.0.0.1:8321"
_NEVER_HEARD = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def _new_id() -> str:
    return uuid.uuid4().hex


class AsyncClient:
    """Asks the server at `url`.

    `timeout`: seconds that a call may take with all its attempts, unless the call says otherwise; `retries`: how often
    a request is repeated; `connections`: how many are open, and asked at once, at most; `headers`: sent with each
    request. `jitter` gives numbers in [0, 1), `new_id` the id of a request; tests give their own. Raises SetupError for
    what is no URL.
    """

    def __init__(
        self,
        url: str = _URL,
        *,
        timeout: float = 10.0,
        retries: int = 5,
        connections: int = 8,
        headers: Mapping[str, str] | None = None,
        jitter: Callable[[], float] = random.random,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        self.url = _checked(url)
        self._patience = Patience(timeout=timeout, retries=retries)
        self._jitter, self._new_id = jitter, new_id
        limits = httpx.Limits(max_connections=max(connections, 1), max_keepalive_connections=max(connections, 1))
        self._http = httpx.AsyncClient(limits=limits, headers=dict(headers or {}), timeout=None)
        self._at_once = asyncio.Semaphore(max(connections, 1))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def decide(self, endpoint: str, rows: Inputs, *, timeout: float | None = None) -> list[Decided]:
        """Decisions about rows, one or many. Raises the error that the server tells, or UnavailableError."""
        deadline, given = self._deadline(timeout), questions.shaped(rows)

        async def ask(part: Shaped) -> list[Decided]:
            return answers.decisions_of(await self._ask(questions.deciding(endpoint, part), deadline), len(part))

        found = await self._together(ask, questions.cut(given, DECISIONS), deadline)
        return list(itertools.chain.from_iterable(found))

    async def features(self, name: str, rows: Inputs, *, timeout: float | None = None) -> Features:
        """The features of an endpoint or of `view,view.feature,...` for rows. Raises as `decide` does."""
        deadline, given = self._deadline(timeout), questions.shaped(rows)

        async def ask(part: Shaped) -> Features:
            return await self._read(name, part, deadline)

        return answers.joined(await self._together(ask, questions.cut(given, FEATURE_ROWS), deadline))

    async def infer(
        self,
        model: str,
        inputs: Arrays,
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        timeout: float | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """The outputs of a model or an endpoint, by name, for arrays by name. Raises as `decide` does."""
        question = inferring(model, inputs, outputs=outputs, version=version)
        return outputs_of(await self._ask(question, self._deadline(timeout)))

    async def send(
        self, source: str, events: Iterable[Mapping[str, object] | bytes | str], *, timeout: float | None = None
    ) -> Sent:
        """Sends events in order. An error's fact `accepted` says how many were taken before; sending all of them again
        is safe, for their ids tell.
        """
        deadline, accepted, first = self._deadline(timeout), 0, 0
        rejected: list[Refused] = []
        for body, number in questions.event_bodies(events):
            try:
                found = answers.sent_of(await self._ask(questions.sending(source, body), deadline), first)
            except TrilaneError as error:
                error.facts["accepted"] = accepted
                raise
            accepted, first = accepted + found.accepted, first + number
            rejected.extend(found.rejected)
        return Sent(accepted, tuple(rejected))

    async def explain(self, id: str, *, timeout: float | None = None) -> dict[str, object]:
        """The record of a decision, and its score computed again."""
        return answers.explanation_of(await self._ask(questions.explaining(id), self._deadline(timeout)))

    async def ready(self, *, timeout: float | None = None) -> Readiness:
        """Whether the server answers for every endpoint, asked once. A server that is away is not ready."""
        try:
            answer = await self._ask(Question("GET", "/health/ready"), self._deadline(timeout), retries=0, worse=(503,))
        except UnavailableError as error:
            return Readiness(ready=False, reason=error.what)
        return answers.readiness_of(answer)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    def _deadline(self, timeout: float | None) -> float:
        patience = self._patience if timeout is None else Patience(timeout=timeout)
        return asyncio.get_running_loop().time() + patience.timeout

    async def _together(
        self, ask: Callable[[Shaped], Coroutine[Any, Any, T]], parts: Iterable[Shaped], deadline: float
    ) -> list[T]:
        """The answers to all parts, in order, asked `connections` at a time; the first that fails ends the others."""

        async def one(part: Shaped) -> T:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._at_once.acquire()
            except TimeoutError:
                raise self._late(self.url, "") from None
            try:
                return await ask(part)
            finally:
                self._at_once.release()

        tasks = [asyncio.ensure_future(one(part)) for part in parts]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _read(self, name: str, rows: Shaped, deadline: float) -> Features:
        """The features of a portion; of half of it, and of the other, if it is too much for the server."""
        question = questions.reading(name, rows)
        answer = None
        if len(question.body) <= LARGEST_BODY or len(rows) < 2:
            answer = await self._ask(question, deadline)
            if answer.status != 413 or len(rows) < 2:
                return answers.features_of(answer, len(rows))
        halves = questions.cut(rows, (len(rows) + 1) // 2)
        return answers.joined([await self._read(name, half, deadline) for half in halves])

    async def _ask(
        self, question: Question, deadline: float, *, retries: int | None = None, worse: tuple[int, ...] = ()
    ) -> Answered:
        """The answer, after as many attempts as patience allows; `worse`: statuses of it that are answers as well."""
        loop, id, where = asyncio.get_running_loop(), self._new_id(), self._where(question)
        attempt = 0
        while True:
            error: TrilaneError
            retry_after, again = 0.0, True
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._exchange(question, id, deadline - loop.time())
            except TimeoutError:
                raise self._late(where, id) from None
            except httpx.RequestError as fault:
                error = self._away(where, id, fault)
                again = question.again or isinstance(fault, _NEVER_HEARD)
            else:
                if answer.status not in AGAIN or answer.status in worse:
                    return answer
                error, retry_after = answers.error_of(answer), answer.retry_after
            left, chance = deadline - loop.time(), self._jitter()
            pause = self._patience.pause(attempt, left=left, retry_after=retry_after, chance=chance)
            attempt += 1
            if pause is None or not again or retries == 0:
                error.facts["attempts"] = attempt
                raise error
            await asyncio.sleep(pause)

    async def _exchange(self, question: Question, id: str, left: float) -> Answered:
        headers = {**question.headers, DEADLINE: str(max(int(left * 1e3), 1)), "x-request-id": id}
        url = f"{self.url}{question.path}"
        found = await self._http.request(question.method, url, content=question.body, headers=headers)
        media, pause = found.headers.get("content-type", ""), seconds_of(found.headers.get("retry-after", ""))
        header = found.headers.get(HEADER, "")
        size = int(header) if header.isdecimal() else 0
        return Answered(found.status_code, media, found.content, self._where(question), id, pause, size)

    def _where(self, question: Question) -> str:
        return f"{question.method} {self.url}{question.path}"

    def _late(self, where: str, id: str) -> UnavailableError:
        remedy = "Try again, give more time by timeout=, or see `trilane status` for what the server waits for"
        what = "there was no answer before the deadline"
        return UnavailableError(what, where=where, remedy=remedy, request_id=id, deadline=True)

    def _away(self, where: str, id: str, fault: httpx.RequestError) -> UnavailableError:
        what = f"no answer came: {str(fault) or type(fault).__name__}"
        remedy = "Check that a server runs there (`trilane up`), and try again"
        return UnavailableError(what, where=where, remedy=remedy, request_id=id)


class Client:
    """Asks the server at `url`, for programs without an event loop; options and methods are those of `AsyncClient`.

    Any number of threads may use it. It belongs to the process that made it: a fork makes its own.
    """

    def __init__(
        self,
        url: str = _URL,
        *,
        timeout: float = 10.0,
        retries: int = 5,
        connections: int = 8,
        headers: Mapping[str, str] | None = None,
        jitter: Callable[[], float] = random.random,
        new_id: Callable[[], str] = _new_id,
    ) -> None:
        options: dict[str, Any] = {"connections": connections, "headers": headers, "jitter": jitter, "new_id": new_id}
        self._own = AsyncClient(url, timeout=timeout, retries=retries, **options)
        self.url, self._process = self._own.url, os.getpid()
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="trilane-client", daemon=True)
        thread.start()
        # Also when nobody closes it, and at the end of the program, after which no loop may run.
        self._end = weakref.finalize(self, _stop, self._loop, thread, self._own, self._process)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decide(self, endpoint: str, rows: Inputs, *, timeout: float | None = None) -> list[Decided]:
        """As `AsyncClient.decide`."""
        return self._run(self._own.decide(endpoint, rows, timeout=timeout))

    def features(self, name: str, rows: Inputs, *, timeout: float | None = None) -> Features:
        """As `AsyncClient.features`."""
        return self._run(self._own.features(name, rows, timeout=timeout))

    def infer(
        self,
        model: str,
        inputs: Arrays,
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        timeout: float | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """As `AsyncClient.infer`."""
        return self._run(self._own.infer(model, inputs, outputs=outputs, version=version, timeout=timeout))

    def send(
        self, source: str, events: Iterable[Mapping[str, object] | bytes | str], *, timeout: float | None = None
    ) -> Sent:
        """As `AsyncClient.send`."""
        return self._run(self._own.send(source, events, timeout=timeout))

    def explain(self, id: str, *, timeout: float | None = None) -> dict[str, object]:
        """As `AsyncClient.explain`."""
        return self._run(self._own.explain(id, timeout=timeout))

    def ready(self, *, timeout: float | None = None) -> Readiness:
        """As `AsyncClient.ready`."""
        return self._run(self._own.ready(timeout=timeout))

    def close(self) -> None:
        """Closes the connections; may be called twice."""
        self._end()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if not self._end.alive or os.getpid() != self._process:
            call.close()
            what = "the client is closed" if not self._end.alive else "the client was made by another process"
            raise ConflictError(what, where=self.url, remedy="Make another one")
        running = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()  # of a caller who was interrupted
            raise


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, own: AsyncClient, process: int) -> None:
    if os.getpid() != process:
        return  # the thread is the parent's
    with contextlib.suppress(Exception):  # connections that fail to close are closed
        asyncio.run_coroutine_threadsafe(_ended(own), loop).result(timeout=5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=5)
    loop.close()


async def _ended(own: AsyncClient) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await own.close()


def _checked(url: str) -> str:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SetupError(f"this is no URL: {error}", where=url, remedy=f"Give one such as {_URL}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise SetupError("this is no URL of a server", where=url, remedy=f"Give one such as {_URL}")
    return url.rstrip("/")
