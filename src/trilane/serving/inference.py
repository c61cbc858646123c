"""The promise of whatever answers tensors with tensors by the name of a model: what every protocol is put on top of.

Laws: a question is answered by one version of the model, whole; what is refused is refused before any work, with the
path to the fault; a model that fails costs the answers of that model alone. Instants are those of `time.perf_counter`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from trilane.errors import ContractError
from trilane.models.tensor import Tensor, TensorSpec
from trilane.serving.share import Share

__all__ = ["About", "Inference", "Inferences", "Question", "State", "Statistics", "chosen"]


class Question(msgspec.Struct, frozen=True):
    """Inputs for `model`; an empty `version` asks for the one that is served.

    `outputs`: which to give, all if empty; `deadline`: the instant after which the answer is worthless;
    `caller`: who asks, for quotas; `priority`: as the protocol said, 0 if it did not; `explain`: whether the answer's
    parameters shall tell of the batch it was made in.
    """

    model: str
    inputs: Sequence[Tensor]
    version: str = ""
    outputs: Sequence[str] = ()
    deadline: float = math.inf
    caller: str = ""
    priority: int = 0
    explain: bool = False
    parameters: Mapping[str, str | int | float | bool] = msgspec.field(default_factory=dict)


class Inference(msgspec.Struct, frozen=True):
    """The outputs that were asked for, which version made them, and how that came about, for whoever tells of it."""

    model: str
    version: str
    outputs: Sequence[Tensor]
    parameters: Mapping[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    share: Share[Any] | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What a model takes and gives. `max_rows`: of one question, 0 for a model whose first axis is no rows."""

    name: str
    version: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Where a model is in its life: `state` is READY, LOADING, UNLOADING or UNAVAILABLE, and `reason` says why.

    A model that is not in memory but is loaded by the first question is READY. `costs`: what a loaded one takes, of
    its settings, where somebody wants to know.
    """

    name: str
    version: str
    state: str
    reason: str = ""
    loaded: bool = False
    costs: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model did since the process began, or since the server did; durations in nanoseconds, summed."""

    name: str
    version: str
    last_inference_ms: int
    inferences: int
    executions: int
    succeeded: int
    failed: int
    success_ns: int
    fail_ns: int
    queue_ns: int
    compute_ns: int
    by_batch: Mapping[int, tuple[int, int]]  # rows of a batch: how often, and how long together


class Inferences(Protocol):
    """The models that one process answers for. All raise DefinitionError (404) for a model that is not there."""

    def index(self) -> Sequence[State]:
        """Every model that can be asked for, loaded or not."""
        ...

    async def about(self, model: str, version: str = "") -> About:
        """What a model takes and gives; loads it, off the loop, if that takes it. Raises as `infer` does."""
        ...

    def ready(self, model: str, version: str = "") -> State:
        """Whether a model would answer now."""
        ...

    def foresee(self, question: Question) -> None:
        """Raises what `infer` will raise whatever the inputs are, as far as that is certain before they are known.

        A `priority` of 0 may become any, and the `deadline` an earlier one.
        """
        ...

    async def infer(self, question: Question) -> Inference:
        """The answer. Raises ContractError, UnavailableError (overload, deadline) or ModelError."""
        ...

    async def load(self, model: str) -> None:
        """Loads a model, anew if its files changed; whoever asks meanwhile is answered by the one before."""
        ...

    async def unload(self, model: str) -> None:
        """Unloads a model once those who asked are answered; questions that come later are refused until `load`."""
        ...

    def statistics(self, model: str = "", version: str = "") -> Sequence[Statistics]:
        """Of one model, or of all that were loaded, or could not be."""
        ...

    def settings(self, model: str, version: str = "") -> Mapping[str, object]:
        """How a model is run, as plain facts: runtime, batching, instances, whether it is pinned."""
        ...


def chosen(outputs: Sequence[str], specs: Sequence[TensorSpec], model: str) -> Sequence[int]:
    """The places of the outputs that are asked for; of all if none is. Raises ContractError for what it does not give,
    and for what is asked for again: an answer must not be any number of times as large as the model's.
    """
    if not outputs:
        return range(len(specs))
    names, found = [spec.name for spec in specs], list[int]()
    for place, name in enumerate(outputs):
        if name not in names or names.index(name) in found:
            known = name in names
            what = f"the output {name!r} is asked for twice" if known else f"{model!r} gives no output {name!r}"
            remedy = "Ask for each output once" if known else f"Ask for {', '.join(names)}"
            raise ContractError(what, where=f"outputs[{place}].name", remedy=remedy)
        found.append(names.index(name))
    return found
