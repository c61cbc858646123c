"""What a source's values are written in, as its author declares it: `tl.avro(...)`, `tl.protobuf(...)`.

Law: a declared schema is its content, read when the definition is made; a file is found beside the file that names it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeAlias

from trilane.errors import DefinitionError

__all__ = ["JSON", "RELEASED_MARK", "Format", "Framing", "SchemaFile", "as_format", "avro", "protobuf"]

# What follows a value that was released from quarantine, where the format has no place to say so.
RELEASED_MARK = b"\0trilane:released"

Framing: TypeAlias = Literal["registry", "single_object", "bare"]
_FRAMINGS = {"avro": ("registry", "single_object", "bare"), "protobuf": ("registry", "bare")}


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """A declared schema: its `name` as it was given, its `content`, and the file that it came from, if it did."""

    name: str
    content: bytes = field(repr=False)
    path: Path | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What values are written in; made by `avro` and `protobuf`.

    `schemas`: those declared, the present one first; `paths`: where a field lies in a value, if not under its own name;
    `message`: of Protobuf, its full name; `subject`: under which a registry keeps the schema that we write in.
    """

    kind: Literal["json", "avro", "protobuf"] = "json"
    framing: Framing = "bare"
    schemas: tuple[SchemaFile, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    message: str = ""
    subject: str = ""

    @property
    def by_registry(self) -> bool:
        """Whether values name a schema that a registry keeps."""
        return self.framing == "registry"

    def spec(self) -> dict[str, object]:
        """The format as plain facts."""
        return {
            "kind": self.kind,
            "framing": self.framing,
            "schemas": [one.digest for one in self.schemas],
            "paths": dict(self.paths),
            "message": self.message,
            "subject": self.subject,
        }


JSON = Format()


def avro(
    *schemas: str | Path | Mapping[str, Any],
    framing: Framing | None = None,
    subject: str = "",
    paths: Mapping[str, str] | None = None,
) -> Format:
    """Values in Avro's binary encoding.

    Without `schemas`, each value names its writer's schema in a registry (`framing="registry"`: a byte 0 and four of
    the id). With them, values are bare datums of the first, or with `framing="single_object"` of any of them, told by
    its fingerprint. A schema is a file beside the one that names it, or a mapping. The aliases and defaults of the
    first count, also with a registry. `paths`: `{"city": "address.city"}` for fields that lie elsewhere; `subject`: in
    whose newest schema JSON events are written (`"payments-value"`).
    """
    found = tuple(_schema(one) for one in schemas)
    return _checked(
        Format(
            kind="avro",
            framing=framing or ("bare" if found else "registry"),
            schemas=found,
            paths=tuple(sorted((paths or {}).items())),
            subject=subject,
        )
    )


def protobuf(
    schema: str | Path | bytes | None = None,
    *,
    message: str = "",
    framing: Framing | None = None,
    subject: str = "",
    paths: Mapping[str, str] | None = None,
) -> Format:
    """Values in Protobuf's binary encoding.

    Without `schema`, each value names its schema in a registry. With it, values are bare messages of type `message`
    (`"shop.Payment"`) of this set of descriptors, a file that `protoc --include_imports --descriptor_set_out` writes,
    or its bytes. `paths` and `subject` as for `avro`.
    """
    found = () if schema is None else (_schema(schema),)
    return _checked(
        Format(
            kind="protobuf",
            framing=framing or ("bare" if found else "registry"),
            schemas=found,
            paths=tuple(sorted((paths or {}).items())),
            message=message,
            subject=subject,
        )
    )


def as_format(given: Format | str) -> Format:
    """The format that a source names: `"json"`, `"avro"` and `"protobuf"` (by a registry), or one that was made."""
    if isinstance(given, Format):
        return given
    known = {"json": JSON, "avro": Format(kind="avro", framing="registry")}
    known["protobuf"] = Format(kind="protobuf", framing="registry")
    if given not in known:
        remedy = 'Write format="json", tl.avro(...) or tl.protobuf(...)'
        raise DefinitionError(f"there is no format {given!r}", where="format", remedy=remedy)
    return known[given]


def _checked(made: Format) -> Format:
    where = f"tl.{made.kind}"
    if made.framing not in _FRAMINGS[made.kind]:
        remedy = f"Choose {', '.join(_FRAMINGS[made.kind])}"
        raise DefinitionError(f"there is no framing {made.framing!r}", where=where, remedy=remedy)
    if not made.schemas and not made.by_registry:
        raise DefinitionError(f"framing {made.framing!r} needs a schema", where=where, remedy="Name its file")
    if made.framing == "bare" and made.kind == "avro" and len(made.schemas) > 1:
        remedy = 'Name one schema, or write framing="single_object"'
        raise DefinitionError("a bare value does not say which schema is its own", where=where, remedy=remedy)
    if made.kind == "protobuf" and not made.by_registry and not made.message:
        raise DefinitionError("which message is it?", where=where, remedy='Write message="package.Message"')
    if made.subject and not made.by_registry:
        raise DefinitionError("a subject is of a registry", where=where, remedy="Leave subject= away")
    return made


def _schema(given: str | Path | bytes | Mapping[str, Any]) -> SchemaFile:
    if isinstance(given, bytes):
        return SchemaFile("bytes", given)
    if isinstance(given, Mapping):
        return SchemaFile(str(given.get("name", "schema")), json.dumps(given).encode())
    path = _authors_folder() / given
    try:
        return SchemaFile(str(given), path.read_bytes(), path.resolve())
    except OSError as error:
        remedy = "Put it beside the file that names it"
        raise DefinitionError(f"the schema cannot be read: {error}", where=str(given), remedy=remedy) from None


def _authors_folder() -> Path:
    """The folder of the nearest caller outside this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "trilane":
        frame = frame.f_back
    file = Path(frame.f_code.co_filename) if frame is not None else Path()
    return file.parent if file.is_file() else Path()
