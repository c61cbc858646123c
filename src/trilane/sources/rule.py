"""Rules on the rows of a source: what must hold in one row, and what becomes of a row that breaks it.

Laws: a verdict depends on the row alone, so every lane gives the same; a rule is broken where its condition is false,
not where it is null, as in SQL's CHECK. An event that was released from quarantine says so itself, in `_released` or by
what follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import msgspec

from trilane.contract import NOT_JSON
from trilane.errors import DefinitionError
from trilane.sources.expression import condition_sql
from trilane.sources.formats.declaration import RELEASED_MARK
from trilane.types import Field

__all__ = [
    "RELEASED",
    "Action",
    "Rule",
    "Unique",
    "code_of",
    "compiled",
    "is_released",
    "kept_sql",
    "rule",
    "unique",
    "verdicts_sql",
]

Action: TypeAlias = Literal["reject", "quarantine", "warn"]

RELEASED = "_released"
_ACTIONS = ("reject", "quarantine", "warn")


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition on one row; `sql` is the compiled condition, once the rule belongs to a source."""

    name: str
    action: Action
    condition: Callable[[Any], Any] = field(compare=False, repr=False)
    sql: str = ""

    def spec(self) -> dict[str, object]:
        """The rule as plain facts."""
        return {"name": self.name, "action": self.action, "sql": self.sql}


@dataclass(frozen=True, slots=True)
class Unique:
    """No two rows of a table have the same values in `columns`."""

    columns: tuple[str, ...]
    action: Action

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"unique {', '.join(self.columns)}"

    def spec(self) -> dict[str, object]:
        """The rule as plain facts."""
        return {"name": self.name, "action": self.action, "columns": list(self.columns)}


def rule(name: str, condition: Callable[[Any], Any], *, action: Action = "reject") -> Rule:
    """A condition that each row of a source must keep.

    `condition` gets the source's fields as an Ibis table and returns a boolean expression of one row. A row that breaks
    it is refused ("reject"), kept aside until somebody decides ("quarantine"), or only counted ("warn").
    """
    if not name or name != " ".join(name.split()):
        raise DefinitionError(f"{name!r} is no name of a rule", remedy="Write a few words, with single spaces")
    _check_action(action, name)
    return Rule(name, action, condition)


def unique(*columns: str, action: Action = "reject") -> Unique:
    """That no two rows of a table have the same values in these columns; rows with a null in one are left alone."""
    _check_action(action, "unique")
    if action == "quarantine":
        raise DefinitionError(
            "which of two equal rows to keep aside is nobody's choice",
            where=f"unique {', '.join(columns)}",
            remedy='Write action="reject" or action="warn"',
        )
    if not columns:
        raise DefinitionError("unique() names no column", remedy='Write tl.unique("order_id")')
    return Unique(tuple(columns), action)


def compiled(rules: Sequence[object], fields: Sequence[Field], *, where: str) -> tuple[Rule, ...]:
    """The rules with their SQL. Raises DefinitionError."""
    found: list[Rule] = []
    for one in rules:
        if not isinstance(one, Rule):
            remedy = 'Write tl.rule("name", lambda t: ...); tl.unique is for tables, event_id for events'
            raise DefinitionError(f"{one!r} is no rule of rows", where=where, remedy=remedy)
        if any(one.name == other.name for other in found):
            raise DefinitionError("two rules have the same name", where=where, remedy="Rename one of them")
        what = f"{where}, rule {one.name!r}"
        found.append(replace(one, sql=condition_sql(one.condition, fields, where=what)))
    return tuple(found)


def verdicts_sql(rules: Sequence[Rule], relation: str) -> str:
    """A SELECT of one boolean a rule, named by its number: whether the row breaks it."""
    columns = ", ".join(f'({one.sql}) IS FALSE AS "{number}"' for number, one in enumerate(rules))
    return f"SELECT {columns} FROM {relation}"


def kept_sql(rules: Sequence[Rule], *, released: str | None = None) -> str:
    """The condition under which a row counts: it keeps the rules that refuse, and those that put aside or it was
    released (`released`: the column that says so).
    """
    parts = [f"(({one.sql}) IS NOT FALSE)" for one in rules if one.action == "reject"]
    aside = [f"(({one.sql}) IS NOT FALSE)" for one in rules if one.action == "quarantine"]
    if aside:
        kept = " AND ".join(aside)
        parts.append(f"({kept})" if released is None else f"(({kept}) OR coalesce({released}, false))")
    return " AND ".join(parts)


def code_of(name: str) -> str:
    """The code of the dead letters that a rule of this name made."""
    return f"rule:{name}"


def is_released(text: bytes) -> bool:
    """Whether an event says that it was released from quarantine."""
    if text.endswith(RELEASED_MARK):
        return True
    if RELEASED.encode() not in text:
        return False
    try:
        found = msgspec.json.decode(text)
    except NOT_JSON:
        return False
    return isinstance(found, dict) and found.get(RELEASED) is True


def _check_action(action: str, name: str) -> None:
    if action not in _ACTIONS:
        raise DefinitionError(
            f"there is no action {action!r}", where=f"rule {name!r}", remedy=f"Choose {', '.join(_ACTIONS)}"
        )
