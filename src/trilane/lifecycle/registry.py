"""What is defined, made and deployed, and what it was before.

Law: nothing here is ever overwritten, so every answer can be given again as of an earlier state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trilane.clock import Clock
from trilane.errors import ConflictError, DefinitionError
from trilane.lifecycle.metadata.protocol import (
    FAILED,
    RUNNING,
    ArtifactRecord,
    DefinitionsRecord,
    DeploymentRecord,
    MetadataStore,
    RunRecord,
)
from trilane.lifecycle.process import is_dead
from trilane.lifecycle.run import PROCESS

__all__ = ["Change", "Registry", "compare"]

# Under names that no endpoint can have, as their histories are of the same form.
_WANTED, _BY_NAME, _RETIRED = "wanted/", "features/by name", "retired/"
_Specs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One definition that is `added`, `changed` or `removed`; `details`: the paths of changed spec fields."""

    kind: str
    name: str
    what: str
    details: tuple[str, ...] = ()


class Registry:
    """The registry over a metadata store; `clock` says when things were recorded."""

    def __init__(self, store: MetadataStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock

    def apply_definitions(self, digest: str, specs: _Specs, path: Path, *, after: str | None = None) -> bool:
        """Makes these definitions the present ones; says whether they differ from those before.

        Raises ConflictError if others than `after` were applied meanwhile.
        """
        plain = _plain(specs)
        _by_name(plain)
        record = DefinitionsRecord(digest=digest, applied_at=self._clock.now(), path=str(path), specs=tuple(plain))
        return self.store.add_definitions(record, after=after)

    def applied(self) -> DefinitionsRecord | None:
        """The present definitions; None before the first `apply`."""
        return next(iter(self.store.definitions(limit=1)), None)

    def history(self) -> list[DefinitionsRecord]:
        """All states of the definitions, newest first."""
        return self.store.definitions()

    def diff(self, specs: _Specs) -> list[Change]:
        """What applying `specs` would change."""
        applied = self.applied()
        return compare(applied.specs if applied else (), specs)

    def record_artifact(
        self, kind: str, name: str, digest: str, path: Path, facts: Mapping[str, Any] | None = None
    ) -> bool:
        """Records an artifact; says whether it is new."""
        now = self._clock.now()
        record = ArtifactRecord(
            kind=kind, name=name, digest=digest, path=str(path), facts=dict(facts or {}), created_at=now
        )
        return self.store.add_artifact(record)

    def artifact(self, kind: str, name: str, digest: str | None = None) -> ArtifactRecord | None:
        """The artifact with this digest, else the latest; None if there is none."""
        return next(iter(self.store.artifacts(kind=kind, name=name, digest=digest, limit=1)), None)

    def artifacts(self, kind: str | None = None) -> list[ArtifactRecord]:
        """All artifacts (of one kind), newest first."""
        return self.store.artifacts(kind=kind)

    def deploy(
        self, endpoint: str, bundle: str, facts: Mapping[str, Any] | None = None, *, of: str | None = None
    ) -> bool:
        """From now on `endpoint` answers with `bundle`; says whether it did not before.

        Raises ConflictError if the definitions that are applied now are not those `of` this digest.
        """
        record = DeploymentRecord(endpoint=endpoint, bundle=bundle, facts=dict(facts or {}), at=self._clock.now())
        return self.store.add_deployment(record, of=of)

    def deployed(self, endpoint: str) -> DeploymentRecord | None:
        """What `endpoint` answers with; None before its first deployment."""
        return next(iter(self.store.deployments(endpoint=endpoint, limit=1)), None)

    def deployments(self, endpoint: str | None = None) -> list[DeploymentRecord]:
        """The history of an endpoint or of all, newest first."""
        return [record for record in self.store.deployments(endpoint=endpoint) if "/" not in record.endpoint]

    def want(self, endpoint: str, bundle: str, facts: Mapping[str, Any], *, of: str) -> bool:
        """Notes that `endpoint` shall answer with `bundle` once what it reads is filled."""
        return self.deploy(f"{_WANTED}{endpoint}", bundle, facts, of=of)

    def wanted(self, endpoint: str) -> DeploymentRecord | None:
        """What `endpoint` shall answer with, or has come to answer with; None before its first deployment."""
        return self.deployed(f"{_WANTED}{endpoint}")

    def serve(self, definitions: str, *, of: str) -> bool:
        """From now on reads by name are answered by these definitions; says whether they were not before."""
        return self.deploy(_BY_NAME, definitions, {"definitions": definitions}, of=of)

    def served(self, *, limit: int | None = None) -> list[DeploymentRecord]:
        """The history of the definitions (`bundle`) by which reads by name were answered, newest first."""
        return self.store.deployments(endpoint=_BY_NAME, limit=limit)

    def retire(self, view: str, version: str) -> bool:
        """Notes that nobody shall return to this version of a view any more."""
        return self.deploy(f"{_RETIRED}{view}", version, {"at": self._clock.now()})

    def retired(self) -> dict[tuple[str, str], int]:
        """When which version of which view was retired last."""
        found = [r for r in self.store.deployments() if r.endpoint.startswith(_RETIRED)]
        return {(r.endpoint.removeprefix(_RETIRED), r.bundle): r.at for r in reversed(found)}

    def stale_runs(self, older_than: int) -> list[RunRecord]:
        """Runs begun more than `older_than` microseconds ago that never ended: long ones, and dead ones.

        Of other machines nothing here can tell the two apart; the operator can, and may `abandon` the dead.
        """
        return self.store.runs(status=RUNNING, started_before=self._clock.now() - older_than)

    def abandon_dead(self) -> list[str]:
        """Ends the runs whose processes are known to have died; their ids."""
        dead = [run for run in self.store.runs(status=RUNNING) if is_dead(str(run.facts.get(PROCESS, "")))]
        for run in dead:
            number = str(run.facts[PROCESS]).split()[0]
            with contextlib.suppress(ConflictError):  # another one found it, too
                self.abandon(run.id, reason=f"process {number} died while it did this")
        return [run.id for run in dead]

    def abandon(self, run: str, *, reason: str) -> None:
        """Ends a run whose process died as failed. Raises ConflictError if it does not run."""
        facts = next((dict(found.facts) for found in self.store.runs(id=run, limit=1)), {})
        error = {"code": "abandoned", "what": reason, "where": f"run {run}", "remedy": "Start the job again"}
        self.store.end_run(run, status=FAILED, ended_at=self._clock.now(), facts=facts, error=error)


def compare(before: _Specs, after: _Specs) -> list[Change]:
    """The changes from one state of definitions to another, in order of kind and name.

    >>> compare([{"kind": "entity", "name": "a", "keys": ["x"]}], [{"kind": "entity", "name": "a", "keys": ["y"]}])
    [Change(kind='entity', name='a', what='changed', details=('keys',))]
    """
    old, new = _by_name(_plain(before)), _by_name(_plain(after))
    changes = []
    for kind, name in sorted(old.keys() | new.keys()):
        was, is_ = old.get((kind, name)), new.get((kind, name))
        if was is None or is_ is None:
            changes.append(Change(kind=kind, name=name, what="added" if was is None else "removed"))
        elif was != is_:
            changes.append(Change(kind=kind, name=name, what="changed", details=tuple(_paths(was, is_))))
    return changes


def _plain(specs: _Specs) -> list[dict[str, Any]]:
    """The specs as JSON would give them back, so that a tuple equals the list that was stored."""
    return msgspec.json.decode(msgspec.json.encode(list(specs)), type=list[dict[str, Any]])


def _by_name(specs: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    named: dict[tuple[str, str], dict[str, Any]] = {}
    for spec in specs:
        key = (str(spec.get("kind", "")), str(spec.get("name", "")))
        if "" in key or key in named:
            what = "two definitions have this name" if key in named else "a spec has no kind or no name"
            remedy = "Give each definition of a kind a name of its own"
            raise DefinitionError(what, where=" ".join(key), remedy=remedy)
        named[key] = spec
    return named


def _paths(was: object, is_: object, path: str = "") -> Iterator[str]:
    """The paths at which two plain values differ; members of lists of named specs go by name."""
    old, new = _members(was), _members(is_)
    if old is None or new is None:
        yield path
        return
    for name in sorted(old.keys() | new.keys()):
        inner = f"{path}.{name}" if path else name
        if name not in old or name not in new:
            yield inner
        elif old[name] != new[name]:
            yield from _paths(old[name], new[name], inner)
    if not path:
        return
    if [*old] != [*new] and old.keys() == new.keys() and old == new:
        yield path  # only their order differs


def _members(value: object) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {str(item["name"]): item for item in value}
    return None
