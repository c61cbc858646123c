"""The model that a job asks by itself, without an endpoint: one that was trained here, or one from the models' folder.

Laws: a model is known by the digest of all that makes its answers, and one whose files changed since the job began is
refused; it runs as a server runs it: weights mapped, the owner's code in a process of its own, golden rows checked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy.typing as npt

from trilane.apps.project import Project
from trilane.apps.scoring.patient import PATIENCE, PatientRuntime
from trilane.decisions.bundle import Bundle
from trilane.errors import ConflictError, DefinitionError, ModelError, UnavailableError
from trilane.models.artifact import load
from trilane.models.folder import Found, ModelFolder
from trilane.models.profile import fastest_batch, read_profile
from trilane.models.runtime.protocol import Arrays
from trilane.models.runtime.sliced import SlicedRuntime
from trilane.models.runtime.trained import open_trained
from trilane.models.stamps import Stamps
from trilane.models.tensor import Tensor, TensorSpec
from trilane.serving.inference import Question
from trilane.serving.opened import counts_rows
from trilane.serving.opening import Opener

__all__ = ["NamedModel", "OpenModel", "find_model", "open_model"]

_DIGITS = 6  # of a digest, at least, that name a model


class OpenModel(Protocol):
    """A model that answers. `names`: those of the columns of its one matrix, if it knows them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    names: tuple[str, ...]
    most: int  # rows at a time; 0 for any number

    def run(self, arrays: Arrays) -> Sequence[npt.NDArray[Any]]:
        """The outputs for `inputs`, row by row. Raises ModelError, or UnavailableError where it is being restarted."""
        ...

    def close(self) -> None:
        """Gives back what it holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model as it was found: `source` is the artifact of one that was trained here, or the files of any other."""

    name: str
    version: str
    digest: str
    source: Path | Found


def find_model(project: Project, name: str, version: str = "") -> NamedModel:
    """The model `name` that a deployed endpoint runs, else the one in the folder of models, in its highest version.

    `version`: 6 digits or more of the digest of a trained one, deployed or not, or the number of another version.
    Raises DefinitionError if there is none, ModelError for files that cannot be opened.
    """
    trained, listed = _trained(project, name, version), ModelFolder(project.config.models).find(name)
    if trained is not None:
        return NamedModel(name=name, version=trained[:16], digest=trained, source=_home(project, name, trained))
    if listed is None:
        known = sorted({*(one.model for one in _bundles(project)), *ModelFolder(project.config.models).names()})
        what = f"there is no model {name!r}" + (f" of version {version!r}" if version else "")
        raise DefinitionError(what, where="--model", remedy=f"There are {', '.join(known) or 'none yet'}", file="")
    chosen = version or next(iter({**listed.versions, **listed.errors}))
    if chosen in listed.errors:
        raise listed.errors[chosen]
    if chosen not in listed.versions:
        what, remedy = f"{name!r} has no version {chosen!r}", f"There are {', '.join(listed.versions)}"
        raise DefinitionError(what, where="--version", remedy=remedy, file="")
    found = listed.versions[chosen]
    return NamedModel(name=name, version=chosen, digest=_digest(project, found), source=found)


def open_model(project: Project, named: NamedModel) -> OpenModel:
    """The model, ready to answer. Raises ModelError, or SetupError for what is not installed."""
    source = named.source
    opened: OpenModel = _Trained(project, source) if isinstance(source, Path) else _FromFile(project, source)
    if not counts_rows((*opened.inputs, *opened.outputs)):
        opened.close()
        what, remedy = "the first axis of its tensors is no number of rows", "Export it with a free first axis"
        raise ModelError(what, where=f"model {named.name!r}", remedy=remedy)
    return opened


def _bundles(project: Project) -> list[Bundle]:
    return [one for _, one in sorted(project.bundles().items())] if project.applied_digest() is not None else []


def _trained(project: Project, name: str, version: str) -> str | None:
    """The digest of a trained model: of the first endpoint that runs it, or of the one that `version` names."""
    if not version:
        return next((one.model_digest for one in _bundles(project) if one.model == name), None)
    homes = (project.models_folder / name).glob(f"{version}*") if _is_digest(version) and "/" not in name else ()
    found = [load(home).digest for home in homes if home.is_dir()]
    if len(found) > 1:
        what, known = f"{len(found)} models begin with {version!r}", ", ".join(one[:16] for one in found)
        raise ConflictError(what, where=f"model {name!r}", remedy=f"Give more digits of one of: {known}")
    return found[0] if found else None


def _is_digest(version: str) -> bool:
    return len(version) >= _DIGITS and set(version) <= set("0123456789abcdef")


def _home(project: Project, name: str, digest: str) -> Path:
    return project.models_folder / name / digest[:16]


def _digest(project: Project, found: Found) -> str:
    """SHA-256 over all files that its answers come from, and what its owner says of it."""
    stamps, parts = Stamps(project.config.state / "models" / "stamps"), [msgspec.json.encode(found.options)]
    files = [found.path, *found.beside, *([found.processing] if found.processing else [])]
    try:
        parts += [f"{path.name} {stamps.digest(path)}".encode() for path in sorted(set(files))]
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror or error}", where=str(found.path)) from None
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


class _Trained:
    """A trained model: a matrix of features in, scores out."""

    most = 0

    def __init__(self, project: Project, home: Path) -> None:
        kept = project.config.state / "models"
        stamps = Stamps(kept / "stamps")
        artifact = load(home, stamps=stamps)
        declared = project.definitions.models.get(artifact.name)
        process = declared.process if declared is not None else None
        runtime = open_trained(artifact, process=process, kept=kept, stamps=stamps)
        patient = PatientRuntime(runtime, lost=lambda _: None)
        self._runtime = SlicedRuntime(patient, rows=fastest_batch(read_profile(artifact)))
        self.names = tuple(column.name for column in runtime.signature.inputs)
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("features", "FP32", (-1, len(self.names))),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("score", "FP64", (-1,)),)

    def run(self, arrays: Arrays) -> Sequence[npt.NDArray[Any]]:
        return [self._runtime.predict(arrays[0])]

    def close(self) -> None:
        self._runtime.close()


class _FromFile:
    """A model of the folder, on a loop of its own."""

    names: tuple[str, ...] = ()

    def __init__(self, project: Project, found: Found) -> None:
        self._name, self._threads = found.name, ThreadPoolExecutor(2)
        self._loop = asyncio.new_event_loop()
        opener = Opener(project.config.state / "models", loop=self._loop, loading=self._threads, running=self._threads)
        try:
            self._opened = self._loop.run_until_complete(opener.open(found))
        except BaseException:
            self._end()
            raise
        self._opened.unhurried()
        self.inputs, self.outputs, self.most = self._opened.inputs, self._opened.outputs, found.options.max_rows

    def run(self, arrays: Arrays) -> Sequence[npt.NDArray[Any]]:
        pairs = zip(self.inputs, arrays, strict=True)
        question = Question(self._name, [Tensor(spec.name, spec.datatype, array) for spec, array in pairs])
        return self._loop.run_until_complete(self._answer(question))

    async def _answer(self, question: Question) -> Sequence[npt.NDArray[Any]]:
        """The outputs; a job has the time to wait for a process that is started anew."""
        tries = 0
        while True:
            try:
                answer, _ = await self._opened.infer(question)
            except UnavailableError as error:
                tries, pause = tries + 1, error.facts.get("retry_after_s")
                if not isinstance(pause, float) or tries > PATIENCE:
                    raise
                await asyncio.sleep(pause)
            else:
                return [one.array for one in answer.outputs]

    def close(self) -> None:
        self._loop.run_until_complete(self._opened.leave())
        self._end()

    def _end(self) -> None:
        self._threads.shutdown()
        self._loop.close()
