"""Event sources: streams of facts, each with an instant at which it happened and an identity."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from trilane import clock
from trilane.contract import Contract
from trilane.errors import DefinitionError
from trilane.sources.about import About
from trilane.sources.change import Changes
from trilane.sources.expectation import Volume
from trilane.sources.formats.declaration import JSON, Format, as_format
from trilane.sources.formats.opening import check
from trilane.sources.rule import Rule, compiled
from trilane.types import Field, arrow_type, fields_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EventSource"]


@dataclass(frozen=True, init=False)
class EventSource:
    """A declared stream of events.

    `schema`: an annotated class or mapping; `event_time`: its Timestamp field that says when the event happened;
    `event_id`: the String or Int64 field that identifies it, so that a repeated delivery counts once;
    `disorder`: how late an event may come after later ones (beyond it, it goes to the dead letters);
    `future`: how far a producer's clock may run ahead of ours;
    `partitions`: how many independent orders the log keeps; `partition_by`: the field that chooses (default: event_id);
    `owner`, `tags`, `description`: for those who look for it.
    `format`: what values are written in: "json", `avro(...)` or `protobuf(...)`;
    `rules`: what must hold in each event; `expect_every`, `volume`: how often, and how many in a period, are expected;
    `changes`: how events tell that a row is taken back or corrected (None: every event stands for good). Then
    `disorder` and `future` are about the instant of the change.
    """

    name: str
    fields: tuple[Field, ...]
    event_time: str
    event_id: str
    disorder: int
    future: int
    partitions: int
    partition_by: str
    hot_keys: tuple[str, ...] | None
    about: About
    rules: tuple[Rule, ...]
    expect_every: int
    volume: Volume | None
    format: Format
    changes: Changes | None

    def __init__(
        self,
        name: str,
        *,
        schema: type | Mapping[str, object],
        event_time: str,
        event_id: str,
        disorder: str | int = "15m",
        future: str | int = "1m",
        partitions: int = 1,
        partition_by: str | None = None,
        hot_keys: Sequence[object] | None = (),
        owner: str = "",
        tags: Sequence[str] = (),
        description: str = "",
        rules: Sequence[Rule] = (),
        expect_every: str | int | None = None,
        volume: Volume | None = None,
        format: Format | str = JSON,
        changes: Changes | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "fields", fields_of(schema))
        put(self, "event_time", event_time)
        put(self, "event_id", event_id)
        put(self, "disorder", clock.duration(disorder))
        put(self, "future", clock.duration(future))
        put(self, "rules", compiled(rules, self.fields, where=f"event source {name!r}"))
        put(self, "expect_every", 0 if expect_every is None else clock.duration(expect_every))
        put(self, "volume", volume)
        put(self, "format", as_format(format))
        put(self, "changes", changes)
        put(self, "partitions", partitions)
        put(self, "partition_by", partition_by or event_id)
        put(self, "hot_keys", None if hot_keys is None else tuple(dict.fromkeys(map(str, hot_keys))))
        if isinstance(hot_keys, str):
            remedy = f"Write hot_keys=[{hot_keys!r}]"
            raise DefinitionError("hot_keys is one text", where=f"event source {name!r}", remedy=remedy)
        put(self, "about", About.of(owner, tags, description, where=f"event source {name!r}"))
        self._check()

    def _check(self) -> None:
        where = f"event source {self.name!r}"
        kinds = {f.name: f for f in self.fields}
        for name in (self.name, *kinds):
            if not name.isidentifier():
                raise DefinitionError(f"{name!r} is not a name", where=where, remedy="Use letters, digits and _")
        for role in ("event_time", "event_id", "partition_by"):
            named = getattr(self, role)
            if named not in kinds:
                remedy = f"Choose one of {', '.join(sorted(kinds))}"
                raise DefinitionError(f"{role} names {named!r}, which the schema lacks", where=where, remedy=remedy)
            if kinds[named].nullable:
                raise DefinitionError(
                    f"{role} {named!r} may be null", where=where, remedy="Declare it without `| None`"
                )
        if kinds[self.event_time].dtype.name != "timestamp":
            raise DefinitionError(
                f"event_time {self.event_time!r} is a {kinds[self.event_time].dtype.name}",
                where=where,
                remedy="Declare it as tl.Timestamp",
            )
        if kinds[self.event_id].dtype.name not in ("string", "int64"):
            raise DefinitionError(
                f"event_id {self.event_id!r} cannot identify", where=where, remedy="Use tl.String or tl.Int64"
            )
        if self.changes is not None:
            self._check_changes(self.changes, kinds, where)
        if self.partitions < 1:
            raise DefinitionError("partitions must be at least 1", where=where, remedy="Write partitions=1")
        if self.format != JSON:
            check(self.fields, self.format, where=where)

    def _check_changes(self, changes: Changes, kinds: Mapping[str, Field], where: str) -> None:
        changes.check(kinds, self.event_time, self.event_id, where=where)
        if changes.form == "debezium" and self.format != JSON:
            remedy = "Let Debezium write JSON, or send rows that say themselves what they do, with tl.Changes(...)"
            raise DefinitionError(f"envelopes are read as JSON, not as {self.format.kind}", where=where, remedy=remedy)
        for rule in self.rules:
            for name in changes.own_fields:
                if f'"{name}"' in rule.sql:
                    raise DefinitionError(
                        f"the rule {rule.name!r} looks at {name!r}, which speaks of the change and not of the row",
                        where=where,
                        remedy="A row that is let in must be let out: let rules look at what a row keeps",
                    )

    @functools.cached_property
    def contract(self) -> Contract:
        """The contract every event of this source must keep."""
        return Contract(self.name, self.fields)

    @property
    def moment_field(self) -> str:
        """The field that says from when an event counts: its event time, or the instant of its change."""
        return self.event_time if self.changes is None else self.changes.at

    def as_table(self, payloads: Sequence[Any]) -> pa.Table:
        """Checked payloads as an Arrow table with one column a field, in order."""
        import pyarrow as pa

        return pa.table(
            [pa.array([*map(attrgetter(f.name), payloads)], arrow_type(f)) for f in self.fields],
            schema=pa.schema([pa.field(f.name, arrow_type(f), f.nullable) for f in self.fields]),
        )

    @property
    def refusing(self) -> tuple[Rule, ...]:
        """The rules that decide which events count: all but those that only warn."""
        return tuple(rule for rule in self.rules if rule.action != "warn")

    def field(self, name: str) -> Field | None:
        """The field called `name`, if there is one."""
        return next((f for f in self.fields if f.name == name), None)

    def spec(self) -> dict[str, object]:
        """What identifies the source's data, as plain facts."""
        return {
            "kind": "event_source",
            "name": self.name,
            "fields": [f.spec() for f in self.fields],
            "event_time": self.event_time,
            "event_id": self.event_id,
            "disorder": self.disorder,
            "future": self.future,
            "partitions": self.partitions,
            "partition_by": self.partition_by,
            **({} if self.hot_keys == () else {"hot_keys": self.hot_keys and list(self.hot_keys)}),
            **({} if self.format == JSON else {"format": self.format.spec()}),
            **self.about.spec(),
            "rules": [rule.spec() for rule in self.rules],
            "expect_every": self.expect_every,
            "volume": None if self.volume is None else self.volume.spec(),
            **({} if self.changes is None else {"changes": self.changes.spec()}),
        }
