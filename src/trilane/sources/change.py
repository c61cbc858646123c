"""How the events of a source tell that a row was added, changed or taken back: as rows with a sign.

Laws: a change is whole: it says what was, what is, or both, so that nothing need be looked up to take a row back. It
counts from the later of its own instant and the event times of its rows, so none counts before what it speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trilane.errors import DefinitionError
from trilane.types import Field

__all__ = ["CHANGED_AT", "CHANGE_ID", "SIGN", "Changes"]

Form: TypeAlias = Literal["rows", "debezium"]

# What the table of a source with changes has beside its fields: from when a row counts (microseconds), and 1 or -1; in
# the archive also what identifies the change.
CHANGED_AT, SIGN, CHANGE_ID = "_changed_at", "_sign", "_change"


@dataclass(frozen=True, init=False)
class Changes:
    """That the events of a source add rows and take rows back.

    Each event is one row: `op`: the String field whose value is one of `insert` (the row is added) or of `delete` (this
    very row is taken back; all its fields are there as they were); `at`: the Timestamp field that says when that was
    done. A correction is both: the former row is taken back, and the right one added, at one `at`.
    `Changes.debezium()` reads both from one envelope with `before` and `after`.
    """

    form: Form
    op: str
    at: str
    insert: tuple[str, ...]
    delete: tuple[str, ...]

    def __init__(
        self,
        *,
        op: str = "op",
        at: str = "changed_at",
        insert: Sequence[str] = ("insert",),
        delete: Sequence[str] = ("delete",),
    ) -> None:
        self._put("rows", op, at, insert, delete)

    def _put(self, form: Form, op: str, at: str, insert: Sequence[str], delete: Sequence[str]) -> None:
        words: dict[str, tuple[str, ...]] = {}
        for name, given in (("insert", insert), ("delete", delete)):
            words[name] = (given,) if isinstance(given, str) else tuple(given)
        both = set(words["insert"]) & set(words["delete"])
        if both or not words["insert"] or not words["delete"]:
            unsaid = "nothing says that a row is added or taken back"
            what = f"{sorted(both)} would add and take back" if both else unsaid
            raise DefinitionError(what, where="tl.Changes", remedy='Write insert=("insert",), delete=("delete",)')
        for name, value in (("form", form), ("op", op), ("at", at), *words.items()):
            object.__setattr__(self, name, value)

    @classmethod
    def debezium(cls) -> Changes:
        """Each event is an envelope as Debezium writes it: `{"op": "u", "before": {...}, "after": {...}, ...}`.

        `op` is `c`, `r`, `u` or `d`; the rows have the fields of the source. A change was made at `source.ts_ms`, or
        where that is missing at `ts_ms` (milliseconds since 1970). Rows must be whole (in PostgreSQL `REPLICA IDENTITY
        FULL`). An envelope may lie in `payload`, as Debezium writes it beside a schema.
        """
        found = object.__new__(cls)
        found._put("debezium", "op", "ts_ms", ("c", "r", "u"), ("d",))
        return found

    @property
    def own_fields(self) -> tuple[str, ...]:
        """The fields of the source that speak of the change, not of the row."""
        return (self.op, self.at) if self.form == "rows" else ()

    def check(self, kinds: Mapping[str, Field], event_time: str, event_id: str, *, where: str) -> None:
        """Raises DefinitionError if the fields of a source cannot tell its changes."""
        for role, kind in (("op", "string"), ("at", "timestamp")) if self.form == "rows" else ():
            name = getattr(self, role)
            field = kinds.get(name)
            if field is None or field.dtype.name != kind or field.nullable:
                raise DefinitionError(
                    f"changes names {name!r} as {role}=, which is no {kind} of the schema that is always there",
                    where=where,
                    remedy=f'Declare the field, write tl.Changes({role}="..."), or tl.Changes.debezium() for envelopes',
                )
            if name in (event_time, event_id):
                remedy = "A row is taken back with the event time and the id that it came with; give the change its own"
                raise DefinitionError(f"changes takes {name!r}, which identifies the row", where=where, remedy=remedy)

    def spec(self) -> dict[str, object]:
        """What determines how changes are read, as plain facts."""
        if self.form == "debezium":
            return {"form": self.form}
        return {"form": self.form, "op": self.op, "at": self.at, "insert": [*self.insert], "delete": [*self.delete]}
