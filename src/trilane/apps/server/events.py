"""Events at the door: checked, sorted, and appended to the log or kept among the dead letters.

Laws: what is answered as accepted is on disk, and decisions never wait for that disk; who is over a quota, or of a tier
for which there is no room before that disk, hears it before the body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from trilane.apps.project import Project
from trilane.apps.server.appender import Appender
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.http import read_body, refuse, send
from trilane.apps.server.limits import SMALL_BODY
from trilane.apps.server.request import Request
from trilane.errors import DefinitionError, TrilaneError
from trilane.serving.admission import CALLER, TIER, Refusal
from trilane.serving.metrics import Metrics
from trilane.serving.policy import STANDARD, TIERS
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import is_packed, letters_of, sort_body

__all__ = ["Events"]

_encode = msgspec.json.Encoder(enc_hook=str).encode
_PARTS = (1.0, 0.75, 0.5, 0.25)  # of the room for what waits for the log: up to where each tier may fill it


class Events:
    """Takes the events of one server process."""

    def __init__(
        self, project: Project, deployments: Deployments, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._project, self._deployments, self._metrics = project, deployments, metrics
        self._appender = Appender(project.log, project.clock, loop)
        self._hot: dict[str, HotKeys] = {}
        self._schemas = project.schemas

    def close(self) -> None:
        """Appends what waits."""
        self._appender.close()

    async def take(self, request: Request, name: str) -> int:
        """Answers `POST /v1/events/{source}`."""
        definitions = self._deployments.definitions
        sources = definitions.sources if definitions else {}
        source = sources.get(name)
        if source is None:
            remedy = f"The applied sources are {', '.join(sorted(sources)) or 'none'}"
            raise DefinitionError(f"there is no event source {name!r}", where=name, remedy=remedy, status=404)
        admission, began = self._deployments.admission, time.perf_counter()
        caller = (request.headers.get(CALLER) or "") if admission.asks_who else ""
        tier = admission.tier(TIERS.index(STANDARD), request.headers.get(TIER), caller)
        refusal = self._refusal(caller, tier, request.length, began)
        if refusal is not None:
            return refuse(request, refusal)
        body = await read_body(request)
        kind = request.headers.get("content-type") or ""
        hot = self._hot.get(name)
        if hot is None or hot.source != source:
            hot = self._hot[name] = HotKeys(self._project.log, source)
        if hot.is_due(self._project.clock.now()):
            # Not here: it reads the log, and may write to it.
            await asyncio.get_running_loop().run_in_executor(None, hot.look, self._project.clock.now())
            self._metrics.hot_keys.labels(name).set(len(hot.splits))
        now = self._project.clock.now()
        sort = functools.partial(sort_body, source, body, kind, hot, now=now, schemas=self._schemas)
        if source.format.kind == "json" and not is_packed(kind) and len(body) <= SMALL_BODY:
            found, texts = sort()
        else:  # not here: it may ask a schema registry, or has much to take apart
            found, texts = await asyncio.get_running_loop().run_in_executor(None, sort)
        admission.charge(caller, sum(map(len, found.accepted.values())) + len(found.rejected), began)
        if found.rejected:
            # Not here: it waits for the disk, and decisions must not.
            with self._counting_failures("dead_letters"):
                await asyncio.get_running_loop().run_in_executor(None, self._bury, name, texts, found.rejected)
        futures = [self._appender.append(name, p, values) for p, values in found.accepted.items()]
        with self._counting_failures("log"):
            ends = await asyncio.gather(*futures)
        offsets = {str(partition): end for partition, end in zip(found.accepted, ends, strict=True)}
        accepted = sum(map(len, found.accepted.values()))
        self._metrics.events.labels(name, "accepted").inc(accepted)
        self._metrics.events.labels(name, "rejected").inc(len(found.rejected))
        answer = {"accepted": accepted, "rejected": found.rejected, "offsets": offsets}
        return send(request, 202 if accepted else 422, _encode(answer))

    def _refusal(self, caller: str, tier: int, size: int, now: float) -> Refusal | None:
        """Why events of so many bytes are not taken, if they are not."""
        admission, appender = self._deployments.admission, self._appender
        refusal = admission.afford(caller, tier, now)
        if refusal is None and appender.waiting + max(size, 0) > _PARTS[tier] * appender.capacity:
            # What is under way takes at least as long again, as far as anybody knows.
            return admission.refuse_full(appender.lasts, tier, now, caller=caller, paid=True)
        return refusal

    @contextlib.contextmanager
    def _counting_failures(self, store: str) -> Iterator[None]:
        try:
            yield
        except TrilaneError:
            self._metrics.store_failures.labels(store).inc()
            raise

    def _bury(self, source: str, texts: list[bytes], rejected: list[Any]) -> None:
        self._project.dead_letters.add(letters_of(source, texts, rejected, now=self._project.clock.now()))
