"""The decoder and the transcriber of a binary format, and whether a declared schema fits a source.

Law: a driver is loaded when a source that needs it is declared or read, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from trilane.errors import DefinitionError, SetupError
from trilane.sources.formats.declaration import Format

if TYPE_CHECKING:
    from trilane.sources.formats.protocol import Decoder, Schemas, Transcriber
    from trilane.types import Field

__all__ = ["check", "open_decoder", "open_transcriber", "records", "stream_rows"]


def open_decoder(fields: Sequence[Field], format_: Format, schemas: Schemas | None, *, where: str) -> Decoder:
    """The decoder of values in `format_`. Raises DefinitionError if a declared schema does not fit `fields`."""
    try:
        if format_.kind == "protobuf":
            from trilane.sources.formats.protobuf import ProtobufDecoder as Opened
        else:
            from trilane.sources.formats.avro import AvroDecoder as Opened  # type: ignore[assignment]
        from trilane.sources.formats.protocol import Unfit
    except ImportError as error:
        raise _missing(error, format_) from error
    try:
        return Opened(fields, format_, schemas)
    except Unfit as error:
        remedy = "Change the field, say where it lies with paths=, or name the schema that is meant"
        raise DefinitionError(f"{error.path}: {error.reason}", where=where, remedy=remedy) from None


def open_transcriber(format_: Format, schemas: Schemas | None) -> Transcriber:
    """The transcriber of values in `format_`."""
    try:
        if format_.kind == "protobuf":
            from trilane.sources.formats.protobuf import ProtobufTranscriber as Opened
        else:
            from trilane.sources.formats.avro import AvroTranscriber as Opened  # type: ignore[assignment]
    except ImportError as error:
        raise _missing(error, format_) from error
    return Opened(format_, schemas)


def check(fields: Sequence[Field], format_: Format, *, where: str) -> None:
    """Raises DefinitionError for a path that leads nowhere, or a declared schema that does not fit."""
    strays = sorted(dict(format_.paths).keys() - {field.name for field in fields})
    if strays:
        remedy = f"Choose among {', '.join(field.name for field in fields)}"
        raise DefinitionError(f"paths names {strays[0]!r}, which the schema lacks", where=where, remedy=remedy)
    if format_.schemas:
        open_decoder(fields, format_, None, where=where)


def records(file: BinaryIO, *, where: str, whole: int | None = None) -> Iterator[dict[str, Any]]:
    """The records of an Avro object container file, in what JSON has. Raises ContractError for what is none.

    `whole`: how many bytes its blocks may have, unpacked.
    """
    try:
        from trilane.sources.formats.avro import contained
    except ImportError as error:
        raise _missing(error, Format(kind="avro")) from error
    return contained(file, where=where, whole=whole)


def stream_rows(body: bytes, *, where: str) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow IPC stream. Raises ContractError for what is none."""
    from trilane.sources.formats import arrow_stream

    return arrow_stream.stream_rows(body, where=where)


def _missing(error: ImportError, format_: Format) -> SetupError:
    remedy = f"Install it: `pip install 'trilane[{format_.kind}]'`"
    return SetupError(
        f"a package for {format_.kind} is missing: {error}", where=f"format {format_.kind}", remedy=remedy
    )
