"""`inference.GRPCInferenceService` on a port of its own, in the event loop of the server's worker.

Laws: what it answers is what `Inferences` answers; a fault of a request costs that request alone, and is told by its
status; a call that has no time left is refused before it is computed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
import msgspec

from trilane.apps.server.decisions import inference_story
from trilane.apps.server.http import status_of
from trilane.apps.server.inference_http import check_load, sentence
from trilane.apps.server.limits import LARGEST_BODY
from trilane.apps.server.measuring import Measuring
from trilane.apps.server.stories import PARENT
from trilane.errors import ContractError, DefinitionError, SetupError, TrilaneError, UnavailableError
from trilane.serving.admission import CALLER, TIER, priority_of
from trilane.serving.deadline import of_parameters
from trilane.serving.inference import Inferences
from trilane.serving.metrics import Metrics
from trilane.serving.protocol import oip_facts
from trilane.serving.protocol.oip_grpc import answered, filled, parameters_of, question_of
from trilane.serving.protocol.oip_messages import METHODS, SERVICE, STREAMED, message, reader

__all__ = ["Gate", "GrpcServer"]

_log = logging.getLogger(__name__)
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Operation: TypeAlias = Callable[[Any, _Context], Awaitable[Any]]
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_NOT_FOUND = 404
_FINAL = "triton_final_response"  # by which a client of a stream knows that nothing more comes to its question
_QUIET, _ROUNDS = 6, 64  # rounds of the loop without another call, after which those held go on; and at most
_LONGEST = 1_500  # bytes of an error's text, each of which may become three on its way
_OPTIONS = (
    ("grpc.so_reuseport", 1),  # each worker of a server listens, and the kernel shares connections out
    ("grpc.max_receive_message_length", LARGEST_BODY),
    ("grpc.max_send_message_length", -1),
)


class Gate:
    """Lets calls through together that come one after another: gRPC hands over one in each round of the loop, and
    asked one by one they would be answered one by one, each at the price of a batch.
    """

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._seen = self._rounds = self._quiet = 0

    def passed(self) -> asyncio.Future[None]:
        """Done once no more calls come, which without load is at once."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._held:
            self._seen = self._rounds = self._quiet = 0
            loop.call_soon(self._look, loop)
        self._held.append(future)
        return future

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._rounds += 1
        self._quiet = 0 if len(self._held) > self._seen else self._quiet + 1
        self._seen = len(self._held)
        if self._quiet < _QUIET and self._rounds < _ROUNDS:
            loop.call_soon(self._look, loop)
            return
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)


class GrpcServer:
    """Speaks the protocol for `models`. `ready`: why this server is not ready, None if it is."""

    def __init__(
        self,
        models: Inferences,
        metrics: Metrics,
        measuring: Measuring,
        *,
        version: str,
        ready: Callable[[], str | None],
    ) -> None:
        self._models, self._metrics, self._version, self._ready = models, metrics, version, ready
        self._measuring = measuring
        self._gate = Gate()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens at `host`:`port` (0: any free one), and says where. Raises SetupError."""
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = server.add_insecure_port(address)
            await server.start()
        except RuntimeError as error:
            remedy = "Give another `grpc_port`, or 0 for none"
            raise SetupError(f"nothing can listen there: {error}", where=address, remedy=remedy) from None
        self._server = server
        return bound

    async def stop(self, grace: float) -> None:
        """Takes no more calls, and waits `grace` seconds for those under way."""
        if self._server is not None:
            await self._server.stop(grace)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        operations: dict[str, _Operation] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        found = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, operations[name]),
                request_deserializer=reader(f"{name}Request"),
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name in METHODS
        }
        found[STREAMED] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=reader("ModelInferRequest"),
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return found

    def _guarded(self, name: str, operation: _Operation) -> _Operation:
        """The operation, its faults told by their status, and counted."""
        label, count = f"grpc/{name}", self._metrics.count_request

        async def answer(request: Any, context: _Context) -> Any:  # noqa: ANN401 - messages of protobuf's
            try:
                response = await operation(_read(request), context)
            except TrilaneError as error:
                status, code, told = status_of(error), _code(error), _short(sentence(error))
            except Exception:  # noqa: BLE001 - a defect of ours must cost one answer, not the server
                _log.exception("call %s", name)
                status, code, told = 500, grpc.StatusCode.INTERNAL, "a defect of the server; it is in its log"
            else:
                count(label, 200)
                return response
            count(label, status)
            return await context.abort(code, told)

        return answer

    async def _infer(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        began, refused = self._measuring.begun(), False
        try:
            return await self._answered(request, context, began)
        except TrilaneError as error:
            parent = next((str(value) for name, value in context.invocation_metadata() or () if name == PARENT), None)
            refused = self._measuring.failed("grpc", request.model_name, began, error, parent)
            raise
        finally:
            self._measuring.ended(began, refused=refused)

    async def _answered(self, request: Any, context: _Context, began: float) -> Any:  # noqa: ANN401
        left = context.time_remaining()
        parameters = parameters_of(request.parameters) if request.parameters else {}
        allowed = min(math.inf if left is None else left, of_parameters(parameters) if parameters else math.inf)
        deadline = began + allowed if allowed < math.inf else math.inf
        caller, tier, parent = "", None, None
        for name, value in context.invocation_metadata() or ():
            if name == CALLER:
                caller = str(value)
            elif name == TIER:
                tier = str(value)
            elif name == PARENT:
                parent = str(value)
        question = question_of(request, parameters, deadline=deadline, caller=caller)
        if tier is not None:  # in place of the parameter `priority`, as over HTTP
            question = msgspec.structs.replace(question, priority=priority_of(tier))
        await self._gate.passed()
        found = await self._models.infer(question)
        told = answered(found, request)
        if self._measuring.may_want((ended := time.perf_counter()) - began):
            story = functools.partial(inference_story, "grpc", found, question, began, ended, 200)
            self._measuring.tell(parent, ended - began, story)
        return told

    async def _stream(self, requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
        """The answers to a stream of questions, in their order; one that fails is told in its place."""
        made: Any = message("ModelStreamInferResponse")
        async for request in requests:
            try:
                found = await self._infer(_read(request), context)
            except TrilaneError as error:
                self._metrics.count_request(f"grpc/{STREAMED}", status_of(error))
                response = made(error_message=_short(sentence(error)))
                if request is not error:
                    response.infer_response.id = request.id
                yield response
            else:
                self._metrics.count_request(f"grpc/{STREAMED}", 200)
                found.parameters[_FINAL].bool_param = True
                yield made(infer_response=found)

    async def _server_live(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        return filled("ServerLiveResponse", {"live": True})

    async def _server_ready(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        return filled("ServerReadyResponse", {"ready": self._ready() is None})

    async def _model_ready(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        """What is not there is not ready: clients ask until it is, and Triton says so too."""
        try:
            ready = self._models.ready(request.name, request.version).state == "READY"
        except DefinitionError as error:
            if status_of(error) != _NOT_FOUND:
                raise
            ready = False
        return filled("ModelReadyResponse", {"ready": ready})

    async def _server_metadata(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        facts = {"name": "trilane", "version": self._version, "extensions": list(oip_facts.EXTENSIONS)}
        return filled("ServerMetadataResponse", facts)

    async def _model_metadata(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        about = await self._models.about(request.name, request.version)
        return filled("ModelMetadataResponse", oip_facts.metadata(about))

    async def _config(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        about = await self._models.about(request.name, request.version)
        facts = oip_facts.configuration(about, self._models.settings(request.name, request.version))
        return filled("ModelConfigResponse", {"config": facts})

    async def _statistics(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        found = self._models.statistics(request.name, request.version)
        return filled("ModelStatisticsResponse", oip_facts.statistics(found))

    async def _index(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        found = oip_facts.index(self._models.index(), ready=request.ready)
        return filled("RepositoryIndexResponse", {"models": found})

    async def _load(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        check_load(request.parameters)
        name = request.model_name or request.repository_name
        await self._models.load(name)
        return filled("RepositoryModelLoadResponse", {"model_name": name, "isLoaded": True})

    async def _unload(self, request: Any, context: _Context) -> Any:  # noqa: ANN401
        name = request.model_name or request.repository_name
        await self._models.unload(name)
        return filled("RepositoryModelUnloadResponse", {"model_name": name, "isUnloaded": True})


def _read(request: Any) -> Any:  # noqa: ANN401
    """The message. Raises ContractError if it is none."""
    if isinstance(request, ContractError):
        raise request
    return request


def _short(text: str) -> str:
    """As much of it as fits into the header that tells an error, which is a few KiB for all clients."""
    whole = text.encode()
    return text if len(whole) <= _LONGEST else whole[:_LONGEST].decode(errors="ignore") + " ..."


def _code(error: TrilaneError) -> grpc.StatusCode:
    if isinstance(error, UnavailableError) and error.facts.get("deadline"):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return _CODES.get(status_of(error), grpc.StatusCode.INTERNAL)
