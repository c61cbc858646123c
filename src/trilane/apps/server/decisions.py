"""Decisions of one server process: asked for by HTTP, or by whatever else speaks for a caller.

Laws: every decision goes through admission and the batcher of its endpoint, whatever protocol asked for it; what comes
over HTTP and is refused by what its head says, is refused before its body is read.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable
from typing import Any

import msgspec

from trilane.apps.server.deployments import Deployed, Deployments
from trilane.apps.server.http import patience, read_body, refuse, send, wants_batch
from trilane.apps.server.limits import CODING, EXPLAIN
from trilane.apps.server.measuring import Measuring
from trilane.apps.server.portions import Portion
from trilane.apps.server.request import Request
from trilane.apps.server.stories import PARENT
from trilane.apps.server.wire import MSGPACK, wire
from trilane.errors import DefinitionError, UnavailableError
from trilane.serving.admission import CALLER, QUOTA, TIER, Entry, Refusal
from trilane.serving.deadline import ENVOY, GRPC, HEADER
from trilane.serving.engine import Answers
from trilane.serving.inference import Inference, Question
from trilane.serving.metrics import Metrics
from trilane.serving.protocol.decisions import with_batch
from trilane.serving.share import Share
from trilane.serving.story import Fact, Stage, Story, stages_of

__all__ = ["Decisions", "inference_story"]

_WISHES = frozenset((HEADER, ENVOY, GRPC, TIER, EXPLAIN, CODING))  # headers of a caller with wishes of its own


class Decisions:
    """Finds what answers an endpoint, and asks it."""

    def __init__(self, deployments: Deployments, metrics: Metrics, measuring: Measuring) -> None:
        self._deployments, self._metrics, self._measuring = deployments, metrics, measuring

    async def answer(self, request: Request, name: str) -> int:
        """Answers `POST /v1/decide/{endpoint}`."""
        began = time.perf_counter()
        deployed = self.find(name)
        headers, admission = request.headers, self._deployments.admission
        tier, deadline, caller = deployed.tier, math.inf, ""
        is_plain = _WISHES.isdisjoint(headers)  # as nearly all are: one look for all wishes
        if not is_plain or admission.asks_who:
            caller, deadline = headers.get(CALLER, "") if admission.asks_who else "", began + patience(request)
            tier = admission.tier(tier, headers.get(TIER), caller)
        entry = self.enter(deployed, began=began, deadline=deadline, tier=tier, caller=caller)
        if isinstance(entry, Refusal):
            return refuse(request, entry)
        answered = None
        try:
            form, told = wire(request, tables=False), not is_plain and wants_batch(request)
            asked = (request.whole if is_plain or CODING not in headers else None) or await read_body(request)
            rows = deployed.row_format.rows(asked, packed=form.asked == MSGPACK)
            if len(rows) > 1:  # the first is paid by whoever is let in
                admission.charge(caller, len(rows), began)
            share = await _queued(deployed, rows, entry)
            answered = time.perf_counter()
        finally:
            admission.leave(entry, answered)
        encode = deployed.format.msgpack if form.answered == MSGPACK else deployed.format.encode
        body = encode(share.result, share.start, share.stop)
        if told:
            body = with_batch(body, share.explained(), packed=form.answered == MSGPACK)
        code = send(request, 200, body, form.headers)
        ended = time.perf_counter()
        took = ended - began
        trace = ""
        if self._measuring.may_want(took):
            story = functools.partial(_story, name, share, began, ended, code)
            trace = self._measuring.tell(headers.get(PARENT), took, story)
        self._metrics.time(name, took, trace)
        return code

    def enter(
        self, deployed: Deployed, *, began: float, deadline: float = math.inf, tier: int | None = None, caller: str = ""
    ) -> Entry | Refusal:
        """Lets in a request that came at `began`, by the endpoint's deadline and the caller's, or tells why not.

        The entry goes to `admission.leave` once, whatever becomes of the request. `tier` is one that
        `admission.tier` or `admission.prioritised` gave; None: the endpoint's.
        """
        due = min(began + deployed.bundle.deadline / 1e6, deadline)
        number, ladder = deployed.tier if tier is None else tier, bool(deployed.engine.endpoint.fallback)
        found = self._deployments.admission.admit(deployed.batcher, number, began, due, caller=caller, ladder=ladder)
        if isinstance(found, Refusal):
            _count_refusal(deployed, found)
        return found

    def foresee(self, deployed: Deployed, *, deadline: float, caller: str = "", priority: int = 0) -> Refusal | None:
        """Why rows that come now, and are not read yet, will not be let in by `submit`; None if they may be.

        The body may set a priority where it is 0, and an earlier deadline.
        """
        now, admission = time.perf_counter(), self._deployments.admission
        found = admission.foresee(
            deployed.batcher,
            admission.prioritised(deployed.tier, priority or 1, caller),
            now,
            min(now + deployed.bundle.deadline / 1e6, deadline),
            caller=caller,
            ladder=bool(deployed.engine.endpoint.fallback),
            told=admission.prioritised(deployed.tier, priority, caller),
        )
        if found is not None:
            _count_refusal(deployed, found)
        return found

    async def submit(
        self,
        deployed: Deployed,
        rows: list[msgspec.Struct],
        *,
        began: float,
        deadline: float = math.inf,
        caller: str = "",
        priority: int = 0,
    ) -> Share[Answers]:
        """The answers to rows that came at `began` and are decoded already, as `enter` lets them in.

        `priority`: 1 for the highest tier, 0 for the endpoint's. Raises UnavailableError (429) if it does not.
        """
        tier = self._deployments.admission.prioritised(deployed.tier, priority, caller)
        entry = self.enter(deployed, began=began, deadline=deadline, tier=tier, caller=caller)
        if isinstance(entry, Refusal):
            raise entry.error()
        answered, admission = None, self._deployments.admission
        try:
            admission.charge(caller, len(rows), began)
            share = await _queued(deployed, rows, entry)
            answered = time.perf_counter()
        finally:
            admission.leave(entry, answered)
        return share

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


def _count_refusal(deployed: Deployed, refusal: Refusal) -> None:
    if deployed.promised is not None and refusal.reason != QUOTA:
        deployed.promised.refused(1)  # how many rows it would have brought is not known yet


def _queued(deployed: Deployed, rows: list[msgspec.Struct], entry: Entry) -> Awaitable[Share[Answers]]:
    """The answers to the rows of a request that was let in."""
    portion, promised, size = Portion(rows, entry.deadline), deployed.promised, len(rows)
    if promised is None:
        return deployed.batcher.submit(portion, rows=size, deadline=entry.due, tier=entry.tier)
    try:
        answer = deployed.batcher.submit(portion, rows=size, deadline=entry.due, tier=entry.tier)
    except UnavailableError:
        promised.refused(size)
        raise

    def counted(done: asyncio.Future[Share[Answers]]) -> None:
        if done.cancelled():
            return  # whoever asked has gone
        if done.exception() is None:
            promised.answered(size, time.perf_counter() - entry.began)
        else:
            promised.refused(size)

    answer.add_done_callback(counted)
    return answer


def _story(name: str, share: Share[Answers], began: float, ended: float, status: int, parent: str) -> Story:
    facts, stages = _facts(share), _stages(share, began, ended)
    return Story("decide", name, began, ended, status, stages, facts, parent)


def inference_story(
    route: str, answer: Inference, asked: Question, began: float, ended: float, status: int, parent: str
) -> Story:
    """The story of a question of the inference protocol: of an endpoint's decision, or of a model alone."""
    share = answer.share
    if share is None:
        return Story(route, asked.model, began, ended, status, (), {}, parent)
    stages = _stages(share, began, ended)
    return Story(route, asked.model, began, ended, status, stages, {"version": answer.version, **_facts(share)}, parent)


def _stages(share: Share[Any], began: float, ended: float) -> tuple[Stage, ...]:
    """The stages of a request that was answered by a share of a batch."""
    parts = share.result.parts if isinstance(share.result, Answers) else {}
    return () if share.account is None else stages_of(began, share.arrived, share.account, parts, ended)


def _facts(share: Share[Any]) -> dict[str, Fact]:
    """What there is to tell of a share: its batch and, of an endpoint's, the decision and why it is a worse one."""
    answers, facts = share.result, dict[str, Fact]()
    if isinstance(answers, Answers):
        facts |= {"decision": f"{answers.id}-{share.start}", "bundle": answers.bundle[:16]}
    facts |= {"asked_rows": share.stop - share.start, **share.explained()}
    if isinstance(answers, Answers):
        why = {reason: None for row in range(share.start, share.stop) for reason in answers.why(row)}
        facts |= {"why": "; ".join(why)} if why else {}
    return facts
