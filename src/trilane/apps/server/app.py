"""The server's application: what each operation of the routes does.

Law: nothing that a caller sends can stop the server or another caller's answer; every fault is told with its path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec

from trilane import __version__
from trilane.apps.project import Project
from trilane.apps.server import address
from trilane.apps.server.counts import Counts
from trilane.apps.server.decisions import Decisions
from trilane.apps.server.deployments import Deployments
from trilane.apps.server.events import Events
from trilane.apps.server.explained import explained_decision
from trilane.apps.server.http import error_body, read_body, refuse, retry_after, send, status_of
from trilane.apps.server.inference import EndpointModels, Models
from trilane.apps.server.inference_http import InferenceHttp, error_text
from trilane.apps.server.lane_look import LaneLook
from trilane.apps.server.measuring import Measuring
from trilane.apps.server.openapi import document
from trilane.apps.server.quality import Quality
from trilane.apps.server.reads import Reads
from trilane.apps.server.request import Pairs, Request
from trilane.apps.server.routes import Answer, Router
from trilane.apps.server.settling import Settling
from trilane.apps.server.status import lanes, status
from trilane.apps.server.telling import Telling
from trilane.apps.server.trained import TrainedModels
from trilane.apps.server.wire import wire
from trilane.apps.slo import slo_facts
from trilane.clock import SharedClock, format_instant, instant
from trilane.contract import NOT_JSON, split_message
from trilane.errors import ConflictError, ContractError, DefinitionError, SetupError, TrilaneError, UnavailableError
from trilane.feedback.record import Recorder, Records
from trilane.lanes.progress import Progress
from trilane.serving.admission import CALLER, TIER, Admission
from trilane.serving.entries import Slot
from trilane.serving.metrics import Metrics
from trilane.serving.policy import STANDARD, TIERS
from trilane.serving.repository import ModelRepository
from trilane.serving.tally import Tally

if TYPE_CHECKING:
    from trilane.apps.server.grpc import GrpcServer

__all__ = ["Server"]

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder(enc_hook=str).encode
_DEFECT = b'{"error":{"code":"internal","what":"a defect of the server; it is in its log"}}'
_GRACE = 10.0  # seconds that gRPC calls under way have when the worker ends
_TEXT: Pairs = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)
_OPEN_METRICS: Pairs = (("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8"),)


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/clock`."""

    now: str
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 0


class Server:
    """One server process of a project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.parting = False  # whether it is about to end, and nobody is to answer in its place
        self._loop: asyncio.AbstractEventLoop | None = None
        self._grpc: GrpcServer | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes up its work on `loop`."""
        project = self.project
        self._loop = loop
        self.metrics = Metrics(shared="PROMETHEUS_MULTIPROC_DIR" in os.environ)
        self.quality, self._one_scrape = Quality(project, self.metrics), threading.Lock()
        self.recorder = Recorder(
            project.config.state / "records.db", told=lambda fate, number: self.metrics.records.labels(fate).inc(number)
        )
        self.records = Records(project.config.state / "records.db")
        self.admission = Admission(parts=project.config.workers)
        self.measuring = Measuring(project.config, self.metrics, queued=lambda: self.deployments.queued, loop=loop)
        self.deployments = Deployments(
            project,
            project.clock,
            self.recorder,
            self.metrics,
            loop=loop,
            admission=self.admission,
            worked=self.measuring.worked,
        )
        self.decisions = Decisions(self.deployments, self.metrics, self.measuring)
        self.reads = Reads(project, self.deployments, self.metrics, loop)
        self.events = Events(project, self.deployments, self.metrics, loop)
        self._settling = Settling(loop)
        self.repository = self._open_repository(loop)
        models = self._open_models(loop)
        self.inference = InferenceHttp(models, self.measuring, version=__version__, ready=self._not_ready)
        self._lanes = LaneLook(project, self.deployments)
        self._router = Router(self._operations() | self.inference.operations())
        if project.config.grpc_port:
            self._opening = loop.create_task(self._listen_to_grpc(models))
        self._tell_address()
        slots = self.repository.slots if self.repository is not None else tuple[Slot]
        self._telling = Telling(self.metrics, self.admission, slots, loop=loop)

    def _operations(self) -> dict[str, Answer]:
        return {
            "decide": self.measuring.around(self.decisions.answer, "decide", tells=True),
            "features": self.measuring.around(self.features, "features"),
            "events": self.events.take,
            "explain": self.explain,
            "status": self.status,
            "slo": self.slo,
            "signals": self.tell_signals,
            "policy": self.policy,
            "clock": self.clock,
            "live": self.live,
            "ready": self.ready,
            "metrics": self.scrape,
            "openapi": self.openapi,
        }

    def _open_repository(self, loop: asyncio.AbstractEventLoop) -> ModelRepository | None:
        config = self.project.config
        try:
            return ModelRepository(
                config.models,
                state=config.state / "models",
                budget=config.models_mib << 20,
                loop=loop,
                admission=self.admission,
                loaded=self._settling.soon,
            )
        except SetupError as error:  # a full disk: endpoints answer without it
            _log.error("no models from files: %s", error)
            return None

    def _open_models(self, loop: asyncio.AbstractEventLoop) -> Models:
        config, repository = self.project.config, self.repository
        endpoints = EndpointModels(self.deployments, self.decisions, self.metrics)
        trained = TrainedModels(self.deployments, loop)
        if repository is not None:
            self.deployments.breakers.watch_models(repository.slots)

        def tallies() -> list[Tally]:
            from_files = [] if repository is None else [slot.tally for slot in repository.slots()]
            return [*endpoints.tallies(), *trained.tallies(), *from_files]

        self.counts = Counts(config.state, config.port, alone=config.workers == 1)
        self.counts.begin(tallies, loop)
        return Models(endpoints, trained, *(() if repository is None else (repository,)), others=self.counts.others)

    async def _listen_to_grpc(self, models: Models) -> None:
        from trilane.apps.server.grpc import GrpcServer

        config = self.project.config
        server = GrpcServer(models, self.metrics, self.measuring, version=__version__, ready=self._not_ready)
        try:
            await server.start(config.host, config.grpc_port)
        except SetupError as error:
            _log.error("no gRPC: %s", error)
            return
        self._grpc = server

    def _tell_address(self) -> None:
        try:
            address.write(self.project.config.state, self.project.config.url)
        except SetupError as error:  # a full disk: then only the configuration says where this server is
            _log.warning("other commands may not find this server: %s", error)

    async def finish(self) -> None:
        """Ends what takes requests besides HTTP, once those under way are answered."""
        if self._grpc is not None:
            await self._grpc.stop(_GRACE)

    def close(self) -> None:
        """Ends its work, and writes what waits."""
        self._telling.close()
        self._settling.close()
        self.counts.close()
        address.forget(self.project.config.state)
        self.measuring.close()
        self.deployments.close()
        self.events.close()
        if self.repository is not None:
            self.repository.close()
        self.recorder.close()
        self.project.close()

    async def answer(self, request: Request) -> None:
        asked = request.method if request.method != "HEAD" else "GET"  # which is answered without its body
        route = self._router.find(asked, request.path)
        try:
            if route is None:
                raise self._router.missing(request.method, request.path)
            code = await route.answer(request, *route.parameters)
        except TrilaneError as error:
            if request.path.startswith("/v2"):  # whose clients know errors in another form, and 400 for bad input
                status = status_of(error)
                code = send(request, 400 if status == 422 else status, error_text(error), retry_after(error))
            else:
                code = send(request, status_of(error), error_body(error), retry_after(error))
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a defect of ours must cost one answer, not the server
            _log.exception("request %s %s", request.method, request.path)
            code = send(request, 500, _DEFECT)
        self.metrics.count_request(route.label if route else "unknown", code)

    # -- decisions and features ---------------------------------------------------------------------------------

    async def features(self, request: Request, name: str) -> int:
        reads = self.reads.of_endpoint(name) or self.reads.selected(name) or self._no_features(name)
        admission, caller, began = self.admission, request.headers.get(CALLER) or "", time.perf_counter()
        tier = admission.tier(TIERS.index(STANDARD), request.headers.get(TIER), caller)
        refusal = admission.afford(caller, tier, began)
        if refusal is not None:
            return refuse(request, refusal)
        form = wire(request)
        body = await read_body(request)
        answer = await reads.answer(body, form, counted=lambda rows: admission.charge(caller, rows, began))
        return send(request, 200, answer, form.headers)

    def _no_features(self, name: str) -> NoReturn:
        """Tells why no features can be read under this name."""
        try:
            self.decisions.find(name)
        except DefinitionError as error:
            views = ", ".join(sorted(self.deployments.definitions.views)) if self.deployments.definitions else "none"
            what = f"there is no endpoint and no view {name!r}"
            raise DefinitionError(what, where=name, remedy=f"{error.remedy}; views: {views}", status=404) from None
        raise UnavailableError("it was deployed a moment ago", where=name, remedy="Ask again")

    async def explain(self, request: Request, name: str) -> int:
        decision = self.records.find(name)
        if decision is None:
            raise ContractError(
                f"there is no record of decision {name!r}",
                where="id",
                remedy="Records are written within a fraction of a second; check the id, or ask again",
                status=404,
            )
        facts = await asyncio.get_running_loop().run_in_executor(
            None, explained_decision, self.project, decision, self.records.find
        )
        return send(request, 200, _encode(facts))

    # -- operation ----------------------------------------------------------------------------------------------

    async def clock(self, request: Request) -> int:
        clock = self.project.clock
        if not isinstance(clock, SharedClock):
            raise ConflictError(
                "this server runs on the wall clock", where="clock", remedy="Start it with --replay to move its clock"
            )
        try:
            asked = msgspec.json.decode(await read_body(request), type=_Clock)
        except NOT_JSON as error:
            reason, path = split_message(str(error))
            raise ContractError(
                reason,
                where=path,
                remedy='Send {"now": "2013-10-01T00:00:00Z"}',
                status=422 if isinstance(error, msgspec.ValidationError) else 400,
            ) from None
        now = instant(asked.now)
        clock.move_to(now)
        waiting = await self._lanes.behind(now, asked.wait_ms / 1e3) if asked.wait_ms else []
        answer = {"now": format_instant(clock.now()), "caught_up": asked.wait_ms > 0 and not waiting}
        return send(request, 200, _encode({**answer, "waiting_for": waiting}))

    async def status(self, request: Request) -> int:
        written = {"written": self.recorder.written, "dropped": self.recorder.dropped}
        # Not here: it asks the log, and decisions must not wait for one that is slow.
        loop = asyncio.get_running_loop()
        facts = await loop.run_in_executor(None, status, self.project, self.deployments, written)
        return send(request, 200, _encode(facts))

    async def tell_signals(self, request: Request) -> int:
        return send(request, 200, _encode(self.measuring.told()))

    async def policy(self, request: Request) -> int:
        return send(request, 200, _encode(self.admission.facts(time.perf_counter())))

    async def slo(self, request: Request) -> int:
        facts = await asyncio.get_running_loop().run_in_executor(None, slo_facts, self.project)
        return send(request, 200, _encode({"endpoints": facts}))

    async def live(self, request: Request) -> int:
        return send(request, 200, b'{"live":true}')

    async def ready(self, request: Request) -> int:
        serving, errors, reason = sorted(self.deployments.router.routes()), self.deployments.errors, self._not_ready()
        body = {"ready": reason is None, "reason": reason, "endpoints": serving, "errors": dict(errors)}
        body["breakers"] = self.deployments.breakers.open()  # as information: the ladders answer meanwhile
        return send(request, 503 if reason else 200, _encode({**body, **await self._lanes.facts()}))

    def _not_ready(self) -> str | None:
        """Why this server should not be asked; None if it should."""
        serving, errors = self.deployments.router.routes(), dict(self.deployments.errors)
        if self.parting:
            return "it is about to end, and answers only what is asked meanwhile"
        waits = self.repository.waits_for() if self.repository is not None else []
        if waits:
            return f"these models are loaded first: {', '.join(waits)}"
        if self.repository is not None and len(self.repository) and not serving and not errors:
            return None  # models from files need no definitions
        if self.deployments.definitions is None:
            return "no definitions were applied yet: run `trilane apply`"
        if errors:
            return "; ".join(f"{endpoint}: {error}" for endpoint, error in sorted(errors.items()))
        return None if serving else "no endpoint is deployed yet: train a model, then run `trilane apply`"

    async def scrape(self, request: Request) -> int:
        self._telling.now()
        exemplars = "application/openmetrics-text" in (request.headers.get("accept") or "")
        # Not here: it waits for the store and for files, and makes a long text, and decisions must wait for none.
        text = await asyncio.get_running_loop().run_in_executor(None, self._scraped, exemplars)
        return send(request, 200, text, _OPEN_METRICS if exemplars else _TEXT)

    async def openapi(self, request: Request) -> int:
        found, sources = (
            self.deployments.all(),
            self.deployments.definitions.sources if self.deployments.definitions else {},
        )
        told = document(
            __version__,
            endpoints={name: deployed.engine.endpoint.contract for name, deployed in found.items()},
            sources={name: source.contract for name, source in sources.items()},
        )
        return send(request, 200, _encode(told))

    def _scraped(self, exemplars: bool) -> bytes:
        found = self._lane_ages()
        with self._one_scrape:
            try:
                self.quality.tell(self.deployments.views, found)
            except TrilaneError as error:
                _log.warning("what is on record of the events cannot be told: %s", error)
            try:
                self.quality.tell_partitions(found)
            except TrilaneError as error:
                _log.warning("who has the partitions cannot be told: %s", error)
            try:
                self.quality.tell_objectives()
            except TrilaneError as error:
                _log.warning("how the objectives stand cannot be told: %s", error)
        return self.metrics.text(exemplars=exemplars)

    def _lane_ages(self) -> dict[str, dict[int, Progress]]:
        """Tells the metrics how old the lanes are; what was found of them."""
        try:
            found = lanes(self.project, self.deployments.views)
        except TrilaneError as error:
            _log.warning("the age of the lanes cannot be told: %s", error)
            return {}
        for source, partitions in found.items():
            caught_up = min(progress.caught_up_at for progress in partitions.values())
            if caught_up:
                self.metrics.lane_age.labels(source).set((self.project.clock.now() - caught_up) / 1e6)
        return found
