"""The Open Inference Protocol over HTTP: `/v2` with its health, metadata, inference, statistics and repository.

Laws: what it answers is what `Inferences` answers; nothing is known here of what a model is; a question that will be
refused whatever its body says is refused before that is read.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import msgspec

from trilane.apps.server.coding import coding_for, compressed_later
from trilane.apps.server.decisions import inference_story
from trilane.apps.server.http import JSON, patience, read_body, send
from trilane.apps.server.limits import CODING
from trilane.apps.server.measuring import Measuring
from trilane.apps.server.request import Request
from trilane.apps.server.routes import Answer
from trilane.apps.server.stories import PARENT
from trilane.contract import NOT_JSON, split_message
from trilane.errors import ContractError, TrilaneError, UnavailableError
from trilane.serving.admission import CALLER, TIER, priority_of
from trilane.serving.deadline import ENVOY, GRPC, HEADER
from trilane.serving.inference import Inferences, Question, State
from trilane.serving.protocol import oip
from trilane.serving.protocol.oip_facts import EXTENSIONS, configuration, index, metadata, statistics

__all__ = ["InferenceHttp", "check_load", "error_text", "sentence"]

T = TypeVar("T")

_HEADER = "inference-header-content-length"
_WISHES = frozenset((HEADER, ENVOY, GRPC, CALLER, TIER, CODING, "accept-encoding"))
_COSTS = ("memory_bytes", "load_ms")  # of what is loaded
_LONG = 1 << 20  # bytes from which a body whose tensors are not read in place is read beside the loop
_BINARY = ("content-type", "application/octet-stream")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class _IndexBody(msgspec.Struct):
    """The body of `POST /v2/repository/index`; it may be empty."""

    ready: bool = False


class _LoadBody(msgspec.Struct):
    """The body of `POST /v2/repository/models/{model}/load`; it may be empty."""

    parameters: dict[str, object] | None = None


class InferenceHttp:
    """Speaks the protocol for `models`. `ready`: why this server is not ready, None if it is."""

    def __init__(
        self, models: Inferences, measuring: Measuring, *, version: str, ready: Callable[[], str | None]
    ) -> None:
        self._models, self._measuring, self._ready = models, measuring, ready
        self._refuses = False  # whether the last question was refused
        self._server = _encode({"name": "trilane", "version": version, "extensions": EXTENSIONS})

    def operations(self) -> dict[str, Answer]:
        """What answers each operation of the routes; each question is measured."""
        return {
            "oip_server": self.server,
            "oip_live": self.live,
            "oip_ready": self.ready,
            "oip_model": self.model,
            "oip_model_ready": self.model_ready,
            "oip_infer": self._measuring.around(self.infer, "infer", tells=True),
            "oip_config": self.config,
            "oip_stats": self.stats,
            "oip_index": self.index,
            "oip_load": self.load,
            "oip_unload": self.unload,
        }

    async def server(self, request: Request) -> int:
        return send(request, 200, self._server)

    async def live(self, request: Request) -> int:
        return send(request, 200, b'{"live":true}')

    async def ready(self, request: Request) -> int:
        """The specification's body says `live`, and clients read `ready`: both are there."""
        reason = self._ready()
        return _tell(request, {"live": True, "ready": reason is None, "reason": reason}, 503 if reason else 200)

    async def model(self, request: Request, model: str, version: str = "") -> int:
        return _tell(request, metadata(await self._models.about(model, version)))

    async def model_ready(self, request: Request, model: str, version: str = "") -> int:
        state = self._models.ready(model, version)
        ready = state.state == "READY"
        return _tell(request, {"name": model, "ready": ready, "reason": state.reason}, 200 if ready else 503)

    async def infer(self, request: Request, model: str, version: str = "") -> int:
        began, headers = time.perf_counter(), request.headers
        waits, caller, tier, priority = math.inf, "", None, 0
        is_plain = _WISHES.isdisjoint(headers)  # one look for all wishes
        announced = _header_length(headers.get(_HEADER))
        if not is_plain:
            waits = patience(request)
            caller, tier = headers.get(CALLER) or "", headers.get(TIER)
            priority = 0 if tier is None else priority_of(tier)  # it goes before the parameter `priority`
        body = request.whole if is_plain or CODING not in headers else None
        if body is None or self._refuses:  # else it costs more to foresee it than to read what is there
            asked = Question(model, (), version, deadline=began + waits, caller=caller, priority=priority)
            self._models.foresee(asked)
            body = await read_body(request)
        takes = (await self._models.about(model, version)).inputs if announced == 0 else ()
        read = functools.partial(
            oip.decode,
            body,
            announced,
            model=model,
            version=version,
            takes=takes,
            began=began,
            waits=waits,
            caller=caller,
        )
        if len(body) > _LONG and (announced is None or b"BYTES" in body[:announced]):
            # Not here: others are answered while one text is read after the other.
            question, wanted = await asyncio.get_running_loop().run_in_executor(None, read)
        else:
            question, wanted = read()
        if priority:
            question = msgspec.structs.replace(question, priority=priority)
        try:
            found = await self._models.infer(question)
            answer, header = oip.encode(found, wanted)
        except UnavailableError:
            self._refuses = True
            raise
        self._refuses = False
        told = JSON if header is None else (_BINARY, (_HEADER, str(header)))
        accepts = None if is_plain else headers.get("accept-encoding")
        if accepts is not None:
            coding = coding_for(accepts, len(answer), text=header is None)
            if coding:
                answer = await compressed_later(answer, coding)
                told = (*told, (CODING, coding))
        code = send(request, 200, answer, told)
        if self._measuring.may_want((ended := time.perf_counter()) - began):
            story = functools.partial(inference_story, "infer", found, question, began, ended, code)
            self._measuring.tell(headers.get(PARENT), ended - began, story)
        return code

    async def config(self, request: Request, model: str, version: str = "") -> int:
        about = await self._models.about(model, version)
        return _tell(request, configuration(about, self._models.settings(model, version)))

    async def stats(self, request: Request, model: str = "", version: str = "") -> int:
        return _tell(request, statistics(self._models.statistics(model, version)))

    async def index(self, request: Request) -> int:
        asked = _decoded(await read_body(request), _IndexBody, '{"ready": true}')
        return _tell(request, index(map(self._with_costs, self._models.index()), ready=asked.ready))

    def _with_costs(self, state: State) -> State:
        """A state, with what a loaded model from a file takes; to ask for its configuration would load others."""
        if not state.loaded:
            return state
        told = self._models.settings(state.name, state.version)
        return replace(state, costs={name: told[name] for name in _COSTS if name in told})

    async def load(self, request: Request, model: str) -> int:
        asked = _decoded(await read_body(request), _LoadBody, '{"parameters": {}}')
        check_load(asked.parameters or {})
        await self._models.load(model)
        return send(request, 200, b"{}")

    async def unload(self, request: Request, model: str) -> int:
        await read_body(request)
        await self._models.unload(model)
        return send(request, 200, b"{}")


def check_load(parameters: Iterable[str]) -> None:
    """Raises ContractError for parameters of a load that Triton heeds: to pass over them would load another model than
    was asked for.
    """
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            what = "a model is loaded as its folder says, and by no other configuration or files"
            remedy = "Change its model.toml, or add the files by `trilane models add`; then load it without parameters"
            raise ContractError(what, where=f"parameters.{name[:64]}", remedy=remedy, status=400)


def _decoded(body: bytes, kind: type[T], example: str) -> T:
    """What a body says that may be empty. Raises ContractError."""
    try:
        return msgspec.json.decode(body, type=kind) if body.strip() else kind()
    except NOT_JSON as error:
        reason, path = split_message(str(error))
        raise ContractError(reason, where=path, remedy=f"Send {example}, or nothing", status=400) from None


def error_text(error: TrilaneError) -> bytes:
    """The body that tells an error in the protocol's form: one sentence, and beside it the parts that we tell."""
    return _encode({"error": sentence(error), "code": error.code, "where": error.where})


def sentence(error: TrilaneError) -> str:
    """An error as one text; the author's line, which other errors name, is none of a caller's business."""
    said = f"{error.where}: {error.what}" if error.where else error.what
    return f"{said}. {error.remedy}" if error.remedy else said


def _tell(request: Request, facts: object, status: int = 200) -> int:
    return send(request, status, _encode(facts))


def _header_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise ContractError(
            f"{text!r} is no length", where=_HEADER, remedy="Send the number of bytes of the JSON", status=400
        )
    return int(text)
