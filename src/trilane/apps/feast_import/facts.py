"""What a Feast repository declares, as `reader.py` tells it, and how it is asked.

Laws: Feast runs in an interpreter of its own, never in ours; what the repository gets wrong is told with file and line.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trilane.errors import DefinitionError, SetupError

__all__ = [
    "Aggregated",
    "EntityFacts",
    "FieldFacts",
    "OnDemandFacts",
    "Projection",
    "Repository",
    "ServiceFacts",
    "SourceFacts",
    "ViewFacts",
    "folder_of",
    "read",
]

READER = Path(__file__).with_name("reader.py")
_NO_FEAST = 4


class _About(msgspec.Struct, frozen=True, kw_only=True):
    """What all have. `function` is the text of a transformation, `names` what it takes from its module."""

    name: str
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""


class FieldFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A column; `type` in Feast's words."""

    name: str
    type: str
    description: str = ""


class EntityFacts(_About, frozen=True, kw_only=True):
    """An entity and its one join key."""

    join_key: str
    type: str = "UNKNOWN"


class SourceFacts(_About, frozen=True, kw_only=True):
    """A data source of any kind; `renamed` maps columns to fields; `delay` is a watermark's, in seconds."""

    kind: str
    path: str = ""
    reads: str = ""
    timestamp: str = ""
    created: str = ""
    renamed: dict[str, str] = {}
    batch_source: str | None = None
    fields: list[FieldFacts] = []
    delay: float | None = None


class Aggregated(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregation of a view; `window` in seconds."""

    name: str
    function: str
    column: str
    window: float | None = None


class ViewFacts(_About, frozen=True, kw_only=True):
    """A stored view of any kind; `ttl` in seconds; `unknown` are entities that the repository lacks."""

    kind: str
    entities: list[str] = []
    unknown: list[str] = []
    ttl: float | None = None
    source: str | None = None
    batch_source: str | None = None
    derived_from: list[str] = []
    keys: list[FieldFacts] = []
    fields: list[FieldFacts] = []
    online: bool = True
    timestamp: str = ""
    aggregations: list[Aggregated] = []
    mode: str = ""
    function: str = ""
    names: dict[str, str] = {}


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """Some features of a view, perhaps under another name or by other join keys."""

    view: str
    alias: str = ""
    features: list[str] = []
    join_keys: dict[str, str] = {}


class OnDemandFacts(_About, frozen=True, kw_only=True):
    """A view computed from requests and other views."""

    requests: list[str] = []
    views: list[Projection] = []
    inputs: list[FieldFacts] = []
    fields: list[FieldFacts] = []
    singleton: bool = False
    stored: bool = False
    aggregated: bool = False
    mode: str = ""
    function: str = ""
    names: dict[str, str] = {}


class ServiceFacts(_About, frozen=True, kw_only=True):
    """A selection of features; `references` are those given as text."""

    projections: list[Projection] = []
    references: list[str] = []


class Other(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has no counterpart."""

    kind: str
    name: str


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """All that one repository declares."""

    feast: str
    project: str
    entities: list[EntityFacts] = []
    sources: list[SourceFacts] = []
    views: list[ViewFacts] = []
    on_demand: list[OnDemandFacts] = []
    services: list[ServiceFacts] = []
    labels: list[ViewFacts] = []
    others: list[Other] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to import."""
        return not (self.entities or self.sources or self.views or self.on_demand or self.labels)


def folder_of(repository: Path) -> Path:
    """The folder with `feature_store.yaml`: `repository` itself, or its `feature_repo`. Raises SetupError."""
    for folder in (repository, repository / "feature_repo"):
        if (folder / "feature_store.yaml").is_file():
            return folder
    raise SetupError(
        "there is no feature_store.yaml",
        where=str(repository),
        remedy="Name the folder of a Feast repository, in which `feast apply` runs",
    )


def read(folder: Path, *, python: str, ignore: Sequence[str] = ()) -> Repository:
    """Has `python` import the repository in `folder`, as `feast apply` does. Raises SetupError, DefinitionError."""
    command = [python, str(READER), str(folder), *ignore]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise SetupError(
            f"the interpreter cannot be started: {error}",
            where=python,
            remedy="Give --python the interpreter of an environment with Feast",
        ) from None
    if done.returncode == 0:
        return decode(done.stdout, where=python)
    _refuse(done, folder, python)
    raise AssertionError("unreachable")  # pragma: no cover


def decode(text: bytes, *, where: str) -> Repository:
    """The facts that the reader printed. Raises SetupError for anything else."""
    try:
        return msgspec.json.decode(text, type=Repository)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(
            f"this is no account of a Feast repository: {error}",
            where=where,
            remedy=f"Let an interpreter with Feast run {READER}",
        ) from None


def _refuse(done: subprocess.CompletedProcess[bytes], folder: Path, python: str) -> None:
    try:
        told = msgspec.json.decode(done.stdout, type=dict[str, dict[str, str | int]])["error"]
    except (msgspec.DecodeError, KeyError):
        last = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise SetupError(
            f"the reader failed: {last[-1]}", where=python, remedy="Try `feast plan` with this interpreter"
        ) from None
    if done.returncode == _NO_FEAST:
        raise SetupError(
            f"Feast cannot be imported: {told['what']}",
            where=python,
            remedy="Give --python the interpreter of the environment in which `feast apply` runs",
        )
    raise DefinitionError(
        str(told["what"]),
        where=f"the Feast repository {folder}",
        remedy="Make `feast plan` work with this interpreter, or leave the file out with --ignore",
        file=f"{told['file']}:{told['line']}",
    )
