"""Events at the door: bytes to payloads, each checked before the log takes it.

Law: every payload of a body is either accepted or told back with its index, path and reason; none is lost between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from trilane.clock import instant
from trilane.contract import NOT_JSON, Rejection, malformed
from trilane.errors import ContractError
from trilane.sources.dead_letters import DeadLetter
from trilane.sources.event import EventSource
from trilane.sources.hot_keys import HotKeys
from trilane.sources.rule import RELEASED, is_released

__all__ = ["Sorted", "letters_of", "sort_events", "split_body"]

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


def sort_events(source: EventSource, texts: Sequence[bytes], hot: HotKeys, *, now: int) -> Sorted:
    """Checks the contract and the future rule of events that arrive at instant `now`, and places each."""
    payloads, indexes, rejected = source.contract.decode_many(texts)
    aside = any(rule.action == "quarantine" for rule in source.rules)
    accepted: dict[int, list[bytes]] = {}
    for payload, index in zip(payloads, indexes, strict=True):
        happened = instant(getattr(payload, source.event_time))
        if happened > now + source.future:
            reason = f"the event lies {(happened - now) / 1e6:.0f} s in the future"
            rejected.append(Rejection(index, "future", f"$.{source.event_time}", reason))
        elif aside and is_released(texts[index]):
            reason = "only `trilane dead-letters release` may say that an event was released from quarantine"
            rejected.append(Rejection(index, "type", f"$.{RELEASED}", reason))
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
