"""The trained models that deployed endpoints run, asked for by their own names with a matrix of features.

Law: requests of one model that come together are answered together, by the runtime that its endpoint runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from trilane.apps.server.deployments import Deployed, Deployments
from trilane.apps.server.inference import check_version
from trilane.clock import WallClock
from trilane.errors import ConflictError, ContractError, DefinitionError, ModelError, TrilaneError, UnavailableError
from trilane.models.signature import Matrix, Scores
from trilane.models.tensor import Tensor, TensorSpec, checked
from trilane.serving.batcher import Batcher
from trilane.serving.breaker import admitted
from trilane.serving.door import Door
from trilane.serving.engine import Engine
from trilane.serving.inference import About, Inference, Question, State, Statistics, chosen
from trilane.serving.ladder import predicted
from trilane.serving.policy import TIERS
from trilane.serving.protocol.oip_facts import version_of
from trilane.serving.tally import Tally

__all__ = ["TrainedModels"]

_PLATFORMS = {
    "onnx": "onnxruntime_onnx",
    "lightgbm": "lightgbm_txt",
    "xgboost": "xgboost_json",
    "python": "python",
}
_MOST_ROWS = 16_384  # as many as may wait
_OUTPUTS = (TensorSpec("score", "FP64", (-1,)),)


@dataclass(frozen=True, slots=True)
class _Served:
    deployed: Deployed
    inputs: tuple[TensorSpec, ...]
    batcher: Batcher[Matrix, Scores]
    door: Door
    tally: Tally
    version: str


class TrainedModels:
    """Keeps the promise of Inferences for the models of the deployed bundles."""

    def __init__(self, deployments: Deployments, loop: asyncio.AbstractEventLoop) -> None:
        self._deployments, self._loop = deployments, loop
        self._routes: Mapping[str, str] | None = None
        self._served: dict[str, _Served] = {}
        self._wall = WallClock()

    def __contains__(self, model: str) -> bool:
        return model in self._all()

    def index(self) -> list[State]:
        return [State(name, one.version, "READY", loaded=True) for name, one in sorted(self._all().items())]

    async def about(self, model: str, version: str = "") -> About:
        found = self._find(model, version)
        platform = _PLATFORMS[found.deployed.engine.endpoint.model.runtime]
        return About(model, found.version, (found.version,), platform, found.inputs, _OUTPUTS, max_rows=_MOST_ROWS)

    def ready(self, model: str, version: str = "") -> State:
        return State(model, self._find(model, version).version, "READY", loaded=True)

    def foresee(self, question: Question) -> None:
        found = self._find(question.model, question.version)
        try:
            found.door.foresee(found.batcher, question)
        except UnavailableError:
            found.tally.failed(0.0)
            raise

    async def infer(self, question: Question) -> Inference:
        began, answered = time.perf_counter(), None
        found = self._find(question.model, question.version)
        try:
            entry = found.door.enter(found.batcher, question)
            try:
                if question.outputs:
                    chosen(question.outputs, _OUTPUTS, question.model)
                (tensor,) = checked(question.inputs, found.inputs, where=question.model)
                rows = len(tensor.array)
                if rows > 1:  # the first is paid by whoever is let in
                    found.door.charge(question, rows, entry)
                share = await found.batcher.submit(tensor.array, rows=rows, deadline=question.deadline, tier=entry.tier)
                answered = time.perf_counter()
            finally:
                found.door.leave(entry, answered)
        except TrilaneError:
            found.tally.failed(time.perf_counter() - began)
            raise
        found.tally.succeeded(share, answered - began)
        scores = Tensor("score", "FP64", share.result[share.start : share.stop])
        told = {f"batch_{name}": value for name, value in share.explained().items()} if question.explain else {}
        return Inference(question.model, found.version, [scores], told, share)

    async def load(self, model: str) -> None:
        """Nothing: what is deployed is loaded."""
        self._find(model, "")

    async def unload(self, model: str) -> None:
        """Raises ConflictError: an endpoint needs it."""
        endpoint = self._find(model, "").deployed.bundle.endpoint
        what = f"the endpoint {endpoint!r} runs it"
        raise ConflictError(what, where=model, remedy="Take the endpoint out of the definitions first")

    def statistics(self, model: str = "", version: str = "") -> Sequence[Statistics]:
        found = [self._find(model, version)] if model else [one for _, one in sorted(self._all().items())]
        return [one.tally.statistics() for one in found]

    def tallies(self) -> list[Tally]:
        """What counts for each of them."""
        return [one.tally for one in self._all().values()]

    def settings(self, model: str, version: str = "") -> Mapping[str, object]:
        found = self._find(model, version)
        bundle = found.deployed.bundle
        return {
            "endpoint": bundle.endpoint,
            "model_digest": bundle.model_digest[:16],
            "runtime": type(found.deployed.engine.runtime).__name__,
        }

    def _find(self, model: str, version: str) -> _Served:
        found = self._all().get(model)
        if found is None:
            remedy = f"There are {', '.join(sorted(self._all())) or 'none yet'}; `/v2/repository/index` tells of all"
            raise DefinitionError(f"there is no model {model!r}", where=model, remedy=remedy, status=404, file="")
        if version:
            check_version(model, version, found.deployed.bundle.model_digest)
        return found

    def _all(self) -> dict[str, _Served]:
        """By name; of several bundles with a model, the endpoint that is first by its name."""
        routes = self._deployments.router.routes()
        if routes is not self._routes:
            served: dict[str, _Served] = {}
            for _, deployed in sorted(self._deployments.all().items()):
                name = deployed.bundle.model
                known = self._served.get(name)
                if known is None or known.deployed is not deployed:
                    known = self._opened(name, deployed)
                served.setdefault(name, known)
            self._served, self._routes = served, routes
            self._deployments.admission.watch((one.batcher for one in served.values()), of="trained")
        return self._served

    def _opened(self, name: str, deployed: Deployed) -> _Served:
        runtime = deployed.engine.runtime

        thread = deployed.thread

        def run(portions: list[Matrix]) -> Scores | Awaitable[Scores]:
            matrix = portions[0] if len(portions) == 1 else np.concatenate(portions)
            if thread is None:
                return runtime.predict(matrix)
            return self._loop.run_in_executor(thread, _watched, deployed.engine, matrix, name)

        inputs = (TensorSpec("features", "FP32", (-1, runtime.signature.width)),)
        version = version_of(deployed.bundle.model_digest)
        tally = Tally(name, version, now=self._wall.now)
        door = Door(self._deployments.admission, tier=TIERS[deployed.tier], where="deadline")
        batcher = Batcher(run, _too_late, loop=self._loop, admission=door, lateness=deployed.batcher.lateness)
        return _Served(deployed, inputs, batcher, door, tally, version)


def _watched(engine: Engine, matrix: Matrix, model: str) -> Scores:
    """The scores of a model in its own process, whose breaker is that of the endpoint which runs it: what it does with
    numbers that no feature has is no reason to leave the endpoint without it.
    """
    breaker, start = engine.breaker, time.perf_counter()
    ticket, failed = admitted(breaker, start, where=f"model {model!r}"), True
    try:
        scores = predicted(engine.runtime, matrix, model)
        failed = False
        return scores
    except ModelError as error:
        if not np.isinf(matrix).any():
            raise
        failed = False
        what = f"an input is infinite, and the model fails: {error.what}"
        raise ContractError(what, where="inputs", remedy="Send finite numbers, or NaN for none") from error
    finally:
        end = time.perf_counter()
        breaker.leave(ticket, end, end - start, failed=failed)


def _too_late(_: list[Matrix], reason: str) -> NoReturn:
    raise UnavailableError(
        f"no answer: {reason}",
        where="deadline",
        remedy="Give more time, or ask when less is asked",
        deadline=True,
        overload=True,
    )
