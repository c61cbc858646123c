"""Events at the door: bytes to payloads, each checked before the log takes it.

Law: every payload of a body is either accepted or told back with its index, path and reason; none is lost between.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from trilane.clock import instant
from trilane.contract import NOT_JSON, Rejection, malformed
from trilane.errors import ContractError
from trilane.sources.dead_letters import DeadLetter
from trilane.sources.event import EventSource
from trilane.sources.formats.opening import open_transcriber, records, stream_rows
from trilane.sources.formats.protocol import Schemas, Transcriber
from trilane.sources.hot_keys import HotKeys
from trilane.sources.rule import RELEASED, is_released

__all__ = [
    "LARGEST_UNPACKED",
    "MOST_EVENTS",
    "Sorted",
    "is_packed",
    "letters_of",
    "sort_body",
    "sort_events",
    "sort_texts",
    "split_body",
    "transcribed",
]

_RELEASE = "only `trilane dead-letters release` may say that an event was released from quarantine"
LARGEST_UNPACKED = 32 << 20  # bytes of a body of Avro or Arrow: unpacked, and again as JSON
MOST_EVENTS = 100_000  # of a body: of the least that may be sent as one, a body would hold two million
_OF_EACH = 64  # bytes that an event costs besides its own
_encode = msgspec.json.Encoder().encode
_list_of_texts = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Sorted:
    """Accepted texts by partition, and what was refused."""

    accepted: dict[int, list[bytes]]
    rejected: list[Rejection]


def split_body(body: bytes, *, ndjson: bool) -> list[bytes]:
    """The JSON texts of a body: an array's elements, one object, or lines. Raises ContractError for malformed JSON."""
    text = body.strip()
    if not text:
        raise ContractError("the body is empty", where="$", remedy="Send events as JSON or NDJSON", status=400)
    if not ndjson:
        try:
            if text.startswith(b"["):
                return [bytes(part) for part in _list_of_texts.decode(text)]
            _text.decode(text)
            return [text]
        except NOT_JSON as error:
            if b"\n" not in text:
                remedy = "Send an object, an array of objects, or one object a line"
                raise ContractError(malformed(text, error), where="$", remedy=remedy, status=400) from None
    return [line for line in text.split(b"\n") if line.strip()]


def transcribed(texts: Sequence[bytes], transcriber: Transcriber) -> tuple[list[bytes], list[int], list[Rejection]]:
    """JSON texts as values of another format: those that can be, their indexes, and rejections of the others."""
    values, indexes, rejected = [], [], []
    for index, text in enumerate(texts):
        try:
            plain = msgspec.json.decode(text)
            if not isinstance(plain, dict):
                raise ContractError("Expected `object`", where="$", kind="type")
            values.append(transcriber.value(plain))
            indexes.append(index)
        except NOT_JSON as error:
            rejected.append(Rejection(index, "json", "$", malformed(text, error)))
        except ContractError as error:
            rejected.append(Rejection(index, "type", error.where, error.what))
    return values, indexes, rejected


def sort_body(
    source: EventSource, body: bytes, content_type: str, hot: HotKeys, *, now: int, schemas: Schemas | None = None
) -> tuple[Sorted, list[bytes]]:
    """The events of a body, sorted, and each as it would stand in the log.

    Values of Protobuf (`application/x-protobuf`), each after its length as a varint, stand there as they came; records
    of an Avro container or of an Arrow stream are taken as JSON, and all else is JSON. Raises ContractError for a body
    that cannot be taken apart.
    """
    if "protobuf" not in content_type:
        texts = _few_enough(_texts(body, content_type))
        return sort_texts(source, texts, hot, now=now, schemas=schemas)
    if source.format.kind != "protobuf":
        what = f"the events of {source.name!r} are {source.format.kind}"
        raise ContractError(what, where="content-type", remedy="Send JSON, which every source takes", status=415)
    values = _few_enough(_delimited(body))
    return sort_events(source, values, hot, now=now, schemas=schemas), values


def _few_enough(events: list[bytes]) -> list[bytes]:
    if len(events) > MOST_EVENTS:
        what, remedy = f"the body has {len(events)} events", f"Send at most {MOST_EVENTS} in a request"
        raise ContractError(what, where="body", remedy=remedy, status=413)
    return events


def is_packed(content_type: str) -> bool:
    """Whether it takes long to take a body of this type apart."""
    return "avro" in content_type or "arrow" in content_type


def _texts(body: bytes, content_type: str) -> list[bytes]:
    if not is_packed(content_type):
        return split_body(body, ndjson="ndjson" in content_type)
    found: list[bytes] = []
    left = LARGEST_UNPACKED
    try:
        if "avro" in content_type:
            rows = records(io.BytesIO(body), where="body", whole=LARGEST_UNPACKED)
        else:
            rows = stream_rows(body, where="body")
        for row in rows:
            found.append(_encode(row))
            left -= len(found[-1]) + _OF_EACH
            if left < 0:
                what = f"its events are longer than {LARGEST_UNPACKED} bytes as JSON"
                raise ContractError(what, where="body", remedy="Send fewer in a request", status=413)
    except ContractError as error:
        status = error.facts.get("status", 400)
        raise ContractError(error.what, where=error.where, remedy=error.remedy, status=status) from error
    if not found:
        raise ContractError("the body has no events", where="body", remedy="Send one at least", status=400)
    return found


def _delimited(body: bytes) -> list[bytes]:
    values, at = list[bytes](), 0
    while at < len(body):
        length = shift = 0
        going = True
        while going and at < len(body) and shift < 35:
            length |= (body[at] & 0x7F) << shift
            going, at, shift = body[at] >= 0x80, at + 1, shift + 7
        if going or length > len(body) - at:
            what = f"value {len(values)} does not end within the body"
            raise ContractError(
                what, where="body", remedy="Write the length before each value, as a varint", status=400
            )
        values.append(body[at : at + length])
        at += length
    if not values:
        raise ContractError("the body is empty", where="body", remedy="Send length-delimited messages", status=400)
    return values


def sort_texts(
    source: EventSource, texts: Sequence[bytes], hot: HotKeys, *, now: int, schemas: Schemas | None = None
) -> tuple[Sorted, list[bytes]]:
    """Events as JSON texts, which are written in the source's own format before they are sorted.

    Beside the verdicts, each event as it would stand in the log; a text that cannot be, as it came.
    """
    if source.format.kind == "json":
        return sort_events(source, texts, hot, now=now), list(texts)
    values, indexes, rejected = transcribed(texts, open_transcriber(source.format, schemas))
    found = sort_events(source, values, hot, now=now, schemas=schemas)
    rejected += [replace(one, index=indexes[one.index]) for one in found.rejected]
    standing = list(texts)
    for index, value in zip(indexes, values, strict=True):
        standing[index] = value
    return Sorted(found.accepted, sorted(rejected, key=lambda r: r.index)), standing


def sort_events(
    source: EventSource, texts: Sequence[bytes], hot: HotKeys, *, now: int, schemas: Schemas | None = None
) -> Sorted:
    """Checks the contract and the future rule of events that arrive at instant `now`, and places each.

    `schemas`: the registry of the schemas that values name; then it may ask it.
    """
    if source.format.kind != "json" or source.changes is not None:
        return _sort_values(source, texts, hot, now, schemas)
    payloads, indexes, rejected = source.contract.decode_many(texts)
    aside = any(rule.action == "quarantine" for rule in source.rules)
    accepted: dict[int, list[bytes]] = {}
    for payload, index in zip(payloads, indexes, strict=True):
        happened = instant(getattr(payload, source.event_time))
        if happened > now + source.future:
            reason = f"the event lies {(happened - now) / 1e6:.0f} s in the future"
            rejected.append(Rejection(index, "future", f"$.{source.event_time}", reason))
        elif aside and is_released(texts[index]):
            rejected.append(Rejection(index, "type", f"$.{RELEASED}", _RELEASE))
        else:
            key, event_id = getattr(payload, source.partition_by), getattr(payload, source.event_id)
            accepted.setdefault(hot.place(key, event_id, happened), []).append(texts[index])
    return Sorted(accepted, sorted(rejected, key=lambda r: r.index))


def letters_of(source: str, texts: Sequence[bytes], rejected: Sequence[Rejection], *, now: int) -> list[DeadLetter]:
    """What is kept of events that were refused at instant `now`; the log never took them."""
    return [
        DeadLetter(source=source, code=r.code, path=r.path, reason=r.reason, payload=texts[r.index], at=now)
        for r in rejected
    ]


def _sort_values(
    source: EventSource, values: Sequence[bytes], hot: HotKeys, now: int, schemas: Schemas | None
) -> Sorted:
    """The same for values that are no JSON, or changes, whose decoder makes columns."""
    from trilane.sources.arrival import arrivals
    from trilane.sources.decoding import decoder_of

    found, rejected, _ = arrivals(source, decoder_of(source, schemas), values)
    accepted = dict[int, list[bytes]]()
    for event in found:
        if event.moment > now + source.future:
            reason = f"the event lies {(event.moment - now) / 1e6:.0f} s in the future"
            rejected.append(Rejection(event.index, "future", f"$.{source.moment_field}", reason))
        elif is_released(values[event.index]):
            rejected.append(Rejection(event.index, "type", f"$.{RELEASED}", _RELEASE))
        else:
            accepted.setdefault(hot.place(event.key, event.event_id, event.moment), []).append(values[event.index])
    return Sorted(accepted, sorted(rejected, key=lambda r: r.index))
