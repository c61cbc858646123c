"""Table sources: rows that somebody else lands, each with an instant from which it was known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trilane.errors import DefinitionError
from trilane.sources.about import About
from trilane.types import Field, fields_of

__all__ = ["TableSource"]


@dataclass(frozen=True, init=False)
class TableSource:
    """A declared table of Parquet or CSV files.

    `path`: a file or glob, relative to the project; `event_time`: the Timestamp column from which a row was known;
    `owner`, `tags`, `description`: for those who look for it.
    """

    name: str
    fields: tuple[Field, ...]
    path: str
    event_time: str
    about: About

    def __init__(
        self,
        name: str,
        *,
        schema: type | Mapping[str, object],
        path: str,
        event_time: str,
        owner: str = "",
        tags: Sequence[str] = (),
        description: str = "",
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "fields", fields_of(schema))
        put(self, "path", path)
        put(self, "event_time", event_time)
        put(self, "about", About.of(owner, tags, description, where=f"table source {name!r}"))
        found = self.field(event_time)
        if found is None or found.dtype.name != "timestamp":
            raise DefinitionError(
                f"event_time names {event_time!r}, which is no Timestamp of the schema",
                where=f"table source {name!r}",
                remedy="Name the column that says when a row became known",
            )

    def field(self, name: str) -> Field | None:
        """The field called `name`, if there is one."""
        return next((f for f in self.fields if f.name == name), None)

    def spec(self) -> dict[str, object]:
        """What identifies the source's data, as plain facts."""
        return {
            "kind": "table_source",
            "name": self.name,
            "fields": [f.spec() for f in self.fields],
            "path": self.path,
            "event_time": self.event_time,
            **self.about.spec(),
        }
