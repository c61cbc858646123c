"""The events behind a value: those that its view's transform lets through, and those that were refused.

Laws: events are those of the key from the left end of the longest window up to the instant, late ones too, marked; the
arrival of each, and from when on it could be read, are as recorded. Of a source with changes each is a row that was
added or taken back, when it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from trilane.apps.project import Project
from trilane.apps.provenance.question import Question
from trilane.apps.provenance.tiles import instant_text
from trilane.clock import instant
from trilane.errors import DefinitionError
from trilane.features.tile import TileLayout
from trilane.features.transform import INPUT, carrying
from trilane.features.view import entity_of
from trilane.sources.change import CHANGED_AT, SIGN
from trilane.sources.dead_letters import DISCARDED, QUARANTINED, REFUSED, REPLAYED
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import instant_sql, quoted, relation_sql
from trilane.training.sight import NEVER, LaneSight
from trilane.types import arrow_type

__all__ = ["Seen", "letters_of", "seen_events"]

_CARRIED = ("_offset", "_arrived_at", "_partition", "_late")
_LISTED = 1_000
_LETTERS = 100_000


@dataclass(frozen=True, slots=True)
class Seen:
    """`total` events of the key in reach; how many of them came `late` and count nowhere; `unread`: how many that count
    could not be read yet at the instant; the last of them as facts.
    """

    total: int
    late: int
    unread: int
    listed: list[dict[str, Any]]


def seen_events(
    project: Project, question: Question, *, since: int, until: int, ends: Sequence[int] | None = None
) -> Seen:
    """The events of the question's key from `since` to before `until`.

    `ends`: before which offset of each partition a batch version saw events; a nearline lane read them as is recorded.
    """
    view, source = question.view, question.view.source
    if source is None:
        raise DefinitionError("a request view reads no events", where=question.name)
    entity = entity_of(view)
    carried: tuple[str, ...] = ()
    if isinstance(source, EventSource):
        kept = (*entity.key_names, source.event_time, *TileLayout(view).columns)
        carried = _CARRIED if source.event_id in kept else (*_CARRIED, source.event_id)
        carried = (*carried, CHANGED_AT, SIGN) if view.has_changes else carried
    relation, moment = relation_sql(project.warehouse, source, project.config.root), quoted([source.event_time])
    sql = carrying(view.sql, carried) if carried else view.sql
    same = " AND ".join(f"m.{quoted([key])} = k.{quoted([key])}" for key in entity.key_names)
    keys = pa.table({f.name: pa.array([question.key[f.name]], arrow_type(f)) for f in entity.keys})
    order = f"m.{moment}" + (", m._partition, m._offset" if carried else "")
    with project.warehouse.connect() as connection:
        connection.register("_asked", keys)
        table = connection.query(
            f"WITH {INPUT} AS NOT MATERIALIZED (SELECT * FROM {relation} WHERE {moment} >= {instant_sql(since)} "
            f"AND {moment} < {instant_sql(until)}) SELECT m.* FROM ({sql}) AS m JOIN _asked AS k ON {same} "
            f"ORDER BY {order}"
        ).to_arrow_table()
    times = table.column(source.event_time).cast(pa.int64()).to_numpy()
    late = table.column("_late").to_numpy() if carried else np.zeros(len(times), bool)
    due = table.column(CHANGED_AT).to_numpy() if view.has_changes else times
    readable, partitions = due + 1, np.zeros(len(times), np.int64)
    if carried:
        partitions = table.column("_partition").to_numpy().astype(np.int64)
    if carried and ends:
        there = (table.column("_offset").to_numpy() < np.array(ends)[partitions]) & (due < until)
        readable = np.where(there, due + 1, NEVER)
    elif carried and view.lane == "nearline" and isinstance(source, EventSource):
        arrived = table.column("_arrived_at").cast(pa.int64()).to_numpy()
        sight = LaneSight.of(project.warehouse, source)
        recorded = sight.visible(partitions, table.column("_offset").to_numpy(), due)
        is_known = bool(sight.known(np.array([question.at]))[0])
        readable = recorded if is_known else np.maximum(arrived, due + 1)
    unread = int((~late & (readable > question.at)).sum())
    tail = table.slice(max(table.num_rows - _LISTED, 0))
    own = [name for name in tail.column_names if name not in (*_CARRIED, CHANGED_AT, SIGN)]
    moments = zip(tail.to_pylist(), readable[-tail.num_rows :].tolist(), strict=True) if tail.num_rows else ()
    return Seen(len(times), int(late.sum()), unread, [_facts(row, own, when, bool(carried)) for row, when in moments])


def _facts(row: Mapping[str, Any], own: list[str], readable: int, carried: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"event": {name: row[name] for name in own}}
    if carried:
        facts |= {
            "partition": row["_partition"],
            "offset": row["_offset"],
            "arrived_at": instant_text(_microseconds(row["_arrived_at"])),
            "readable_from": None if readable == NEVER else instant_text(readable),
            "late": row["_late"],
        }
    if SIGN in row:
        facts |= {"changed_at": instant_text(row[CHANGED_AT]), "taken_back": row[SIGN] < 0}
    return facts


def _microseconds(value: object) -> int:
    return value if isinstance(value, int) else instant(value)  # type: ignore[arg-type]


def letters_of(project: Project, question: Question, *, since: int, until: int) -> list[dict[str, Any]]:
    """The dead letters that name the question's key, and an instant in reach or none that can be read."""
    source = question.view.source
    if not isinstance(source, EventSource):
        return []
    names = [name for name in question.key if source.field(name) is not None]
    states = (REFUSED, QUARANTINED, REPLAYED, DISCARDED)
    found = []
    for letter in project.dead_letters.read(source.name, states=states, limit=_LETTERS):
        try:
            payload = msgspec.json.decode(letter.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if not isinstance(payload, dict) or not names:
            continue
        if any(str(payload.get(name)) != str(question.key[name]) for name in names):
            continue
        happened = _instant_of(payload.get(source.event_time))
        if happened is not None and not since <= happened < until:
            continue
        found.append(
            {
                "id": letter.id,
                "code": letter.code,
                "path": letter.path,
                "reason": letter.reason,
                "state": letter.state,
                "event_time": instant_text(happened),
                "refused_at": instant_text(letter.at),
                "partition": letter.partition,
                "offset": letter.offset,
            }
        )
    return found


def _instant_of(value: object) -> int | None:
    try:
        return instant(value) if isinstance(value, str) else None
    except DefinitionError:
        return None
