"""Models from files as their operator sees them: what there is, and how a file becomes a model that is served.

Laws: a file is copied, opened, asked for its golden rows and laid out before it is where servers look; a version that
is there is never written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trilane.apps.config import Config
from trilane.errors import ConflictError, DefinitionError, ModelError, SetupError, TrilaneError, UnavailableError
from trilane.models.external import external_files
from trilane.models.folder import NAME, Found, ModelFolder
from trilane.models.golden import read_golden, written
from trilane.models.options import OPTIONS_FILE
from trilane.models.wishes import Wishes
from trilane.serving.inference import Question
from trilane.serving.opened import Opened
from trilane.serving.opening import Opener

__all__ = ["Added", "add", "listed", "switch"]

_SUFFIXES = {
    ".onnx": "model.onnx",
    ".txt": "model.txt",
    ".json": "model.json",
    ".ubj": "model.ubj",
    ".joblib": "model.joblib",
    ".pkl": "model.pkl",
    ".py": "model.py",
}
_CODE = (".joblib", ".pkl", ".py")
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Added:
    """A model that was added."""

    name: str
    version: str
    path: Path
    load_s: float
    memory: int


def add(
    config: Config,
    file: Path,
    *,
    name: str = "",
    options: Path | None = None,
    golden: Path | None = None,
    processing: Path | None = None,
    trust: bool = False,
) -> Added:
    """Copies `file` into the folder of models as the next version of `name` (default: the file's).

    `golden`: rows to check it by; where it has no outputs, those that the model gives now are written. Raises
    ModelError if the file is none that can be served, ConflictError if it cannot go there.
    """
    name = name or (file.parent.name if file.stem == "model" else file.stem)
    target = _SUFFIXES.get(file.suffix)
    if not NAME.fullmatch(name):
        raise DefinitionError(f"{name!r} is no name of a model", where="--name", remedy="Use letters, digits, _ . -")
    if target is None or not file.is_file():
        what = "this is no file of a model" if file.is_file() else "there is no such file"
        raise ModelError(what, where=str(file), remedy=f"Give a file that ends in {', '.join(_SUFFIXES)}")
    if not trust and (file.suffix in _CODE or processing is not None):
        what = "opening this file runs the code in it"
        raise ModelError(what, where=str(file), remedy="If you trust whoever made it, add it with --trust")
    version = _next_version(config.models, name)
    copies = {file: target, **({one: one.name for one in external_files(file)} if file.suffix == ".onnx" else {})}
    for source, known in ((options, OPTIONS_FILE), (golden, "golden.json"), (processing, "processing.py")):
        copies |= {source: known} if source is not None else {}
    with _draft(config.models) as draft:
        home = draft / name / version
        home.mkdir(parents=True)
        for source, known in copies.items():
            shutil.copyfile(source, home / known)
        with _told_of(home, copies):
            opened = asyncio.run(_tried(config, draft, name, version))
        _move(home, config.models / name / version)
    return Added(name=name, version=version, path=config.models / name / version, **opened)


def listed(config: Config, ask: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a function of the command line
    """Every model with its versions: as the running server tells, or as they lie on disk if none answers.

    No model is loaded by that.
    """
    folder, states = ModelFolder(config.models), dict[tuple[str, str], dict[str, Any]]()
    with contextlib.suppress(UnavailableError):
        states = {(one["name"], one["version"]): one for one in ask("POST", "/v2/repository/index")}
    rows = []
    for name in folder.names():
        found = folder.find(name)
        for version in sorted({*found.versions, *found.errors}, reverse=True) if found else ():
            state = states.get((name, version), {})
            rows.append(_row(name, version, found.versions.get(version) if found else None, state))
            error = found.errors.get(version) if found else None
            if error is not None:
                rows[-1] |= {"state": "UNAVAILABLE", "reason": str(error)}
    for bad in folder.misnamed():
        name = bad.encode(errors="replace").decode()
        reason = f"{name!r} is no name of a model. Rename its folder: letters, digits, _ . -"
        rows.append(_row(name, "", None, {"state": "UNAVAILABLE", "reason": reason}))
    return rows


def switch(config: Config, name: str, ask: Any, *, on: bool) -> bool:  # noqa: ANN401 - a function of the command line
    """Has the running server load or unload a model; whether one runs, else it is noted for the next one."""
    if not NAME.fullmatch(name) or ModelFolder(config.models).find(name) is None:
        known = ", ".join(ModelFolder(config.models).names()) or "none yet"
        raise DefinitionError(f"there is no model {name!r}", where=name, remedy=f"There are {known}", file="")
    try:
        ask("POST", f"/v2/repository/models/{name}/{'load' if on else 'unload'}")
    except UnavailableError:
        wishes = Wishes(config.state / "models")
        (wishes.load if on else wishes.unload)(name)
        wishes.close()
        return False
    return True


def _row(name: str, version: str, found: Found | None, state: dict[str, Any]) -> dict[str, Any]:
    memory, ready = state.get("memory_bytes"), state.get("state") == "READY"
    return {
        "name": name,
        "version": version,
        "runtime": found.runtime if found else None,
        "state": "LOADED" if ready and memory is not None else state.get("state") or "ON DISK",
        "reason": state.get("reason") or "",
        "files_mib": round(found.size / _MIB, 3) if found else None,
        "memory_mib": None if memory is None else round(memory / _MIB, 3),
        "load_ms": state.get("load_ms"),
    }


def _next_version(folder: Path, name: str) -> str:
    home = folder / name
    if any((home / known).exists() for known in _SUFFIXES.values()):
        what, remedy = "it has one file, and no folders for versions", f"Move its files into {home / '1'}"
        raise ConflictError(what, where=str(home), remedy=remedy)
    there = [int(one.name) for one in home.glob("*") if one.name.isdecimal()] if home.exists() else []
    return str(max(there, default=0) + 1)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder on the same disk, which servers do not look at."""
    draft = folder / f".draft-{os.urandom(4).hex()}"
    try:
        draft.mkdir(parents=True)
        yield draft
    except OSError as error:
        remedy = "Free space, or make the folder writable"
        raise SetupError(f"the model cannot be copied: {error}", where=str(folder), remedy=remedy) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def _told_of(home: Path, copies: Mapping[Path, str]) -> Iterator[None]:
    """What is wrong with a copy is told of the file that it was made of: the copy is gone when somebody looks."""
    try:
        yield
    except TrilaneError as error:
        for source, known in copies.items():
            error.where = error.where.replace(str(home / known), str(source))
        raise


def _move(home: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        home.rename(place)
    except OSError:
        if place.exists():
            raise ConflictError("somebody else added it meanwhile", where=str(place), remedy="Add it again") from None
        raise


async def _tried(config: Config, draft: Path, name: str, version: str) -> dict[str, Any]:
    """Opens the model where it lies, as a server would."""
    found = ModelFolder(draft).find(name)
    if found is None or version not in found.versions:
        raise found.errors[version] if found else ModelError("it is gone", where=str(draft))
    with ThreadPoolExecutor(2) as threads:
        loop = asyncio.get_running_loop()
        opener = Opener(config.state / "models", loop=loop, loading=threads, running=threads)
        opened = await opener.open(found.versions[version])
        try:
            await _complete_golden(opened, found.versions[version])
            return {"load_s": opened.load_s, "memory": opened.size}
        finally:
            await opened.leave()


async def _complete_golden(opened: Opened, found: Found) -> None:
    """Writes what the model gives for golden rows that have no outputs."""
    if found.golden is None:
        return
    golden = read_golden(found.golden)
    if golden.outputs:
        return
    question = Question(found.name, golden.tensors())
    answer, _ = await opened.infer(question)
    found.golden.write_bytes(written(golden, [one.array for one in answer.outputs], opened.outputs))
