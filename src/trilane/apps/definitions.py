"""A project's definitions: read from the author's file, or from the frozen copy that `apply` made.

Laws: what the file and the modules it imports from its own folder declare, and all that this refers to, belongs;
two different things of one kind never share a name; the digest is over the bytes of those files and over what they
declare, wherever they lie; a frozen copy that does not have its digest is refused. Reading leaves `sys.path` and
`sys.modules` as they were, so a process may read two states of the same files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from trilane.apps.module_files import ModuleFiles, import_files
from trilane.errors import DefinitionError, SetupError
from trilane.features.entity import Entity
from trilane.features.view import View, stand_ins
from trilane.models.model import Model
from trilane.plugins import make_folder
from trilane.serving.endpoint import Endpoint
from trilane.serving.policy import Policy
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource

__all__ = ["Definitions", "load_definitions", "load_snapshot", "snapshot"]

MANIFEST = "manifest.json"

_Thing = EventSource | TableSource | Entity | View | Model | Endpoint | Policy
_KINDS: dict[type, str] = {
    EventSource: "sources",
    TableSource: "tables",
    Entity: "entities",
    View: "views",
    Model: "models",
    Endpoint: "endpoints",
    Policy: "policies",
}


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """All that one state of a project declares, by name; `files` are the texts it was read from, by relative path.

    `entry` is the relative path of the file that was read first.
    """

    sources: dict[str, EventSource] = field(default_factory=dict)
    tables: dict[str, TableSource] = field(default_factory=dict)
    entities: dict[str, Entity] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    entry: str = ""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    digest: str = ""

    @property
    def policy(self) -> Policy | None:
        """What a server does with more than it can answer, if that is declared."""
        return next(iter(self.policies.values()), None)

    def specs(self) -> list[dict[str, object]]:
        """Everything as plain facts, in order of kind and name."""
        things: list[_Thing] = [thing for kind in _KINDS.values() for _, thing in sorted(getattr(self, kind).items())]
        return [thing.spec() for thing in things]


def load_definitions(path: Path) -> Definitions:
    """Imports the file at `path` and collects what it declares. Raises DefinitionError, which names file and line."""
    if not path.is_file():
        raise SetupError(
            "there is no definitions file",
            where=str(path),
            remedy="Write it, or name another with `definitions = ` in trilane.toml",
        )
    return _read(path)


def snapshot(definitions: Definitions, folder: Path) -> Path:
    """Freezes `definitions` in `folder`/<digest16>, and returns that; a copy that is there already stays."""
    target = folder / definitions.digest[:16]
    if target.exists():
        return target
    draft = make_folder(folder) / f".{target.name}.{os.getpid()}"
    try:
        for name, text in definitions.files.items():
            make_folder((draft / name).parent)
            (draft / name).write_bytes(text)
        facts = {"digest": definitions.digest, "entry": definitions.entry, "files": sorted(definitions.files)}
        (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
        draft.rename(target)
    except OSError as error:
        if not target.exists():  # else another process froze the same
            raise SetupError(f"the definitions cannot be frozen: {error}", where=str(target)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def load_snapshot(folder: Path) -> Definitions:
    """The definitions frozen in `folder`. Raises SetupError if it is gone or not what it was."""
    remedy = "Run `trilane apply` to freeze the definitions again"
    try:
        facts = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=dict[str, Any])
        found = _read(folder / str(facts["entry"]))
    except (OSError, msgspec.DecodeError, KeyError, DefinitionError) as error:
        what = f"the frozen definitions cannot be read: {error}"
        raise SetupError(what, where=str(folder), remedy=remedy) from error
    if found.digest != facts["digest"] or not found.digest.startswith(folder.name):
        raise SetupError(
            "the frozen definitions were changed after they were frozen, or by another release of Trilane",
            where=str(folder),
            remedy=f"Remove the folder. {remedy}",
        )
    return found


def _read(path: Path) -> Definitions:
    imported = import_files(path)
    return _collect(imported, path)


def _collect(imported: ModuleFiles, path: Path) -> Definitions:
    kinds: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
    for thing in _reachable(imported.module.__dict__.values()):
        known = kinds[_KINDS[type(thing)]].setdefault(thing.name, thing)
        if known is not thing and known != thing:
            raise _clash(known, thing, path)
    for name in sorted(kinds["sources"].keys() & kinds["tables"].keys()):
        raise _clash(kinds["sources"][name], kinds["tables"][name], path)
    files = {**imported.files, **dict(_schema_files(kinds["sources"].values(), path.resolve().parent))}
    found = replace(Definitions(entry=path.name, files=files), **kinds)  # type: ignore[arg-type]
    digest = hashlib.sha256(msgspec.json.encode(found.specs()))
    for name, text in sorted(files.items()):
        digest.update(f"\0{name}\0{len(text)}\0".encode() + text)
    return replace(found, digest=digest.hexdigest())


def _schema_files(sources: Iterable[EventSource], folder: Path) -> Iterator[tuple[str, bytes]]:
    """The schemas that sources name by file, by relative path: they belong to what is frozen."""
    for source in sources:
        for schema in source.format.schemas:
            if schema.path is None:
                continue
            if not schema.path.is_relative_to(folder):
                remedy = "Put it into the folder of the definitions, or below"
                raise DefinitionError(
                    "the schema lies outside of the definitions' folder", where=schema.name, remedy=remedy, file=""
                )
            yield schema.path.relative_to(folder).as_posix(), schema.content


def _reachable(values: Iterable[object]) -> Iterator[_Thing]:
    """Each Trilane object among `values`, or that such a one refers to, once."""
    seen: set[int] = set()
    waiting = [value for value in values if type(value) in _KINDS]
    while waiting:
        thing = waiting.pop(0)
        if id(thing) not in seen:
            seen.add(id(thing))
            yield thing  # type: ignore[misc]
            waiting.extend(_referred(thing))


def _referred(thing: object) -> Iterator[object]:
    if isinstance(thing, Endpoint):
        yield from thing.models
    elif isinstance(thing, Model):
        yield from (*thing.plan.views, thing.spine)
    elif isinstance(thing, View):
        yield from (*thing.uses, *stand_ins(thing))
        yield from (part for part in (thing.source, thing.entity) if part is not None)


def _clash(one: _Thing, other: _Thing, path: Path) -> DefinitionError:
    places = [str(getattr(thing, "place", "")) for thing in (one, other)]
    kind = "source" if isinstance(one, EventSource | TableSource) else type(one).__name__.lower()
    if isinstance(one, Policy):
        what, remedy = "there are two different policies, and a server goes by one", "Keep one of them"
        return DefinitionError(what, where=f"policy {one.name!r}", remedy=remedy, file=str(path))
    return DefinitionError(
        f"two different things are called {one.name!r}",
        where=f"{kind} {one.name!r}" + (f" ({' and '.join(places)})" if all(places) else ""),
        remedy="Rename one of them",
        file=places[1] or str(path),
    )
