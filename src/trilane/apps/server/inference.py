"""What the Open Inference Protocol asks for by name: deployed endpoints, and the models that they run.

Laws: an endpoint answers here as it does by `/v1/decide`, through the same batcher and onto the same record; an
endpoint goes before a model of the same name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from trilane.apps.server.decisions import Decisions
from trilane.apps.server.deployments import Deployed, Deployments
from trilane.apps.server.limits import DECISIONS
from trilane.clock import WallClock
from trilane.errors import ConflictError, DefinitionError, TrilaneError
from trilane.models.tensor import Tensor, TensorSpec
from trilane.serving.degradation import RUNGS
from trilane.serving.engine import Answers
from trilane.serving.entries import no_model
from trilane.serving.inference import About, Inference, Inferences, Question, State, Statistics, chosen
from trilane.serving.metrics import Metrics
from trilane.serving.protocol.oip_facts import version_of
from trilane.serving.protocol.oip_rows import TensorRows
from trilane.serving.protocol.oip_tensors import objects
from trilane.serving.share import Share
from trilane.serving.tally import Tally, together

__all__ = ["EndpointModels", "Models", "Part", "check_version"]

_PLATFORM = "trilane_endpoint"
_RUNGS = tuple(rung.encode() for rung in RUNGS)


class EndpointModels:
    """The deployed endpoints as models: an input for each field of the contract, a score and more for each row."""

    def __init__(self, deployments: Deployments, decisions: Decisions, metrics: Metrics) -> None:
        self._deployments, self._decisions, self._metrics = deployments, decisions, metrics
        self._rows: dict[str, TensorRows] = {}
        self._tallies: dict[str, Tally] = {}
        self._wall = WallClock()

    def __contains__(self, model: str) -> bool:
        return model in self._deployments.router.routes()

    def index(self) -> list[State]:
        found = [
            State(name, version_of(deployed.bundle.digest), "READY", loaded=True)
            for name, deployed in sorted(self._deployments.all().items())
        ]
        broken = sorted({*self._deployments.errors} - {state.name for state in found})
        return found + [State(name, "", "UNAVAILABLE", self._deployments.errors[name]) for name in broken]

    async def about(self, model: str, version: str = "") -> About:
        deployed = self._deployed(model, version)
        own = version_of(deployed.bundle.digest)
        return About(
            model, own, (own,), _PLATFORM, self._format(deployed).specs, _outputs(deployed), max_rows=DECISIONS
        )

    def ready(self, model: str, version: str = "") -> State:
        deployed = self._deployed(model, version)
        return State(model, version_of(deployed.bundle.digest), "READY", loaded=True)

    def foresee(self, question: Question) -> None:
        deployed = self._deployed(question.model, question.version)
        refusal = self._decisions.foresee(
            deployed, deadline=question.deadline, caller=question.caller, priority=question.priority
        )
        if refusal is not None:
            self._tally(deployed).failed(0.0)
            raise refusal.error()

    async def infer(self, question: Question) -> Inference:
        began = time.perf_counter()
        deployed = self._deployed(question.model, question.version)
        tally = self._tally(deployed)
        try:
            specs = _outputs(deployed)
            wanted = [specs[place].name for place in chosen(question.outputs, specs, question.model)]
            rows = self._format(deployed).rows(question.inputs)
            deployed.row_format.check_number(len(rows), "inputs[0].shape")
            share = await self._decisions.submit(
                deployed,
                rows,
                began=began,
                deadline=question.deadline,
                caller=question.caller,
                priority=question.priority,
            )
            answer = _answer(question, deployed, share, wanted)
        except TrilaneError:
            tally.failed(time.perf_counter() - began)
            raise
        took = time.perf_counter() - began
        tally.succeeded(share, took)
        self._metrics.time(question.model, took)
        return answer

    async def load(self, model: str) -> None:
        """Nothing: what is deployed is loaded, and looked after."""
        self._deployed(model, "")

    async def unload(self, model: str) -> None:
        """Raises ConflictError: an endpoint is deployed by its definitions."""
        self._deployed(model, "")
        what = "an endpoint is deployed, and does not go by being unloaded"
        raise ConflictError(what, where=model, remedy="Take it out of the definitions and run `trilane apply`")

    def statistics(self, model: str = "", version: str = "") -> Sequence[Statistics]:
        if model:
            return [self._tally(self._deployed(model, version)).statistics()]
        return [self._tally(deployed).statistics() for _, deployed in sorted(self._deployments.all().items())]

    def tallies(self) -> list[Tally]:
        """What counts for each of them."""
        return [self._tally(deployed) for deployed in self._deployments.all().values()]

    def settings(self, model: str, version: str = "") -> Mapping[str, object]:
        deployed = self._deployed(model, version)
        bundle = deployed.bundle
        return {
            "bundle": bundle.digest[:16],
            "deadline_us": bundle.deadline,
            "model": bundle.model,
            "model_digest": bundle.model_digest[:16],
            "runtime": type(deployed.engine.runtime).__name__,
        }

    def _deployed(self, model: str, version: str) -> Deployed:
        deployed = self._decisions.find(model)
        check_version(model, version, deployed.bundle.digest)
        return deployed

    def _format(self, deployed: Deployed) -> TensorRows:
        digest = deployed.bundle.digest
        found = self._rows.get(digest)
        if found is None:
            live = {*self._deployments.router.routes().values()}
            self._rows = {one: rows for one, rows in self._rows.items() if one in live}
            found = self._rows[digest] = TensorRows(deployed.engine.endpoint.contract)
        return found

    def _tally(self, deployed: Deployed) -> Tally:
        digest = deployed.bundle.digest
        found = self._tallies.get(digest)
        if found is None:
            found = self._tallies[digest] = Tally(deployed.bundle.endpoint, version_of(digest), now=self._wall.now)
        return found


def check_version(model: str, version: str, digest: str) -> None:
    """Raises DefinitionError (404) unless `version` is empty, or that of `digest`, or its first 16 digits."""
    if version and version != digest[:16] and version != version_of(digest):
        what, remedy = f"{model!r} has no version {version!r}", f"Ask for {version_of(digest)}, or for none"
        raise DefinitionError(what, where=model, remedy=remedy, status=404, file="")


def _outputs(deployed: Deployed) -> tuple[TensorSpec, ...]:
    positive = () if deployed.bundle.threshold is None else (TensorSpec("positive", "BOOL", (-1,)),)
    rest = (TensorSpec(name, kind, (-1,)) for name, kind in (("degraded", "BOOL"), ("rung", "BYTES"), ("id", "BYTES")))
    return TensorSpec("score", "FP64", (-1,)), *positive, *rest


def _answer(question: Question, deployed: Deployed, share: Share[Answers], wanted: Sequence[str]) -> Inference:
    answers, start, stop = share.result, share.start, share.stop
    scores, outputs = answers.scores[start:stop], []
    for name in wanted:
        if name == "score":
            outputs.append(Tensor(name, "FP64", scores))
        elif name == "positive":
            outputs.append(Tensor(name, "BOOL", scores >= (deployed.bundle.threshold or 0.0)))
        elif name == "degraded":
            worse = [bool(answers.why(row)) for row in range(start, stop)] if answers.faults else [False] * len(scores)
            outputs.append(Tensor(name, "BOOL", np.array(worse, bool)))
        elif name == "rung":
            rungs = [_RUNGS[rung] for rung in answers.rungs[start:stop].tolist()]
            outputs.append(Tensor(name, "BYTES", objects(rungs, (len(rungs),))))
        else:
            ids = [f"{answers.id}-{row}".encode() for row in range(start, stop)]
            outputs.append(Tensor(name, "BYTES", objects(ids, (len(ids),))))
    told = {f"batch_{name}": value for name, value in share.explained().items()} if question.explain else {}
    return Inference(question.model, version_of(deployed.bundle.digest), outputs, told, share)


class Part(Inferences, Protocol):
    """Models of one kind."""

    def __contains__(self, model: str) -> bool: ...


class Models:
    """All models under one roof: of parts that have the same name, the first answers.

    `others`: what other processes of the server counted of models.
    """

    def __init__(self, *parts: Part, others: Callable[[], Iterable[Statistics]] = tuple) -> None:
        self._parts, self._others = parts, others

    def _of(self, model: str) -> Inferences:
        for part in self._parts:
            if model in part:
                return part
        raise no_model(model, sorted({state.name for state in self.index()}))

    def index(self) -> list[State]:
        found, names = list[State](), set[str]()
        for part in self._parts:
            states = [state for state in part.index() if state.name not in names]
            names |= {state.name for state in states}
            found += states
        return found

    async def about(self, model: str, version: str = "") -> About:
        return await self._of(model).about(model, version)

    def ready(self, model: str, version: str = "") -> State:
        return self._of(model).ready(model, version)

    def foresee(self, question: Question) -> None:
        self._of(question.model).foresee(question)

    def infer(self, question: Question) -> Coroutine[Any, Any, Inference]:
        return self._of(question.model).infer(question)

    async def load(self, model: str) -> None:
        await self._of(model).load(model)

    async def unload(self, model: str) -> None:
        await self._of(model).unload(model)

    def statistics(self, model: str = "", version: str = "") -> Sequence[Statistics]:
        """Counted by all processes of the server, of what there is now."""
        parts = [self._of(model)] if model else self._parts
        own = [one for part in parts for one in part.statistics(model, version)]
        others = list(self._others())
        if not others:
            return own
        there = {(one.name, one.version) for one in own}
        if not version:  # what another process loaded, and this one did not
            there |= {(state.name, state.version) for state in self.index() if model in ("", state.name)}
        return together([*own, *(one for one in others if (one.name, one.version) in there)])

    def settings(self, model: str, version: str = "") -> Mapping[str, object]:
        return self._of(model).settings(model, version)
