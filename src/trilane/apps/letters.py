"""What an operator does with dead letters: look, mend, replay into the log, release from quarantine, discard.

Laws: a letter that is replayed is appended as an event like any other, so it counts once though the replay is
interrupted and repeated: its event id is the same. It is marked as replayed only when the log has it. What would be
refused again, or counts in no lane because its time has passed, stays as it is, with the reason.
"""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from trilane.apps.event_file import source_named
from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.contract import NOT_JSON, malformed
from trilane.errors import ContractError, DefinitionError, TrilaneError
from trilane.lanes.judgement import judge
from trilane.lanes.progress import LANES, decode, lane_key
from trilane.sources.arrival import arrivals
from trilane.sources.dead_letters import DISCARDED, OPEN, QUARANTINED, REPLAYED, DeadLetter
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource
from trilane.sources.formats.declaration import RELEASED_MARK
from trilane.sources.formats.opening import open_transcriber
from trilane.sources.formats.protocol import Transcriber
from trilane.sources.hot_keys import HotKeys
from trilane.sources.rule import RELEASED
from trilane.stores.offline.protocol import MicroBatch

__all__ = ["Outcome", "discard", "fix", "found", "replay", "said"]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter: `done`, or why it stays open."""

    id: int
    source: str
    done: bool
    reason: str


def found(project: Project, number: int) -> DeadLetter:
    """The letter with this number. Raises DefinitionError if there is none."""
    letter = project.dead_letters.find(number)
    if letter is None:
        remedy = "`trilane dead-letters list` shows the numbers"
        raise DefinitionError(f"there is no dead letter {number}", where="ID", remedy=remedy, file="")
    return letter


def fix(project: Project, number: int, changes: Sequence[str], payload: bytes | None) -> DeadLetter:
    """Keeps a mended payload beside the one that came: `payload` itself, or with `path=value` changes.

    Raises DefinitionError for what cannot be changed, and ContractError if the mended event is no JSON object.
    """
    letter = _open(project, number)
    words = _words(project, letter)
    text = payload if payload is not None else _changed(words, changes)
    plain = _decoded(text)
    form = _transcriber(project, letter)
    if form is not None:
        text = form.value(plain, like=letter.payload if words is not letter.text else None)
    project.dead_letters.mend(number, text)
    return found(project, number)


def discard(project: Project, letters: Sequence[DeadLetter]) -> int:
    """Settles letters that nobody will mend; how many were open."""
    return project.dead_letters.settle([one.id or 0 for one in letters], DISCARDED, project.clock.now())


def replay(project: Project, letters: Sequence[DeadLetter], *, release: bool = False) -> list[Outcome]:
    """Appends each letter's event to the log, if it would count now.

    `release`: lets what is in quarantine pass the rules that put it there.
    """
    engine = project.warehouse.micro_batch()
    return [_replayed(project, letter, release, engine) for letter in sorted(letters, key=lambda one: one.id or 0)]


def _replayed(project: Project, letter: DeadLetter, release: bool, engine: MicroBatch) -> Outcome:
    number = letter.id or 0
    reason = "" if letter.state in OPEN else f"it was {letter.state} already"
    try:
        if not reason:
            source = source_named(project.definitions.sources, letter.source)
            text = _released(source, letter.text) if release and letter.state == QUARANTINED else letter.text
            _append(project, source, text, engine)
            project.dead_letters.settle([number], REPLAYED, project.clock.now())
    except (ContractError, DefinitionError) as error:
        reason = f"{error.where}: {error.what}" if error.where else error.what
    return Outcome(number, letter.source, not reason, reason)


def _append(project: Project, source: EventSource, text: bytes, engine: MicroBatch) -> None:
    """Appends one event. Raises ContractError if it would not count."""
    arrived, rejections, rows = arrivals(source, decoder_of(source, project.schemas), [text])
    for refused in rejections:
        raise ContractError(refused.reason, where=refused.path, remedy=f"Send what {source.name!r} promises")
    [event], now = arrived, project.clock.now()
    hot, happened = HotKeys(project.log, source), event.moment
    hot.look(now)
    partition = hot.place(event.key, event.event_id, happened)
    where = f"$.{source.moment_field}"
    if happened > now + source.future:
        raise ContractError("the event lies in the future", where=where)
    newest = _newest(project, source, partition)
    if newest is not None and happened < newest - source.disorder:
        what = f"the event is late, it counts in no lane: the source has come to {format_instant(newest)}"
        raise ContractError(what, where=where)
    judged = judge(source, rows, lambda _: text, engine)
    if judged.broken[-1]:  # of a change, what the row becomes: what it was may have been refused before
        rule = source.rules[judged.first[-1]]
        raise ContractError(f"the event breaks the rule {rule.name!r}", where="$")
    project.log.append(source.name, partition, [text], now)


def _newest(project: Project, source: EventSource, partition: int) -> int | None:
    """The latest event time that a lane has seen in a partition."""
    [[row]] = project.online.read([(LANES, [lane_key(source.name, partition)])])
    seen = [decode(row).newest, project.warehouse.newest(source, partition)]
    return max((one for one in seen if one is not None), default=None)


def said(project: Project, letter: DeadLetter, text: bytes) -> str:
    """A payload of the letter in words: as it came if it is text, else what it says, else its bytes in base64."""
    form = _transcriber(project, letter)
    if form is not None:
        with contextlib.suppress(TrilaneError):
            return _encode(form.plain(text)).decode()
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode(errors="backslashreplace") if form is None else f"base64:{b64encode(text).decode()}"


def _words(project: Project, letter: DeadLetter) -> bytes:
    """The letter's event as JSON: itself, unless it is a value of another format."""
    form = _transcriber(project, letter)
    if form is not None:
        with contextlib.suppress(ContractError):
            return _encode(form.plain(letter.text))
    return letter.text


def _transcriber(project: Project, letter: DeadLetter) -> Transcriber | None:
    """Of the letter's source, if its values are no JSON."""
    source = project.definitions.sources.get(letter.source) if project.applied_digest() else None
    if source is None or source.format.kind == "json":
        return None
    return open_transcriber(source.format, project.schemas)


def _released(source: EventSource, text: bytes) -> bytes:
    if source.format.kind != "json":
        return text.removesuffix(RELEASED_MARK) + RELEASED_MARK
    return _encode({**_decoded(text), RELEASED: True})


def _open(project: Project, number: int) -> DeadLetter:
    letter = found(project, number)
    if letter.state not in OPEN:
        what = f"the dead letter {number} was {letter.state} already"
        raise DefinitionError(what, where="ID", remedy="Mend only what is open", file="")
    return letter


def _changed(text: bytes, changes: Sequence[str]) -> bytes:
    payload = _decoded(text)
    for change in changes:
        path, equals, value = change.partition("=")
        *outer, name = path.removeprefix("$").removeprefix(".").split(".")
        place: Any = payload
        for step in outer:
            place = place.get(step) if isinstance(place, dict) else None
        if not equals or not name or not isinstance(place, dict):
            remedy = "Write --set path=value, where the value is JSON, or else a text"
            raise DefinitionError(f"{change!r} changes nothing of the event", where="--set", remedy=remedy, file="")
        place[name] = _value(value)
    return _encode(payload)


def _value(text: str) -> object:
    try:
        return msgspec.json.decode(text.encode())
    except NOT_JSON:
        return text


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except NOT_JSON as error:
        remedy = "Give the whole event with --payload FILE"
        raise ContractError(malformed(text, error), where="$", remedy=remedy) from None
    if not isinstance(value, dict):
        raise ContractError("the event is no JSON object", where="$", remedy="Give the whole event with --payload FILE")
    return value
