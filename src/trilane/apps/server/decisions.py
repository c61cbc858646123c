"""Decisions of one server process: asked for by HTTP, or by whatever else speaks for a caller.

Law: every decision goes through the batcher of its endpoint, whatever protocol asked for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable

import msgspec
from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from trilane.apps.server.deployments import Deployed, Deployments, Portion
from trilane.apps.server.http import patience, read_body, send, wants_batch
from trilane.apps.server.measuring import Measuring
from trilane.apps.server.wire import MSGPACK, wire
from trilane.errors import DefinitionError, UnavailableError
from trilane.serving.engine import Answers
from trilane.serving.metrics import Metrics
from trilane.serving.protocol.decisions import with_batch
from trilane.serving.share import Share
from trilane.serving.story import Fact, Story, stages_of

__all__ = ["Decisions"]


class Decisions:
    """Finds what answers an endpoint, and asks it."""

    def __init__(self, deployments: Deployments, metrics: Metrics, measuring: Measuring) -> None:
        self._deployments, self._metrics, self._measuring = deployments, metrics, measuring

    async def answer(self, scope: Scope, protocol: HTTPProtocol, name: str) -> int:
        """Answers `POST /v1/decide/{endpoint}`."""
        began = time.perf_counter()
        deployed = self.find(name)
        form = wire(scope, tables=False)
        waits, told = patience(scope), wants_batch(scope)
        rows = deployed.row_format.rows(await read_body(scope, protocol), packed=form.asked == MSGPACK)
        share = await self.submit(deployed, rows, deadline=began + waits, began=began)
        encode = deployed.format.msgpack if form.answered == MSGPACK else deployed.format.encode
        body = encode(share.result, share.start, share.stop)
        if told:
            body = with_batch(body, share.explained(), packed=form.answered == MSGPACK)
        code = send(protocol, 200, body, form.headers)
        ended = time.perf_counter()
        took = ended - began
        trace = self._measuring.tell(scope, took, lambda parent: _story(name, share, began, ended, code, parent))
        self._metrics.time(name, took, trace)
        return code

    def submit(
        self, deployed: Deployed, rows: list[msgspec.Struct], *, began: float, deadline: float = math.inf
    ) -> Awaitable[Share[Answers]]:
        """The answers to rows that came at `began`, by the endpoint's deadline and the caller's."""
        nearest = min(began + deployed.bundle.deadline / 1e6, deadline)
        return deployed.batcher.submit(Portion(rows, nearest), rows=len(rows), deadline=nearest)

    def find(self, name: str) -> Deployed:
        """What answers an endpoint. Raises DefinitionError (404), or UnavailableError for one that will be there."""
        try:
            return self._deployments.find(name)
        except DefinitionError as error:
            reason = self._deployments.why_not(name)
            if reason is None:
                raise DefinitionError(error.what, where=name, remedy=error.remedy, status=404) from None
            remedy = "Ask again once `/health/ready` names this endpoint; `trilane status` shows what is deployed"
            raise UnavailableError(reason, where=name, remedy=remedy) from None


def _story(name: str, share: Share[Answers], began: float, ended: float, status: int, parent: str) -> Story:
    answers = share.result
    why = {reason: None for row in range(share.start, share.stop) for reason in answers.why(row)}
    facts: dict[str, Fact] = {
        "decision": f"{answers.id}-{share.start}",
        "bundle": answers.bundle[:16],
        "asked_rows": share.stop - share.start,
        **share.explained(),
    }
    if why:
        facts["why"] = "; ".join(why)
    stages = () if share.account is None else stages_of(began, share.arrived, share.account, answers.parts, ended)
    return Story("decide", name, began, ended, status, stages, facts, parent)
