"""Protobuf values as columns: bare messages, or in the frames of a schema registry.

Laws: those of Decoder; as in any reader of Protobuf, the last of several settings of a field counts, messages that come
in parts are one, and what is unknown is passed over.
"""

from __future__ import annotations

import base64
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message

from trilane.errors import ContractError
from trilane.sources.formats import framing
from trilane.sources.formats.columns import Columns
from trilane.sources.formats.cursor import Cursor, Fault
from trilane.sources.formats.declaration import RELEASED_MARK, Format
from trilane.sources.formats.messages import Reader, reader
from trilane.sources.formats.protocol import Decoded, Registered, Schemas, Unfit, joined
from trilane.types import Field

__all__ = ["ProtobufDecoder", "ProtobufTranscriber"]

_BROKEN = Fault("protobuf", "$", "the bytes are no message")
_PORTION, _DEEPEST = 8_192, 8
_Key = tuple[int, ...]  # a schema's id, and the way to the message in its file
_KNOWN = ("any", "api", "duration", "empty", "field_mask", "source_context", "struct", "timestamp", "type", "wrappers")


class _Messages:
    """Which message each value is, by the framing of the format."""

    def __init__(self, format_: Format, schemas: Schemas | None) -> None:
        self._format, self._schemas = format_, schemas
        self._found: dict[_Key, Descriptor] = {}
        if not format_.by_registry:
            self._found[()] = _declared(format_)

    def strip(self, cursor: Cursor) -> list[_Key]:
        """Moves beyond the frames, and gives what they say."""
        if not self._format.by_registry:
            return [()] * len(cursor.rows)
        ids = framing.numbers(cursor, b"\0", ">u4")
        count = cursor.zigzag()
        cursor.refuse((count < 0) | (count > _DEEPEST))
        way = np.full((len(ids), _DEEPEST + 1), -1)
        way[:, 0] = ids
        way[count == 0, 1] = 0  # the first message of the file is so frequent that it is written shorter
        for place in range(_DEEPEST):
            more = np.flatnonzero((count > place) & (count <= _DEEPEST))
            if len(more):
                part = cursor.only(more)
                way[more, place + 1] = part.zigzag()
                cursor.join(more, part)
        return [tuple(step for step in row if step >= 0) for row in way.tolist()]

    def find(self, key: _Key) -> Descriptor:
        """The message. Raises Unfit if there is none, UnavailableError if its schema cannot be had now."""
        if key not in self._found:
            found = framing.registered(self._schemas, key[0])
            if found is None:
                raise Unfit("$", f"the registry has no schema {key[0]}")
            self._found[key] = _at(found, key[1:])
        return self._found[key]

    def newest(self) -> tuple[bytes, Descriptor]:
        """The frame and the message to write."""
        if not self._format.by_registry:
            return b"", self._found[()]
        found = framing.newest(self._schemas, self._format)
        return b"\0" + found.id.to_bytes(4, "big") + b"\0", _at(found, (0,))


def _declared(format_: Format) -> Descriptor:
    files = descriptor_pb2.FileDescriptorSet()
    try:
        files.ParseFromString(format_.schemas[0].content)
        return _pool(list(files.file)).FindMessageTypeByName(format_.message)
    except (DecodeError, TypeError) as error:
        raise Unfit("$", f"the file is no set of descriptors: {error}") from None
    except KeyError:
        raise Unfit("$", f"the schema has no message {format_.message!r}") from None


def _at(found: Registered, way: Sequence[int]) -> Descriptor:
    if found.kind != "PROTOBUF":
        raise Unfit("$", f"schema {found.id} of the registry is {found.kind}, not PROTOBUF")
    try:
        files = []
        for name, text in (*found.references, (f"trilane/{found.id}.proto", found.text)):
            files.append(descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text)))
            files[-1].name = name
        pool = _pool(files)
        inner = list(pool.FindFileByName(files[-1].name).message_types_by_name.values())
        for step in way[:-1]:
            inner = list(inner[step].nested_types)
        return inner[way[-1]]
    except (DecodeError, TypeError, KeyError, ValueError) as error:
        raise Unfit("$", f"schema {found.id} is no file of messages: {error}") from None
    except IndexError:
        raise Unfit("$", f"schema {found.id} has no message {list(way)}") from None


def _pool(files: Sequence[descriptor_pb2.FileDescriptorProto]) -> DescriptorPool:
    """A pool with these files and those that all know."""
    pool, there = DescriptorPool(), {one.name for one in files}
    known = {f"google/protobuf/{name}.proto": name for name in _KNOWN}
    waiting = list(files)
    wanted = [name for one in files for name in one.dependency]
    while wanted:
        name = wanted.pop()
        if name in known and name not in there:
            module = importlib.import_module(f"google.protobuf.{known[name]}_pb2")
            waiting.append(descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))
            wanted += waiting[-1].dependency
            there.add(name)
    added: set[str] = set()
    while waiting:
        ready = [one for one in waiting if added.issuperset(one.dependency)]
        if not ready:
            missing = sorted({name for one in waiting for name in one.dependency} - added - there)
            raise TypeError(f"it imports {', '.join(missing) or 'itself'}, which is not there")
        for one in ready:
            pool.Add(one)
            added.add(one.name)
        waiting = [one for one in waiting if one.name not in added]
    return pool


class ProtobufDecoder:
    """Keeps the promise of Decoder. Raises Unfit if a declared message does not fit the fields."""

    def __init__(self, fields: Sequence[Field], format_: Format, schemas: Schemas | None) -> None:
        self._fields, self._paths = tuple(fields), dict(format_.paths)
        self._messages = _Messages(format_, schemas)
        self._readers: dict[_Key, Reader] = {}
        if not format_.by_registry:
            self._reader(())

    def decode(self, values: pa.Array) -> Decoded:
        starts = range(0, max(len(values), 1), _PORTION)
        return joined([(start, self._portion(values.slice(start, _PORTION))) for start in starts])

    def _portion(self, values: pa.Array) -> Decoded:
        cursor = Cursor.over(values, _BROKEN)
        columns = Columns(self._fields, cursor.texts)
        groups: dict[_Key, list[int]] = {}
        for place, key in enumerate(self._messages.strip(cursor)):
            groups.setdefault(key, []).append(place)
        for key, listed in groups.items():
            places = np.array(listed)
            places = places[cursor.texts.faulty[places] < 0]
            if not len(places):
                continue
            part = cursor.only(places)
            try:
                self._reader(key).read(part, columns)
            except Unfit as error:
                cursor.texts.refuse(part.rows, Fault("schema", error.path, error.reason))
        return columns.finish()

    def _reader(self, key: _Key) -> Reader:
        if key not in self._readers:
            self._readers[key] = reader(self._messages.find(key), self._fields, self._paths)
        return self._readers[key]


class ProtobufTranscriber:
    """Keeps the promise of Transcriber, with Protobuf's own JSON."""

    def __init__(self, format_: Format, schemas: Schemas | None) -> None:
        self._messages = _Messages(format_, schemas)

    def plain(self, value: bytes) -> dict[str, Any]:
        value = value.removesuffix(RELEASED_MARK)
        found, at = self._find(value)
        try:
            read: Message = message_factory.GetMessageClass(found).FromString(value[at:])
            plain: dict[str, Any] = json_format.MessageToDict(read, preserving_proto_field_name=True)
        except (DecodeError, json_format.Error, ValueError, RecursionError) as error:
            raise ContractError(f"the bytes are no message: {error}", where="$") from None
        return plain

    def value(self, plain: dict[str, Any], *, like: bytes | None = None) -> bytes:
        if like is None:
            frame, found = self._messages.newest()
        else:
            found, at = self._find(like)
            frame = like[:at]
        made = message_factory.GetMessageClass(found)()
        try:
            json_format.ParseDict(plain, made, ignore_unknown_fields=True)
        except (json_format.Error, ValueError, TypeError, RecursionError) as error:
            remedy = "Send what the message promises"
            raise ContractError(f"the event does not fit the message: {error}", where="$", remedy=remedy) from None
        written: bytes = made.SerializeToString(deterministic=True)
        return frame + written

    def _find(self, value: bytes) -> tuple[Descriptor, int]:
        return framing.of_one(value, _BROKEN, self._messages.strip, self._messages.find)
