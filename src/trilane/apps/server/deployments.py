"""What this server answers with: each endpoint's deployed bundle, compiled, and swapped when another is deployed.

Law: a request is answered by one bundle, whole; of a bundle that cannot be compiled the reason is told, and the one
before it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from trilane.apps.definitions import Definitions
from trilane.apps.project import Project
from trilane.apps.server.breakers import Breakers
from trilane.apps.server.compiling import compile_measured
from trilane.apps.server.portions import Portion, heard, joined, sizes
from trilane.apps.server.settling import settle
from trilane.apps.slo import BUDGETS
from trilane.apps.watch import Watch
from trilane.clock import SECOND, Clock, SteadyClock, WallClock
from trilane.decisions.bundle import Bundle
from trilane.decisions.router.in_process import InProcessRouter
from trilane.errors import ConflictError, TrilaneError, UnavailableError
from trilane.features.view import View
from trilane.feedback.error_budget import Budgets
from trilane.feedback.record import Recorder
from trilane.models.runtime.apart import ApartRuntime
from trilane.serving.admission import Admission
from trilane.serving.batcher import Batcher
from trilane.serving.endpoint import Endpoint
from trilane.serving.engine import Answers, Engine, Scored
from trilane.serving.guard import GuardedStore, HeldUp
from trilane.serving.latency import LatencyModel
from trilane.serving.lateness import Lateness
from trilane.serving.metrics import Metrics
from trilane.serving.objective_count import ObjectiveCount
from trilane.serving.paced_reader import PacedReader
from trilane.serving.policy import TIERS, Policy
from trilane.serving.protocol.decisions import DecisionFormat
from trilane.serving.protocol.rows import RowFormat
from trilane.serving.reading import FeatureReader
from trilane.stores.online import versions

__all__ = ["Deployed", "Deployments"]

_log = logging.getLogger(__name__)
_READERS = 16  # threads, each with its connection, for reads that take long: one of them takes one at a time
_PART = 0.1  # of the time, at most, for trying again what cannot be compiled
_APPLIED = "definitions"  # the name, among the errors, of what is wrong with the applied definitions themselves

_Elsewhere: TypeAlias = Callable[[Callable[[], Scored]], Awaitable[Scored]]
_Keep: TypeAlias = Callable[[list[Portion], Answers, Answers], Answers]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A compiled bundle, ready to answer. `reads`: by which alone its features are read; `tier`: of requests that name
    none; `thread`: where its model is waited for, if that runs in a process of its own.
    """

    bundle: Bundle
    engine: Engine
    reads: PacedReader
    batcher: Batcher[Portion, Answers]
    row_format: RowFormat
    format: DecisionFormat
    tier: int
    promised: ObjectiveCount | None = None
    thread: ThreadPoolExecutor | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for its answers."""
        return not self.batcher.queued and not self.batcher.running

    def close(self) -> None:
        """Ends its model's process, and with it whatever still waits for an answer of it."""
        if self.thread is not None:  # all others are given back when nobody holds them
            self.engine.close()
            self.thread.shutdown()


class Deployments:
    """The endpoints of one server process. `errors` says, by endpoint, why a deployed bundle does not answer.

    `worked` is called with the seconds that each batch took.
    """

    def __init__(
        self,
        project: Project,
        clock: Clock,
        recorder: Recorder,
        metrics: Metrics,
        *,
        loop: asyncio.AbstractEventLoop,
        admission: Admission | None = None,
        period: float = 0.5,
        worked: Callable[[float], None] | None = None,
    ) -> None:
        self._worked = worked
        self._project, self._clock, self._recorder, self._metrics = project, clock, recorder, metrics
        self._loop, self._period = loop, period
        self.breakers = Breakers(metrics)
        self.breakers.guard(project)
        _open_store(project)
        self.admission = admission or Admission()
        self.budgets = Budgets(project.config.state / BUDGETS, clock)
        self.router = InProcessRouter()
        self.errors: dict[str, str] = {}
        self.definitions: Definitions | None = None
        self.served: Definitions | None = None  # by which reads by name are answered
        self.views: tuple[View, ...] = ()
        self._compiled: dict[str, Deployed] = {}
        self._leaving: list[Deployed] = []
        self._again: dict[str, float] = {}  # by bundle that could not be compiled: when it is tried again
        self._numbers = itertools.count()
        self._wall, self._steady = WallClock(), SteadyClock()
        self._stop = threading.Event()
        # One, as there is one core for it: two batches at once would but take each other's time.
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._read_threads = _read_threads(project)
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="deployment-watch", daemon=True)
        self._thread.start()

    def find(self, endpoint: str) -> Deployed:
        """What answers `endpoint` now. Raises DefinitionError if nothing does."""
        return self._compiled[self.router.route(endpoint)]

    def why_not(self, endpoint: str) -> str | None:
        """Why nothing answers `endpoint`, although it is declared or deployed; None if there is no such endpoint."""
        reason = self.errors.get(endpoint)
        if reason is not None:
            return reason
        if self.definitions is None:
            return self.errors.get(_APPLIED)
        declared = endpoint in self.definitions.endpoints
        return "it is not deployed yet: train its model, then run `trilane apply`" if declared else None

    def all(self) -> dict[str, Deployed]:
        """What answers each endpoint."""
        return {endpoint: self._compiled[digest] for endpoint, digest in self.router.routes().items()}

    def paced(self, reader: FeatureReader) -> PacedReader:
        """What reads by `reader` for callers on the loop."""
        return PacedReader(reader, loop=self._loop, threads=self._read_threads)

    @property
    def queued(self) -> int:
        """Rows that wait, of all endpoints."""
        return sum(deployed.batcher.queued for deployed in self._compiled.values())

    def refresh(self) -> None:
        """Compiles what was newly deployed, and then swaps all routes in one step."""
        known = self.definitions
        try:
            self.definitions = self._project.definitions
            self.served = self._project.served
            self.views = tuple(self._project.live_views().values())
            bundles = self._project.bundles()
        except ConflictError:
            return  # nothing was applied yet; readiness says so
        except TrilaneError as error:
            if self.errors.get(_APPLIED) != str(error):
                _log.error("the deployed bundles cannot be read: %s", error)
            self.errors[_APPLIED] = str(error)
            return
        routes = dict(self.router.routes())
        for endpoint, bundle in bundles.items():
            if routes.get(endpoint) == bundle.digest:
                self.errors.pop(endpoint, None)
                continue
            began = self._steady.now()
            if endpoint in self.errors and began < self._again.get(bundle.digest, 0):
                continue
            try:
                found = self._compiled.get(bundle.digest) or self._deployed(bundle)
            except TrilaneError as error:
                ended = self._steady.now()
                self._again[bundle.digest] = ended + int((ended - began) / _PART)
                if self.errors.get(endpoint) != str(error):
                    _log.error("endpoint %s: %s", endpoint, error)
                self.errors[endpoint] = str(error)
                continue
            self._compiled[bundle.digest] = found
            self.breakers.watch(endpoint, found.engine)
            self.errors.pop(endpoint, None)
            routes[endpoint] = bundle.digest
            _log.info("endpoint %s is answered by bundle %s", endpoint, bundle.digest[:16])
        for endpoint in set(self.errors) - set(bundles):
            del self.errors[endpoint]
        for endpoint in set(routes) - set(bundles):
            del routes[endpoint]
        before = self.router.routes()
        if routes != before or self.definitions is not known:
            settle(first=known is None)
        self.router.switch(routes)
        self._again = {digest: at for digest, at in self._again.items() if self.errors}
        self._limit(first=known is None)

    def _limit(self, *, first: bool) -> None:
        """Lets requests in by the policy that is applied now."""
        self.admission.watch([found.batcher for found in self._compiled.values()])
        policy = (self.definitions.policy if self.definitions else None) or Policy(limit=None)
        if policy == self.admission.policy:
            return
        _log.info("requests are let in by policy %s", policy.version[:16])
        if first:
            self.admission.adopt(policy)
        else:  # between two requests
            self._loop.call_soon_threadsafe(self.admission.adopt, policy)

    def close(self) -> None:
        """Stops watching, and waits for the reads that are under way."""
        self._stop.set()
        self._thread.join(timeout=5)
        for found in (*self._compiled.values(), *self._leaving):
            found.close()
        self.budgets.close()
        self._model_thread.shutdown(wait=False)
        self._read_threads.shutdown(cancel_futures=True)  # no longer than the store's timeout

    def _let_go(self) -> None:
        """Forgets what answers nobody any more; the process of a model ends once nobody waits for it.

        Called a period after the routes were switched: a request may have read a route and not yet what it names.
        """
        used = {*self.router.routes().values()}
        gone = [found for digest, found in self._compiled.items() if digest not in used]
        if gone:
            self._leaving += gone
            self._compiled = {digest: found for digest, found in self._compiled.items() if digest in used}
            self.admission.watch([found.batcher for found in self._compiled.values()])
        idle = [found for found in self._leaving if found.is_idle]
        self._leaving = [found for found in self._leaving if found not in idle]
        for found in idle:
            found.close()

    def _watch(self) -> None:
        watch = Watch(self._project.metadata)
        while not self._stop.wait(self._period):
            try:
                self._let_go()
                if self.errors or watch.moved(self._steady.now()):
                    self.refresh()
            except UnavailableError as error:
                watch.forget()
                _log.warning("what is deployed cannot be read now; the bundles before go on: %s", error)
            except Exception:  # noqa: BLE001 - of a state that no release of ours makes; the watch must outlive it
                _log.exception("what is deployed cannot be read; the bundles before go on")

    def _deployed(self, bundle: Bundle) -> Deployed:
        engine, prior = compile_measured(self._project, bundle, self._metrics)
        reads, (thread, elsewhere) = self.paced(engine.reader), self._place(engine)
        promised = self._promised(engine.endpoint)
        kept = self._keeping(bundle.endpoint, engine, promised)
        latency = LatencyModel.of(prior)  # what the model takes alone; what the reads add to it is learnt

        def run(portions: list[Portion]) -> Answers | Awaitable[Answers]:
            rows, deadline = joined(portions), min([portion.deadline for portion in portions])
            apart = thread is not None or (engine.is_long(len(rows)) and not engine.keeps_by_request)
            if apart or not (patience := reads.patience(len(rows))):
                return later(portions, rows, deadline, elsewhere if apart else None)
            now, id = self._clock.now(), self._new_id()
            try:
                found = engine.answer(rows, now=now, id=id, deadline=deadline, patience=patience)
            except HeldUp:
                return later(portions, rows, deadline, None)
            return kept(portions, found, found)

        async def later(
            portions: list[Portion], rows: list[msgspec.Struct], deadline: float, place: _Elsewhere | None
        ) -> Answers:
            now, id = self._clock.now(), self._new_id()
            found = await engine.answer_later(
                rows, now=now, id=id, deadline=deadline, read=reads.later, elsewhere=place
            )
            return kept(portions, found, heard(portions, found))

        def expire(portions: list[Portion], reason: str) -> Answers:
            rows, now = joined(portions, gone=True), time.perf_counter()
            ahead = [portion.deadline for portion in portions if portion.deadline > now]
            deadline = min(ahead, default=-math.inf)  # something quicker than the model may still meet it
            patience = reads.patience(len(rows))
            try:
                found = engine.answer_without_model(
                    rows, now=self._clock.now(), id=self._new_id(), reason=reason, deadline=deadline, patience=patience
                )
            except UnavailableError as error:  # there is more to do than time: overload, and no fault of ours
                raise UnavailableError(error.what, where=error.where, remedy=error.remedy, overload=True) from None
            return kept(portions, found, found)

        return Deployed(
            bundle,
            engine,
            reads,
            Batcher(
                run,
                expire,
                loop=self._loop,
                worked=self._worked,
                latency=latency,
                admission=self.admission,
                lateness=Lateness() if thread is not None else None,
            ),
            RowFormat(engine.endpoint.contract),
            DecisionFormat(engine.reader.plan.names, threshold=bundle.threshold),
            TIERS.index(engine.endpoint.tier),
            promised,
            thread,
        )

    def _keeping(self, name: str, engine: Engine, promised: ObjectiveCount | None) -> _Keep:
        """What puts the answers of an endpoint on record, and counts those that are heard."""
        names, values = engine.reader.plan.names, self._metrics.values_of(name, engine.reader.plan)

        def kept(portions: list[Portion], answers: Answers, told: Answers) -> Answers:
            if told.rows:
                self._recorder.put(name, names, answers, sizes(portions, len(answers.scores)))
                self._metrics.count(name, told)
                values.add(told.reading)
            if promised is not None:
                promised.made_by(told)
            return answers

        return kept

    def _place(self, engine: Engine) -> tuple[ThreadPoolExecutor | None, _Elsewhere]:
        """Where the model is waited for: of one in its own process, in a thread that holds up no other model."""
        if not isinstance(engine.runtime, ApartRuntime):
            return None, self._elsewhere
        engine.runtime.hurry(max(engine.endpoint.model.process.timeout, engine.endpoint.deadline) / SECOND)
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{engine.endpoint.name}")
        return thread, lambda predict: self._loop.run_in_executor(thread, predict)

    def _promised(self, endpoint: Endpoint) -> ObjectiveCount | None:
        if not endpoint.objectives:
            return None
        promised = ObjectiveCount(endpoint.objectives, deadline=endpoint.deadline / 1e6)
        self.budgets.keep(endpoint.name, promised)
        return promised

    def _elsewhere(self, predict: Callable[[], Scored]) -> Awaitable[Scored]:
        return self._loop.run_in_executor(self._model_thread, predict)

    def _new_id(self) -> str:
        # Time makes ids sortable, the process and the count make them unique among workers.
        return f"{self._wall.now():013x}{os.getpid() & 0xFFFFFF:06x}{next(self._numbers) & 0xFFFF:04x}"


def _open_store(project: Project) -> None:
    """Opens the online store and asks it for nothing, for the first request would wait for its driver to be loaded."""
    with contextlib.suppress(Exception):  # what is wrong with it is told by whatever reads it
        project.online.read([(versions.SPACE, [b"-"])], within=project.config.read_limit / 1e6)


def _read_threads(project: Project) -> ThreadPoolExecutor:
    """Where slow reads of a remote store are made; a thread begins when one is needed, none for a store in a folder."""
    store = project.online
    greet = store.greet if isinstance(store, GuardedStore) else None
    return ThreadPoolExecutor(_READERS, thread_name_prefix="store-read", initializer=greet)
