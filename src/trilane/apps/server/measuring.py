"""What is noted of each request that asks for an answer: how long it took, whether it was refused, and its story.

Law: what is noted never changes an answer, nor keeps it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trilane.apps.config import Config
from trilane.apps.server.http import status_of
from trilane.apps.server.replicas import Replicas
from trilane.apps.server.request import Request
from trilane.apps.server.routes import Answer
from trilane.apps.server.stories import PARENT, Stories
from trilane.errors import TrilaneError
from trilane.serving.metrics import Metrics
from trilane.serving.signals import Signals, Told
from trilane.serving.story import Fact, Story

if TYPE_CHECKING:
    from trilane.apps.server.traces import Traces

__all__ = ["Measuring"]

_OVERLOAD, _DEFECT = 429, 500


class Measuring:
    """Notes the requests of one process. `queued`: the rows that wait in it."""

    def __init__(
        self, config: Config, metrics: Metrics, *, queued: Callable[[], int], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._signals = Signals(now=time.perf_counter(), cpu=time.process_time, queued=queued)
        self._stories = Stories(slow=config.slow / 1e6, traces=_traces(config))
        self._replicas = Replicas(
            self._signals,
            state=config.state,
            port=config.port,
            alone=config.workers == 1,
            loop=loop,
            tell=metrics.tell,
        )

    def told(self) -> Told:
        """The signals of all workers of this server."""
        return self._replicas.told()

    def worked(self, seconds: float) -> None:
        """A batch that ended now took `seconds`."""
        self._signals.worked(time.perf_counter(), seconds)

    def close(self) -> None:
        """Notes no more, and sends what is left to send."""
        self._replicas.close()
        self._stories.close()

    def around(self, answer: Answer, route: str, *, tells: bool = False) -> Answer:
        """`answer`, each call of which is noted; `tells`: whether it tells the stories of its requests itself."""

        async def measured(request: Request, *parameters: str) -> int:
            began = self.begun()
            refused = False
            try:
                code = await answer(request, *parameters)
                refused = code == _OVERLOAD
                if not tells:
                    wanted = self._stories.may_want(time.perf_counter() - began)
                else:
                    wanted = refused and PARENT in request.headers  # what is refused at the door is told by nobody else
                if wanted:
                    self._ended(route, "/".join(parameters), began, code, {}, request.headers.get(PARENT))
                return code
            except TrilaneError as error:
                refused = self.failed(route, "/".join(parameters), began, error, request.headers.get(PARENT))
                raise
            finally:
                self.ended(began, refused=refused)

        return measured

    def begun(self) -> float:
        """A request that asks for an answer begins, now, and ends when `ended` is told so."""
        self._signals.in_flight += 1
        return time.perf_counter()

    def ended(self, began: float, *, refused: bool) -> None:
        """A request that began then ended; `refused`: by 429."""
        now = time.perf_counter()
        self._signals.in_flight -= 1
        self._signals.answered(now, now - began, refused=refused)

    def failed(self, route: str, name: str, began: float, error: TrilaneError, parent: str | None) -> bool:
        """Tells of a request that failed so: whether it was refused by 429.

        Where the fault is the caller's, only if that was slow or the caller traces it: many such are to cost little.
        """
        status = status_of(error)
        if status >= _DEFECT or parent or self._stories.is_slow(time.perf_counter() - began):
            self._ended(route, name, began, status, {"error": error.code, "what": error.what}, parent)
        return status == _OVERLOAD

    def may_want(self, seconds: float) -> bool:
        """Whether anybody may want the story of a request that took `seconds`: else it need not be made."""
        return self._stories.may_want(seconds)

    def tell(self, parent: str | None, seconds: float, story: Callable[[str], Story]) -> str:
        """Tells the story of a request that took `seconds`, made for its `traceparent`, if anybody wants it.

        Gives the id of its trace, empty if it has none.
        """
        traced = self._stories.traces(parent)
        if not traced and not self._stories.is_slow(seconds):
            return ""
        return self._stories.tell(story(parent or ""), traced=traced)

    def _ended(
        self, route: str, name: str, began: float, status: int, facts: Mapping[str, Fact], parent: str | None
    ) -> None:
        """Tells of a request of which no more is known than how it ended."""
        ended = time.perf_counter()
        self.tell(parent, ended - began, lambda parent: Story(route, name, began, ended, status, (), facts, parent))


def _traces(config: Config) -> Traces | None:
    if not config.traces:
        return None
    from trilane.apps.server.traces import Traces

    return Traces(config.traces, share=config.trace_share, service=config.name, timer=time.perf_counter)
