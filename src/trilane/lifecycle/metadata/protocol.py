"""The promise of a metadata store, and the records it keeps.

Laws: records are facts and never change, but for a run that ends once and an edge that is seen again; what a
method wrote is there after a crash of any process, and either all of it or nothing; lists come newest first,
in the order of writing, whatever the clock says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

__all__ = [
    "FAILED",
    "RUNNING",
    "SUCCEEDED",
    "ArtifactRecord",
    "DefinitionsRecord",
    "DeploymentRecord",
    "EdgeRecord",
    "MetadataStore",
    "RunRecord",
]

RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"


class DefinitionsRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One state of all definitions: `specs` as plain facts, and the folder that keeps the code as it was."""

    digest: str
    applied_at: int
    path: str
    specs: tuple[dict[str, Any], ...]


class ArtifactRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable output and where it lies. (kind, name, digest) is unique."""

    kind: str
    name: str
    digest: str
    path: str
    facts: dict[str, Any]
    created_at: int


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """From instant `at` on, `endpoint` answers with `bundle`."""

    endpoint: str
    bundle: str
    facts: dict[str, Any]
    at: int


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a job; `error` is the payload of what ended it."""

    id: str
    kind: str
    subject: str
    facts: dict[str, Any]
    started_at: int
    status: str = RUNNING
    error: dict[str, Any] | None = None
    ended_at: int | None = None


class EdgeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What flows from `source` to `target`, both URIs; (source, target, relation) is unique."""

    source: str
    target: str
    relation: str
    first_seen: int
    last_seen: int
    run: str | None = None


class MetadataStore(Protocol):
    """Keeps the records. Raises UnavailableError when busy or down, SetupError when it cannot be written."""

    def add_definitions(self, record: DefinitionsRecord, *, after: str | None = None) -> bool:
        """Appends `record` unless the newest one has its digest; says whether it did.

        Raises ConflictError if there are definitions and the newest is neither this nor `after`, if one is named.
        """
        ...

    def definitions(self, *, limit: int | None = None) -> list[DefinitionsRecord]:
        """The states that were applied, newest first."""
        ...

    def add_artifact(self, record: ArtifactRecord) -> bool:
        """Adds `record` unless (kind, name, digest) is there; says whether it did."""
        ...

    def artifacts(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        digest: str | None = None,
        limit: int | None = None,
    ) -> list[ArtifactRecord]:
        """The artifacts that fit all given facts, newest first."""
        ...

    def add_deployment(self, record: DeploymentRecord, *, of: str | None = None) -> bool:
        """Appends to the history of the endpoint; says whether it did.

        With `of`, the digest of definitions, only if its newest record has another bundle or other facts; it raises
        ConflictError if these are not the newest definitions.
        """
        ...

    def deployments(self, *, endpoint: str | None = None, limit: int | None = None) -> list[DeploymentRecord]:
        """The history of one endpoint or of all, newest first."""
        ...

    def marks(self) -> tuple[int, ...]:
        """Numbers that stay the same as long as the histories of definitions and deployments do; cheap to poll."""
        ...

    def start_run(self, record: RunRecord) -> None:
        """Adds a run. Raises ConflictError if its id is taken."""
        ...

    def end_run(
        self,
        run: str,
        *,
        status: str,
        ended_at: int,
        facts: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
        edges: Sequence[EdgeRecord] = (),
    ) -> None:
        """Ends a run and sees `edges`, in one transaction. Raises ConflictError if it does not run."""
        ...

    def runs(
        self,
        *,
        id: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
        status: str | None = None,
        started_before: int | None = None,
        limit: int | None = None,
    ) -> list[RunRecord]:
        """The runs that fit all given facts, newest first."""
        ...

    def see_edges(self, edges: Sequence[EdgeRecord]) -> None:
        """Adds the edges; one that is there keeps first_seen, and takes last_seen and run of the later."""
        ...

    def edges(self) -> list[EdgeRecord]:
        """All edges, in the order of (source, target, relation)."""
        ...

    def close(self) -> None:
        """Gives back what is held; afterwards the store is not used."""
        ...
